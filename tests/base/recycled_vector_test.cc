#include "base/recycled_vector.h"

#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace conclave {
namespace {

TEST(RecycledVector, GetsItsMemoryBack) {
  const void* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    RecycledVector<int64_t> values;
    values.resize(100, round);
    if (round == 0) first = values.data();
    EXPECT_EQ(values.data(), first);
    EXPECT_EQ(values[99], round);
  }
}

TEST(RecycledVector, EqualSizesNeverShare) {
  RecycledVector<int64_t> a(10, 1), b(10, 2), c(9, 3);
  EXPECT_EQ(a, RecycledVector<int64_t>(10, 1));
  EXPECT_EQ(b[9], 2);
  EXPECT_EQ(c[8], 3);
}

TEST(RecycledVector, HoldsObjectsAndLargeOnes) {
  for (int round = 0; round < 2; ++round) {
    RecycledVector<std::string> texts;
    for (int i = 0; i < 1000; ++i) texts.push_back(std::string(i, 'x'));
    EXPECT_EQ(texts[999].size(), 999u);
  }
  RecycledVector<char> large(size_t{300} << 20);  // beyond what is kept
  large.back() = 1;
}

// Memory that another thread frees is its own from then on.
TEST(RecycledVector, MayEndOnAnotherThread) {
  RecycledVector<int> made(50, 7);
  std::thread([values = std::move(made)]() mutable {
    const int* data = values.data();
    values = RecycledVector<int>();
    const RecycledVector<int> again(50, 8);
    EXPECT_EQ(again.data(), data);
  }).join();
  EXPECT_EQ(RecycledVector<int>(50, 9)[49], 9);
}

}  // namespace
}  // namespace conclave
