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

// Rows by place.
template <typename T>
struct RowSet {
  RowSet(const Tensor& t, const Tensor& there, const RowsElsewhere& places)
      : here(t.data<T>()), elsewhere(places.rows > 0 ? there.data<T>() : nullptr), places(places), h(t.dim(1)) {}
  T* At(int64_t place) const { return places.Has(place) ? elsewhere + places.RowOf(place) * h : here + place * h; }
  T *here, *elsewhere;
  const RowsElsewhere& places;
  int64_t h;
};

struct Sizes {
  int64_t copies, top_k;
  bool accumulate = false;
};

template <typename T>
CONCLAVE_INLINE void WeightedSumLoop(const RowSet<T>& out, const T* w, const int64_t* position, const Sizes& s, T* y) {
  const int64_t h = out.h;
  for (int64_t i = 0; i < s.copies; i += s.top_k, y += h) {
    bool written = false;
    for (int64_t slot = i; slot < i + s.top_k; ++slot) {
      if (position[slot] < 0) continue;
      const T* row = out.At(position[slot]);
      if (!written) {
        for (int64_t c = 0; c < h; ++c) y[c] = w[slot] * row[c];
      } else {
        for (int64_t c = 0; c < h; ++c) y[c] += w[slot] * row[c];
      }
      written = true;
    }
    if (!written) std::fill_n(y, h, T{0});
  }
}
CONCLAVE_SIMD void WeightedSum(const RowSet<float>& out, const float* w, const int64_t* position, const Sizes& s, float* y) {
  WeightedSumLoop(out, w, position, s, y);
}
CONCLAVE_SIMD void WeightedSum(const RowSet<double>& out, const double* w, const int64_t* position, const Sizes& s, double* y) {
  WeightedSumLoop(out, w, position, s, y);
}

// Column by column through a small buffer, so that the sum of the copies is formed before it is added.
template <typename T>
CONCLAVE_INLINE void SumOfCopiesLoop(const RowSet<T>& g, const int64_t* position, const Sizes& s, T* dx) {
  constexpr int64_t kPiece = 256;
  T sum[kPiece];
  for (int64_t i = 0; i < s.copies; i += s.top_k, dx += g.h) {
    for (int64_t begin = 0; begin < g.h; begin += kPiece) {
      const int64_t count = std::min(kPiece, g.h - begin);
      bool written = false;
      for (int64_t slot = i; slot < i + s.top_k; ++slot) {
        if (position[slot] < 0) continue;
        const T* row = g.At(position[slot]) + begin;
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
CONCLAVE_SIMD void SumOfCopies(const RowSet<float>& g, const int64_t* position, const Sizes& s, float* dx) {
  SumOfCopiesLoop(g, position, s, dx);
}
CONCLAVE_SIMD void SumOfCopies(const RowSet<double>& g, const int64_t* position, const Sizes& s, double* dx) {
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
  DispatchFloat(dx.dtype(), [&](auto t) {
    using T = decltype(t);
    const Sizes sizes{static_cast<int64_t>(rows.position.size()), rows.top_k, accumulate};
    SumOfCopies(RowSet<T>(g, rows.elsewhere.memory, rows.elsewhere), rows.position.data(), sizes, dx.data<T>());
  });
}

void WeightedSumOfCopies(const Tensor& out, const Tensor& w, const CopyRows& rows, const Tensor& y) {
  DispatchFloat(y.dtype(), [&](auto t) {
    using T = decltype(t);
    const Sizes sizes{static_cast<int64_t>(rows.position.size()), rows.top_k};
    WeightedSum(RowSet<T>(out, rows.elsewhere.memory, rows.elsewhere), w.data<T>(), rows.position.data(), sizes, y.data<T>());
  });
}

void WeightedSumBackward(const Tensor& dy, const Tensor& out, const Tensor& w, const CopyRows& rows,
                         const WeightedSumGradients& gradients) {
  const int64_t h = dy.dim(1);
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    const RowSet<T> outs(out, rows.elsewhere.memory, rows.elsewhere), g(gradients.g, gradients.elsewhere, rows.elsewhere);
    for (size_t i = 0; i < rows.position.size(); ++i) {
      if (rows.position[i] < 0) continue;
      const T* cotangent = dy.data<T>() + i / rows.top_k * h;
      ScaleRow(w.data<T>()[i], cotangent, g.At(rows.position[i]), h, gradients.accumulate);
      if (gradients.dw.defined()) gradients.dw.data<T>()[i] += static_cast<T>(InnerProduct(cotangent, outs.At(rows.position[i]), h));
    }
  });
}

void AddInnerProducts(const Tensor& dy, const Tensor& out, const CopyRows& rows, const Tensor& dw) {
  const int64_t h = dy.dim(1);
  DispatchFloat(dy.dtype(), [&](auto t) {
    using T = decltype(t);
    const RowSet<T> outs(out, rows.elsewhere.memory, rows.elsewhere);
    for (size_t i = 0; i < rows.position.size(); ++i) {
      if (rows.position[i] < 0) continue;
      dw.data<T>()[i] += static_cast<T>(InnerProduct(dy.data<T>() + i / rows.top_k * h, outs.At(rows.position[i]), h));
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
