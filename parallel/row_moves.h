// The loops of expert dispatch: rows out to their places, and weighted sums back. Row-major [rows, h]; f32 or f64.
#ifndef CONCLAVE_PARALLEL_ROW_MOVES_H_
#define CONCLAVE_PARALLEL_ROW_MOVES_H_

#include <cstdint>
#include <span>

#include "tensor/tensor.h"

namespace conclave {

// A run of places that stand for rows of another tensor: place begin + i is memory[first + i], or memory[index[first + i]] with an index.
struct RowsElsewhere {
  int64_t begin = 0, rows = 0;
  Tensor memory;
  int64_t first = 0;
  std::span<const int64_t> index = {};

  bool Has(int64_t place) const { return place >= begin && place < begin + rows; }
  int64_t RowOf(int64_t place) const { return index.empty() ? first + place - begin : index[first + place - begin]; }
};

// Which rows the k copies of each token are: copy (t, s) is row position[t * k + s], of another tensor where that is elsewhere; -1: there
// is no such copy, and it counts as zero.
struct CopyRows {
  std::span<const int64_t> position;  // [n * k]
  int64_t top_k = 1;
  RowsElsewhere elsewhere = {};
};

// to[index[i] - first] = from[i] (any dtype). Ranges may not overlap.
void ScatterRows(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t first = 0);
// to[i] = from[index[i] - first].
void GatherRowsInto(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t first = 0);
// The same where some places of `to`, or of `from`, are elsewhere: the others alone, and those alone.
void ScatterRows(const Tensor& from, std::span<const int64_t> index, const Tensor& to, const RowsElsewhere& but);
void GatherRowsInto(const Tensor& from, std::span<const int64_t> index, const Tensor& to, const RowsElsewhere& but);
void ScatterRowsElsewhere(const Tensor& from, std::span<const int64_t> index, const RowsElsewhere& to);
void GatherRowsElsewhere(const RowsElsewhere& from, std::span<const int64_t> index, const Tensor& to);
// to += from, same shape.
void AddRows(const Tensor& from, const Tensor& to);
// to[i] = w[i] * rows[i], or +=. w: [m, 1].
struct ScaleTarget {
  Tensor to;
  bool accumulate = false;
};
void ScaleRows(const Tensor& rows, const Tensor& w, const ScaleTarget& target);

// copies[row of (t, s)] = x[t]. None elsewhere.
void SpreadTokens(const Tensor& x, const CopyRows& rows, const Tensor& copies);
// dx[t] = (sum over s, in slot order, of g[row of (t, s)]), or += with `accumulate`.
void SumCopies(const Tensor& g, const CopyRows& rows, const Tensor& dx, bool accumulate = true);
// y[t] = sum over s, in slot order, of w[t, s] * out[row of (t, s)]; products are rounded before they are added.
void WeightedSumOfCopies(const Tensor& out, const Tensor& w, const CopyRows& rows, const Tensor& y);

// The backward of WeightedSumOfCopies: g[row of (t, s)] = w[t, s] * dy[t] (+= with `accumulate`), dw[t, s] += <dy[t], out[row of (t, s)]>
// if dw is defined. The inner product is summed in a fixed number of f64 lanes.
struct WeightedSumGradients {
  Tensor g, dw;
  bool accumulate = false;
  Tensor elsewhere = {};  // g of rows that are elsewhere
};
void WeightedSumBackward(const Tensor& dy, const Tensor& out, const Tensor& w, const CopyRows& rows, const WeightedSumGradients& gradients);

// dw[t, s] += <dy[t], out[row of (t, s)]>: the second half of the above.
void AddInnerProducts(const Tensor& dy, const Tensor& out, const CopyRows& rows, const Tensor& dw);
// dw[i] += <a[i], b[i]>. dw: [m, 1].
void AddInnerProductsOfRows(const Tensor& a, const Tensor& b, const Tensor& dw);

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_ROW_MOVES_H_
