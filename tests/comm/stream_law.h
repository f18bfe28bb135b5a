// The law of streams: operations of one stream may be on their way together, whoever waits for which.
#ifndef CONCLAVE_TESTS_COMM_STREAM_LAW_H_
#define CONCLAVE_TESTS_COMM_STREAM_LAW_H_

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "tests/comm/test_vectors.h"

namespace conclave {

// Sums, short and long, a barrier, a broadcast and a gather of one stream on their way at once; every other rank waits for the last one
// first. Some post messages only when others have arrived.
inline absl::Status StreamLaw(Communicator& comm) {
  constexpr int64_t kShort = 3, kLong = 150'001;
  std::vector<float> sums[4];
  for (uint32_t i = 0; i < 4; ++i) sums[i] = TestVector<float>(comm.rank(), i % 2 == 0 ? kLong : kShort, 20 + i);
  std::vector<double> told = TestVector<double>(comm.rank(), 77, 30);
  std::vector<float> mine = TestVector<float>(comm.rank(), kShort, 31), all(kShort * comm.size());
  const auto sum = [&](int i) { return Collective{.kind = CollectiveKind::kAllReduce, .label = "sum", .recv = TensorOf(sums[i])}; };
  const Collective barrier{.kind = CollectiveKind::kBarrier, .label = "barrier"};
  const Collective tell{.kind = CollectiveKind::kBroadcast, .label = "told", .recv = TensorOf(told), .peer = comm.size() - 1};
  const Collective gather{.kind = CollectiveKind::kAllGather, .label = "gather", .send = TensorOf(mine), .recv = TensorOf(all)};
  std::vector<Request> requests;
  for (const Collective& op : {sum(0), barrier, sum(1), tell, gather, sum(2), sum(3)}) {
    ASSIGN_OR_RETURN(Request request, comm.Start(op));
    requests.push_back(std::move(request));
  }
  if (comm.rank() % 2 == 1) std::reverse(requests.begin(), requests.end());
  for (Request& request : requests) RETURN_IF_ERROR(comm.Wait(request));
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(SameBits(sums[i], SumInRankOrder<float>(comm.size(), i % 2 == 0 ? kLong : kShort, 20 + i))) << "sum " << i;
  }
  EXPECT_TRUE(SameBits(told, TestVector<double>(comm.size() - 1, 77, 30)));
  for (int r = 0; r < comm.size(); ++r) EXPECT_EQ(all[r * kShort], TestVector<float>(r, kShort, 31)[0]);
  return absl::OkStatus();
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_STREAM_LAW_H_
