// WorkerPoints: evaluations for methods whose workers each stand at a point of their own.
#ifndef CONCLAVE_OPTIM_WORKER_POINTS_H_
#define CONCLAVE_OPTIM_WORKER_POINTS_H_

#include <functional>
#include <span>
#include <vector>

#include "optim/operator.h"
#include "optim/worker_vectors.h"

namespace conclave {

// An evaluation of an operator is at one point for all workers that meet on a replica of the model, so it is repeated as often as the
// largest data column has workers; of each repetition only the worker counts whose point it is, in vectors, terms and counters. So results
// are the same on every mesh. Each worker is evaluated once, but where tokens travel to experts the others of its column run with it: there
// the cost is least with one worker a column. Memory: one vector.
class WorkerPoints {
 public:
  explicit WorkerPoints(const ExchangeContext& context);

  // F_m(x_m) of every worker seen here into f_m. z: a legal point where a worker's own is not kept here. Terms and counters: the sum over
  // workers of what each has at its own point. Collective: also one all-reduce of 8 bytes a worker and term.
  absl::StatusOr<Evaluation> Evaluate(Operator& field, const WorkerVectors& x_m, const FlatVector& z, const SampleKey& key,
                                      const WorkerVectors& f_m);

  // |v_m|^2 of every worker over the blocks that count, the same bits on any mesh and equal on every rank. Valid until the next call.
  // Collective: one all-reduce of 8 bytes a worker, or a block and worker where experts are spread.
  absl::StatusOr<std::span<const double>> SquaredNorms(const WorkerVectors& v_m, const std::function<bool(BlockId)>& counts);

  // Whether worker m's vector of the block is kept here.
  bool Holds(int worker, BlockId id) const;
  int first() const { return first_; }  // workers of the data column
  int count() const { return count_; }

 private:
  // The workers of the i-th repetition, one a column that has so many.
  std::span<const char> Choose(int i);
  absl::Status AddTerms(Evaluation& evaluation);

  const WorkerMap map_;
  const Layout* const layout_;
  Communicator* const world_;
  int first_ = 0, count_ = 0;
  int evaluations_ = 0;        // the most workers of any column
  FlatVector point_;           // where an evaluation is
  OwnedTensor squares_;        // [M, blocks]
  std::vector<char> chosen_;   // [M]
  std::vector<double> terms_;  // [M, terms] of one evaluation
};

// sqrt(mean of squares).
double RootMean(std::span<const double> squares);

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_WORKER_POINTS_H_
