// The law of all-reduce for vectors so long that they go in pieces.
#ifndef CONCLAVE_TESTS_COMM_LONG_ALL_REDUCE_LAW_H_
#define CONCLAVE_TESTS_COMM_LONG_ALL_REDUCE_LAW_H_

#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "tests/comm/test_vectors.h"

namespace conclave {

// `v` again and again, n elements.
template <typename T>
std::vector<T> Repeated(const std::vector<T>& v, int64_t n) {
  std::vector<T> all;
  all.reserve(static_cast<size_t>(n) + v.size());
  while (static_cast<int64_t>(all.size()) < n) all.insert(all.end(), v.begin(), v.end());
  all.resize(n);
  return all;
}

// Vectors that go in several pieces, the last of them short, two of them at a time.
inline absl::Status LongAllReduceLaw(Communicator& comm) {
  constexpr int64_t kElements = 700'001, kOthers = 300'003, kPeriod = 4099;
  std::vector<float> v = Repeated(TestVector<float>(comm.rank(), kPeriod, 7), kElements);
  std::vector<double> w = Repeated(TestVector<double>(comm.rank(), kPeriod, 8), kOthers);
  ASSIGN_OR_RETURN(Request first, comm.Start({.kind = CollectiveKind::kAllReduce, .label = "long", .recv = TensorOf(v)}));
  ASSIGN_OR_RETURN(Request second, comm.Start({.kind = CollectiveKind::kAllReduce, .label = "longer", .recv = TensorOf(w)}));
  RETURN_IF_ERROR(comm.Wait(comm.rank() % 2 == 0 ? first : second));
  RETURN_IF_ERROR(comm.Wait(comm.rank() % 2 == 0 ? second : first));
  EXPECT_TRUE(SameBits(v, Repeated(SumInRankOrder<float>(comm.size(), kPeriod, 7), kElements))) << comm.size() << " ranks";
  EXPECT_TRUE(SameBits(w, Repeated(SumInRankOrder<double>(comm.size(), kPeriod, 8), kOthers))) << comm.size() << " ranks";
  return absl::OkStatus();
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_LONG_ALL_REDUCE_LAW_H_
