#include "tensor/kernels/unary.h"

#include <cmath>

#include "tensor/kernels/exp.h"

namespace conclave::cpu {
namespace {

// Value(x) and Slope(x, y) = d y / d x.
struct ExpOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return Exp(x);
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T, T y) {
    return y;
  }
};
struct LogOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return std::log(x);
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T x, T) {
    return T(1) / x;
  }
};
struct TanhOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return Tanh(x);
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T, T y) {
    return T(1) - y * y;
  }
};
struct SigmoidOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return Sigmoid(x);
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T, T y) {
    return y * (T(1) - y);
  }
};
struct SoftplusOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return (x > T(0) ? x : T(0)) + std::log1p(Exp(-std::fabs(x)));
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T x, T) {
    return Sigmoid(x);
  }
};
struct SquareOp {
  template <typename T>
  CONCLAVE_INLINE static T Value(T x) {
    return x * x;
  }
  template <typename T>
  CONCLAVE_INLINE static T Slope(T x, T) {
    return T(2) * x;
  }
};

template <typename Op, typename T>
CONCLAVE_INLINE void ForwardLoop(const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = Op::Value(x[i]);
}

template <typename T>
CONCLAVE_INLINE void Forward(UnaryOp op, const T* x, T* y, int64_t n) {
  switch (op) {
    case UnaryOp::kExp:
      return ForwardLoop<ExpOp>(x, y, n);
    case UnaryOp::kLog:
      return ForwardLoop<LogOp>(x, y, n);
    case UnaryOp::kTanh:
      return ForwardLoop<TanhOp>(x, y, n);
    case UnaryOp::kSigmoid:
      return ForwardLoop<SigmoidOp>(x, y, n);
    case UnaryOp::kSoftplus:
      return ForwardLoop<SoftplusOp>(x, y, n);
    case UnaryOp::kSquare:
      return ForwardLoop<SquareOp>(x, y, n);
  }
}

template <typename Op, typename T>
CONCLAVE_INLINE void BackwardLoop(const UnaryGradient<T>& args) {
  const T* __restrict__ x = args.x;
  const T* __restrict__ y = args.y;
  const T* __restrict__ dy = args.dy;
  T* __restrict__ dx = args.dx;
  for (int64_t i = 0; i < args.n; ++i) dx[i] += dy[i] * Op::Slope(x[i], y[i]);
}

template <typename T>
CONCLAVE_INLINE void Backward(UnaryOp op, const UnaryGradient<T>& args) {
  switch (op) {
    case UnaryOp::kExp:
      return BackwardLoop<ExpOp>(args);
    case UnaryOp::kLog:
      return BackwardLoop<LogOp>(args);
    case UnaryOp::kTanh:
      return BackwardLoop<TanhOp>(args);
    case UnaryOp::kSigmoid:
      return BackwardLoop<SigmoidOp>(args);
    case UnaryOp::kSoftplus:
      return BackwardLoop<SoftplusOp>(args);
    case UnaryOp::kSquare:
      return BackwardLoop<SquareOp>(args);
  }
}

template <typename T>
CONCLAVE_INLINE void AffineLoop(T a, T b, const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a * x[i] + b;
}

template <typename T>
CONCLAVE_INLINE void AddScaledLoop(T a, const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

template <typename T>
CONCLAVE_INLINE void ScaleLoop(T a, T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= a;
}

template <typename T>
CONCLAVE_INLINE void AddLoop(const T* __restrict__ x, T* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

}  // namespace

CONCLAVE_SIMD void UnaryForward(UnaryOp op, const float* x, float* y, int64_t n) { Forward(op, x, y, n); }
CONCLAVE_SIMD void UnaryForward(UnaryOp op, const double* x, double* y, int64_t n) { Forward(op, x, y, n); }
CONCLAVE_SIMD void UnaryBackward(UnaryOp op, const UnaryGradient<float>& args) { Backward(op, args); }
CONCLAVE_SIMD void UnaryBackward(UnaryOp op, const UnaryGradient<double>& args) { Backward(op, args); }
CONCLAVE_SIMD void AffineForward(float a, float b, const float* x, float* y, int64_t n) { AffineLoop(a, b, x, y, n); }
CONCLAVE_SIMD void AffineForward(double a, double b, const double* x, double* y, int64_t n) { AffineLoop(a, b, x, y, n); }
CONCLAVE_SIMD void AddScaled(float a, const float* x, float* y, int64_t n) { AddScaledLoop(a, x, y, n); }
CONCLAVE_SIMD void AddScaled(double a, const double* x, double* y, int64_t n) { AddScaledLoop(a, x, y, n); }
CONCLAVE_SIMD void ScaleInPlace(float a, float* x, int64_t n) { ScaleLoop(a, x, n); }
CONCLAVE_SIMD void ScaleInPlace(double a, double* x, int64_t n) { ScaleLoop(a, x, n); }
CONCLAVE_SIMD void AddTo(const float* x, float* y, int64_t n) { AddLoop(x, y, n); }
CONCLAVE_SIMD void AddTo(const double* x, double* y, int64_t n) { AddLoop(x, y, n); }

}  // namespace conclave::cpu
