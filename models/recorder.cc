#include "models/recorder.h"

#include <algorithm>
#include <limits>

namespace conclave {

Recorder::Recorder(const Options& options)
    : options_(options),
      parameters_(options.parameters->size()),
      values_(options.terms->size()),
      counters_(options.counters),
      running_(options.counters) {
  recorded_.reserve(64);
}

void Recorder::BeginEvaluation() { std::ranges::fill(running_, 0); }

void Recorder::Begin(const FlatVector* point, const Batch* batch, bool present) {
  point_ = point;
  batch_ = batch;
  present_ = present;
  poison_ = absl::OkStatus();
  recorded_.clear();
  std::ranges::fill(parameters_, Var{});
  std::ranges::fill(values_, 0.0);
  std::ranges::fill(counters_, 0);
}

Var Recorder::Parameter(BlockId block) {
  Var& v = parameters_[block.value];
  if (!v.defined()) {
    v = options_.tape->Parameter(block, point_->block(block), options_.slots == nullptr ? GradientSlot{} : options_.slots->Slot(block));
  }
  return v;
}

std::span<const float> Recorder::buffer(int index) const {
  if (index < 0) return {};
  CHECK(options_.buffers != nullptr) << "buffer " << index;
  return options_.buffers->values(index);
}

RngKey Recorder::Noise(uint32_t site) const {
  return {.seed = options_.seed,
          .site = site,
          .step = batch_->key.step,
          .worker = static_cast<uint32_t>(batch_->worker.value),
          .kind = RngKind::kNoise,
          .draw = batch_->key.draw};
}

void Recorder::AddTerm(int term, Var value, double weight) {
  values_[term] += weight * *options_.tape->value(value).data<double>();
  recorded_.push_back({term, value, weight});
}

void Recorder::Poison(const absl::Status& reason) {
  if (!poison_.ok()) return;
  poison_ = reason;
  values_[0] = std::numeric_limits<double>::quiet_NaN();
}

}  // namespace conclave
