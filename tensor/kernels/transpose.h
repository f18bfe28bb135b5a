// Transposed squares of 16 x 16 floats in registers: inlined, so that the instruction set of the caller reaches them.
#ifndef CONCLAVE_TENSOR_KERNELS_TRANSPOSE_H_
#define CONCLAVE_TENSOR_KERNELS_TRANSPOSE_H_

#include <cstdint>
#include <cstring>

#include "base/simd.h"

namespace conclave::cpu {

inline constexpr int64_t kSquare = 16;

typedef float SquareRow __attribute__((vector_size(64)));

// to[j * to_row + i] = x[i * x_row + j] for i, j < 16.
CONCLAVE_INLINE void TransposeSquare(const float* x, int64_t x_row, float* to, int64_t to_row) {
  SquareRow a[kSquare], b[kSquare];
  for (int64_t i = 0; i < kSquare; ++i) std::memcpy(&a[i], x + i * x_row, sizeof(a[i]));
  // Exchanges single elements, pairs, fours and eights between rows 1, 2, 4 and 8 apart.
  for (int64_t i = 0; i < kSquare; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int64_t i = 0; i < kSquare; i += (i % 4 == 1 ? 3 : 1)) {
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int64_t i = 0; i < kSquare; i += (i % 8 == 3 ? 5 : 1)) {
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  for (int64_t i = 0; i < kSquare / 2; ++i) {
    a[i] = __builtin_shufflevector(b[i], b[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    a[i + 8] = __builtin_shufflevector(b[i], b[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  for (int64_t i = 0; i < kSquare; ++i) std::memcpy(to + i * to_row, &a[i], sizeof(a[i]));
}

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_TRANSPOSE_H_
