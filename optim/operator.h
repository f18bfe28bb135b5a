// Operator: a model on data, as the map F = (1/M) sum_m F_m of a variational inequality. optim knows nothing of models.
#ifndef CONCLAVE_OPTIM_OPERATOR_H_
#define CONCLAVE_OPTIM_OPERATOR_H_

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/recycled_vector.h"
#include "base/status.h"
#include "comm/exchange.h"
#include "tensor/layout.h"

namespace conclave {

// Called when a block of F_m is final. `span` is dead after the call returns. `folded`: the sum over all workers that feed this rank (see
// Exchange::Put).
using OnBlock = std::function<absl::Status(WorkerId, BlockId, const Tensor& span, bool folded)>;

// The objective's terms at the point of an evaluation, summed over all workers (equal on every rank).
struct Term {
  std::string name;        // "loss", "balance", ...
  double value = 0;        // raw: before its coefficient. Games: of the min player
  bool objective = true;   // false: a metric only
  double coefficient = 1;  // its weight in the objective
};

struct Evaluation {
  RecycledVector<Term> terms;
  double objective = 0;              // sum of coefficient * value over the objective terms
  int64_t samples = 0;               // T_step: tokens or samples, summed over all workers
  RecycledVector<int64_t> counters;  // the model's counters (expert loads), summed over all workers
  RecycledVector<double> by_worker;  // [M, terms]: what each adds to the terms' values; rows of other ranks' workers may be missing (+0)
};

// Problem constants where they are known in closed form.
struct OperatorConstants {
  std::optional<double> lipschitz;              // L
  std::optional<double> mean_square_lipschitz;  // sqrt((1/M) sum_m L_m^2)
  std::optional<double> strong_monotonicity;    // mu
};

// Deterministic in its arguments: the same (point, key) gives the same bits.
class Operator {
 public:
  virtual ~Operator() = default;
  virtual const Layout& layout() const = 0;
  virtual DType dtype() const = 0;
  // For every local worker (and every local block) hands over F_m(point). Collective on the mesh: all ranks call it alike. `each_worker`
  // (pass the exchange's wants_each_worker()): one call per worker and block; otherwise blocks may come folded, once. One evaluation per
  // worker.
  virtual absl::StatusOr<Evaluation> Evaluate(const FlatVector& point, const SampleKey& key, bool each_worker, const OnBlock& on_block) = 0;
  // From now on only these workers count, a byte each, the same on all ranks; empty: all of them. The others' vectors are not handed over
  // and their terms and counters are left out; they still have their share in T_step. Whoever can be left out without others waiting is
  // not evaluated. workers: read until the next call.
  virtual void Select(std::span<const char> workers) = 0;
  // The exchange that the next evaluations are for: Evaluate awaits each block of its point there (Exchange::AwaitShared) before it reads
  // it, and may form folded vectors in its places (Exchange::Place). Null: all have arrived, and vectors go to `on_block` alone.
  virtual void Attach(Exchange*) {}
  // By Evaluate, from the beginning: one of all workers' full data counts 1, others the share of workers and of rows that they take.
  virtual double evaluations() const = 0;
  virtual OperatorConstants constants() const { return {}; }
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_OPERATOR_H_
