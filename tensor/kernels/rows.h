// Copying and adding rows by index. Index -1 means no row.
#ifndef CONCLAVE_TENSOR_KERNELS_ROWS_H_
#define CONCLAVE_TENSOR_KERNELS_ROWS_H_

#include <cstdint>

namespace conclave::cpu {

// `count` rows of width h, and for each its row in the other matrix.
struct RowIndex {
  const int32_t* rows;
  int64_t count;
  int64_t h;
};

// y[i] = x[rows[i]], or 0.
void GatherRows(const RowIndex& index, const float* x, float* y);
void GatherRows(const RowIndex& index, const double* x, double* y);

// y[i] += x[rows[i]].
void GatherAddRows(const RowIndex& index, const float* x, float* y);
void GatherAddRows(const RowIndex& index, const double* x, double* y);

// y[rows[i]] += x[i], in order of i.
void ScatterAddRows(const RowIndex& index, const float* x, float* y);
void ScatterAddRows(const RowIndex& index, const double* x, double* y);

// A block of columns: `rows` rows of `width`, at row strides of the two matrices.
struct ColumnBlock {
  int64_t rows;
  int64_t width;
  int64_t x_stride;
  int64_t y_stride;
};
// y = x and y += x, block to block.
void CopyColumns(const ColumnBlock& block, const float* x, float* y);
void CopyColumns(const ColumnBlock& block, const double* x, double* y);
void AddColumns(const ColumnBlock& block, const float* x, float* y);
void AddColumns(const ColumnBlock& block, const double* x, double* y);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_ROWS_H_
