#include "comm/fixed_lanes.h"

#include <cmath>

#include "base/simd.h"

namespace conclave {
namespace {

constexpr int kLanes = 8;

struct Magnitude {
  CONCLAVE_INLINE static double Of(double v) { return std::abs(v); }
};
// A product of two floats is exact in double, and a fused multiply-add of an exact product rounds like the addition alone. Squares of
// doubles are cut to 26 bits a factor first for the same reason: a relative error below 2^-25.
struct Square {
  CONCLAVE_INLINE static double Of(double v) {
    const double head = static_cast<double>(static_cast<float>(v));
    return head * head;
  }
};

template <typename Term, typename T>
CONCLAVE_INLINE double SumLoop(const T* x, int64_t n) {
  double lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += Term::Of(static_cast<double>(x[i + j]));
  }
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += Term::Of(static_cast<double>(x[i]));
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}
CONCLAVE_SIMD double Magnitudes(const float* x, int64_t n) { return SumLoop<Magnitude>(x, n); }
CONCLAVE_SIMD double Magnitudes(const double* x, int64_t n) { return SumLoop<Magnitude>(x, n); }
CONCLAVE_SIMD double Squares(const float* x, int64_t n) { return SumLoop<Square>(x, n); }
CONCLAVE_SIMD double Squares(const double* x, int64_t n) { return SumLoop<Square>(x, n); }

}  // namespace

double SumOfMagnitudes(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) { return Magnitudes(x.data<decltype(t)>(), x.elements()); });
}

double F32SumOfSquares(const Tensor& x) {
  return DispatchFloat(x.dtype(), [&](auto t) { return Squares(x.data<decltype(t)>(), x.elements()); });
}

}  // namespace conclave
