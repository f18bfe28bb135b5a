// ProblemRows: a worker's rows of a finite-sum problem, all of them or a sample.
#ifndef CONCLAVE_MODELS_PROBLEM_ROWS_H_
#define CONCLAVE_MODELS_PROBLEM_ROWS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "models/problem_algebra.h"

namespace conclave {

// features: [rows, dim], targets: [rows].
class ProblemRows {
 public:
  ProblemRows(std::vector<double> features, std::vector<double> targets);
  int64_t rows() const { return static_cast<int64_t>(targets_.values().size()); }
  int64_t dim() const { return rows() == 0 ? 0 : static_cast<int64_t>(features_.values().size()) / rows(); }
  double feature(int64_t row, int64_t i) const { return features_[row * dim() + i]; }
  double target(int64_t row) const { return targets_[row]; }

  struct Sample {
    Var features;  // [rows, dim]
    Var targets;   // [rows, 1]
    int64_t rows = 0;
  };
  // `batch` rows drawn with replacement, alike for equal sample keys; all rows where batch is 0 or the key asks for the full data.
  Sample Record(Recorder& r, int64_t batch) const;

 private:
  ProblemConstant features_, targets_;
};

// What Record takes, over all workers, of all their rows.
double SampleShare(const std::vector<ProblemRows>& workers, int64_t batch);

// Rows of a file in LIBSVM's format, "label index:value ...", indices from 1 in ascending order. Worker m of M gets rows floor(m N / M) to
// floor((m + 1) N / M) - 1. Errors: InvalidArgument with the line; the file system's.
absl::StatusOr<std::vector<ProblemRows>> ReadLibSvm(const std::string& path, int64_t dim, int workers);
// The same of a text; `name` stands in messages.
absl::StatusOr<std::vector<ProblemRows>> ParseLibSvm(std::string_view text, const std::string& name, int64_t dim, int workers);

}  // namespace conclave

#endif  // CONCLAVE_MODELS_PROBLEM_ROWS_H_
