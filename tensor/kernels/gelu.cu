#include "tensor/kernels/cuda_stream.cuh"
#include "tensor/kernels/gelu.h"

namespace conclave::cuda {
namespace {

__device__ float ExpOf(float x) { return expf(x); }
__device__ double ExpOf(double x) { return exp(x); }

constexpr double kTwiceRoot = 1.5957691216057307117597842397375;  // 2 sqrt(2 / pi)
constexpr double kCubic = 0.044715;

template <typename T>
__device__ T Gate(T x) {
  return T(1) / (T(1) + ExpOf(-(T(kTwiceRoot) * x * (T(1) + T(kCubic) * x * x))));
}

template <typename T>
__global__ void Forward(const T* x, T* y, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) y[i] = x[i] * Gate(x[i]);
}

// The formula is beside the CPU kernel.
template <typename T>
__global__ void Backward(const T* x, const T* dy, T* dx, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    const T s = Gate(x[i]);
    const T slope = T(kTwiceRoot) * (T(1) + T(3) * T(kCubic) * x[i] * x[i]);
    dx[i] += dy[i] * (s + x[i] * s * (T(1) - s) * slope);
  }
}

template <typename T>
void LaunchForward(const T* x, T* y, int64_t n, Stream& stream) {
  if (n == 0) return;
  Forward<<<BlocksFor(n), kThreads, 0, StateOf(stream).stream>>>(x, y, n);
  NoteLaunch("GeluForward", stream);
}

template <typename T>
void LaunchBackward(const T* x, const T* dy, T* dx, int64_t n, Stream& stream) {
  if (n == 0) return;
  Backward<<<BlocksFor(n), kThreads, 0, StateOf(stream).stream>>>(x, dy, dx, n);
  NoteLaunch("GeluBackward", stream);
}

}  // namespace

void GeluForward(const float* x, float* y, int64_t n, Stream& stream) { LaunchForward(x, y, n, stream); }
void GeluForward(const double* x, double* y, int64_t n, Stream& stream) { LaunchForward(x, y, n, stream); }
void GeluBackward(const float* x, const float* dy, float* dx, int64_t n, Stream& stream) { LaunchBackward(x, dy, dx, n, stream); }
void GeluBackward(const double* x, const double* dy, double* dx, int64_t n, Stream& stream) { LaunchBackward(x, dy, dx, n, stream); }

}  // namespace conclave::cuda
