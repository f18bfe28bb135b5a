// What methods that move z by the field alone have in common: one or two looks at F a step, the guard, the books.
#ifndef CONCLAVE_OPTIM_FIELD_STEPS_H_
#define CONCLAVE_OPTIM_FIELD_STEPS_H_

#include <memory>

#include "optim/field_exchange.h"
#include "optim/prox.h"
#include "optim/schemes.h"

namespace conclave {

// Everything that the config says about such a method.
struct FieldMethod {
  double gamma = 0;
  ScheduleConfig schedule;
  std::unique_ptr<Prox> prox;
  std::unique_ptr<Exchange> exchange;
  std::unique_ptr<Exchange> half;  // TwoLooks only: each point has an exchange of its own, whose state then follows one sequence of vectors
};
// exchange: the method's own. Errors: those of MakeProx and MakeExchange.
absl::StatusOr<FieldMethod> MakeFieldMethod(const OptimConfig& config, const ExchangeConfig& exchange, double gamma,
                                            const SchemeContext& context, int looks);

// Holds z and what every such scheme needs. z is the first entry of its train state, the exchanges the last.
class FieldScheme : public Scheme {
 public:
  FieldScheme(FieldMethod method, const SchemeContext& context);

  FlatVector& point() final { return z_; }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }
  Exchange* exchange() final { return method_.exchange.get(); }
  void Register(StateDict& state) final;

 protected:
  virtual void RegisterOwn(StateDict&) {}
  double GammaAt(const Cursor& cursor) const;
  // to <- prox(from - gamma f). to may be from.
  void StepTo(FlatVector* to, const FlatVector& from, double gamma, const FlatVector& f) const;

  FieldMethod method_;
  const int64_t total_steps_;
  LogicalNorm norm_;
  FlatVector z_;  // train state
};

// One evaluation and one exchange a step.
class OneLook : public FieldScheme {
 public:
  using FieldScheme::FieldScheme;
  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) final;

 private:
  // Where F is evaluated; may write vectors of one step, never the train state.
  virtual const FlatVector& Where(double /*gamma*/) { return z_; }
  // The step is accepted: moves z. f: F at Where().
  virtual void Move(double gamma, const FlatVector& f) = 0;
};

// Two evaluations and two exchanges a step, of the same samples: at z, and at the half step zh that it leads to.
class TwoLooks : public FieldScheme {
 public:
  TwoLooks(FieldMethod method, const SchemeContext& context);
  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) final;

 protected:
  FlatVector zh_;  // of one step

 private:
  virtual void MoveHalf(double gamma, const FlatVector& f) = 0;  // writes zh, prox included. f: F(z)
  // The step is accepted: moves z. fh: F(zh).
  virtual void Move(double gamma, const FlatVector& f, const FlatVector& fh) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_FIELD_STEPS_H_
