#include "tensor/reduce.h"

#include <cmath>

#include "base/simd.h"
#include "tensor/kernels/sum_squares.h"

namespace conclave {
namespace {

// A number is not finite where all its exponent bits are set.
template <typename Bits>
CONCLAVE_INLINE bool NoFullExponent(const void* data, int64_t n, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  Bits found = 0;
  for (int64_t i = 0; i < n; ++i) found |= static_cast<Bits>((bits[i] & exponent) == exponent ? 1 : 0);
  return found == 0;
}

CONCLAVE_SIMD bool AllFinite16(const void* data, int64_t n) { return NoFullExponent<uint16_t>(data, n, 0x7F80); }
CONCLAVE_SIMD bool AllFinite32(const void* data, int64_t n) { return NoFullExponent<uint32_t>(data, n, 0x7F800000u); }
CONCLAVE_SIMD bool AllFinite64(const void* data, int64_t n) { return NoFullExponent<uint64_t>(data, n, 0x7FF0000000000000u); }

}  // namespace

double SumOfSquares(const Tensor& x) {
  double sum = 0;
  Stream stream;
  DispatchFloat(x.dtype(), [&](auto t) { cpu::SumSquares(x.data<decltype(t)>(), x.elements(), &sum, stream); });
  return sum;
}

bool AllFinite(const Tensor& x) {
  switch (x.dtype()) {
    case DType::kF32:
      return AllFinite32(x.raw(), x.elements());
    case DType::kF64:
      return AllFinite64(x.raw(), x.elements());
    case DType::kBF16:
      return AllFinite16(x.raw(), x.elements());
    default:
      return true;
  }
}

int64_t FirstNotFinite(const Tensor& x) {
  for (int64_t i = 0; i < x.elements(); ++i) {
    if (!std::isfinite(ValueAt(x, i))) return i;
  }
  return -1;
}

double ValueAt(const Tensor& x, int64_t index) {
  return DispatchFloat(x.dtype(), [&](auto t) { return static_cast<double>(x.data<decltype(t)>()[index]); });
}

}  // namespace conclave
