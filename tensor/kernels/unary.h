// Elementwise kernels of one argument.
#ifndef CONCLAVE_TENSOR_KERNELS_UNARY_H_
#define CONCLAVE_TENSOR_KERNELS_UNARY_H_

#include <cstdint>

namespace conclave::cpu {

enum class UnaryOp { kExp, kLog, kTanh, kSigmoid, kSoftplus, kSquare };

// y[i] = op(x[i]).
void UnaryForward(UnaryOp op, const float* x, float* y, int64_t n);
void UnaryForward(UnaryOp op, const double* x, double* y, int64_t n);

template <typename T>
struct UnaryGradient {
  const T* x;
  const T* y;
  const T* dy;
  T* dx;
  int64_t n;
};
// dx[i] += dy[i] * op'(x[i]).
void UnaryBackward(UnaryOp op, const UnaryGradient<float>& args);
void UnaryBackward(UnaryOp op, const UnaryGradient<double>& args);

// y = a x + b.
void AffineForward(float a, float b, const float* x, float* y, int64_t n);
void AffineForward(double a, double b, const double* x, double* y, int64_t n);

// y += a x.
void AddScaled(float a, const float* x, float* y, int64_t n);
void AddScaled(double a, const double* x, double* y, int64_t n);

// x *= a.
void ScaleInPlace(float a, float* x, int64_t n);
void ScaleInPlace(double a, double* x, int64_t n);

// y += x.
void AddTo(const float* x, float* y, int64_t n);
void AddTo(const double* x, double* y, int64_t n);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_UNARY_H_
