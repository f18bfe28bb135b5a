// Vectors that every rank can recompute, and their comparison bit by bit.
#ifndef CONCLAVE_TESTS_COMM_TEST_VECTORS_H_
#define CONCLAVE_TESTS_COMM_TEST_VECTORS_H_

#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace conclave {

// A vector that differs by rank, in a range where the order of additions shows.
template <typename T>
std::vector<T> TestVector(int rank, int64_t n, uint32_t site = 0) {
  const RngKey key{.seed = 7, .site = site, .worker = static_cast<uint32_t>(rank)};
  std::vector<T> v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<T>(key.Normal(i) * std::exp2(static_cast<double>(key.Below(40, i)) - 20));
  return v;
}

template <typename T>
std::vector<T> SumInRankOrder(int ranks, int64_t n, uint32_t site) {
  std::vector<T> sum = TestVector<T>(0, n, site);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<T> v = TestVector<T>(r, n, site);
    for (int64_t i = 0; i < n; ++i) sum[i] += v[i];
  }
  return sum;
}

template <typename T>
Tensor TensorOf(std::vector<T>& v) {
  return Tensor(v.data(), {static_cast<int64_t>(v.size())}, DTypeOf<T>());
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_COMM_TEST_VECTORS_H_
