#include "tensor/kernels/norm.h"

#include <cmath>

#include "tensor/kernels/ahead.h"
#include "tensor/kernels/lanes.h"

namespace conclave::cpu {
namespace {

template <typename T>
struct SquaredDeviation {
  const T* x;
  T mean;
  CONCLAVE_INLINE T operator()(int64_t j) const { return (x[j] - mean) * (x[j] - mean); }
};

// dy * gain * xhat.
template <typename T>
struct WeightedXhat {
  const T* x;
  const T* gain;
  const T* dy;
  T mean;
  T scale;
  CONCLAVE_INLINE T operator()(int64_t j) const { return dy[j] * gain[j] * ((x[j] - mean) * scale); }
};

template <typename T>
CONCLAVE_INLINE void ForwardRow(const T* __restrict__ x, const T* __restrict__ gain, const T* __restrict__ bias, const T* statistics,
                                T* __restrict__ y, int64_t h) {
  const T mean = statistics[0], scale = statistics[1];
  if (bias != nullptr) {
    for (int64_t j = 0; j < h; ++j) y[j] = (x[j] - mean) * scale * gain[j] + bias[j];
  } else {
    for (int64_t j = 0; j < h; ++j) y[j] = (x[j] - mean) * scale * gain[j];
  }
}

template <typename T>
CONCLAVE_INLINE void Forward(NormKind kind, const Norm<T>& a, const T* bias, double epsilon, T* y) {
  for (int64_t i = 0; i < a.n; ++i) {
    const T* x = a.x + i * a.h;
    AskAhead(i * a.h, a.h, a.x, y);
    const T mean = kind == NormKind::kLayer ? LaneSum<T>(a.h, Element<T, T>{x}) / static_cast<T>(a.h) : T(0);
    const T variance = LaneSum<T>(a.h, SquaredDeviation<T>{x, mean}) / static_cast<T>(a.h);
    a.statistics[2 * i] = mean;
    a.statistics[2 * i + 1] = T(1) / std::sqrt(variance + static_cast<T>(epsilon));
    ForwardRow(x, a.gain, bias, a.statistics + 2 * i, y + i * a.h, a.h);
  }
}

// dx += scale (g - mean(g) - xhat mean(g xhat)), g = dy gain; without the middle term for RMS.
template <typename T>
CONCLAVE_INLINE void BackwardXRow(NormKind kind, const WeightedXhat<T>& row, T* __restrict__ dx, int64_t h) {
  const T* __restrict__ x = row.x;
  const T* __restrict__ gain = row.gain;
  const T* __restrict__ dy = row.dy;
  const T mean_g = kind == NormKind::kLayer ? LaneSum<T>(h, Product<T, T>{dy, gain}) / static_cast<T>(h) : T(0);
  const T mean_gx = LaneSum<T>(h, row) / static_cast<T>(h);
  for (int64_t j = 0; j < h; ++j) dx[j] += row.scale * (dy[j] * gain[j] - mean_g - (x[j] - row.mean) * row.scale * mean_gx);
}

template <typename T>
CONCLAVE_INLINE void BackwardGainRow(const WeightedXhat<T>& row, T* __restrict__ dgain, int64_t h) {
  const T* __restrict__ x = row.x;
  const T* __restrict__ dy = row.dy;
  for (int64_t j = 0; j < h; ++j) dgain[j] += dy[j] * ((x[j] - row.mean) * row.scale);
}

template <typename T>
CONCLAVE_INLINE void BackwardBiasRow(const T* __restrict__ dy, T* __restrict__ dbias, int64_t h) {
  for (int64_t j = 0; j < h; ++j) dbias[j] += dy[j];
}

template <typename T>
CONCLAVE_INLINE void Backward(NormKind kind, const Norm<T>& a, const T* dy, const NormGradients<T>& gradients) {
  for (int64_t i = 0; i < a.n; ++i) {
    AskAhead(i * a.h, a.h, a.x, dy);
    if (gradients.x != nullptr) AskAhead(i * a.h, a.h, gradients.x);
    const WeightedXhat<T> row{a.x + i * a.h, a.gain, dy + i * a.h, a.statistics[2 * i], a.statistics[2 * i + 1]};
    if (gradients.x != nullptr) BackwardXRow(kind, row, gradients.x + i * a.h, a.h);
    if (gradients.gain != nullptr) BackwardGainRow(row, gradients.gain, a.h);
    if (gradients.bias != nullptr) BackwardBiasRow(row.dy, gradients.bias, a.h);
  }
}

}  // namespace

CONCLAVE_SIMD void NormForward(NormKind kind, const Norm<float>& args, const float* bias, double epsilon, float* y) {
  Forward(kind, args, bias, epsilon, y);
}
CONCLAVE_SIMD void NormForward(NormKind kind, const Norm<double>& args, const double* bias, double epsilon, double* y) {
  Forward(kind, args, bias, epsilon, y);
}
CONCLAVE_SIMD void NormBackward(NormKind kind, const Norm<float>& args, const float* dy, const NormGradients<float>& gradients) {
  Backward(kind, args, dy, gradients);
}
CONCLAVE_SIMD void NormBackward(NormKind kind, const Norm<double>& args, const double* dy, const NormGradients<double>& gradients) {
  Backward(kind, args, dy, gradients);
}

}  // namespace conclave::cpu
