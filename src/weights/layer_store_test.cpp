// The store's files: right bytes, found again, refused and repaired when damaged, within a quota.
#include "weights/layer_store.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/model_file.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "weights/buffer_type.h"

namespace prima::weights {
namespace {

namespace fs = std::filesystem;

class LayerStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path path = folder_.path() / "model.gguf";
    ASSERT_TRUE(model::synthesize({.n_layer = 3, .mixture = "Q4_0"}, path));
    auto model = model::ModelFile::open(path);
    ASSERT_TRUE(model) << model.error().message();
    layout_ = gguf_layout(*model, {.layers = {0, 1, 2}, .embedding = true, .output = true});
    const auto* q = model->find(model::TensorRole::attention_q, 0);
    ASSERT_NE(q, nullptr);
    if (fastest_buffer_type(*q, model::TensorRole::attention_q) == layout_.tensors[0].buffer_type) {
      GTEST_SKIP() << "nothing is repacked on this processor";
    }
  }

  LayerStore open(const std::string& identity = "model", Bytes quota = 0) const {
    auto store = LayerStore::open(
        {.root = folder_.path() / "store", .model_identity = identity, .quota = quota});
    EXPECT_TRUE(store) << store.error().message();
    return *store;
  }

  static std::size_t stored(const WeightLayout& layout) {
    return static_cast<std::size_t>(
        std::count_if(layout.tensors.begin(), layout.tensors.end(), [](const PlacedTensor& tensor) {
          return tensor.buffer_type != ggml_backend_cpu_buffer_type();
        }));
  }

  static void flip_byte(const fs::path& path, Bytes offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 1));
  }

  model::TemporaryFolder folder_;
  WeightLayout layout_;
};

TEST_F(LayerStoreTest, GivesBackWhatItWrote) {
  LayerStore store = open();
  EXPECT_EQ(stored(store.apply(layout_)), 0u);
  Bytes last = 0;
  const auto written = store.write(layout_, [&](Bytes done, Bytes total) {
    EXPECT_GT(done, last);
    EXPECT_LE(done, total);
    last = done;
    return true;
  });
  ASSERT_TRUE(written) << written.error().message();
  EXPECT_GT(last, 0u);
  const WeightLayout applied = open().apply(layout_);
  EXPECT_GE(stored(applied), 3u * 7u);
  for (const PlacedTensor& tensor : applied.tensors) {
    EXPECT_TRUE(tensor.file == 0 || tensor.bytes.offset % 4096 == 0) << tensor.name;
  }
}

TEST_F(LayerStoreTest, AnotherModelsStoreIsNotTaken) {
  ASSERT_TRUE(open("a").write(layout_));
  EXPECT_EQ(stored(open("b").apply(layout_)), 0u);
}

TEST_F(LayerStoreTest, DamageIsNoticedAndRepaired) {
  LayerStore store = open();
  ASSERT_TRUE(store.write(layout_));
  const std::size_t all = stored(store.apply(layout_));
  const fs::path layer = store.folder() / "layer-00001.weights";
  const Bytes size = fs::file_size(layer);
  const std::function<void()> damages[] = {
      [&] { flip_byte(layer, 0); },                           // in a sampled row
      [&] { flip_byte(layer, size - 4 * 4096 + 30); },        // in the table
      [&] { fs::resize_file(layer, size / 2); },              // as after a crash without a rename
      [&] { std::ofstream(layer, std::ios::trunc) << "x"; },  // anything
  };
  for (const auto& damage : damages) {
    damage();
    const WeightLayout applied = store.apply(layout_);
    EXPECT_LT(stored(applied), all);
    EXPECT_GT(stored(applied), 0u);  // the other layers stay
    EXPECT_FALSE(fs::exists(layer));
    ASSERT_TRUE(store.write(layout_));
    EXPECT_EQ(stored(store.apply(layout_)), all);
  }
}

TEST_F(LayerStoreTest, CancellingLeavesWholeLayersOnly) {
  LayerStore store = open();
  const auto status =
      store.write(layout_, [](Bytes done, Bytes total) { return 2 * done < total; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::cancelled);
  for (const auto& entry : fs::directory_iterator(store.folder())) {
    EXPECT_EQ(entry.path().extension(), ".weights") << entry.path();
  }
  EXPECT_GT(stored(store.apply(layout_)), 0u);
  ASSERT_TRUE(store.write(layout_));  // goes on where it was
  EXPECT_GE(stored(store.apply(layout_)), 3u * 7u);
}

TEST_F(LayerStoreTest, AQuotaEvictsOthersAndThenRefuses) {
  ASSERT_TRUE(open("old").write(layout_));
  Bytes taken = 0;
  for (const auto& entry : fs::directory_iterator(open("old").folder())) {
    taken += entry.file_size();
  }
  LayerStore store = open("new", taken + 1000);
  ASSERT_TRUE(store.write(layout_));
  EXPECT_EQ(stored(open("old").apply(layout_)), 0u);
  EXPECT_GT(stored(store.apply(layout_)), 0u);
  const auto status = open("third", taken / 2).write(layout_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::resource_exhausted);
}

}  // namespace
}  // namespace prima::weights
