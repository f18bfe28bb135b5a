#include "parallel/row_moves.h"

#include <algorithm>
#include <cstring>

#include "base/simd.h"
#include "tensor/kernels/lanes.h"

namespace conclave {
namespace {

int64_t RowBytes(const Tensor& t) { return t.dim(-1) * SizeOf(t.dtype()); }

template <typename T>
CONCLAVE_INLINE void AddRowLoop(const T* x, T* y, int64_t h) {
  for (int64_t c = 0; c < h; ++c) y[c] += x[c];
}
CONCLAVE_SIMD void AddRow(const float* x, float* y, int64_t h) { AddRowLoop(x, y, h); }
CONCLAVE_SIMD void AddRow(const double* x, double* y, int64_t h) { AddRowLoop(x, y, h); }

struct Sizes {
  int64_t copies, top_k, h;
  bool accumulate = false;
};

template <typename T>
CONCLAVE_INLINE void WeightedSumLoop(const T* out, const T* w, const int64_t* position, const Sizes& s, T* y) {
  for (int64_t i = 0; i < s.copies; i += s.top_k, y += s.h) {
    bool written = false;
    for (int64_t slot = i; slot < i + s.top_k; ++slot) {
      if (position[slot] < 0) continue;
      const T* row = out + position[slot] * s.h;
      if (!written) {
        for (int64_t c = 0; c < s.h; ++c) y[c] = w[slot] * row[c];
      } else {
        for (int64_t c = 0; c < s.h; ++c) y[c] += w[slot] * row[c];
      }
      written = true;
    }
    if (!written) std::fill_n(y, s.h, T{0});
  }
}
CONCLAVE_SIMD void WeightedSum(const float* out, const float* w, const int64_t* position, const Sizes& s, float* y) {
  WeightedSumLoop(out, w, position, s, y);
}
CONCLAVE_SIMD void WeightedSum(const double* out, const double* w, const int64_t* position, const Sizes& s, double* y) {
  WeightedSumLoop(out, w, position, s, y);
}

// Column by column through a small buffer, so that the sum of the copies is formed before it is added.
template <typename T>
CONCLAVE_INLINE void SumOfCopiesLoop(const T* g, const int64_t* position, const Sizes& s, T* dx) {
  constexpr int64_t kPiece = 256;
  T sum[kPiece];
  for (int64_t i = 0; i < s.copies; i += s.top_k, dx += s.h) {
    for (int64_t begin = 0; begin < s.h; begin += kPiece) {
      const int64_t count = std::min(kPiece, s.h - begin);
      bool written = false;
      for (int64_t slot = i; slot < i + s.top_k; ++slot) {
        if (position[slot] < 0) continue;
        const T* row = g + position[slot] * s.h + begin;
        if (!written) {
          for (int64_t c = 0; c < count; ++c) sum[c] = row[c];
        } else {
          for (int64_t c = 0; c < count; ++c) sum[c] += row[c];
        }
        written = true;
      }
      if (!written) std::fill_n(sum, count, T{0});
      if (s.accumulate) {
        for (int64_t c = 0; c < count; ++c) dx[begin + c] += sum[c];
      } else {
        for (int64_t c = 0; c < count; ++c) dx[begin + c] = sum[c];
      }
    }
  }
}
CONCLAVE_SIMD void SumOfCopies(const float* g, const int64_t* position, const Sizes& s, float* dx) { SumOfCopiesLoop(g, position, s, dx); }
CONCLAVE_SIMD void SumOfCopies(const double* g, const int64_t* position, const Sizes& s, double* dx) {
  SumOfCopiesLoop(g, position, s, dx);
}

template <typename T>
CONCLAVE_INLINE void ScaleRowLoop(T w, const T* dy, T* g, int64_t h, bool accumulate) {
  if (accumulate) {
    for (int64_t c = 0; c < h; ++c) g[c] += w * dy[c];
  } else {
    for (int64_t c = 0; c < h; ++c) g[c] = w * dy[c];
  }
}
CONCLAVE_SIMD void ScaleRow(float w, const float* dy, float* g, int64_t h, bool accumulate) { ScaleRowLoop(w, dy, g, h, accumulate); }
CONCLAVE_SIMD void ScaleRow(double w, const double* dy, double* g, int64_t h, bool accumulate) { ScaleRowLoop(w, dy, g, h, accumulate); }

CONCLAVE_SIMD double InnerProduct(const float* x, const float* y, int64_t h) {
  return cpu::LaneSum<double>(h, cpu::Product<double, float>{x, y});
}
CONCLAVE_SIMD double InnerProduct(const double* x, const double* y, int64_t h) {
  return cpu::LaneSum<double>(h, cpu::Product<double, double>{x, y});
}

}  // namespace

void ScatterRows(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t first) {
  const int64_t row = RowBytes(to);
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) std::memcpy(out + (index[i] - first) * row, source + i * row, row);
}

void GatherRowsInto(const Tensor& from, std::span<const int64_t> index, const Tensor& to, int64_t first) {
  const int64_t row = RowBytes(to);
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) std::memcpy(out + i * row, source + (index[i] - first) * row, row);
}

void ScatterRows(const Tensor& from, std::span<const int64_t> index, const Tensor& to, const RowsElsewhere& but) {
  const int64_t row = RowBytes(to);
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* const out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) {
    if (!but.Has(index[i])) std::memcpy(out + index[i] * row, source + i * row, row);
  }
}

void GatherRowsInto(const Tensor& from, std::span<const int64_t> index, const Tensor& to, const RowsElsewhere& but) {
  const int64_t row = RowBytes(to);
  const std::byte* const source = static_cast<const std::byte*>(from.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) {
    if (!but.Has(index[i])) std::memcpy(out + i * row, source + index[i] * row, row);
  }
}

void ScatterRowsElsewhere(const Tensor& from, std::span<const int64_t> index, const RowsElsewhere& to) {
  const int64_t row = RowBytes(from);
  const std::byte* source = static_cast<const std::byte*>(from.raw());
  std::byte* const out = static_cast<std::byte*>(to.memory.raw());
  for (size_t i = 0; i < index.size(); ++i) {
    if (to.Has(index[i])) std::memcpy(out + to.RowOf(index[i]) * row, source + i * row, row);
  }
}

void GatherRowsElsewhere(const RowsElsewhere& from, std::span<const int64_t> index, const Tensor& to) {
  const int64_t row = RowBytes(to);
  const std::byte* const source = static_cast<const std::byte*>(from.memory.raw());
  std::byte* out = static_cast<std::byte*>(to.raw());
  for (size_t i = 0; i < index.size(); ++i) {
    if (from.Has(index[i])) std::memcpy(out + i * row, source + from.RowOf(index[i]) * row, row);
  }
}

void AddRows(const Tensor& from, const Tensor& to) {
  DispatchFloat(to.dtype(), [&](auto t) {
    using T = decltype(t);
    AddRow(from.data<T>(), to.data<T>(), to.elements());
  });
}

void ScaleRows(const Tensor& rows, const Tensor& w, const ScaleTarget& target) {
  const int64_t h = rows.dim(1);
  DispatchFloat(rows.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < rows.dim(0); ++i) {
      ScaleRow(w.data<T>()[i], rows.data<T>() + i * h, target.to.data<T>() + i * h, h, target.accumulate);
    }
  });
}

void SpreadTokens(const Tensor& x, const CopyRows& rows, const Tensor& copies) {
  const int64_t row = RowBytes(x);
  const std::byte* source = static_cast<const std::byte*>(x.raw());
  std::byte* out = static_cast<std::byte*>(copies.raw());
  for (size_t i = 0; i < rows.position.size(); ++i) {
    if (rows.position[i] >= 0) std::memcpy(out + rows.position[i] * row, source + i / rows.top_k * row, row);
  }
}

void SumCopies(const Tensor& g, const CopyRows& rows, const Tensor& dx, bool accumulate) {
  const int64_t h = dx.dim(1);
  DispatchFloat(dx.dtype(), [&](auto t) {
    using T = decltype(t);
    SumOfCopies(g.data<T>(), rows.position.data(), {static_cast<int64_t>(rows.position.size()), rows.top_k, h, accumulate}, dx.data<T>());
  });
}

void WeightedSumOfCopies(const Tensor& out, const Tensor& w, const CopyRows& rows, const Tensor& y) {
  const Sizes sizes{static_cast<int64_t>(rows.position.size()), rows.top_k, y.dim(1)};
  DispatchFloat(y.dtype(), [&](auto t) {
    using T = decltype(t);
    WeightedSum(out.data<T>(), w.data<T>(), rows.position.data(), sizes, y.data<T>());
  });
}

void WeightedSumBackward(const Tensor& dy, const Tensor& out, const Tensor& w, const CopyRows& rows,
                         const WeightedSumGradients& gradients) {
  const int64_t h = dy.dim(1);
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    for (size_t i = 0; i < rows.position.size(); ++i) {
      if (rows.position[i] < 0) continue;
      const T* cotangent = dy.data<T>() + i / rows.top_k * h;
      const int64_t place = rows.position[i] * h;
      ScaleRow(w.data<T>()[i], cotangent, gradients.g.data<T>() + place, h, gradients.accumulate);
      if (gradients.dw.defined()) gradients.dw.data<T>()[i] += static_cast<T>(InnerProduct(cotangent, out.data<T>() + place, h));
    }
  });
}

void AddInnerProducts(const Tensor& dy, const Tensor& out, const CopyRows& rows, const Tensor& dw) {
  const int64_t h = dy.dim(1);
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    for (size_t i = 0; i < rows.position.size(); ++i) {
      if (rows.position[i] < 0) continue;
      dw.data<T>()[i] += static_cast<T>(InnerProduct(dy.data<T>() + i / rows.top_k * h, out.data<T>() + rows.position[i] * h, h));
    }
  });
}

void AddInnerProductsOfRows(const Tensor& a, const Tensor& b, const Tensor& dw) {
  const int64_t h = a.dim(1);
  DispatchFloat(a.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < a.dim(0); ++i) dw.data<T>()[i] += static_cast<T>(InnerProduct(a.data<T>() + i * h, b.data<T>() + i * h, h));
  });
}

}  // namespace conclave
