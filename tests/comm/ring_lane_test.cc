// Messages through shared memory: threads stand for the processes.
#include "comm/ring_lane.h"

#include <sched.h>

#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace conclave {
namespace {

constexpr int64_t kTestRing = 4096;

// Memory for the lane of `members` members, and their ends.
struct LaneGroup {
  explicit LaneGroup(int members, int64_t capacity = kTestRing) : memory(RingLane::Bytes(members, capacity)) {
    RingLane::Prepare(memory.data(), members);
    for (int m = 0; m < members; ++m) lanes.push_back(std::make_unique<RingLane>(memory.data(), m, members, capacity));
  }
  Buffer memory;
  std::vector<std::unique_ptr<RingLane>> lanes;
};

std::vector<std::byte> Text(int from, int to, int number, int64_t bytes) {
  std::vector<std::byte> text(bytes);
  const RngKey key{.seed = 5, .site = static_cast<uint32_t>(from * 8 + to), .worker = static_cast<uint32_t>(number)};
  for (int64_t i = 0; i < bytes; ++i) text[i] = static_cast<std::byte>(static_cast<int>(key.Uniform(i) * 256));
  return text;
}

// Lengths around those of a line, a ring and several of them.
int64_t LengthOf(int from, int to, int number) {
  constexpr int64_t kLengths[] = {1, 63, 64, 65, 700, kTestRing - kRingLine, kTestRing, kTestRing + 1, 3 * kTestRing + 17, 8};
  return kLengths[(from + 3 * to + number) % 10];
}

TEST(RingLane, EveryByteArrivesAmongThreads) {
  constexpr int kMembers = 3, kMessages = 60;
  LaneGroup group(kMembers);
  const auto talk = [&](int me) {
    std::vector<std::vector<std::byte>> out, in, expected;
    int64_t unfinished = 0;
    for (int peer = 0; peer < kMembers; ++peer) {
      for (int i = 0; peer != me && i < kMessages; ++i) {
        out.push_back(Text(me, peer, i, LengthOf(me, peer, i)));
        expected.push_back(Text(peer, me, i, LengthOf(peer, me, i)));
        in.emplace_back(expected.back().size());
      }
    }
    // Some are posted before anything moves, the others one by one.
    for (size_t i = 0; i < out.size(); ++i) {
      const int peer = (me + 1 + static_cast<int>(i) / kMessages) % kMembers;
      const int place = peer > me ? peer - 1 : peer;
      const size_t at = place * kMessages + i % kMessages;
      group.lanes[me]->Receive(peer, static_cast<int>(i % kMessages), in[at], &unfinished);
      group.lanes[me]->Send(peer, static_cast<int>(i % kMessages), out[at], &unfinished);
      if (i % kMessages <= 20) continue;
      EXPECT_TRUE(group.lanes[me]->Move().ok());
    }
    while (unfinished > 0) {
      const absl::StatusOr<bool> moved = group.lanes[me]->Move();
      ASSERT_EQ(moved.status(), absl::OkStatus());
      if (!*moved) sched_yield();
    }
    for (size_t i = 0; i < in.size(); ++i) EXPECT_TRUE(in[i] == expected[i]) << "member " << me << ", message " << i;
  };
  std::vector<std::thread> threads;
  for (int m = 0; m < kMembers; ++m) threads.emplace_back(talk, m);
  for (std::thread& thread : threads) thread.join();
}

TEST(RingLane, AMessageLongerThanTheRingWaitsForItsReceiver) {
  LaneGroup group(2);
  const std::vector<std::byte> text = Text(0, 1, 0, 2 * kTestRing);
  std::vector<std::byte> copy(text.size());
  int64_t sending = 0, receiving = 0;
  group.lanes[0]->Send(1, 7, text, &sending);
  while (*group.lanes[0]->Move()) {
  }
  EXPECT_EQ(sending, 1);
  group.lanes[1]->Receive(0, 7, copy, &receiving);
  while (sending + receiving > 0) ASSERT_TRUE(*group.lanes[1]->Move() | *group.lanes[0]->Move());
  EXPECT_TRUE(copy == text);
}

TEST(RingLane, WhatFitsLeavesAtOnce) {
  LaneGroup group(2);
  const std::vector<std::byte> text = Text(0, 1, 0, kTestRing - kRingLine);
  int64_t sending = 0;
  group.lanes[0]->Send(1, 7, text, &sending);
  EXPECT_TRUE(*group.lanes[0]->Move());
  EXPECT_EQ(sending, 0);
}

// Ranks that are out of step must wait, not add up what does not belong together.
TEST(RingLane, AnotherTagStaysWhereItIs) {
  LaneGroup group(2);
  std::vector<std::byte> text(10), copy(10);
  int64_t sending = 0, receiving = 0;
  group.lanes[0]->Send(1, 7, text, &sending);
  group.lanes[1]->Receive(0, 8, copy, &receiving);
  EXPECT_TRUE(*group.lanes[0]->Move());
  EXPECT_FALSE(*group.lanes[1]->Move());
  EXPECT_EQ(receiving, 1);
}

TEST(RingLane, AnotherLengthIsAnError) {
  LaneGroup group(2);
  std::vector<std::byte> text(10), copy(11);
  int64_t sending = 0, receiving = 0;
  group.lanes[0]->Send(1, 7, text, &sending);
  group.lanes[1]->Receive(0, 7, copy, &receiving);
  EXPECT_TRUE(*group.lanes[0]->Move());
  const absl::Status status = group.lanes[1]->Move().status();
  EXPECT_EQ(status.message(), "message of member 0 to member 1: expected 11 bytes, got 10");
}

TEST(RingLane, WhatIsDroppedIsNotTouchedAgain) {
  LaneGroup group(2);
  std::vector<std::byte> text(10, std::byte{1}), copy(10);
  int64_t sending = 0, receiving = 0, others = 0;
  group.lanes[1]->Receive(0, 7, copy, &receiving);
  group.lanes[1]->Send(0, 7, text, &others);
  group.lanes[1]->Drop(&receiving);
  EXPECT_EQ(receiving, 0);
  EXPECT_EQ(others, 1);
  group.lanes[0]->Send(1, 7, text, &sending);
  EXPECT_TRUE(*group.lanes[0]->Move());
  EXPECT_FALSE(*group.lanes[1]->Move());
  EXPECT_EQ(copy, std::vector<std::byte>(10));
}

}  // namespace
}  // namespace conclave
