#include "tensor/kernels/bf16.h"

#include <bit>

#include "base/simd.h"

namespace conclave::cpu {
namespace {

// Without a branch, so that the loop vectorises.
CONCLAVE_INLINE void RoundLoop(const float* __restrict__ x, uint16_t* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]);
    const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x0040;
    to[i] = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
  }
}

}  // namespace

CONCLAVE_SIMD void RoundToBf16(const float* x, uint16_t* to, int64_t n) { RoundLoop(x, to, n); }

}  // namespace conclave::cpu
