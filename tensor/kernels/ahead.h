// Loops that compute much for each element have few lines of memory on their way at a time; those that ask for later ones do not wait.
#ifndef CONCLAVE_TENSOR_KERNELS_AHEAD_H_
#define CONCLAVE_TENSOR_KERNELS_AHEAD_H_

#include <algorithm>
#include <cstdint>

#include "base/simd.h"

namespace conclave::cpu {

// Calls part(begin, end) for [0, n) in order, in parts of four lines of memory, and before each asks for the lines 2 KiB further on in
// each of `streams`. `part` has to be inlined always.
template <typename Part, typename... T>
CONCLAVE_INLINE void WithReadAhead(int64_t n, const Part& part, const T*... streams) {
  constexpr int64_t kLine = 16, kPart = 4 * kLine, kAhead = 512;  // elements; of f64 twice as far, every other line
  for (int64_t begin = 0; begin < n; begin += kPart) {
    for (int64_t i = begin + kAhead; i < begin + kAhead + kPart; i += kLine) (__builtin_prefetch(streams + i), ...);
    part(begin, std::min(begin + kPart, n));
  }
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_AHEAD_H_
