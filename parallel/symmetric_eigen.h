// Eigenvalues of symmetric matrices, by LAPACK.
#ifndef CONCLAVE_PARALLEL_SYMMETRIC_EIGEN_H_
#define CONCLAVE_PARALLEL_SYMMETRIC_EIGEN_H_

#include <vector>

namespace conclave {

// Sum of the `count` largest eigenvalues of the symmetric [n, n] matrix, which is overwritten. 1 <= count <= n. O(n^3).
double LargestEigenvalues(std::vector<double>& matrix, int n, int count);

// Nearest positive semidefinite matrices, with memory for one size.
class PositivePart {
 public:
  explicit PositivePart(int n);
  // The symmetric [n, n] matrix without its negative eigenvalues, up to rounding: symmetric to the bit. Valid until the next call; `matrix`
  // is overwritten. O(n^3).
  const double* Of(double* matrix);

 private:
  void Solve(double* matrix);

  int n_;
  std::vector<double> values_, vectors_, part_, work_;
  std::vector<int> support_, integer_work_;
};

}  // namespace conclave

#endif  // CONCLAVE_PARALLEL_SYMMETRIC_EIGEN_H_
