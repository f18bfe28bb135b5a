#include "parallel/placement_gram_bound.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "parallel/symmetric_eigen.h"

namespace conclave {
namespace {

constexpr int kMostRounds = 80, kRoundsOfCheck = 10;
constexpr double kMostGramWork = 2 * 23.0 * 64 * 64 * 64;  // transitions times E
// Rounds end where kRoundsOfCheck of them bring the bound down by less than this share of all transitions.
constexpr double kLeastGain = 1e-4;
// Weight of the distance between what the matrices are and what they should be; transitions of a layer sum to E. And over-relaxation.
constexpr double kPenalty = 0.1, kRelax = 1.6;
constexpr double kRounding = 1e-9;

// Two of these are the matrices of all layers, [layers, E, E] and [layers - 1, E, E].
using Blocks = std::vector<double>;

// One symmetric [n, n] block made to have ones on the diagonal and rows that sum to `degree`, by the least change.
void SetRows(double* a, int n, int degree, std::vector<double>& row) {
  double all = 0;
  for (int i = 0; i < n; ++i) {
    a[i * n + i] = 0;
    row[i] = std::accumulate(a + i * n, a + (i + 1) * n, 0.0);
    all += row[i];
  }
  const double shifts = (n * (degree - 1.0) - all) / (2 * n - 2);  // of all rows
  for (int i = 0; i < n; ++i) row[i] = (degree - 1 - row[i] - shifts) / (n - 2);
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < n; ++k) a[i * n + k] += row[i] + row[k];
    a[i * n + i] = 1;
  }
}

// One [n, n] block made to have rows and columns that sum to `degree`, by the least change.
void SetRowsAndColumns(double* b, int n, int degree, std::vector<double>& column) {
  std::fill(column.begin(), column.end(), 0.0);
  for (int i = 0; i < n; ++i) {
    const double shift = (degree - std::accumulate(b + i * n, b + (i + 1) * n, 0.0)) / n;
    for (int k = 0; k < n; ++k) b[i * n + k] += shift, column[k] += b[i * n + k];
  }
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < n; ++k) b[i * n + k] += (degree - column[k]) / n;
  }
}

// Sum of the `count` largest.
double LargestOf(std::vector<double>& values, int count) {
  if (count == 0) return 0;
  std::nth_element(values.begin(), values.begin() + count - 1, values.end(), std::greater<>());
  return std::accumulate(values.begin(), values.begin() + count, 0.0);
}

// The most that a linear function g of the entries of a block can be where rows and columns sum to `degree` and entries lie in 0..1, from
// prices of rows and columns that suit `near`. All [n, n].
double MostOfBlock(const double* g, const double* near, int n, int degree) {
  std::vector<double> row(n), column(n), left(n);
  for (int i = 0; i < n; ++i) {
    row[i] = std::accumulate(near + i * n, near + (i + 1) * n, 0.0) / n;
    for (int k = 0; k < n; ++k) column[k] += (near[i * n + k] - row[i]) / n;
  }
  double most = 0;
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < n; ++k) left[k] = g[i * n + k] - row[i] - column[k];
    most += degree * (row[i] + column[i]) + LargestOf(left, degree);
  }
  return most;
}

// The same for a symmetric block with ones on its diagonal.
double MostOfDiagonalBlock(const double* g, const double* near, int n, int degree) {
  std::vector<double> price(n), left;
  double all = 0, most = 0;
  for (int i = 0; i < n; ++i) {
    price[i] = std::accumulate(near + i * n, near + (i + 1) * n, 0.0) - near[i * n + i];
    all += price[i];
  }
  for (int i = 0; i < n; ++i) price[i] = (price[i] - all / (2 * n - 2)) / (n - 2);
  for (int i = 0; i < n; ++i) {
    left.clear();
    for (int k = 0; k < n; ++k) {
      if (k != i) left.push_back(g[i * n + k] - price[i] - price[k]);
    }
    most += g[i * n + i] + 2 * (degree - 1) * price[i] + LargestOf(left, degree - 1);
  }
  return most;
}

// The program, and one way through it.
class GramProgram {
 public:
  GramProgram(const RoutingCounts& counts, int parts)
      : layers_(counts.layers()),
        n_(counts.experts()),
        degree_(n_ / parts),
        square_(static_cast<size_t>(n_) * n_),
        positive_(2 * n_),
        within_(square_ * layers_, static_cast<double>(degree_) / n_),
        across_(square_ * (layers_ - 1), static_cast<double>(degree_) / n_),
        gram_dual_(across_.size() * 4),
        gram_slack_(gram_dual_.size()),
        within_dual_(within_.size()),
        across_dual_(across_.size()),
        within_slack_(within_.size()),
        across_slack_(across_.size()) {
    // In units of which the transitions of a layer have E.
    token_ = static_cast<double>(n_) * (layers_ - 1) / static_cast<double>(counts.total());
    for (int j = 0; j + 1 < layers_; ++j) {
      for (const int64_t c : counts.transitions(j)) kept_.push_back(token_ * static_cast<double>(c));
    }
    std::vector<double> row(n_);
    for (int j = 0; j < layers_; ++j) SetRows(&within_[j * square_], n_, degree_, row);
  }

  void Round() {
    for (int j = 0; j + 1 < layers_; ++j) ProjectGram(j);
    ProjectEntries(within_, &within_dual_, &within_slack_);
    ProjectEntries(across_, &across_dual_, &across_slack_);
    std::vector<double> row(n_);
    for (int j = 0; j < layers_; ++j) MoveWithin(j, row);
    for (int j = 0; j + 1 < layers_; ++j) MoveAcross(j, row);
  }

  // Tokens kept by any placement, from the multipliers of the last round.
  double Bound() const {
    Blocks g(square_), near(square_);
    double most = 0;
    for (int j = 0; j < layers_; ++j) {
      for (int i = 0; i < n_; ++i) {
        for (int k = 0; k < n_; ++k) {
          const size_t at = static_cast<size_t>(i) * n_ + k;
          g[at] = (j > 0 ? gram_slack_[Gram(j - 1, n_ + i, n_ + k)] : 0) + (j + 1 < layers_ ? gram_slack_[Gram(j, i, k)] : 0);
          near[at] = g[at] + within_slack_[j * square_ + at];
        }
      }
      most += MostOfDiagonalBlock(g.data(), near.data(), n_, degree_);
      if (j + 1 == layers_) break;
      for (int i = 0; i < n_; ++i) {
        for (int k = 0; k < n_; ++k) {
          const size_t at = static_cast<size_t>(i) * n_ + k;
          g[at] = kept_[j * square_ + at] + 2 * gram_slack_[Gram(j, i, n_ + k)];
          near[at] = g[at] + 2 * across_slack_[j * square_ + at];
        }
      }
      most += MostOfBlock(g.data(), near.data(), n_, degree_);
    }
    return most / token_;
  }

 private:
  size_t Gram(int j, int i, int k) const { return (static_cast<size_t>(j) * 2 * n_ + i) * 2 * n_ + k; }

  // [A_j, B_j; B_j', A_j+1] of the blocks as they are.
  void ReadGram(int j, double* gram) const {
    const double *const a = &within_[j * square_], *const b = &across_[j * square_], *const next = a + square_;
    const int m = 2 * n_;
    for (int i = 0; i < n_; ++i) {
      for (int k = 0; k < n_; ++k) {
        gram[i * m + k] = a[i * n_ + k];
        gram[i * m + n_ + k] = gram[(n_ + k) * m + i] = b[i * n_ + k];
        gram[(n_ + i) * m + n_ + k] = next[i * n_ + k];
      }
    }
  }

  // The nearest Gram matrix; its dual becomes what the blocks are to be near to, until they have moved.
  void ProjectGram(int j) {
    const size_t size = 4 * square_;
    double *const dual = &gram_dual_[j * size], *const slack = &gram_slack_[j * size];
    gram_.resize(size), matrix_.resize(size);
    ReadGram(j, gram_.data());
    for (size_t i = 0; i < size; ++i) matrix_[i] = slack[i] = gram_[i] - dual[i];
    const double* const nearest = positive_.Of(matrix_.data());
    for (size_t i = 0; i < size; ++i) {
      slack[i] = kPenalty * (nearest[i] - slack[i]);
      dual[i] += kRelax * nearest[i] + (1 - kRelax) * gram_[i];
    }
  }

  static void ProjectEntries(const Blocks& blocks, Blocks* dual, Blocks* slack) {
    for (size_t i = 0; i < blocks.size(); ++i) {
      const double at = blocks[i] - (*dual)[i], nearest = std::max(0.0, at);
      (*slack)[i] = kPenalty * (nearest - at);
      (*dual)[i] += kRelax * nearest + (1 - kRelax) * blocks[i];
    }
  }

  void MoveWithin(int j, std::vector<double>& row) {
    double *const a = &within_[j * square_], *const dual = &within_dual_[j * square_];
    const double grams = (j > 0 ? 1 : 0) + (j + 1 < layers_ ? 1 : 0);
    for (int i = 0; i < n_; ++i) {
      for (int k = 0; k < n_; ++k) {
        double sum = dual[i * n_ + k];
        if (j > 0) sum += gram_dual_[Gram(j - 1, n_ + i, n_ + k)];
        if (j + 1 < layers_) sum += gram_dual_[Gram(j, i, k)];
        a[i * n_ + k] = sum / (grams + 1);
      }
    }
    SetRows(a, n_, degree_, row);
    for (int i = 0; i < n_; ++i) {
      for (int k = 0; k < n_; ++k) {
        const double moved = a[i * n_ + k];
        dual[i * n_ + k] -= moved;
        if (j > 0) gram_dual_[Gram(j - 1, n_ + i, n_ + k)] -= moved;
        if (j + 1 < layers_) gram_dual_[Gram(j, i, k)] -= moved;
      }
    }
  }

  void MoveAcross(int j, std::vector<double>& column) {
    double *const b = &across_[j * square_], *const dual = &across_dual_[j * square_];
    const double* const kept = &kept_[j * square_];
    for (int i = 0; i < n_; ++i) {
      for (int k = 0; k < n_; ++k) {
        // A Gram matrix has every entry of B twice, and so weighs its sign.
        b[i * n_ + k] = (gram_dual_[Gram(j, i, n_ + k)] + dual[i * n_ + k]) / 2 + kept[i * n_ + k] / (4 * kPenalty);
      }
    }
    SetRowsAndColumns(b, n_, degree_, column);
    for (int i = 0; i < n_; ++i) {
      for (int k = 0; k < n_; ++k) {
        const double moved = b[i * n_ + k];
        dual[i * n_ + k] -= moved;
        gram_dual_[Gram(j, i, n_ + k)] -= moved;
        gram_dual_[Gram(j, n_ + k, i)] -= moved;
      }
    }
  }

  int layers_, n_, degree_;
  size_t square_;
  double token_ = 0;
  PositivePart positive_;
  Blocks kept_, within_, across_;
  // Scaled multipliers, and the multipliers of the last projections: positive semidefinite, and not negative.
  Blocks gram_dual_, gram_slack_, within_dual_, across_dual_, within_slack_, across_slack_;
  Blocks gram_, matrix_;
};

}  // namespace

int64_t GramsKeepAtMost(const RoutingCounts& counts, int parts) {
  const int64_t total = counts.total(), n = counts.experts();
  CHECK_EQ(n % parts, 0);
  const double work = (counts.layers() - 1.0) * static_cast<double>(n * n * n);
  if (total == 0 || parts == 1 || n == parts || work > kMostGramWork) return total;
  GramProgram program(counts, parts);
  double best = static_cast<double>(total);
  for (int round = 1; round <= kMostRounds; ++round) {
    program.Round();
    if (round % kRoundsOfCheck != 0) continue;
    const double bound = program.Bound(), gain = best - bound;
    best = std::min(best, bound);
    if (best < static_cast<double>(total) && gain < kLeastGain * static_cast<double>(total)) break;
  }
  return std::min(total, static_cast<int64_t>(std::floor(best + kRounding * static_cast<double>(total))));
}

}  // namespace conclave
