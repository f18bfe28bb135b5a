// Sums and maxima of a row in a fixed number of lanes: the loops vectorise without reordering anything, and the bits depend on n alone.
#ifndef CONCLAVE_TENSOR_KERNELS_LANES_H_
#define CONCLAVE_TENSOR_KERNELS_LANES_H_

#include <cstdint>
#include <limits>

#include "base/simd.h"

namespace conclave::cpu {

inline constexpr int kLanes = 16;

// Element i goes to lane i % kLanes; then lanes are folded in halves.
template <typename T>
CONCLAVE_INLINE T FoldLanes(T* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// sum_i term(i) in T. `term` is a functor with an always-inlined operator()(int64_t) const.
template <typename T, typename Term>
CONCLAVE_INLINE T LaneSum(int64_t n, const Term& term) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += static_cast<T>(term(i + l));
  }
  for (int l = 0; i < n; ++i, ++l) lanes[l] += static_cast<T>(term(i));
  return FoldLanes(lanes);
}

// The terms of the usual sums. S: the type of the sum, T: of the elements.
template <typename S, typename T>
struct Element {
  const T* x;
  CONCLAVE_INLINE S operator()(int64_t i) const { return static_cast<S>(x[i]); }
};
template <typename S, typename T>
struct Product {
  const T* x;
  const T* y;
  CONCLAVE_INLINE S operator()(int64_t i) const { return static_cast<S>(x[i]) * static_cast<S>(y[i]); }
};

// Largest element; -infinity for n = 0; elements that are NaN are passed over.
template <typename T>
CONCLAVE_INLINE T LaneMax(const T* x, int64_t n) {
  T lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = -std::numeric_limits<T>::infinity();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  for (int l = 0; i < n; ++i, ++l) lanes[l] = x[i] > lanes[l] ? x[i] : lanes[l];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] = lanes[l + half] > lanes[l] ? lanes[l + half] : lanes[l];
  }
  return lanes[0];
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_LANES_H_
