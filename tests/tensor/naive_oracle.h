// What the product and attention tests share: random tensors, comparisons that print the worst element, and a product written as three
// loops.
#ifndef CONCLAVE_TESTS_TENSOR_NAIVE_ORACLE_H_
#define CONCLAVE_TESTS_TENSOR_NAIVE_ORACLE_H_

#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace conclave {

// Uniform in [-1, 1). The f32 values are the f64 values rounded.
inline OwnedTensor RandomTensor(const Shape& shape, DType dtype, uint64_t seed) {
  OwnedTensor x(shape, dtype);
  const RngKey key{.seed = seed, .kind = RngKind::kTest};
  DispatchFloat(dtype, [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < shape.elements(); ++i) x->data<T>()[i] = static_cast<T>(2 * key.UniformDouble(i) - 1);
  });
  return x;
}

inline std::vector<double> Values(const Tensor& x) {
  std::vector<double> values(x.elements());
  DispatchFloat(x.dtype(), [&](auto t) {
    for (int64_t i = 0; i < x.elements(); ++i) values[i] = x.data<decltype(t)>()[i];
  });
  return values;
}

// max |got - want| <= tolerance * max(1, |want|).
inline ::testing::AssertionResult Near(const Tensor& got, const std::vector<double>& want, double tolerance) {
  const std::vector<double> values = Values(got);
  if (values.size() != want.size()) return ::testing::AssertionFailure() << values.size() << " elements, expected " << want.size();
  size_t worst = 0;
  double excess = -1;
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = std::abs(values[i] - want[i]) / std::max(1.0, std::abs(want[i]));
    if (!(e <= excess)) worst = i, excess = e;
    if (std::isnan(e)) break;
  }
  if (excess <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "element " << worst << " of " << got.shape().ToString() << ": got " << values[worst]
                                       << ", expected " << want[worst] << ", tolerance " << tolerance;
}

inline bool SameBits(const Tensor& a, const Tensor& b) { return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0; }

// op(a) op(b) of row-major matrices: a(i, p) = a[i * k + p], or a[p * m + i] if transposed.
struct NaiveSizes {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
};
inline std::vector<double> NaiveProduct(const std::vector<double>& a, const std::vector<double>& b, const NaiveSizes& s) {
  std::vector<double> c(s.m * s.n);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < s.k; ++p)
        sum += (s.transpose_a ? a[p * s.m + i] : a[i * s.k + p]) * (s.transpose_b ? b[j * s.k + p] : b[p * s.n + j]);
      c[i * s.n + j] = sum;
    }
  }
  return c;
}

inline std::vector<double> Plus(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TENSOR_NAIVE_ORACLE_H_
