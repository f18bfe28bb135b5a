#include "tensor/kernels/rotary.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/simd.h"

namespace conclave::cpu {
namespace {

template <typename T>
struct HeadRow {
  const T* x;
  T* y;
  const T* cosine;
  const T* sine;
  int64_t half;
};

template <bool kAdd, typename T>
CONCLAVE_INLINE void Store(T* y, T value) {
  if constexpr (kAdd) {
    *y += value;
  } else {
    *y = value;
  }
}

template <bool kAdd, typename T>
CONCLAVE_INLINE void RotateHead(const HeadRow<T>& h, T direction) {
  const T* __restrict x = h.x;
  T* __restrict y = h.y;
  for (int64_t i = 0; i < h.half; ++i) {
    const T c = h.cosine[i], s = direction * h.sine[i], low = x[i], high = x[i + h.half];
    Store<kAdd>(y + i, low * c - high * s);
    Store<kAdd>(y + i + h.half, high * c + low * s);
  }
}

template <bool kAdd, typename T>
CONCLAVE_INLINE void RotateRows(const RotaryArgs<T>& a) {
  const T direction = a.inverse ? T(-1) : T(1);
  for (int64_t r = 0; r < a.n; ++r) {
    const T* x = a.x + r * a.width;
    T* y = a.y + r * a.width;
    const T* cosine = a.table + r % a.length * 2 * a.half;
    for (int64_t j = 0; j < a.rotated; j += 2 * a.half)
      RotateHead<kAdd>(HeadRow<T>{x + j, y + j, cosine, cosine + a.half, a.half}, direction);
    for (int64_t j = a.rotated; j < a.width; ++j) Store<kAdd>(y + j, x[j]);
  }
}

template <typename T>
CONCLAVE_INLINE void RotateAll(const RotaryArgs<T>& args) {
  if (args.accumulate) {
    RotateRows<true>(args);
  } else {
    RotateRows<false>(args);
  }
}

}  // namespace

template <typename T>
void RotaryTable(double theta, int64_t length, int64_t half, T* table) {
  // position = coarse + fine with fine < 32: cos(a + b) and sin(a + b) from two short lists of angles.
  constexpr int64_t kFine = 32;
  std::array<double, kFine> fine_cosine, fine_sine;
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
    for (int64_t f = 0; f < std::min(kFine, length); ++f) {
      fine_cosine[f] = std::cos(f * frequency);
      fine_sine[f] = std::sin(f * frequency);
    }
    for (int64_t coarse = 0; coarse < length; coarse += kFine) {
      const double c = std::cos(coarse * frequency), s = std::sin(coarse * frequency);
      for (int64_t f = 0; f < std::min(kFine, length - coarse); ++f) {
        T* entry = table + (coarse + f) * 2 * half + i;
        entry[0] = static_cast<T>(c * fine_cosine[f] - s * fine_sine[f]);
        entry[half] = static_cast<T>(s * fine_cosine[f] + c * fine_sine[f]);
      }
    }
  }
}
template void RotaryTable(double, int64_t, int64_t, float*);
template void RotaryTable(double, int64_t, int64_t, double*);

CONCLAVE_SIMD void Rotate(const RotaryArgs<float>& args) { RotateAll(args); }
CONCLAVE_SIMD void Rotate(const RotaryArgs<double>& args) { RotateAll(args); }

}  // namespace conclave::cpu
