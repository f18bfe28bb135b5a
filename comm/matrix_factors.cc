#include "comm/matrix_factors.h"

#include <algorithm>
#include <cmath>

#include "base/simd.h"

namespace conclave {
namespace {

enum class FactorLoop { kTimes, kTransposedTimes, kProduct };

// u, v, out: x, q, a or x, a, q or a, q, x.
template <typename T>
CONCLAVE_INLINE void RunLoop(FactorLoop loop, const T* __restrict u, const T* __restrict v, T* __restrict out, const MatrixSize& size,
                             int64_t width) {
  if (loop != FactorLoop::kProduct) std::fill_n(out, (loop == FactorLoop::kTimes ? size.rows : size.cols) * width, T{0});
  for (int64_t i = 0; i < size.rows; ++i) {
    for (int64_t j = 0; j < size.cols; ++j) {
      const int64_t at = i * size.cols + j;
      if (loop == FactorLoop::kTimes) {
        for (int64_t w = 0; w < width; ++w) out[i * width + w] += u[at] * v[j * width + w];
      } else if (loop == FactorLoop::kTransposedTimes) {
        for (int64_t w = 0; w < width; ++w) out[j * width + w] += u[at] * v[i * width + w];
      } else {
        T sum = 0;
        for (int64_t w = 0; w < width; ++w) sum += u[i * width + w] * v[j * width + w];
        out[at] = sum + T{0};
      }
    }
  }
}

// The compiler makes vectors of the columns where it knows how many there are.
template <typename T>
CONCLAVE_INLINE void RunByWidth(FactorLoop loop, const T* u, const T* v, T* out, const MatrixSize& size, int64_t width) {
  switch (width) {
    case 4:
      return RunLoop(loop, u, v, out, size, 4);
    case 8:
      return RunLoop(loop, u, v, out, size, 8);
    default:
      return RunLoop(loop, u, v, out, size, width);
  }
}
template <typename T>
CONCLAVE_INLINE void RunByLoop(FactorLoop loop, const T* u, const T* v, T* out, const MatrixSize& size, int64_t width) {
  switch (loop) {
    case FactorLoop::kTimes:
      return RunByWidth(FactorLoop::kTimes, u, v, out, size, width);
    case FactorLoop::kTransposedTimes:
      return RunByWidth(FactorLoop::kTransposedTimes, u, v, out, size, width);
    case FactorLoop::kProduct:
      return RunByWidth(FactorLoop::kProduct, u, v, out, size, width);
  }
}
CONCLAVE_SIMD void Run(FactorLoop loop, const float* u, const float* v, float* out, const MatrixSize& size, int64_t width) {
  RunByLoop(loop, u, v, out, size, width);
}
CONCLAVE_SIMD void Run(FactorLoop loop, const double* u, const double* v, double* out, const MatrixSize& size, int64_t width) {
  RunByLoop(loop, u, v, out, size, width);
}

template <typename T>
void OrthonormaliseColumns(T* a, int64_t rows, int64_t width) {
  constexpr double kDependent = 1e-6;
  const auto dot = [&](int64_t u, int64_t v) {
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += static_cast<double>(a[i * width + u]) * static_cast<double>(a[i * width + v]);
    return sum;
  };
  for (int64_t v = 0; v < width; ++v) {
    const double before = std::sqrt(dot(v, v));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t u = 0; u < v; ++u) {
        const double along = dot(u, v);
        for (int64_t i = 0; i < rows; ++i) a[i * width + v] -= static_cast<T>(along * static_cast<double>(a[i * width + u]));
      }
    }
    const double norm = std::sqrt(dot(v, v));
    const double scale = std::isfinite(norm) && norm <= kDependent * before ? 0 : 1 / norm;  // what is not finite stays so
    for (int64_t i = 0; i < rows; ++i) a[i * width + v] = static_cast<T>(static_cast<double>(a[i * width + v]) * scale) + T{0};
  }
}

}  // namespace

MatrixSize MatrixOf(const Shape& shape) {
  if (shape.dims() < 2 || shape.elements() == 0) return {};
  return {shape[0], shape.elements() / shape[0]};
}

void TimesFactor(const Tensor& x, const Tensor& q, const Tensor& a, const MatrixSize& size, int64_t width) {
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    Run(FactorLoop::kTimes, x.data<T>(), q.data<T>(), a.data<T>(), size, width);
  });
}

void TransposedTimesFactor(const Tensor& x, const Tensor& a, const Tensor& q, const MatrixSize& size, int64_t width) {
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    Run(FactorLoop::kTransposedTimes, x.data<T>(), a.data<T>(), q.data<T>(), size, width);
  });
}

void FactorsProduct(const Tensor& a, const Tensor& q, const Tensor& x, const MatrixSize& size, int64_t width) {
  DispatchFloat(x.dtype(), [&](auto t) {
    using T = decltype(t);
    Run(FactorLoop::kProduct, a.data<T>(), q.data<T>(), x.data<T>(), size, width);
  });
}

void Orthonormalise(const Tensor& a, int64_t rows, int64_t width) {
  DispatchFloat(a.dtype(), [&](auto t) { OrthonormaliseColumns(a.data<decltype(t)>(), rows, width); });
}

}  // namespace conclave
