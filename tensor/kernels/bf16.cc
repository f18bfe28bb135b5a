#include "tensor/kernels/bf16.h"

#include <bit>

#include "base/simd.h"

namespace conclave::cpu {
namespace {

// The bits of x in bf16. Without a branch, so that loops vectorise.
CONCLAVE_INLINE uint32_t Rounded(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x0040;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded;
}

CONCLAVE_INLINE void RoundLoop(const float* __restrict__ x, uint16_t* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint16_t>(Rounded(x[i]));
}
CONCLAVE_INLINE void RoundLoop(const float* __restrict__ x, float* __restrict__ to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = std::bit_cast<float>(Rounded(x[i]) << 16);
}

}  // namespace

CONCLAVE_SIMD void RoundToBf16(const float* x, uint16_t* to, int64_t n) { RoundLoop(x, to, n); }
CONCLAVE_SIMD void RoundToBf16(const float* x, float* to, int64_t n) { RoundLoop(x, to, n); }

}  // namespace conclave::cpu
