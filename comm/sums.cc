#include "comm/sums.h"

#include <algorithm>

#include "base/simd.h"

namespace conclave {
namespace {

template <typename T>
CONCLAVE_INLINE void AddLoop(const T* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}
template <typename T>
CONCLAVE_INLINE void AddZeroLoop(T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += T{0};
}
template <typename T>
CONCLAVE_INLINE void ScaleLoop(T a, const T* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a * x[i];
}
template <typename T>
CONCLAVE_INLINE void DifferenceLoop(const T* x, const T* y, T* z, int64_t n) {
  for (int64_t i = 0; i < n; ++i) z[i] = x[i] - y[i];
}
CONCLAVE_SIMD void Subtract(const float* x, const float* y, float* z, int64_t n) { DifferenceLoop(x, y, z, n); }
CONCLAVE_SIMD void Subtract(const double* x, const double* y, double* z, int64_t n) { DifferenceLoop(x, y, z, n); }
CONCLAVE_SIMD void Add(const float* x, float* y, int64_t n) { AddLoop(x, y, n); }
CONCLAVE_SIMD void Add(const double* x, double* y, int64_t n) { AddLoop(x, y, n); }
CONCLAVE_SIMD void AddNothing(float* y, int64_t n) { AddZeroLoop(y, n); }
CONCLAVE_SIMD void AddNothing(double* y, int64_t n) { AddZeroLoop(y, n); }
CONCLAVE_SIMD void Scale(float a, const float* x, float* y, int64_t n) { ScaleLoop(a, x, y, n); }
CONCLAVE_SIMD void Scale(double a, const double* x, double* y, int64_t n) { ScaleLoop(a, x, y, n); }

template <typename T>
void Reduce(ReduceOp op, const T* x, T* y, int64_t n) {
  switch (op) {
    case ReduceOp::kSum:
      for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(y[i] + x[i]);
      return;
    case ReduceOp::kMin:
      for (int64_t i = 0; i < n; ++i) y[i] = std::min(y[i], x[i]);
      return;
    case ReduceOp::kMax:
      for (int64_t i = 0; i < n; ++i) y[i] = std::max(y[i], x[i]);
      return;
  }
}

template <typename T>
void ReduceAs(ReduceOp op, const void* x, void* y, int64_t n) {
  Reduce(op, static_cast<const T*>(x), static_cast<T*>(y), n);
}

}  // namespace

void AddInto(DType dtype, const void* x, void* y, int64_t n) {
  DispatchFloat(dtype, [&](auto t) {
    using T = decltype(t);
    Add(static_cast<const T*>(x), static_cast<T*>(y), n);
  });
}

void AddZero(DType dtype, void* y, int64_t n) {
  DispatchFloat(dtype, [&](auto t) { AddNothing(static_cast<decltype(t)*>(y), n); });
}

void Difference(DType dtype, const void* x, const void* y, void* z, int64_t n) {
  DispatchFloat(dtype, [&](auto t) {
    using T = decltype(t);
    Subtract(static_cast<const T*>(x), static_cast<const T*>(y), static_cast<T*>(z), n);
  });
}

void ScaleInto(DType dtype, double a, const void* x, void* y, int64_t n) {
  DispatchFloat(dtype, [&](auto t) {
    using T = decltype(t);
    Scale(static_cast<T>(a), static_cast<const T*>(x), static_cast<T*>(y), n);
  });
}

void ReduceInto(DType dtype, ReduceOp op, const void* x, void* y, int64_t n) {
  switch (dtype) {
    case DType::kF32:
      return op == ReduceOp::kSum ? AddInto(dtype, x, y, n) : ReduceAs<float>(op, x, y, n);
    case DType::kF64:
      return op == ReduceOp::kSum ? AddInto(dtype, x, y, n) : ReduceAs<double>(op, x, y, n);
    case DType::kI32:
      return ReduceAs<int32_t>(op, x, y, n);
    case DType::kI64:
      return ReduceAs<int64_t>(op, x, y, n);
    case DType::kU8:
      return ReduceAs<uint8_t>(op, x, y, n);
    case DType::kBF16:
      break;
  }
  CHECK(false) << "no reduction of " << NameOf(dtype);
}

}  // namespace conclave
