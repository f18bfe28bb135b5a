#include "tensor/kernels/rows.h"

#include <algorithm>

#include "base/simd.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE void AddRow(const T* __restrict__ x, T* __restrict__ y, int64_t h) {
  for (int64_t j = 0; j < h; ++j) y[j] += x[j];
}

template <typename T>
CONCLAVE_INLINE void Gather(const RowIndex& index, const T* x, T* y) {
  for (int64_t i = 0; i < index.count; ++i) {
    T* to = y + i * index.h;
    if (index.rows[i] >= 0) {
      std::copy_n(x + index.rows[i] * index.h, index.h, to);
    } else {
      std::fill_n(to, index.h, T(0));
    }
  }
}

template <typename T>
CONCLAVE_INLINE void GatherAdd(const RowIndex& index, const T* x, T* y) {
  for (int64_t i = 0; i < index.count; ++i) {
    if (index.rows[i] >= 0) AddRow(x + index.rows[i] * index.h, y + i * index.h, index.h);
  }
}

template <typename T>
CONCLAVE_INLINE void ScatterAdd(const RowIndex& index, const T* x, T* y) {
  for (int64_t i = 0; i < index.count; ++i) {
    if (index.rows[i] >= 0) AddRow(x + i * index.h, y + index.rows[i] * index.h, index.h);
  }
}

template <typename T>
CONCLAVE_INLINE void Copy(const ColumnBlock& b, const T* x, T* y) {
  for (int64_t i = 0; i < b.rows; ++i) std::copy_n(x + i * b.x_stride, b.width, y + i * b.y_stride);
}

template <typename T>
CONCLAVE_INLINE void Add(const ColumnBlock& b, const T* x, T* y) {
  for (int64_t i = 0; i < b.rows; ++i) AddRow(x + i * b.x_stride, y + i * b.y_stride, b.width);
}

}  // namespace

CONCLAVE_SIMD void GatherRows(const RowIndex& index, const float* x, float* y) { Gather(index, x, y); }
CONCLAVE_SIMD void GatherRows(const RowIndex& index, const double* x, double* y) { Gather(index, x, y); }
CONCLAVE_SIMD void GatherAddRows(const RowIndex& index, const float* x, float* y) { GatherAdd(index, x, y); }
CONCLAVE_SIMD void GatherAddRows(const RowIndex& index, const double* x, double* y) { GatherAdd(index, x, y); }
CONCLAVE_SIMD void ScatterAddRows(const RowIndex& index, const float* x, float* y) { ScatterAdd(index, x, y); }
CONCLAVE_SIMD void ScatterAddRows(const RowIndex& index, const double* x, double* y) { ScatterAdd(index, x, y); }
CONCLAVE_SIMD void CopyColumns(const ColumnBlock& block, const float* x, float* y) { Copy(block, x, y); }
CONCLAVE_SIMD void CopyColumns(const ColumnBlock& block, const double* x, double* y) { Copy(block, x, y); }
CONCLAVE_SIMD void AddColumns(const ColumnBlock& block, const float* x, float* y) { Add(block, x, y); }
CONCLAVE_SIMD void AddColumns(const ColumnBlock& block, const double* x, double* y) { Add(block, x, y); }

}  // namespace conclave::cpu
