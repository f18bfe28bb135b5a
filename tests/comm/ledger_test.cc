#include "comm/ledger.h"

#include <bit>
#include <thread>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "comm/message_communicator.h"
#include "tests/comm/test_vectors.h"

namespace conclave {
namespace {

TEST(Ledger, TakeStartsAnewAndTotalsStay) {
  Ledger ledger;
  ledger.BookSend("a", CollectiveKind::kAllReduce, LinkClass::kIntraNode, 10);
  ledger.BookReceive("a", CollectiveKind::kAllReduce, LinkClass::kInterNode, 4);
  ledger.BookSend("a", CollectiveKind::kBroadcast, LinkClass::kIntraNode, 1);
  ledger.BookLogical({.uplink_bytes = 7, .messages = 1});
  WireReport report = ledger.Take();
  ASSERT_EQ(report.lines.size(), 2u) << "by label and kind";
  EXPECT_EQ(report.Total(LinkClass::kIntraNode), (WireCount{.sent_bytes = 11, .sent_messages = 2}));
  EXPECT_EQ(report.Total(LinkClass::kInterNode), (WireCount{.received_bytes = 4, .received_messages = 1}));
  EXPECT_EQ(report.logical.uplink_bytes, 7);
  ledger.BookSend("b", CollectiveKind::kAllReduce, LinkClass::kIntraNode, 5);
  report = ledger.Take();
  ASSERT_EQ(report.lines.size(), 1u);
  EXPECT_EQ(report.lines[0].label, "b");
  EXPECT_EQ(report.logical, LogicalWire{});
  EXPECT_TRUE(ledger.Take().lines.empty());
  EXPECT_EQ(ledger.totals().BetweenRanks().sent_bytes, 16);
  EXPECT_EQ(ledger.totals().logical.uplink_bytes, 7);
}

TEST(Ledger, ThreadsThatBookAtOnceLoseNothing) {
  constexpr int kTimes = 20000;
  Ledger ledger;
  const auto book = [&](const char* label) {
    for (int i = 0; i < kTimes; ++i) ledger.BookSend(label, CollectiveKind::kAllToAllV, LinkClass::kInterNode, 3);
  };
  std::thread other(book, "gradients");
  book("gradients");
  for (int i = 0; i < 100; ++i) ledger.Take();
  book("tokens");
  other.join();
  ledger.Take();
  EXPECT_EQ(ledger.totals().BetweenRanks().sent_bytes, 3 * 3 * kTimes);
}

// The formulas of comm/message_communicator.h.
TEST(Ledger, CollectivesCostWhatTheirFormulasSay) {
  for (const int p : {1, 2, 3, 4, 5, 8}) {
    constexpr int64_t kSmall = 100, kLarge = 5003;  // f32 elements
    std::vector<WireReport> small(p), large(p), scatter(p), gather(p), broadcast(p), barrier(p);
    ASSERT_EQ(RunRanks(p,
                       [&](Communicator& world) -> absl::Status {
                         const int r = world.rank();
                         std::vector<float> v(kSmall), w(kLarge), parts(kSmall * p);
                         RETURN_IF_ERROR(world.AllReduce("small", TensorOf(v), ReduceOp::kSum));
                         small[r] = world.ledger()->Take();
                         RETURN_IF_ERROR(world.AllReduce("large", TensorOf(w), ReduceOp::kSum));
                         large[r] = world.ledger()->Take();
                         RETURN_IF_ERROR(world.ReduceScatter("scatter", TensorOf(parts), TensorOf(v), ReduceOp::kSum));
                         scatter[r] = world.ledger()->Take();
                         RETURN_IF_ERROR(world.AllGather("gather", TensorOf(v), TensorOf(parts)));
                         gather[r] = world.ledger()->Take();
                         RETURN_IF_ERROR(world.Broadcast("broadcast", TensorOf(v), p / 2));
                         broadcast[r] = world.ledger()->Take();
                         RETURN_IF_ERROR(world.Barrier("barrier"));
                         barrier[r] = world.ledger()->Take();
                         return absl::OkStatus();
                       }),
              absl::OkStatus());
    int64_t large_sent = 0, large_received = 0, broadcast_sent = 0, broadcast_received = 0;
    for (int r = 0; r < p; ++r) {
      EXPECT_EQ(small[r].BetweenRanks().sent_bytes, (p - 1) * kSmall * 4);
      EXPECT_EQ(scatter[r].BetweenRanks().sent_bytes, (p - 1) * kSmall * 4);
      EXPECT_EQ(gather[r].BetweenRanks().sent_bytes, (p - 1) * kSmall * 4);
      const int64_t part = (kLarge * (r + 1) / p - kLarge * r / p) * 4;
      EXPECT_EQ(large[r].BetweenRanks().sent_bytes, p == 1 ? 0 : kLarge * 4 - part + (p - 1) * part);
      large_sent += large[r].BetweenRanks().sent_bytes, large_received += large[r].BetweenRanks().received_bytes;
      broadcast_sent += broadcast[r].BetweenRanks().sent_bytes, broadcast_received += broadcast[r].BetweenRanks().received_bytes;
      EXPECT_EQ(barrier[r].BetweenRanks().sent_bytes, std::bit_width(static_cast<unsigned>(p - 1)));
    }
    EXPECT_EQ(large_sent, 2 * (p - 1) * kLarge * 4);
    EXPECT_EQ(large_sent, large_received);
    EXPECT_EQ(broadcast_sent, (p - 1) * kSmall * 4);
    EXPECT_EQ(broadcast_received, broadcast_sent);
  }
}

}  // namespace
}  // namespace conclave
