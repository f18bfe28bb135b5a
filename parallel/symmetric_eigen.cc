#include "parallel/symmetric_eigen.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "tensor/products.h"

// LAPACK: all or some eigenvalues, and with jobz "V" their vectors, of a symmetric matrix. BLAS: c = alpha a a' + beta c. On one thread:
// for matrices of a hundred rows more of them wait for each other, awake, longer than they compute.
extern "C" void dsyevr_(const char* jobz, const char* range, const char* uplo, const int* n, double* a, const int* lda, const double* vl,
                        const double* vu, const int* il, const int* iu, const double* abstol, int* found, double* w, double* z,
                        const int* ldz, int* isuppz, double* work, const int* lwork, int* iwork, const int* liwork, int* info);
extern "C" void dsyrk_(const char* uplo, const char* trans, const int* n, const int* k, const double* alpha, const double* a,
                       const int* lda, const double* beta, double* c, const int* ldc);

namespace conclave {

double LargestEigenvalues(std::vector<double>& matrix, int n, int count) {
  UseOneComputeThread();
  const int first = n - count + 1, query = -1;
  const double unused = 0, tolerance = 0;
  int found = 0, info = 0, integers = 0;
  double size = 0;
  std::vector<double> values(n);
  std::vector<int> support(2 * n);
  double none = 0;
  const int one = 1;
  dsyevr_("N", "I", "U", &n, matrix.data(), &n, &unused, &unused, &first, &n, &tolerance, &found, values.data(), &none, &one,
          support.data(), &size, &query, &integers, &query, &info);
  std::vector<double> work(static_cast<size_t>(size));
  std::vector<int> integer_work(integers);
  const int length = static_cast<int>(work.size());
  dsyevr_("N", "I", "U", &n, matrix.data(), &n, &unused, &unused, &first, &n, &tolerance, &found, values.data(), &none, &one,
          support.data(), work.data(), &length, integer_work.data(), &integers, &info);
  CHECK_EQ(info, 0);
  return std::accumulate(values.begin(), values.begin() + found, 0.0);
}

PositivePart::PositivePart(int n)
    : n_(n), values_(n), vectors_(static_cast<size_t>(n) * n), part_(vectors_.size()), work_(1), support_(2 * n), integer_work_(1) {
  UseOneComputeThread();
  std::vector<double> matrix(vectors_.size());
  Solve(matrix.data());  // asks how much memory is wanted
  work_.resize(static_cast<size_t>(work_[0]));
  integer_work_.resize(integer_work_[0]);
}

void PositivePart::Solve(double* matrix) {
  const double unused = 0, tolerance = 0;
  const int none = 0, length = work_.size() == 1 ? -1 : static_cast<int>(work_.size());
  const int integers = integer_work_.size() == 1 ? -1 : static_cast<int>(integer_work_.size());
  int found = 0, info = 0;
  // All of them: by relatively robust representations, in half the time of the positive ones by bisection.
  dsyevr_("V", "A", "U", &n_, matrix, &n_, &unused, &unused, &none, &none, &tolerance, &found, values_.data(), vectors_.data(), &n_,
          support_.data(), work_.data(), &length, integer_work_.data(), &integers, &info);
  CHECK_EQ(info, 0);
}

const double* PositivePart::Of(double* matrix) {
  Solve(matrix);
  // Eigenvalues ascend.
  const int negative = static_cast<int>(std::upper_bound(values_.begin(), values_.end(), 0.0) - values_.begin()), positive = n_ - negative;
  double* const vectors = vectors_.data() + static_cast<size_t>(negative) * n_;
  for (int k = 0; k < positive; ++k) {
    const double root = std::sqrt(values_[negative + k]);
    for (int i = 0; i < n_; ++i) vectors[static_cast<size_t>(k) * n_ + i] *= root;
  }
  const double one = 1, zero = 0;
  dsyrk_("U", "N", &n_, &positive, &one, vectors, &n_, &zero, part_.data(), &n_);
  for (int i = 0; i < n_; ++i) {
    for (int k = 0; k < i; ++k) part_[static_cast<size_t>(k) * n_ + i] = part_[static_cast<size_t>(i) * n_ + k];
  }
  return part_.data();
}

}  // namespace conclave
