#include "trainer/sample_walk.h"

namespace conclave {
namespace {

constexpr uint32_t kWalkSite = 0xFFFF;  // of the starts' noise; models count theirs from 0

}  // namespace

void SampleWalk::Begin(const Batch& batch, uint64_t seed, DType dtype, bool held_out) {
  moved_ = 0;
  if (perturbation_ == nullptr) return;
  moves_ = held_out ? perturbation_->held_out_moves() : perturbation_->moves();
  const Shape shape = {batch.sequences, perturbation_->block().shape.elements()};
  values_ = arena_->New(shape, dtype);
  gradient_ = arena_->New(shape, dtype);
  perturbation_->Start(batch, LeafNoise(batch, seed, kWalkSite), values_);
  mark_ = arena_->Here();
}

double SampleWalk::weight() const {
  if (perturbation_ == nullptr || !perturbation_->every_point()) return 1;
  return 1.0 / static_cast<double>(moves_ + 1);
}

void SampleWalk::Place(Recorder& recorder) const {
  if (perturbation_ == nullptr) return;
  arena_->Rewind(mark_);
  if (!last()) gradient_.Zero();
  recorder.UseSampleValues(values_, last() ? Tensor() : gradient_, /*searching=*/!last());
}

bool SampleWalk::Move(const Batch& batch) {
  if (last()) return false;
  perturbation_->Move(batch, gradient_, values_);
  ++moved_;
  return true;
}

}  // namespace conclave
