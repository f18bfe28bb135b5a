#include "models/problem_rows.h"

#include <algorithm>

#include "base/file_system.h"
#include "base/strings.h"

namespace conclave {
namespace {

constexpr uint32_t kRowSite = 0;

absl::Status BadLine(const std::string& name, int64_t line, const std::string& what) {
  return InvalidArgument("%s:%d: %s; expected lines of LIBSVM's format, label index:value ...", name, line, what);
}

absl::Status ParseRow(const std::string& name, int64_t line, std::string_view text, std::vector<double>* row, double* label) {
  int64_t previous = 0;
  bool first = true;
  for (const std::string& piece : SplitString(text, ' ')) {
    if (piece.empty()) continue;
    if (first) {
      const auto value = ParseDouble(piece[0] == '+' ? piece.substr(1) : piece);
      if (!value.ok()) return BadLine(name, line, "the label '" + piece + "' is no number");
      *label = *value;
      first = false;
      continue;
    }
    const size_t colon = piece.find(':');
    const auto index = ParseInt64(piece.substr(0, colon));
    const auto value = colon == std::string::npos ? absl::StatusOr<double>(InvalidArgument("")) : ParseDouble(piece.substr(colon + 1));
    if (!index.ok() || !value.ok()) return BadLine(name, line, "'" + piece + "' is no index:value");
    if (*index <= previous || *index > static_cast<int64_t>(row->size())) {
      return BadLine(name, line, absl::StrFormat("index %d is not in %d..%d", *index, previous + 1, row->size()));
    }
    (*row)[*index - 1] = *value;
    previous = *index;
  }
  return absl::OkStatus();
}

}  // namespace

ProblemRows::ProblemRows(std::vector<double> features, std::vector<double> targets)
    : features_(std::move(features)), targets_(std::move(targets)) {}

ProblemRows::Sample ProblemRows::Record(Recorder& r, int64_t batch) const {
  if (batch == 0 || r.batch().key.full) return {features_.Record(r, {rows(), dim()}), targets_.Record(r, {rows(), 1}), rows()};
  Tape& tape = r.tape();
  const Tensor features = tape.arena().New({batch, dim()}, r.dtype()), targets = tape.arena().New({batch, 1}, r.dtype());
  const RngKey key = r.Noise(kRowSite);
  DispatchFloat(r.dtype(), [&](auto t) {
    using T = decltype(t);
    for (int64_t i = 0; i < batch; ++i) {
      const auto row = static_cast<int64_t>(key.Below(static_cast<uint64_t>(rows()), static_cast<uint64_t>(i)));
      for (int64_t j = 0; j < dim(); ++j) features.data<T>()[i * dim() + j] = static_cast<T>(feature(row, j));
      targets.data<T>()[i] = static_cast<T>(target(row));
    }
  });
  return {tape.Constant(features), tape.Constant(targets), batch};
}

double SampleShare(const std::vector<ProblemRows>& workers, int64_t batch) {
  int64_t rows = 0;
  for (const ProblemRows& own : workers) rows += own.rows();
  return batch == 0 ? 1 : static_cast<double>(batch * static_cast<int64_t>(workers.size())) / static_cast<double>(rows);
}

absl::StatusOr<std::vector<ProblemRows>> ReadLibSvm(const std::string& path, int64_t dim, int workers) {
  ASSIGN_OR_RETURN(const std::string text, RealFileSystem().ReadAll(path));
  return ParseLibSvm(text, path, dim, workers);
}

absl::StatusOr<std::vector<ProblemRows>> ParseLibSvm(std::string_view text, const std::string& name, int64_t dim, int workers) {
  std::vector<double> features, targets;
  int64_t line = 0;
  for (const std::string& each : SplitString(text, '\n')) {
    ++line;
    const std::string_view row_text = StripWhitespace(each);
    if (row_text.empty()) continue;
    std::vector<double> row(dim, 0.0);
    double label = 0;
    RETURN_IF_ERROR(ParseRow(name, line, row_text, &row, &label));
    features.insert(features.end(), row.begin(), row.end());
    targets.push_back(label);
  }
  const auto n = static_cast<int64_t>(targets.size());
  if (n < workers) return InvalidArgument("%s: %d rows for %d workers; each needs one", name, n, workers);
  std::vector<ProblemRows> shares;
  for (int64_t m = 0; m < workers; ++m) {
    const int64_t first = m * n / workers, last = (m + 1) * n / workers;
    shares.emplace_back(std::vector<double>(features.begin() + first * dim, features.begin() + last * dim),
                        std::vector<double>(targets.begin() + first, targets.begin() + last));
  }
  return shares;
}

}  // namespace conclave
