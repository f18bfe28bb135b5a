// Transposed squares of 16 x 16 floats by AVX-512: for files compiled for it (transpose.h is for all others).
#ifndef CONCLAVE_TENSOR_KERNELS_TRANSPOSE512_H_
#define CONCLAVE_TENSOR_KERNELS_TRANSPOSE512_H_

#include <cstdint>

#include <immintrin.h>

#include "base/simd.h"
#include "tensor/kernels/transpose.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq")

namespace conclave::cpu {

// As TransposeSquare. Four columns at a time: a vector takes them from rows i, i + 4, i + 8 and i + 12 on its way from memory, so that only
// the squares of 4 x 4 in its quarters are left to be turned.
CONCLAVE_INLINE void TransposeSquare512(const float* x, int64_t x_row, float* to, int64_t to_row) {
#pragma GCC unroll 4
  for (int64_t j = 0; j < kSquare; j += 4) {
    __m512 v[4];
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) {
      const float* const from = x + i * x_row + j;
      v[i] = _mm512_castps128_ps512(_mm_loadu_ps(from));
      v[i] = _mm512_mask_broadcast_f32x4(v[i], 0x00F0, _mm_loadu_ps(from + 4 * x_row));
      v[i] = _mm512_mask_broadcast_f32x4(v[i], 0x0F00, _mm_loadu_ps(from + 8 * x_row));
      v[i] = _mm512_mask_broadcast_f32x4(v[i], 0xF000, _mm_loadu_ps(from + 12 * x_row));
    }
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1])), low23 = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1])), high23 = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
    float* const row = to + j * to_row;
    _mm512_storeu_ps(row, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
    _mm512_storeu_ps(row + to_row, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
    _mm512_storeu_ps(row + 2 * to_row, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
    _mm512_storeu_ps(row + 3 * to_row, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
  }
}

}  // namespace conclave::cpu

#pragma GCC pop_options

#endif  // CONCLAVE_TENSOR_KERNELS_TRANSPOSE512_H_
