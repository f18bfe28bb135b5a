// Scheme: what a config calls `optim`: which points are evaluated, and which combination goes through which exchange.
#ifndef CONCLAVE_OPTIM_SCHEME_H_
#define CONCLAVE_OPTIM_SCHEME_H_

#include <memory>
#include <string>

#include "comm/exchange.h"
#include "optim/norm.h"
#include "optim/operator.h"
#include "tensor/state_dict.h"

namespace conclave {

// Counts attempts, skipped steps included; addresses samples, noise and schedules. Train state.
struct Cursor {
  int64_t step = 0;
  SampleKey Key(uint32_t draw = 0) const { return {.step = static_cast<uint32_t>(step), .draw = draw}; }
};

struct StepReport {
  int64_t step = 0;
  Evaluation evaluation;     // of the step's first evaluation
  double gradient_norm = 0;  // of the logical model, before clipping; frozen blocks left out
  VectorNorms norms;         // its parts; norms.total == gradient_norm
  double clip_factor = 1;
  double learning_rate = 0;  // or gamma, schedule applied
  bool skipped = false;      // the guard refused the update
  std::string reason;        // why
};

// Looks at loss and operator norm before anything is written. Decisions are equal on all ranks: its inputs are.
class Guard {
 public:
  virtual ~Guard() = default;
  // OK: accept. Non-OK: refuse this update, with the reason.
  virtual absl::Status Accept(double loss, double norm) = 0;
  // The step that was accepted last came to nothing after all, and is refused now: as if Accept had refused it.
  virtual void Withdraw() = 0;
  // After a refusal: OK to go on with the next step, otherwise the error that ends the run.
  virtual absl::Status Refused(const absl::Status& reason) = 0;
  virtual void Register(StateDict& state) = 0;
};

// Built over an operator's layout. The iterate z is the scheme's own: `point()` is what evaluation and checkpoints call the parameters.
class Scheme {
 public:
  virtual ~Scheme() = default;
  virtual FlatVector& point() = 0;
  // A step may leave weights of other ranks on their way, for the next one to wait for. Before anything else reads the point or the state.
  virtual absl::Status Settle() { return absl::OkStatus(); }
  // Whatever must be computed once before step 0 of a fresh run (reference points). Not called on resume.
  virtual absl::Status Start(Operator& field) = 0;
  virtual absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) = 0;
  virtual void Register(StateDict& state) = 0;  // the iterate as "model", and all its state
  // What its evaluations go through as they are made; null: they ask for every worker's own vector (Operator::Evaluate).
  virtual Exchange* exchange() { return nullptr; }
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_SCHEME_H_
