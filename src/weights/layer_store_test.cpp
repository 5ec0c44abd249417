// The store's files: right bytes, found again, refused and repaired when damaged, within a quota.
#include "weights/layer_store.h"

#include <atomic>
#include <csignal>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "model/model_file.h"
#include "model/synth.h"
#include "model/testing/temporary_folder.h"
#include "weights/buffer_type.h"
#include "weights/checksum.h"
#include "weights/store_writer.h"

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

// A limit on file sizes makes writes fail as a full disk does: in the middle of a file.
TEST_F(LayerStoreTest, AWriteThatFailsLeavesNothingHalfWritten) {
  LayerStore store = open();
  Bytes layer_bytes = 0;
  {
    LayerStore whole = open("another");
    ASSERT_TRUE(whole.write(layout_));
    layer_bytes = fs::file_size(whole.folder() / "layer-00001.weights");
  }
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = layer_bytes / 2;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const Status written = store.write(layout_);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(written);
  EXPECT_TRUE(fs::is_empty(store.folder()));
  EXPECT_EQ(stored(store.apply(layout_)), 0u);
  ASSERT_TRUE(store.write(layout_));
}

TEST_F(LayerStoreTest, LeavesOthersSomeOfTheDisk) {
  auto store = LayerStore::open({.root = folder_.path() / "store",
                                 .model_identity = "model",
                                 .keep_free = fs::space(folder_.path()).capacity});
  ASSERT_TRUE(store);
  const Status written = store->write(layout_);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::resource_exhausted);
  EXPECT_FALSE(store->is_complete(layout_));
}

TEST(StoreChecksum, NoticesEveryChange) {
  std::vector<std::byte> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  const auto checksum_of = [](std::span<const std::byte> all, std::size_t first) {
    Checksum checksum;
    checksum.add(all.first(first));
    checksum.add(all.subspan(first));
    return checksum.value();
  };
  const std::uint64_t sound = checksum_of(bytes, 0);
  EXPECT_EQ(checksum_of(bytes, 320), sound);
  EXPECT_NE(checksum_of(std::span(bytes).first(999), 0), sound);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] ^= std::byte{0x10};
    EXPECT_NE(checksum_of(bytes, 0), sound) << i;
    bytes[i] ^= std::byte{0x10};
  }
}

class StoreWriterTest : public LayerStoreTest {};

TEST_F(StoreWriterTest, WritesOnlyWhileThereIsNoWork) {
  std::atomic<bool> done = false;
  std::atomic<int> calls = 0;
  StoreWriter writer(open(), layout_, std::chrono::milliseconds(20),
                     [&](const StoreProgress& progress) {
                       ++calls;
                       EXPECT_FALSE(progress.failed);
                       done = progress.done == progress.total;
                     });
  {
    const StoreWriter::Work work(&writer);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(calls, 0);
  }
  const Instant limit = SystemClock().now() + std::chrono::seconds(60);
  while (!done && SystemClock().now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(done);
}

TEST_F(StoreWriterTest, EndsAtOnceAndSaysWhyItCannotWrite) {
  { StoreWriter ends(open(), layout_, std::chrono::hours(1), {}); }
  std::atomic<bool> failed = false;
  StoreWriter writer(open("model", 100), layout_, std::chrono::milliseconds(1),
                     [&](const StoreProgress& progress) {
                       failed = progress.failed &&
                                progress.failed->code == ErrorCode::resource_exhausted;
                     });
  const Instant limit = SystemClock().now() + std::chrono::seconds(60);
  while (!failed && SystemClock().now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(failed);
}

}  // namespace
}  // namespace prima::weights
