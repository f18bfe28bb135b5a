// ReferencePoint: the point w that methods of the MASHA family compress differences against, and what every worker knows of it.
#ifndef CONCLAVE_OPTIM_REFERENCE_POINT_H_
#define CONCLAVE_OPTIM_REFERENCE_POINT_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optim/field_exchange.h"
#include "optim/schemes.h"
#include "optim/worker_vectors.h"

namespace conclave {

struct ReferencePointOptions {
  std::string part;               // prefix of the names in the train state
  double p = 1;                   // probability that w is refreshed in a step
  bool variance_reduced = false;  // differences between evaluations of the step's sample, F(w) of the full data
  // Those that the exchange of differences was made with: drawn anew every step. Null: all workers.
  std::unique_ptr<Participants> participants;
};

// Holds w, F(w) and F_m(w). Within a step: Coin, ExchangeDifferences, and where w is to move EvaluateNext, then MoveTo or Discard. Train
// state changes in Start and MoveTo only. Memory: two vectors, and two WorkerVectors (variance reduced: three).
class ReferencePoint {
 public:
  ReferencePoint(const SchemeContext& context, ReferencePointOptions options);

  // w = z0: all workers learn F(z0). Errors: FailedPrecondition if it is not finite. Cost: one evaluation, one exact exchange.
  absl::Status Start(Operator& field, const FlatVector& z0);

  const FlatVector& w() const { return w_; }
  const FlatVector& F_w() const { return F_w_; }

  // Is w refreshed in this step? Drawn alike on all ranks: no byte is sent.
  bool Coin(const SampleKey& key) const;

  // F_m(point) - F_m(w) of every worker through `exchange`: an estimate of F(point) - F(w). With b of M participants the b differences
  // count M / b times, the others as +0, so that their mean over M stays unbiased; the terms likewise, while counters are those of the
  // participants alone. Neither commits nor discards. Cost: one evaluation by the participants; variance reduced two, of the same sample
  // at w and at the point.
  absl::StatusOr<Exchanged> ExchangeDifferences(Operator& field, const FlatVector& point, const SampleKey& key, Exchange& exchange);

  // F(point), exactly, for a w that may move there; variance reduced of the full data. Returns its norms. Cost: one evaluation, one
  // exact exchange.
  absl::StatusOr<VectorNorms> EvaluateNext(Operator& field, const FlatVector& point, const SampleKey& key);
  void MoveTo(const FlatVector& point);  // w = point, that of the last EvaluateNext
  void Discard() { full_->Discard(); }

  void Register(StateDict& state);

 private:
  void DrawParticipants(const SampleKey& key);
  // By the participants alone.
  absl::StatusOr<Evaluation> EvaluateSome(Operator& field, const FlatVector& point, const SampleKey& key, const OnBlock& on_block);

  ReferencePointOptions options_;
  uint64_t seed_;
  int workers_;
  std::unique_ptr<Exchange> full_;
  LogicalNorm norm_;
  FlatVector w_, F_w_;                       // train state
  WorkerVectors F_m_w_, F_m_next_;           // F_m(w): train state; those that may replace them
  std::optional<WorkerVectors> F_m_sample_;  // variance reduced: F_m(w) on the step's sample
  Aggregate F_next_ = nullptr;
  OwnedTensor difference_;  // [largest block]
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_REFERENCE_POINT_H_
