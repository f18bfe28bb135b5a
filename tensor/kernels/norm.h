// Layer norm and RMS norm, row by row. Sources: Ba et al., 2016; Zhang and Sennrich, 2019.
#ifndef CONCLAVE_TENSOR_KERNELS_NORM_H_
#define CONCLAVE_TENSOR_KERNELS_NORM_H_

#include <cstdint>

namespace conclave::cpu {

// kLayer: xhat = (x - mean) / sqrt(variance + epsilon); kRms: xhat = x / sqrt(mean square + epsilon).
enum class NormKind { kLayer, kRms };

// x, y: [n, h]; gain, bias: [h], bias may be null; statistics: [n, 2] = mean | 1 / deviation of each row.
template <typename T>
struct Norm {
  const T* x;
  const T* gain;
  T* statistics;
  int64_t n;
  int64_t h;
};

// y = xhat * gain (+ bias); fills the statistics.
void NormForward(NormKind kind, const Norm<float>& args, const float* bias, double epsilon, float* y);
void NormForward(NormKind kind, const Norm<double>& args, const double* bias, double epsilon, double* y);

// Gradients to add to; null where none is wanted. gain, bias: sums over rows in their order.
template <typename T>
struct NormGradients {
  T* x;
  T* gain;
  T* bias;
};
void NormBackward(NormKind kind, const Norm<float>& args, const float* dy, const NormGradients<float>& gradients);
void NormBackward(NormKind kind, const Norm<double>& args, const double* dy, const NormGradients<double>& gradients);

}  // namespace conclave::cpu

#endif  // CONCLAVE_TENSOR_KERNELS_NORM_H_
