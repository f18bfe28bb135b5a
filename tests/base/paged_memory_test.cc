#include "base/paged_memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>

#include <gtest/gtest.h>

#include "base/file_system.h"

namespace conclave {
namespace {

constexpr int64_t kMebibyte = int64_t{1} << 20;

// 64 MiB of numbers, as a large array of a program has them.
class PagedMemoryTest : public testing::Test {
 protected:
  PagedMemoryTest() : values_(static_cast<int64_t*>(std::aligned_alloc(64, 64 * kMebibyte)), 64 * kMebibyte / 8) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<int64_t>(i * i);
  }
  ~PagedMemoryTest() override { std::free(values_.data()); }
  PagedMemory::Range Bytes(int64_t from, int64_t count) {
    return {reinterpret_cast<std::byte*>(values_.data()) + from, static_cast<size_t>(count)};
  }
  const std::string folder_ = JoinPath(testing::TempDir(), "paged");
  std::span<int64_t> values_;
};

TEST_F(PagedMemoryTest, ContentsStayAndMemoryShrinks) {
  const int64_t before = ResidentBytes();
  const auto paged = PagedMemory::Create(folder_, {Bytes(24, 40 * kMebibyte)});
  ASSERT_TRUE(paged.ok()) << paged.status();
  EXPECT_LE((*paged)->bytes(), 40 * kMebibyte);
  EXPECT_GT((*paged)->bytes(), 40 * kMebibyte - 8192);
  (*paged)->Release(Bytes(0, 64 * kMebibyte));
  EXPECT_LT(ResidentBytes(), before - 36 * kMebibyte);
  values_[1000] = -1;
  (*paged)->WriteBack(Bytes(0, kMebibyte));
  (*paged)->Release(Bytes(0, kMebibyte));
  EXPECT_EQ(values_[1000], -1);
  values_[1000] = 1000 * 1000;
  (*paged)->Prefetch(Bytes(0, 64 * kMebibyte));
  for (size_t i = 0; i < values_.size(); ++i) ASSERT_EQ(values_[i], static_cast<int64_t>(i * i));
}

TEST_F(PagedMemoryTest, RangesThatTouchBecomeOne) {
  const auto paged = PagedMemory::Create(folder_, {Bytes(kMebibyte + 64, 1000), Bytes(kMebibyte + 1088, 9000), Bytes(kMebibyte, 64)});
  ASSERT_TRUE(paged.ok()) << paged.status();
  EXPECT_GE((*paged)->bytes(), 4096);  // pages that no range fills alone
  (*paged)->Release(Bytes(0, 2 * kMebibyte));
  EXPECT_EQ(values_[(kMebibyte + 4096) / 8], (kMebibyte + 4096) / 8 * ((kMebibyte + 4096) / 8));
}

TEST_F(PagedMemoryTest, AFullDiskIsOneErrorAndLosesNothing) {
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = kMebibyte;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto paged = PagedMemory::Create(folder_, {Bytes(0, 4 * kMebibyte)});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  ASSERT_EQ(paged.status().code(), absl::StatusCode::kResourceExhausted) << paged.status();
  const std::string message(paged.status().message());
  EXPECT_NE(message.find("cannot make '" + folder_ + "/paged-"), std::string::npos) << message;
  EXPECT_NE(message.find("are needed, 1048576 (1.00 MiB) are free under the limit of a file's size"), std::string::npos) << message;
  for (size_t i = 0; i < values_.size(); ++i) ASSERT_EQ(values_[i], static_cast<int64_t>(i * i));
}

TEST_F(PagedMemoryTest, AFolderThatCannotBeIsAnError) { EXPECT_FALSE(PagedMemory::Create("/proc/none", {Bytes(0, kMebibyte)}).ok()); }

}  // namespace
}  // namespace conclave
