// What every communicator must do, whatever carries its messages. Each law runs on all ranks of a group and checks every element.
#ifndef CONCLAVE_TESTS_COMM_COMMUNICATOR_LAWS_H_
#define CONCLAVE_TESTS_COMM_COMMUNICATOR_LAWS_H_

#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/communicator.h"
#include "tests/comm/background_law.h"
#include "tests/comm/long_all_reduce_law.h"
#include "tests/comm/stream_law.h"
#include "tests/comm/test_vectors.h"

namespace conclave {

template <typename T>
absl::Status AllReduceLaw(Communicator& comm, int64_t n) {
  std::vector<T> v = TestVector<T>(comm.rank(), n, 1);
  RETURN_IF_ERROR(comm.AllReduce("sum", TensorOf(v), ReduceOp::kSum));
  EXPECT_TRUE(SameBits(v, SumInRankOrder<T>(comm.size(), n, 1))) << comm.size() << " ranks, n = " << n;
  std::vector<T> low = TestVector<T>(comm.rank(), n, 2), high = low;
  RETURN_IF_ERROR(comm.AllReduce("min", TensorOf(low), ReduceOp::kMin));
  RETURN_IF_ERROR(comm.AllReduce("max", TensorOf(high), ReduceOp::kMax));
  std::vector<T> least = TestVector<T>(0, n, 2), most = least;
  for (int r = 1; r < comm.size(); ++r) {
    const std::vector<T> v = TestVector<T>(r, n, 2);
    for (int64_t i = 0; i < n; ++i) least[i] = std::min(least[i], v[i]), most[i] = std::max(most[i], v[i]);
  }
  EXPECT_TRUE(SameBits(low, least)) << "minimum";
  EXPECT_TRUE(SameBits(high, most)) << "maximum";
  return absl::OkStatus();
}

inline absl::Status GatherAndScatterLaw(Communicator& comm, int64_t n) {
  const int p = comm.size();
  std::vector<float> mine = TestVector<float>(comm.rank(), n), all(n * p), expected;
  for (int r = 0; r < p; ++r) {
    const std::vector<float> v = TestVector<float>(r, n);
    expected.insert(expected.end(), v.begin(), v.end());
  }
  RETURN_IF_ERROR(comm.AllGather("gather", TensorOf(mine), TensorOf(all)));
  EXPECT_TRUE(SameBits(all, expected)) << "all-gather, n = " << n;

  std::vector<float> send = TestVector<float>(comm.rank(), n * p, 3), part(n);
  RETURN_IF_ERROR(comm.ReduceScatter("scatter", TensorOf(send), TensorOf(part), ReduceOp::kSum));
  const std::vector<float> sum = SumInRankOrder<float>(p, n * p, 3);
  EXPECT_TRUE(SameBits(part, std::vector<float>(sum.begin() + comm.rank() * n, sum.begin() + (comm.rank() + 1) * n))) << "reduce-scatter";

  for (int root = 0; root < p; ++root) {
    std::vector<float> data = TestVector<float>(comm.rank(), n, 4);
    RETURN_IF_ERROR(comm.Broadcast("broadcast", TensorOf(data), root));
    EXPECT_TRUE(SameBits(data, TestVector<float>(root, n, 4))) << "root " << root;
  }
  return absl::OkStatus();
}

// Element counts of the message from rank a to rank b: some are zero.
inline int64_t TestCount(int a, int b) { return (a * 5 + b * 3) % 4 == 0 ? 0 : a * 7 + b * 11 + 1; }

struct TestAllToAll {
  std::vector<int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;
  std::vector<double> send, recv;
  Collective op;

  explicit TestAllToAll(Communicator& comm) {
    const int me = comm.rank();
    int64_t sent = 0, received = 0;
    for (int r = 0; r < comm.size(); ++r) {
      send_bytes.push_back(TestCount(me, r) * 8), send_offsets.push_back(sent * 8), sent += TestCount(me, r);
      recv_bytes.push_back(TestCount(r, me) * 8), recv_offsets.push_back(received * 8), received += TestCount(r, me);
      for (int64_t i = 0; i < TestCount(me, r); ++i) send.push_back(1e6 * me + 1e3 * r + static_cast<double>(i));
    }
    recv.assign(received, -1);
    op = {.kind = CollectiveKind::kAllToAllV,
          .label = "exchange",
          .send = TensorOf(send),
          .recv = TensorOf(recv),
          .send_bytes = send_bytes,
          .send_offsets = send_offsets,
          .recv_bytes = recv_bytes,
          .recv_offsets = recv_offsets};
  }

  void Check(Communicator& comm) const {
    size_t at = 0;
    for (int r = 0; r < comm.size(); ++r) {
      for (int64_t i = 0; i < TestCount(r, comm.rank()); ++i, ++at)
        EXPECT_EQ(recv[at], 1e6 * r + 1e3 * comm.rank() + static_cast<double>(i));
    }
    EXPECT_EQ(at, recv.size());
  }
};

// Several operations in flight on two communicators, completed out of order.
inline absl::Status OverlapLaw(Communicator& a, Communicator& b) {
  TestAllToAll first(a), second(b);
  std::vector<float> big = TestVector<float>(a.rank(), 10000, 5), small = TestVector<float>(b.rank(), 5, 6), parts(b.size() * 5);
  ASSIGN_OR_RETURN(Request r1, a.Start(first.op));
  ASSIGN_OR_RETURN(Request r2,
                   b.Start({.kind = CollectiveKind::kAllGather, .label = "g", .send = TensorOf(small), .recv = TensorOf(parts)}));
  ASSIGN_OR_RETURN(Request r3, a.Start({.kind = CollectiveKind::kAllReduce, .label = "r", .recv = TensorOf(big)}));
  ASSIGN_OR_RETURN(Request r4, b.Start(second.op));
  // Even ranks wait in one order, odd ranks in the other.
  Request* order[] = {&r1, &r3, &r2, &r4};
  Communicator* owner[] = {&a, &a, &b, &b};
  for (int i = 0; i < 4; ++i) {
    const int j = a.rank() % 2 == 0 ? i : 3 - i;
    RETURN_IF_ERROR(owner[j]->Wait(*order[j]));
    EXPECT_FALSE(order[j]->active());
  }
  first.Check(a), second.Check(b);
  EXPECT_TRUE(SameBits(big, SumInRankOrder<float>(a.size(), 10000, 5)));
  for (int r = 0; r < b.size(); ++r) EXPECT_EQ(parts[r * 5], TestVector<float>(r, 5, 6)[0]);
  return absl::OkStatus();
}

// Every rank sends two messages of one tag and one of another to its right neighbour; order within a tag is kept.
inline absl::Status SendLaw(Communicator& comm) {
  const int p = comm.size(), to = (comm.rank() + 1) % p, from = (comm.rank() + p - 1) % p;
  if (p == 1) return absl::OkStatus();
  std::vector<double> a = {1.0 + comm.rank()}, b = {2.0 + comm.rank()}, c = {3.0 + comm.rank()}, ra(1), rb(1), rc(1);
  std::vector<Request> requests;
  const std::pair<std::vector<double>*, int> out[] = {{&a, 0}, {&b, 0}, {&c, 9}};
  for (const auto& [v, tag] : out) {
    ASSIGN_OR_RETURN(Request r, comm.Start({.kind = CollectiveKind::kSend, .label = "send", .send = TensorOf(*v), .peer = to, .tag = tag}));
    requests.push_back(std::move(r));
  }
  RETURN_IF_ERROR(comm.Recv("recv", TensorOf(rc), from, 9));
  Request first, second;  // in flight together, completed in the other order
  const auto receive = [&](std::vector<double>& v) {
    return comm.Start({.kind = CollectiveKind::kRecv, .label = "recv", .recv = TensorOf(v), .peer = from, .tag = 0});
  };
  ASSIGN_OR_RETURN(first, receive(ra));
  ASSIGN_OR_RETURN(second, receive(rb));
  RETURN_IF_ERROR(comm.Wait(second));
  RETURN_IF_ERROR(comm.Wait(first));
  EXPECT_EQ(ra[0], 1.0 + from);
  EXPECT_EQ(rb[0], 2.0 + from);
  EXPECT_EQ(rc[0], 3.0 + from);
  for (Request& r : requests) RETURN_IF_ERROR(comm.Wait(r));
  return absl::OkStatus();
}

// <A x, y> = <x, A^T y>, summed over ranks, where A^T is the collective that backward uses: all-gather and reduce-scatter, all-to-all-v and
// its mirror.
inline absl::Status AdjointLaw(Communicator& comm) {
  const int p = comm.size();
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const auto values = [&](int64_t n, uint32_t site) {
    std::vector<double> v(n);
    const RngKey key{.seed = 3, .site = site, .worker = static_cast<uint32_t>(comm.rank())};
    for (int64_t i = 0; i < n; ++i) v[i] = key.Normal(i);
    return v;
  };
  std::vector<double> sides;
  {
    std::vector<double> x = values(13, 1), y = values(13 * p, 2), ax(13 * p), aty(13);
    RETURN_IF_ERROR(comm.AllGather("A", TensorOf(x), TensorOf(ax)));
    RETURN_IF_ERROR(comm.ReduceScatter("At", TensorOf(y), TensorOf(aty), ReduceOp::kSum));
    sides.push_back(dot(ax, y)), sides.push_back(dot(x, aty));
  }
  {
    TestAllToAll there(comm);
    there.send = values(static_cast<int64_t>(there.send.size()), 3);
    std::vector<double> y = values(static_cast<int64_t>(there.recv.size()), 4), back(there.send.size());
    there.op.send = TensorOf(there.send);
    RETURN_IF_ERROR(comm.AllToAllV(there.op));
    RETURN_IF_ERROR(comm.AllToAllV({.kind = CollectiveKind::kAllToAllV,
                                    .label = "At",
                                    .send = TensorOf(y),
                                    .recv = TensorOf(back),
                                    .send_bytes = there.recv_bytes,
                                    .send_offsets = there.recv_offsets,
                                    .recv_bytes = there.send_bytes,
                                    .recv_offsets = there.send_offsets}));
    sides.push_back(dot(there.recv, y)), sides.push_back(dot(there.send, back));
  }
  RETURN_IF_ERROR(comm.AllReduce("sides", TensorOf(sides), ReduceOp::kSum));
  EXPECT_NEAR(sides[0], sides[1], 1e-11 * (1 + std::abs(sides[0])));
  EXPECT_NEAR(sides[2], sides[3], 1e-11 * (1 + std::abs(sides[2])));
  return absl::OkStatus();
}

inline absl::Status SplitLaw(Communicator& world) {
  const int color = world.rank() % 2, key = -world.rank();  // reversed order
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, world.Split(color, key, "part"));
  std::vector<int> members;
  for (int r = world.size() - 1; r >= 0; --r) {
    if (r % 2 == color) members.push_back(r);
  }
  EXPECT_EQ(part->size(), static_cast<int>(members.size()));
  EXPECT_EQ(part->name(), "part");
  for (int i = 0; i < part->size(); ++i) EXPECT_EQ(part->GlobalRank(i), members[i]);
  EXPECT_EQ(part->GlobalRank(part->rank()), world.rank());
  EXPECT_EQ(part->Node(part->rank()), world.Node(world.rank()));
  std::vector<int64_t> sum = {world.rank()};
  RETURN_IF_ERROR(part->AllReduce("ids", TensorOf(sum), ReduceOp::kSum));
  EXPECT_EQ(sum[0], std::accumulate(members.begin(), members.end(), int64_t{0}));
  RETURN_IF_ERROR(OverlapLaw(world, *part));
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> again, part->Split(0, part->rank(), "again"));
  return SendLaw(*again);
}

inline absl::Status AllCommunicatorLaws(Communicator& world) {
  for (const int64_t n : {0, 1, 3, 17, 5000}) {
    RETURN_IF_ERROR(AllReduceLaw<float>(world, n));
    RETURN_IF_ERROR(AllReduceLaw<double>(world, n));
    RETURN_IF_ERROR(GatherAndScatterLaw(world, n));
  }
  RETURN_IF_ERROR(AllReduceLaw<int32_t>(world, 20'001));
  RETURN_IF_ERROR(AllReduceLaw<int64_t>(world, 10'001));
  RETURN_IF_ERROR(LongAllReduceLaw(world));
  RETURN_IF_ERROR(StreamLaw(world));
  RETURN_IF_ERROR(BackgroundLaw(world));
  TestAllToAll exchange(world);
  RETURN_IF_ERROR(world.AllToAllV(exchange.op));
  exchange.Check(world);
  for (int i = 0; i < 3; ++i) RETURN_IF_ERROR(world.Barrier("barrier"));
  RETURN_IF_ERROR(SendLaw(world));
  RETURN_IF_ERROR(AdjointLaw(world));
  return SplitLaw(world);
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_COMMUNICATOR_LAWS_H_
