// Small dense algebra in double for problems whose solution and constants are known, and the constants of their objectives.
#ifndef CONCLAVE_MODELS_PROBLEM_ALGEBRA_H_
#define CONCLAVE_MODELS_PROBLEM_ALGEBRA_H_

#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "models/recorder.h"

namespace conclave {

using Matrix = std::vector<double>;  // row-major

// Rows: the Gram-Schmidt orthogonalisation of a normal matrix. [d, d]
Matrix RandomOrthogonal(int64_t d, const RngKey& key);

struct SpectrumRange {
  double low = 0, high = 1;
  bool uniform = false;  // drawn at random between them; else in equal steps
};
// Q diag(sigma) Q'. [d, d]
Matrix RandomSymmetric(int64_t d, const SpectrumRange& spectrum, const RngKey& key);

// Solves m x = rhs by Gaussian elimination with partial pivoting. Empty for a matrix that is singular to rounding. m: [n, n]
std::vector<double> SolveDense(Matrix m, std::vector<double> rhs);

// Eigenvalues of a symmetric matrix, ascending, by Jacobi's rotations. Cost: about 30 n^3. m: [n, n]
std::vector<double> SymmetricEigenvalues(Matrix m, int64_t n);
// Largest singular value of m: [n, n]. Cost: as above.
double SpectralNorm(const Matrix& m, int64_t n);

// Numbers of a problem that a recording refers to, in either dtype.
class ProblemConstant {
 public:
  ProblemConstant() = default;
  explicit ProblemConstant(std::vector<double> values) : f64_(std::move(values)), f32_(f64_.begin(), f64_.end()) {}
  const std::vector<double>& values() const { return f64_; }
  double operator[](int64_t i) const { return f64_[i]; }
  Var Record(Recorder& r, const Shape& shape) const;  // not copied: the problem outlives the recording

 private:
  std::vector<double> f64_;
  std::vector<float> f32_;
};

// What worker m adds to a quantity of the problem: scale * (u_m - u_(m+1 mod M)), u uniform in [0, 1). It sums to zero over the workers.
std::vector<double> ZeroSumShift(const RngKey& key, int worker, int workers, int64_t n, double scale);

// The generator of the problem's numbers of `worker` (kSharedWorker: of all).
RngKey ProblemKey(uint64_t seed, uint32_t worker, uint32_t site);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_PROBLEM_ALGEBRA_H_
