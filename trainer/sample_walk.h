// SampleWalk: the perturbation of one leaf's samples (models/modules/perturbation.h), from its start to where it is differentiated last.
#ifndef CONCLAVE_TRAINER_SAMPLE_WALK_H_
#define CONCLAVE_TRAINER_SAMPLE_WALK_H_

#include "models/modules/perturbation.h"
#include "models/recorder.h"
#include "tensor/arena.h"

namespace conclave {

// Begin, then at each point: Place, record, differentiate, Move while it says so. Without a perturbation there is one point, and samples
// are as they are. Memory: two vectors of the samples' values, from the arena.
class SampleWalk {
 public:
  // Both outlive it; perturbation null: none.
  SampleWalk(const Perturbation* perturbation, Arena* arena) : perturbation_(perturbation), arena_(arena) {}

  // The arena was reset. seed: of the run's noise. held_out: as many moves as held-out samples get.
  void Begin(const Batch& batch, uint64_t seed, DType dtype, bool held_out = false);
  bool last() const { return moved_ == moves_; }
  // Whether the parameters' gradient at this point is part of the objective's, and with what weight.
  bool counts() const { return last() || perturbation_->every_point(); }
  double weight() const;
  // Frees what the arena gave since the point before, and lends the values of this one to a recorder that has just begun.
  void Place(Recorder& recorder) const;
  // What Place lent for the gradient by the values; the player wants to go along it, or against it.
  const Tensor& gradient() const { return gradient_; }
  Player player() const { return perturbation_->block().player; }
  // To the next point, by what gradient() then holds; false at the last one.
  bool Move(const Batch& batch);

 private:
  const Perturbation* perturbation_;
  Arena* arena_;
  Arena::Mark mark_;
  Tensor values_, gradient_;  // [samples, width]
  int64_t moves_ = 0, moved_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_SAMPLE_WALK_H_
