#include "model/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/split_files.h"
#include "model/testing/temporary_folder.h"
#include "model/testing/tiny_gguf.h"

namespace prima::model {
namespace {

using testing::HasSubstr;

class ModelFileTest : public testing::Test {
 protected:
  std::filesystem::path path(const std::string& name = "tiny.gguf") const {
    return folder_.path() / name;
  }

  Result<ModelFile> open(const Metadata& metadata, const std::vector<GgufTensor>& tensors) const {
    write_file(path(), gguf_bytes(metadata, tensors));
    return ModelFile::open(path());
  }

  void expect_error(const std::vector<GgufTensor>& tensors, ErrorCode code,
                    const std::string& what) const {
    const auto model = open(tiny_metadata(), tensors);
    ASSERT_FALSE(model) << "expected: " << what;
    EXPECT_EQ(model.error().code, code) << model.error().message();
    EXPECT_THAT(model.error().what, HasSubstr(what));
    EXPECT_FALSE(model.error().remedy.empty());
  }

 private:
  TemporaryFolder folder_;
};

GgufTensor& named(std::vector<GgufTensor>& tensors, const std::string& name) {
  for (GgufTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << name;
  return tensors.front();
}

TEST_F(ModelFileTest, OpensEveryArchitecture) {
  for (const Architecture& architecture : architectures()) {
    const Metadata metadata = tiny_metadata(std::string(architecture.name));
    const auto model = open(metadata, tiny_tensors(metadata));
    ASSERT_TRUE(model) << model.error().message();
    EXPECT_EQ(model->name(), "Tiny");
    EXPECT_EQ(model->mixture(), "F32");
    EXPECT_EQ(model->paths().size(), 1u);
    const TensorInfo* embedding = model->find(TensorRole::token_embedding);
    ASSERT_NE(embedding, nullptr);
    EXPECT_EQ(embedding->bytes.size, 8u * 260 * 4);
    EXPECT_EQ(model->find(TensorRole::output), nullptr);
    ASSERT_NE(model->find(TensorRole::attention_norm, 1), nullptr);
    EXPECT_EQ(model->find(TensorRole::attention_norm, 1)->name, "blk.1.attn_norm.weight");
    EXPECT_EQ(model->find(TensorRole::attention_norm, 2), nullptr);
    EXPECT_EQ(model->weight_bytes(), 4 * model->parameter_count());
    EXPECT_EQ(model->layer_bytes(0), model->layer_bytes(1));
    EXPECT_EQ(model->weight_bytes(), model->layer_bytes(0) * 2 + 8 * 260 * 4 + 8 * 4);
  }
}

TEST_F(ModelFileTest, NamesMixturesAsPeopleDo) {
  Metadata metadata = tiny_metadata();
  metadata.set("general.file_type", std::uint64_t{15});
  metadata.erase("general.name");
  const auto model = open(metadata, tiny_tensors(metadata));
  ASSERT_TRUE(model);
  EXPECT_EQ(model->mixture(), "Q4_K_M");
  EXPECT_EQ(model->name(), "tiny");
}

TEST_F(ModelFileTest, RefusesMissingTensors) {
  const auto tensors = tiny_tensors(tiny_metadata());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    auto fewer = tensors;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    expect_error(fewer, ErrorCode::corrupt, "tensor " + tensors[i].name + " is missing");
  }
}

TEST_F(ModelFileTest, RefusesWrongShapes) {
  const auto tensors = tiny_tensors(tiny_metadata());
  for (const GgufTensor& tensor : tensors) {
    auto wrong = tensors;
    named(wrong, tensor.name).shape[1] += 1;
    expect_error(wrong, ErrorCode::corrupt, "tensor " + tensor.name + " is ");
  }
}

TEST_F(ModelFileTest, RefusesTensorsWithoutAPlace) {
  for (const char* name : {"blk.0.attn_q.scale", "blk.2.attn_norm.weight", "cls.output.weight",
                           "blk.0.attn_q_norm.weight", "rope_factors_long.weight"}) {
    auto tensors = tiny_tensors(tiny_metadata());
    tensors.push_back({.name = name, .type = GGML_TYPE_F32, .shape = {2, 1, 1, 1}});
    expect_error(tensors, ErrorCode::unsupported, std::string("tensor ") + name);
  }
}

TEST_F(ModelFileTest, RefusesTypesThatCannotBeComputedWith) {
  for (const ggml_type type : {GGML_TYPE_I32, GGML_TYPE_F64, GGML_TYPE_I8}) {
    auto tensors = tiny_tensors(tiny_metadata());
    named(tensors, "blk.1.ffn_up.weight").type = type;
    expect_error(tensors, ErrorCode::unsupported, "tensor blk.1.ffn_up.weight has type");
  }
  auto tensors = tiny_tensors(tiny_metadata());
  named(tensors, "blk.1.ffn_norm.weight").type = GGML_TYPE_F16;
  expect_error(tensors, ErrorCode::unsupported, "F32 is expected");
}

TEST_F(ModelFileTest, WantsBiasesTogetherOrNotAtAll) {
  auto tensors = tiny_tensors(tiny_metadata());
  tensors.push_back({.name = "blk.0.attn_q.bias", .shape = {8, 1, 1, 1}});
  tensors.push_back({.name = "blk.0.attn_k.bias", .shape = {4, 1, 1, 1}});
  expect_error(tensors, ErrorCode::corrupt, "tensor blk.0.attn_v.bias is missing");
  tensors.push_back({.name = "blk.0.attn_v.bias", .shape = {4, 1, 1, 1}});
  EXPECT_TRUE(open(tiny_metadata(), tensors));
}

// A model in three parts; `change` may spoil part `part`'s metadata before it is written.
class SplitTest : public ModelFileTest {
 protected:
  static constexpr std::uint32_t kParts = 3;

  std::filesystem::path part_path(std::uint32_t part) const {
    return split_path(path("tiny").string(), part, kParts);
  }

  template <typename Change>
  void write_parts(const Change& change) const {
    const auto all = tiny_tensors(tiny_metadata());
    for (std::uint32_t part = 0; part < kParts; ++part) {
      Metadata metadata = part == 0 ? tiny_metadata() : Metadata();
      const auto set = [&](const char* key, std::uint64_t value) {
        metadata.set(key, value, {GgufType::uint16, {}});
      };
      set("split.no", part);
      set("split.count", kParts);
      metadata.set("split.tensors.count", static_cast<std::int64_t>(all.size()));
      std::vector<GgufTensor> tensors;
      for (std::size_t i = part; i < all.size(); i += kParts) tensors.push_back(all[i]);
      change(part, metadata, tensors);
      write_file(part_path(part), gguf_bytes(metadata, tensors));
    }
  }
  void write_parts() const {
    write_parts([](std::uint32_t, Metadata&, std::vector<GgufTensor>&) {});
  }

  void expect_split_error(ErrorCode code, const std::string& what) const {
    const auto model = ModelFile::open(part_path(0));
    ASSERT_FALSE(model) << "expected: " << what;
    EXPECT_EQ(model.error().code, code) << model.error().message();
    EXPECT_THAT(model.error().what, HasSubstr(what));
    EXPECT_FALSE(model.error().remedy.empty());
  }
};

TEST_F(SplitTest, OpensAllParts) {
  write_parts();
  const auto model = ModelFile::open(part_path(0));
  ASSERT_TRUE(model) << model.error().message();
  ASSERT_EQ(model->paths().size(), kParts);
  EXPECT_EQ(model->paths()[2], part_path(2));
  EXPECT_EQ(model->tensors().size(), tiny_tensors(tiny_metadata()).size());
  EXPECT_EQ(model->find(TensorRole::attention_norm, 0)->file, 1u);
}

TEST_F(SplitTest, WantsTheFirstPart) {
  write_parts();
  const auto model = ModelFile::open(part_path(1));
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(model.error().what, HasSubstr("is part 2 of 3"));
  EXPECT_THAT(model.error().remedy, HasSubstr("00001-of-00003.gguf"));
}

TEST_F(SplitTest, NamesAMissingPart) {
  write_parts();
  std::filesystem::remove(part_path(2));
  expect_split_error(ErrorCode::not_found, "part 3 of 3 of the model is missing");
}

TEST_F(SplitTest, WantsTheNamesOfParts) {
  write_parts();
  std::filesystem::copy_file(part_path(0), path("renamed.gguf"));
  const auto model = ModelFile::open(path("renamed.gguf"));
  ASSERT_FALSE(model);
  EXPECT_THAT(model.error().what, HasSubstr("-00001-of-00003.gguf"));
}

TEST_F(SplitTest, RefusesPartsOutOfOrder) {
  write_parts();
  std::filesystem::copy_file(part_path(1), part_path(2),
                             std::filesystem::copy_options::overwrite_existing);
  expect_split_error(ErrorCode::corrupt, "says it is part 2, but its name says 3");
}

TEST_F(SplitTest, RefusesBadSplitMetadata) {
  write_parts([](std::uint32_t part, Metadata& metadata, std::vector<GgufTensor>&) {
    if (part == 1) metadata.set("split.no", std::uint64_t{1});  // llama.cpp aborts on a uint32
  });
  expect_split_error(ErrorCode::corrupt, "split.no is missing or no uint16");
  write_parts([](std::uint32_t part, Metadata& metadata, std::vector<GgufTensor>&) {
    static_cast<void>(part);
    metadata.set("split.tensors.count", std::uint64_t{3});
  });
  expect_split_error(ErrorCode::corrupt, "but 3 are expected");
  write_parts([](std::uint32_t part, Metadata& metadata, std::vector<GgufTensor>&) {
    if (part == 2) metadata.set("split.tensors.count", std::uint64_t{3});
  });
  expect_split_error(ErrorCode::corrupt, "is a part of another model than the first");
  write_parts([](std::uint32_t part, Metadata& metadata, std::vector<GgufTensor>& tensors) {
    if (part == 2) tensors[0].name = "token_embd.weight";
    static_cast<void>(metadata);
  });
  expect_split_error(ErrorCode::corrupt, "token_embd.weight appears twice");
}

TEST_F(SplitTest, RefusesATruncatedPart) {
  write_parts();
  std::filesystem::resize_file(part_path(2), std::filesystem::file_size(part_path(2)) / 2);
  expect_split_error(ErrorCode::corrupt, "00003-of-00003.gguf");
}

}  // namespace
}  // namespace prima::model
