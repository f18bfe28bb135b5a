// Loops that compute much for each element have few lines of memory on their way at a time; those that ask for later ones do not wait.
#ifndef CONCLAVE_TENSOR_KERNELS_AHEAD_H_
#define CONCLAVE_TENSOR_KERNELS_AHEAD_H_

#include <algorithm>
#include <cstdint>

#include "base/simd.h"

namespace conclave::cpu {

// Asks for the lines 2 KiB after elements [begin, begin + count) of each of `streams`.
template <typename... T>
CONCLAVE_INLINE void AskAhead(int64_t begin, int64_t count, const T*... streams) {
  constexpr int64_t kLine = 16, kAhead = 512;  // elements; of f64 twice as far, every other line
  for (int64_t i = begin + kAhead; i < begin + kAhead + count; i += kLine) (__builtin_prefetch(streams + i), ...);
}

// Calls part(begin, end) for [0, n) in order, in parts of four lines of memory, each after asking ahead in `streams`. `part` has to be
// inlined always.
template <typename Part, typename... T>
CONCLAVE_INLINE void WithReadAhead(int64_t n, const Part& part, const T*... streams) {
  constexpr int64_t kPart = 64;
  for (int64_t begin = 0; begin < n; begin += kPart) {
    AskAhead(begin, kPart, streams...);
    part(begin, std::min(begin + kPart, n));
  }
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_AHEAD_H_
