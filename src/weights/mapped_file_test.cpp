#include "weights/mapped_file.h"

#include <vector>

#include <gtest/gtest.h>

#include "model/atomic_file.h"
#include "model/testing/temporary_folder.h"
#include "weights/file_platform.h"

namespace prima::weights {
namespace {

class HugePages : public testing::Test {
 protected:
  void SetUp() override {
    if (huge_ == 0) GTEST_SKIP() << "files have no huge pages here";
    const std::vector<std::byte> bytes(8 * huge_, std::byte{'w'});
    auto file = model::AtomicFile::create(path_, bytes.size()).value();  // what is dirty would stay
    ASSERT_TRUE(file.write(bytes));
    ASSERT_TRUE(file.commit());
    file_ = MappedFile::open(path_).value();
  }

  const Bytes huge_ = platform::huge_page_size();
  const model::TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "weights";
  std::unique_ptr<MappedFile> file_;
};

TEST_F(HugePages, RangesGrowToWholeOnesWithinWhatIsAllowed) {
  const Bytes page = platform::huge_page_size();
  // Where huge pages begin follows from the address.
  const Bytes shift = align_up(reinterpret_cast<std::uintptr_t>(file_->data()), page) -
                      reinterpret_cast<std::uintptr_t>(file_->data());
  const ByteRange all{0, file_->size()};
  const ByteRange inside{shift + page + 100, page};
  EXPECT_EQ(file_->grown_to_huge_pages(inside, all), (ByteRange{shift + page, 2 * page}));
  EXPECT_EQ(file_->grown_to_huge_pages(inside, inside), inside);
  const ByteRange neighbours{inside.offset - 50, inside.size + 70};
  EXPECT_EQ(file_->grown_to_huge_pages(inside, neighbours), neighbours);
  EXPECT_EQ(file_->grown_to_huge_pages(all, all), all);
}

TEST_F(HugePages, AFewSmallOnesMakeWay) {
  const ByteRange all{0, file_->size()};
  file_->drop(all);
  if (file_->bytes_in_memory(all) > 0) GTEST_SKIP() << "this file system keeps what it has";
  file_->expect_random_access(all);
  const Bytes at = 3 * huge_ + huge_ / 2;
  EXPECT_EQ(static_cast<char>(file_->data()[at]), 'w');
  ASSERT_GT(file_->bytes_in_memory(all), 0u);
  if (file_->bytes_in_memory(all) >= huge_) GTEST_SKIP() << "no small pages here";
  file_->make_way_for_huge_pages(all);
  EXPECT_EQ(file_->bytes_in_memory(all), 0u);

  // What is there as a whole stays.
  ASSERT_TRUE(file_->fetch(all));
  file_->make_way_for_huge_pages(all);
  EXPECT_EQ(file_->bytes_in_memory(all), file_->size());
}

// A model that was just downloaded or copied is in memory as its writer's small pages.
TEST_F(HugePages, WhatIsThereInSmallOnesIsReadAnew) {
  const ByteRange all{0, file_->size()};
  std::byte* const first = file_->data() +
                           align_up(reinterpret_cast<std::uintptr_t>(file_->data()), huge_) -
                           reinterpret_cast<std::uintptr_t>(file_->data());
  file_->drop(all);
  if (file_->bytes_in_memory(all) > 0) GTEST_SKIP() << "this file system keeps what it has";
  ASSERT_TRUE(file_->fetch(all));
  if (!platform::is_huge_page(first)) GTEST_SKIP() << "no huge pages of files here";

  file_->drop(all);
  std::vector<std::byte> copy(all.size);
  ASSERT_TRUE(file_->read(all, copy.data()));
  ASSERT_EQ(file_->bytes_in_memory(all), file_->size());
  if (platform::is_huge_page(first)) GTEST_SKIP() << "no small pages here";
  file_->make_way_for_huge_pages(all);
  ASSERT_TRUE(file_->fetch(all));
  EXPECT_TRUE(platform::is_huge_page(first));
  EXPECT_TRUE(platform::is_huge_page(first + huge_));
  EXPECT_EQ(static_cast<char>(file_->data()[all.size - 1]), 'w');
}

}  // namespace
}  // namespace prima::weights
