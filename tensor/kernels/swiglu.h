// SwiGLU: silu(gate) * up with silu(g) = g sigmoid(g). Source: Shazeer, 2020.
#ifndef CONCLAVE_TENSOR_KERNELS_SWIGLU_H_
#define CONCLAVE_TENSOR_KERNELS_SWIGLU_H_

#include <cstdint>

namespace conclave::cpu {

// gate_up: [n, 2 f] = gate | up; y: [n, f].
void SwiGluForward(const float* gate_up, float* y, int64_t n, int64_t f);
void SwiGluForward(const double* gate_up, double* y, int64_t n, int64_t f);

// d_gate_up = its gradient, or += . dy: [n, f].
template <typename T>
struct SwiGluGradient {
  const T* gate_up;
  const T* dy;
  T* d_gate_up;
  int64_t n, f;
  bool accumulate = true;
};
void SwiGluBackward(const SwiGluGradient<float>& args);
void SwiGluBackward(const SwiGluGradient<double>& args);

// Both at once, d_gate_up uninitialised before; args.accumulate is false. y: [n, f].
void SwiGluAgainAndBackward(const SwiGluGradient<float>& args, float* y);
void SwiGluAgainAndBackward(const SwiGluGradient<double>& args, double* y);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_SWIGLU_H_
