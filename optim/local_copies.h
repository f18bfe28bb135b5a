// LocalCopies: what methods with local steps have in common. Workers walk from copies x_m of z and meet at a mean.
#ifndef CONCLAVE_OPTIM_LOCAL_COPIES_H_
#define CONCLAVE_OPTIM_LOCAL_COPIES_H_

#include <functional>
#include <memory>
#include <string>

#include "optim/norm.h"
#include "optim/schemes.h"
#include "optim/worker_points.h"

namespace conclave {

// Memory: three vectors a worker with F_m, where z and an evaluation are; what the exchange keeps.
class LocalCopies {
 public:
  LocalCopies(const SchemeContext& context, std::unique_ptr<Exchange> exchange);

  FlatVector& z() { return z_; }
  WorkerPoints& points() { return points_; }
  const WorkerVectors& x_m() const { return x_m_; }
  const WorkerVectors& f_m() const { return f_m_; }
  int64_t alone() const { return alone_; }  // steps since the last meeting

  // F_m(at_m) into f_m. See WorkerPoints::Evaluate. Collective.
  absl::StatusOr<Evaluation> Evaluate(Operator& field, const WorkerVectors& at_m, const SampleKey& key);
  // sqrt(mean_m |F_m|^2). Collective.
  absl::StatusOr<double> Norm();

  // mean_m (z - v_m) through the exchange, for its Commit or Discard; valid until the next call. counts: empty: of all blocks. Collective.
  absl::StatusOr<Aggregate> MeanMove(const WorkerVectors& v_m, uint32_t step, const std::function<bool(BlockId)>& counts = {});
  Exchange& exchange() { return *exchange_; }

  // The norm of what MeanMove gave. Collective.
  absl::StatusOr<double> NormOf(Aggregate mean) {
    ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(*mean));
    return norms.total;
  }

  // Refuses a step that wrote nothing. Copies that are not finite would never come back: then, and where the meeting itself failed, workers
  // start again from z. met: what MeanMove gave is waiting for Commit or Discard. RefuseMeeting: of a step that the guard had accepted.
  // Collective.
  absl::StatusOr<StepReport> Refuse(StepReport report, const absl::Status& reason, Guard& guard, bool met);
  absl::StatusOr<StepReport> RefuseMeeting(StepReport report, Guard& guard);

  // After an accepted step, one of these: every copy goes on from v_m (x_m itself is fine), or from z.
  void GoOn(const WorkerVectors& v_m);
  void StartFromZ();

  // z as "model", the exchange, and under their names the copies and alone().
  void Register(StateDict& state, const std::string& copies, const std::string& alone);

 private:
  absl::Status LoseRound(const absl::Status& reason);

  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_;  // where the workers met last. Train state, as x_m
  WorkerPoints points_;
  WorkerVectors x_m_, f_m_;
  OwnedTensor difference_;         // [largest block]
  Aggregate mean_move_ = nullptr;  // the last one
  int64_t alone_ = 0;              // train state
};

}  // namespace conclave

#endif  // CONCLAVE_OPTIM_LOCAL_COPIES_H_
