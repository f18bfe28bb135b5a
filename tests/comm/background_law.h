// The law of all-to-all in the background: other operations may overtake it, nothing else changes.
#ifndef CONCLAVE_TESTS_COMM_BACKGROUND_LAW_H_
#define CONCLAVE_TESTS_COMM_BACKGROUND_LAW_H_

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "tests/comm/test_vectors.h"

namespace conclave {

// From rank a to rank b, in doubles: none, little, or more than goes to another node at a time.
inline int64_t BackgroundCount(int a, int b) {
  constexpr std::array<int64_t, 4> kCounts = {70'001, 0, 5, 31'000};
  return kCounts[static_cast<size_t>(a * 2 + b) % kCounts.size()];
}

struct BackgroundAllToAll {
  std::vector<int64_t> send_bytes, send_offsets, recv_bytes, recv_offsets;
  std::vector<double> send, recv, expected;

  BackgroundAllToAll(const Communicator& comm, double mark) {
    const int me = comm.rank();
    for (int r = 0; r < comm.size(); ++r) {
      const int64_t sent = BackgroundCount(me, r), received = BackgroundCount(r, me);
      send_bytes.push_back(sent * 8), send_offsets.push_back(static_cast<int64_t>(send.size()) * 8);
      recv_bytes.push_back(received * 8), recv_offsets.push_back(static_cast<int64_t>(expected.size()) * 8);
      for (int64_t i = 0; i < sent; ++i) send.push_back(mark + 1e8 * me + 1e6 * r + static_cast<double>(i));
      for (int64_t i = 0; i < received; ++i) expected.push_back(mark + 1e8 * r + 1e6 * me + static_cast<double>(i));
    }
    recv.assign(expected.size(), -1);
  }
  Collective Op(int stream) {
    return {.kind = CollectiveKind::kAllToAllV,
            .label = "background",
            .send = TensorOf(send),
            .recv = TensorOf(recv),
            .send_bytes = send_bytes,
            .send_offsets = send_offsets,
            .recv_bytes = recv_bytes,
            .recv_offsets = recv_offsets,
            .stream = stream,
            .background = true};
  }
};

// Two of them on their way, in streams that ranks start in different orders, while short and long operations come and go.
inline absl::Status BackgroundLaw(Communicator& comm) {
  BackgroundAllToAll first(comm, 0.25), second(comm, 0.5);
  std::array<Request, 2> requests;
  for (int i = 0; i < 2; ++i) {
    const int stream = comm.rank() % 2 == 0 ? i : 1 - i;
    ASSIGN_OR_RETURN(requests[stream], comm.Start((stream == 0 ? first : second).Op(stream)));
  }
  std::vector<float> sum = TestVector<float>(comm.rank(), 30'000, 9);
  RETURN_IF_ERROR(comm.Barrier("in front"));
  RETURN_IF_ERROR(comm.AllReduce("in front", TensorOf(sum), ReduceOp::kSum));
  for (Request& request : requests) RETURN_IF_ERROR(comm.Wait(request));
  EXPECT_TRUE(first.recv == first.expected) << comm.size() << " ranks";
  EXPECT_TRUE(second.recv == second.expected) << comm.size() << " ranks";
  EXPECT_TRUE(SameBits(sum, SumInRankOrder<float>(comm.size(), 30'000, 9)));
  return absl::OkStatus();
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_BACKGROUND_LAW_H_
