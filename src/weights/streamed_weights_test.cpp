#include "weights/streamed_weights.h"

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "weights/mapped_file.h"

namespace prima::weights {
namespace {

class StreamedWeightsTest : public testing::Test {
 protected:
  StreamedWeightsTest() {
    const auto path = folder_.path() / "model.gguf";
    EXPECT_TRUE(model::synthesize(model::SynthOptions{}, path));
    const auto model = model::ModelFile::open(path).value();
    WeightRequest request;
    for (int layer = 0; layer < static_cast<int>(model.hyperparameters().n_layer); ++layer) {
      request.layers.push_back(layer);
    }
    const WeightLayout layout = gguf_layout(model, request);
    weights_ = StreamedWeights::open(layout).value();
    for (const PlacedTensor& tensor : layout.tensors) {
      if (!is_staged(tensor)) continue;
      for (const ggml_tensor* part : weights_->parts(tensor.role, tensor.layer)) {
        const auto stage = weights_->streamed_stage(part);
        if (stage && (cycle_.empty() || cycle_.back() < *stage)) cycle_.push_back(*stage);
      }
    }
    const Bytes least = weights_->smallest_budget();
    EXPECT_TRUE(weights_->start(least + 3 * (weights_->full_budget() - least) / 4));
  }

  void use_all() {
    for (const StageIndex stage : cycle_) {
      ASSERT_TRUE(weights_->acquire(stage));
      weights_->release(stage);
    }
  }

  model::TemporaryFolder folder_;
  std::unique_ptr<StreamedWeights> weights_;
  std::vector<StageIndex> cycle_;  // in order of use
};

// Else giving up a little would be followed by giving up all, each time as much as the time before.
TEST_F(StreamedWeightsTest, WhatIsGivenUpWasNotTakenByTheSystem) {
  const Bytes before = weights_->memory().resident;
  use_all();
  ASSERT_TRUE(weights_->set_resident(before / 2));
  ASSERT_LT(weights_->memory().resident, before);
  use_all();
  use_all();
  EXPECT_EQ(weights_->lost_bytes(), 0);
  ASSERT_TRUE(weights_->set_resident(before));
  EXPECT_GT(weights_->memory().resident, before / 2);
  use_all();
  EXPECT_EQ(weights_->lost_bytes(), 0);
}

// In memory are the resident stages and, ahead of use, as much of the others as slots allow.
TEST(StreamedWeights, InPlaceHoldsNoMoreThanSlotsWould) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  // Stages large enough that the pages which they share at their ends are few.
  ASSERT_TRUE(
      model::synthesize(model::SynthOptions{.n_layer = 6, .n_embd = 512, .n_ff = 1024}, path));
  const auto model = model::ModelFile::open(path).value();
  const auto other = MappedFile::open(path).value();
  other->drop({0, other->size()});
  if (other->bytes_in_memory({0, other->size()}) > 0) GTEST_SKIP() << "a file system in memory";
  const WeightLayout layout = gguf_layout(model, {.layers = {0, 1, 2, 3, 4, 5}});
  StreamingOptions options;
  options.place = StreamingPlace::in_place;
  const auto weights = StreamedWeights::open(layout, options).value();
  const Bytes least = weights->smallest_budget();
  ASSERT_TRUE(weights->start(least + (weights->full_budget() - least) / 3));
  ASSERT_TRUE(weights->streams_in_place());
  std::vector<StageIndex> cycle;
  for (const PlacedTensor& tensor : layout.tensors) {
    if (!is_staged(tensor)) continue;
    const auto stage = weights->streamed_stage(weights->parts(tensor.role, tensor.layer).front());
    if (cycle.empty() || cycle.back() < *stage) cycle.push_back(*stage);
  }
  const auto allowed = [&] {
    return weights->memory().resident + weights->memory().slots +
           2 * layout.tensors.size() * 4096;  // pages that tensors share are counted twice
  };
  const auto held = [&] {
    Bytes bytes = 0;
    for (const PlacedTensor& tensor : layout.tensors) {
      if (is_staged(tensor)) bytes += other->bytes_in_memory(tensor.bytes);
    }
    return bytes;
  };
  const auto use = [&](int n_tokens) {
    for (int token = 0; token < n_tokens; ++token) {
      for (const StageIndex stage : cycle) {
        ASSERT_TRUE(weights->acquire(stage));
        // What the system was just reading ahead when it was dropped at the start goes with its
        // use.
        if (token > 0) {
          EXPECT_LE(held(), allowed());
        }
        weights->release(stage);
      }
    }
  };
  ASSERT_NO_FATAL_FAILURE(use(3));
  EXPECT_GT(weights->statistics().bytes_read, 2 * weights->memory().streamed);
  // What is given up and taken back while it may be ahead of use in place, too.
  const Bytes before = weights->memory().resident;
  for (const Bytes resident : {before / 4, before}) {
    ASSERT_TRUE(weights->set_resident(resident));
    ASSERT_NO_FATAL_FAILURE(use(2));
  }
}

// The system would keep what was used before, and take the fresh resident stages instead.
TEST(StreamedWeights, DropsWhatTheFileCacheHoldsOfOtherLayers) {
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize(model::SynthOptions{.n_layer = 4}, path));
  const auto model = model::ModelFile::open(path).value();
  const auto other = MappedFile::open(path).value();
  std::vector<std::byte> bytes(other->size());
  ASSERT_TRUE(other->read({0, other->size()}, bytes.data()));
  other->drop({0, other->size()});
  if (other->bytes_in_memory({0, other->size()}) > 0) GTEST_SKIP() << "a file system in memory";
  ASSERT_TRUE(other->read({0, other->size()}, bytes.data()));
  const auto held = [&](const WeightLayout& layout) {
    Bytes cached = 0;
    for (const PlacedTensor& tensor : layout.tensors) {
      if (is_staged(tensor)) cached += other->bytes_in_memory(tensor.bytes);
    }
    return cached;
  };
  const WeightLayout used = gguf_layout(model, {.layers = {0, 1}});
  const WeightLayout unused = gguf_layout(model, {.layers = {3}});
  ASSERT_GT(held(unused), 0);
  const auto weights = StreamedWeights::open(used).value();
  ASSERT_TRUE(weights->start(weights->full_budget()));
  EXPECT_EQ(weights->memory().streamed, 0);
  EXPECT_GT(held(used), 0);
  EXPECT_LT(held(unused), held(used) / 4);  // pages shared with neighbours stay
}

#ifdef __linux__
// Of a mapped page in memory: whether the system has it among those used often; nullopt where it
// does not say (to others than root).
std::optional<bool> counts_as_used_often(const std::byte* page) {
  const auto entry_of = [](const char* path, std::uint64_t index) -> std::optional<std::uint64_t> {
    std::uint64_t entry = 0;
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    const auto at = static_cast<off_t>(index * sizeof entry);
    const bool has_read = file >= 0 && ::pread(file, &entry, sizeof entry, at) == sizeof entry;
    if (file >= 0) ::close(file);
    return has_read ? std::optional(entry) : std::nullopt;
  };
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  constexpr std::uint64_t kFrame = (std::uint64_t{1} << 55) - 1;
  constexpr std::uint64_t kActive = std::uint64_t{1} << 6;
  const auto address = reinterpret_cast<std::uintptr_t>(page);
  const auto mapped = entry_of("/proc/self/pagemap",
                               address / static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)));
  if (!mapped || (*mapped & kPresent) == 0 || (*mapped & kFrame) == 0) return std::nullopt;
  const auto flags = entry_of("/proc/kpageflags", *mapped & kFrame);
  if (!flags) return std::nullopt;
  return (*flags & kActive) != 0;
}

// The system takes pages that came just now before those that other programs read often.
TEST(StreamedWeights, WhatIsResidentCountsAsUsedOften) {
  std::ifstream generations("/sys/kernel/mm/lru_gen/enabled");
  std::string enabled;
  if (generations >> enabled && enabled != "0x0000") {
    GTEST_SKIP() << "the system knows generations of pages instead";
  }
  const model::TemporaryFolder folder;
  const auto path = folder.path() / "model.gguf";
  ASSERT_TRUE(model::synthesize(model::SynthOptions{.n_layer = 2, .n_embd = 1024}, path));
  const auto model = model::ModelFile::open(path).value();
  {
    const auto file = MappedFile::open(path).value();
    file->drop({0, file->size()});
    if (file->bytes_in_memory({0, file->size()}) > 0) GTEST_SKIP() << "a file system in memory";
  }
  const WeightLayout layout = gguf_layout(model, {.layers = {0, 1}});
  const auto weights = StreamedWeights::open(layout).value();
  ASSERT_TRUE(weights->start(weights->full_budget()));
  constexpr Bytes kPage = 4 * kKiB;
  int often = 0;
  int seldom = 0;
  for (const PlacedTensor& placed : layout.tensors) {
    if (!is_staged(placed)) continue;
    const ggml_tensor* tensor = weights->parts(placed.role, placed.layer)[placed.part];
    const auto* bytes = static_cast<const std::byte*>(tensor->data);
    for (Bytes at = 0; at < placed.bytes.size; at += kPage) {
      const auto answer = counts_as_used_often(bytes + at);
      if (!answer) GTEST_SKIP() << "the system does not say";
      ++(*answer ? often : seldom);
    }
  }
  // Some may wait for the kernel to put them where they belong, which it does a few at a time.
  EXPECT_GT(often, seldom);
}
#endif

}  // namespace
}  // namespace prima::weights
