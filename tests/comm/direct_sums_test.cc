// Sums by reading each other's memory: threads stand for the processes.
#include "comm/direct_sums.h"

#include <sched.h>

#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/comm/test_vectors.h"

namespace conclave {
namespace {

struct SumGroup {
  explicit SumGroup(int count) : memory(DirectSums::Bytes(count)) {
    DirectSums::Prepare(memory.data(), count);
    for (int m = 0; m < count; ++m) members.push_back(std::make_unique<DirectSums>(memory.data(), m, count));
  }
  Buffer memory;
  std::vector<std::unique_ptr<DirectSums>> members;
};

template <typename T>
void ExpectSum(DirectSums& member, int me, int members, int64_t elements, uint32_t seed) {
  std::vector<T> v = TestVector<T>(me, elements, seed);
  member.Begin({.vector = TensorOf(v), .members = members, .bytes = seed % 2 == 0 ? 1 << 18 : 1 << 20}, static_cast<int>(seed));
  for (;;) {
    const absl::StatusOr<bool> complete = member.Advance();
    ASSERT_EQ(complete.status(), absl::OkStatus());
    if (*complete) break;
    if (!member.moved()) sched_yield();
  }
  EXPECT_TRUE(SameBits(v, SumInRankOrder<T>(members, elements, seed))) << "member " << me << ", " << elements << " elements";
}

// One sum after the other: pieces and parts of all lengths, of several chunks and empty ones too.
TEST(DirectSums, AddUpInTheOrderOfMembers) {
  for (const int members : {2, 3, 5}) {
    SumGroup group(members);
    std::vector<std::thread> threads;
    for (int me = 0; me < members; ++me) {
      threads.emplace_back([&group, me, members] {
        ASSERT_TRUE(group.members[me]->CanRead());
        uint32_t seed = 1;
        for (const int64_t elements : {1, 3, 65'536, 65'537, 200'001}) ExpectSum<float>(*group.members[me], me, members, elements, seed++);
        for (const int64_t elements : {2, 35'001}) ExpectSum<double>(*group.members[me], me, members, elements, seed++);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

// The vectors of those who are not done are still read.
TEST(DirectSums, NobodyIsDoneBeforeAllAre) {
  SumGroup group(2);
  std::vector<float> a(10, 1), b(10, 2);
  group.members[0]->Begin({.vector = TensorOf(a), .members = 2}, 7);
  EXPECT_FALSE(*group.members[0]->Advance());
  group.members[1]->Begin({.vector = TensorOf(b), .members = 2}, 7);
  EXPECT_FALSE(*group.members[1]->Advance()) << "the first has not added its part";
  EXPECT_FALSE(*group.members[0]->Advance()) << "the second has not read it";
  EXPECT_TRUE(*group.members[1]->Advance());
  EXPECT_TRUE(*group.members[0]->Advance());
  EXPECT_EQ(a, std::vector<float>(10, 3));
  EXPECT_EQ(b, a);
}

// Members out of step must wait, not add up what does not belong together.
TEST(DirectSums, AnotherTagWaitsAnotherLengthIsAnError) {
  std::vector<float> a(10), b(11);
  SumGroup tags(2), lengths(2);
  tags.members[0]->Begin({.vector = TensorOf(a), .members = 2}, 7);
  tags.members[1]->Begin({.vector = TensorOf(a), .members = 2}, 8);
  EXPECT_FALSE(*tags.members[0]->Advance());
  EXPECT_FALSE(tags.members[0]->moved());
  lengths.members[0]->Begin({.vector = TensorOf(a), .members = 2}, 7);
  lengths.members[1]->Begin({.vector = TensorOf(b), .members = 2}, 7);
  EXPECT_EQ(lengths.members[0]->Advance().status().message(), "sum of members 0 and 1: expected 40 bytes, got 44");
}

TEST(DirectSums, WhatIsDroppedIsNotTouchedAgain) {
  SumGroup group(2);
  std::vector<float> a(10, 1), b(10, 2);
  group.members[0]->Begin({.vector = TensorOf(a), .members = 2}, 7);
  group.members[1]->Begin({.vector = TensorOf(b), .members = 2}, 7);
  group.members[0]->Drop();
  EXPECT_FALSE(*group.members[1]->Advance());
  EXPECT_FALSE(*group.members[0]->Advance());
  EXPECT_EQ(a, std::vector<float>(10, 1));
}

}  // namespace
}  // namespace conclave
