// Arithmetic of two arguments, the second repeated over rows.
#ifndef CONCLAVE_TENSOR_KERNELS_BROADCAST_H_
#define CONCLAVE_TENSOR_KERNELS_BROADCAST_H_

#include <cstdint>

namespace conclave::cpu {

enum class BinaryOp { kAdd, kSub, kMul, kDiv };

// x: [rows, width], y: [width] or, with scalar, [1]; z: [rows, width].
template <typename T>
struct Broadcast {
  const T* x;
  const T* y;
  int64_t rows;
  int64_t width;
  bool scalar;
};

void BroadcastForward(BinaryOp op, const Broadcast<float>& args, float* z);
void BroadcastForward(BinaryOp op, const Broadcast<double>& args, double* z);

// dx += dz * dz/dx. dx: [rows, width].
void BroadcastBackwardX(BinaryOp op, const Broadcast<float>& args, const float* dz, float* dx);
void BroadcastBackwardX(BinaryOp op, const Broadcast<double>& args, const double* dz, double* dx);

// dy += sum over rows, in their order, of dz * dz/dy. dy: [width]. Not for a scalar.
void BroadcastBackwardY(BinaryOp op, const Broadcast<float>& args, const float* dz, float* dy);
void BroadcastBackwardY(BinaryOp op, const Broadcast<double>& args, const double* dz, double* dy);

// The gradient of a scalar y, summed in double.
double BroadcastScalarGradient(BinaryOp op, const Broadcast<float>& args, const float* dz);
double BroadcastScalarGradient(BinaryOp op, const Broadcast<double>& args, const double* dz);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_BROADCAST_H_
