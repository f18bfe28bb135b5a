#include "tensor/layout.h"

#include <numeric>

#include "base/simd.h"

namespace conclave {
namespace {

constexpr int64_t kAlignElements = 16;  // 64 bytes of f32

// Vectors may be the same one (never partly overlapping), so no element depends on another: ivdep tells the compiler.
template <typename T>
CONCLAVE_INLINE void AxpyLoop(T a, const T* x, T* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}
template <typename T>
CONCLAVE_INLINE void CombineLoop(T a, const T* x, T b, const T* y, T* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = a * x[i] + b * y[i];
}
CONCLAVE_SIMD void Axpy(float a, const float* x, float* y, int64_t n) { AxpyLoop(a, x, y, n); }
CONCLAVE_SIMD void Axpy(double a, const double* x, double* y, int64_t n) { AxpyLoop(a, x, y, n); }
CONCLAVE_SIMD void Combine(float a, const float* x, float b, const float* y, float* out, int64_t n) { CombineLoop(a, x, b, y, out, n); }
CONCLAVE_SIMD void Combine(double a, const double* x, double b, const double* y, double* out, int64_t n) {
  CombineLoop(a, x, b, y, out, n);
}

}  // namespace

Layout::Layout(const ParameterSet* parameters, int rank, std::vector<BlockHome> homes)
    : parameters_(parameters), rank_(rank), homes_(std::move(homes)) {
  CHECK_EQ(static_cast<int>(homes_.size()), parameters->size());
  for (int i = 0; i < parameters->size(); ++i) {
    BlockHome& home = homes_[i];
    home.offset = -1;
    bool local = false;
    for (const int owner : home.owners) local = local || owner == rank;
    if (!local) continue;
    home.offset = flat_elements_;
    const int64_t n = (*parameters)[BlockId{i}].shape.elements();
    flat_elements_ += (n + kAlignElements - 1) / kAlignElements * kAlignElements;
    local_.push_back({i});
  }
}

Layout ReplicatedLayout(const ParameterSet* parameters, int rank, int ranks) {
  BlockHome everywhere;
  everywhere.owners.resize(ranks);
  std::iota(everywhere.owners.begin(), everywhere.owners.end(), 0);
  return Layout(parameters, rank, std::vector<BlockHome>(parameters->size(), everywhere));
}

FlatVector::FlatVector(const Layout* layout, DType dtype)
    : layout_(layout),
      dtype_(dtype),
      buffer_(layout->flat_elements() * SizeOf(dtype)),
      flat_(buffer_.View(0, {layout->flat_elements()}, dtype)) {}

Tensor FlatVector::block(BlockId id) const {
  const int64_t offset = layout_->home(id).offset;
  CHECK_GE(offset, 0) << layout_->parameters()[id].name;
  return buffer_.View(offset * SizeOf(dtype_), layout_->parameters()[id].shape, dtype_);
}

void FlatVector::Axpy(double a, const FlatVector& x) {
  CHECK_EQ(x.flat_.elements(), flat_.elements());
  DispatchFloat(dtype_, [&](auto t) {
    using T = decltype(t);
    conclave::Axpy(static_cast<T>(a), x.flat_.data<T>(), flat_.data<T>(), flat_.elements());
  });
}

void FlatVector::Combine(double a, const FlatVector& x, double b, const FlatVector& y) {
  CHECK(x.flat_.elements() == flat_.elements() && y.flat_.elements() == flat_.elements())
      << x.flat_.elements() << ' ' << y.flat_.elements();
  DispatchFloat(dtype_, [&](auto t) {
    using T = decltype(t);
    conclave::Combine(static_cast<T>(a), x.flat_.data<T>(), static_cast<T>(b), y.flat_.data<T>(), flat_.data<T>(), flat_.elements());
  });
}

}  // namespace conclave
