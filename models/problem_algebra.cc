#include "models/problem_algebra.h"

#include <algorithm>
#include <cmath>

namespace conclave {

Matrix RandomOrthogonal(int64_t d, const RngKey& key) {
  Matrix q(d * d);
  key.FillNormal(0, q);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += q[i * d + c] * q[j * d + c];
      for (int64_t c = 0; c < d; ++c) q[i * d + c] = j < i ? q[i * d + c] - dot * q[j * d + c] : q[i * d + c] / std::sqrt(dot);
    }
  }
  return q;
}

Matrix RandomSymmetric(int64_t d, const SpectrumRange& spectrum, const RngKey& key) {
  const Matrix q = RandomOrthogonal(d, key);
  Matrix a(d * d, 0.0);
  for (int64_t m = 0; m < d; ++m) {
    const double even = d > 1 ? static_cast<double>(m) / static_cast<double>(d - 1) : 1.0;
    const double t = spectrum.uniform ? key.UniformDouble(d * d + m) : even;
    const double sigma = spectrum.low + t * (spectrum.high - spectrum.low);
    for (int64_t i = 0; i < d; ++i) {
      for (int64_t j = 0; j < d; ++j) a[i * d + j] += sigma * q[m * d + i] * q[m * d + j];
    }
  }
  return a;
}

std::vector<double> SolveDense(Matrix m, std::vector<double> rhs) {
  const int64_t n = static_cast<int64_t>(rhs.size());
  double largest = 0;
  for (const double v : m) largest = std::max(largest, std::abs(v));
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) pivot = std::abs(m[i * n + k]) > std::abs(m[pivot * n + k]) ? i : pivot;
    if (!(std::abs(m[pivot * n + k]) > 1e-13 * largest)) return {};
    for (int64_t j = 0; j < n; ++j) std::swap(m[k * n + j], m[pivot * n + j]);
    std::swap(rhs[k], rhs[pivot]);
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = m[i * n + k] / m[k * n + k];
      for (int64_t j = k; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
      rhs[i] -= factor * rhs[k];
    }
  }
  for (int64_t k = n - 1; k >= 0; --k) {
    for (int64_t j = k + 1; j < n; ++j) rhs[k] -= m[k * n + j] * rhs[j];
    rhs[k] /= m[k * n + k];
  }
  return rhs;
}

namespace {

// One rotation that makes m[p, q] zero.
void Rotate(Matrix& m, int64_t n, int64_t p, int64_t q) {
  const double theta = (m[q * n + q] - m[p * n + p]) / (2 * m[p * n + q]);
  const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
  const double c = 1 / std::sqrt(t * t + 1), s = t * c;
  for (int64_t k = 0; k < n; ++k) {
    const double a = m[k * n + p], b = m[k * n + q];
    m[k * n + p] = c * a - s * b;
    m[k * n + q] = s * a + c * b;
  }
  for (int64_t k = 0; k < n; ++k) {
    const double a = m[p * n + k], b = m[q * n + k];
    m[p * n + k] = c * a - s * b;
    m[q * n + k] = s * a + c * b;
  }
}

}  // namespace

std::vector<double> SymmetricEigenvalues(Matrix m, int64_t n) {
  constexpr int kSweeps = 40;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        all += m[i * n + j] * m[i * n + j];
        if (i != j) off += m[i * n + j] * m[i * n + j];
      }
    }
    if (off <= 1e-30 * all) break;
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        if (m[p * n + q] != 0) Rotate(m, n, p, q);
      }
    }
  }
  std::vector<double> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = m[i * n + i];
  std::ranges::sort(values);
  return values;
}

double SpectralNorm(const Matrix& m, int64_t n) {
  Matrix squares(n * n, 0.0);  // m' m
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) squares[i * n + j] += m[k * n + i] * m[k * n + j];
    }
  }
  return std::sqrt(std::max(0.0, SymmetricEigenvalues(std::move(squares), n).back()));
}

Var ProblemConstant::Record(Recorder& r, const Shape& shape) const {
  const void* data = r.dtype() == DType::kF64 ? static_cast<const void*>(f64_.data()) : static_cast<const void*>(f32_.data());
  return r.tape().Constant(Tensor(const_cast<void*>(data), shape, r.dtype()));
}

std::vector<double> ZeroSumShift(const RngKey& key, int worker, int workers, int64_t n, double scale) {
  RngKey mine = key, next = key;
  mine.worker = static_cast<uint32_t>(worker);
  next.worker = static_cast<uint32_t>((worker + 1) % workers);
  std::vector<double> shift(n);
  for (int64_t i = 0; i < n; ++i) shift[i] = scale * (mine.UniformDouble(i) - next.UniformDouble(i));
  return shift;
}

RngKey ProblemKey(uint64_t seed, uint32_t worker, uint32_t site) {
  return {.seed = seed, .site = site, .worker = worker, .kind = RngKind::kProblem};
}

}  // namespace conclave
