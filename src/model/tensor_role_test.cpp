#include "model/tensor_role.h"

#include <gtest/gtest.h>

namespace prima::model {
namespace {

TEST(TensorRole, NamesAndTheirInverseAgree) {
  for (const TensorRole role : all_tensor_roles()) {
    for (const int layer : {0, 3, 511}) {
      const auto place = parse_tensor_name(tensor_name(role, layer));
      ASSERT_TRUE(place) << tensor_name(role, layer);
      EXPECT_EQ(place->role, role);
      EXPECT_EQ(place->layer, is_per_layer(role) ? layer : -1);
    }
  }
}

TEST(TensorRole, KnowsTheNamesInFiles) {
  EXPECT_EQ(tensor_name(TensorRole::attention_q, 3), "blk.3.attn_q.weight");
  EXPECT_EQ(tensor_name(TensorRole::token_embedding, 3), "token_embd.weight");
  EXPECT_EQ(tensor_name(TensorRole::ffn_post_norm, 0), "blk.0.post_ffw_norm.weight");
}

TEST(TensorRole, RefusesOtherNames) {
  for (const char* name :
       {"", "blk", "blk.", "blk.1", "blk.1.", "blk..attn_q.weight", "blk.-1.attn_q.weight",
        "blk.01.attn_q.weight", "blk.1attn_q.weight", "blk.99999999999.attn_q.weight",
        "blk.1.attn_q.scale", "blk.1.token_embd.weight", "attn_q.weight", "token_embd.weight.x"}) {
    EXPECT_FALSE(parse_tensor_name(name)) << name;
  }
}

}  // namespace
}  // namespace prima::model
