#include "tensor/kernels/swiglu.h"

#include "tensor/kernels/ahead.h"
#include "tensor/kernels/exp.h"

namespace conclave::cpu {
namespace {

template <typename T>
CONCLAVE_INLINE void ForwardRow(const T* __restrict__ gate, const T* __restrict__ up, T* __restrict__ y, int64_t f) {
  for (int64_t j = 0; j < f; ++j) y[j] = gate[j] * Sigmoid(gate[j]) * up[j];
}

// s = sigmoid(gate): d gate += dy up (s + gate s (1 - s)), d up += dy gate s.
template <typename T>
CONCLAVE_INLINE void AddBackwardRow(const T* __restrict__ gate_up, const T* __restrict__ dy, T* __restrict__ d, int64_t f) {
  const T* gate = gate_up;
  const T* up = gate_up + f;
  for (int64_t j = 0; j < f; ++j) {
    const T s = Sigmoid(gate[j]);
    const T silu = gate[j] * s;
    d[j] += dy[j] * up[j] * (s + silu * (T(1) - s));
    d[f + j] += dy[j] * silu;
  }
}

// The same into uninitialised memory.
template <typename T>
CONCLAVE_INLINE void PutBackwardRow(const T* __restrict__ gate_up, const T* __restrict__ dy, T* __restrict__ d, int64_t f) {
  const T* gate = gate_up;
  const T* up = gate_up + f;
  T* __restrict__ d_up = d + f;
  for (int64_t j = 0; j < f; ++j) {
    const T s = Sigmoid(gate[j]);
    const T silu = gate[j] * s;
    d[j] = dy[j] * up[j] * (s + silu * (T(1) - s));
    d_up[j] = dy[j] * silu;
  }
}

// Both at once: y, and its gradient into uninitialised memory.
template <typename T>
CONCLAVE_INLINE void AgainAndBackwardRow(const T* __restrict__ gate_up, const T* __restrict__ dy, T* __restrict__ y, T* __restrict__ d,
                                         int64_t f) {
  const T* gate = gate_up;
  const T* up = gate_up + f;
  T* __restrict__ d_up = d + f;
  const auto part = [=](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t j = begin; j < end; ++j) {
      const T s = Sigmoid(gate[j]);
      const T silu = gate[j] * s;
      y[j] = silu * up[j];
      d[j] = dy[j] * up[j] * (s + silu * (T(1) - s));
      d_up[j] = dy[j] * silu;
    }
  };
  WithReadAhead(f, part, gate, up);
}

template <typename T>
CONCLAVE_INLINE void Forward(const T* gate_up, T* y, int64_t n, int64_t f) {
  for (int64_t i = 0; i < n; ++i) ForwardRow(gate_up + 2 * f * i, gate_up + 2 * f * i + f, y + f * i, f);
}

template <typename T>
CONCLAVE_INLINE void AgainAndBackward(const SwiGluGradient<T>& a, T* y) {
  for (int64_t i = 0; i < a.n; ++i) {
    AgainAndBackwardRow(a.gate_up + 2 * a.f * i, a.dy + a.f * i, y + a.f * i, a.d_gate_up + 2 * a.f * i, a.f);
  }
}

template <typename T>
CONCLAVE_INLINE void Backward(const SwiGluGradient<T>& a) {
  for (int64_t i = 0; i < a.n; ++i) {
    const T* gate_up = a.gate_up + 2 * a.f * i;
    T* d = a.d_gate_up + 2 * a.f * i;
    if (a.accumulate) {
      AddBackwardRow(gate_up, a.dy + a.f * i, d, a.f);
    } else {
      PutBackwardRow(gate_up, a.dy + a.f * i, d, a.f);
    }
  }
}

}  // namespace

CONCLAVE_SIMD void SwiGluForward(const float* gate_up, float* y, int64_t n, int64_t f) { Forward(gate_up, y, n, f); }
CONCLAVE_SIMD void SwiGluForward(const double* gate_up, double* y, int64_t n, int64_t f) { Forward(gate_up, y, n, f); }
CONCLAVE_SIMD void SwiGluBackward(const SwiGluGradient<float>& args) { Backward(args); }
CONCLAVE_SIMD void SwiGluBackward(const SwiGluGradient<double>& args) { Backward(args); }

CONCLAVE_SIMD void SwiGluAgainAndBackward(const SwiGluGradient<float>& args, float* y) { AgainAndBackward(args, y); }
CONCLAVE_SIMD void SwiGluAgainAndBackward(const SwiGluGradient<double>& args, double* y) { AgainAndBackward(args, y); }

}  // namespace conclave::cpu
