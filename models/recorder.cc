#include "models/recorder.h"

#include <algorithm>
#include <limits>

#include "models/model.h"

namespace conclave {

RngKey LeafNoise(const Batch& batch, uint64_t seed, uint32_t site) {
  return {.seed = seed,
          .site = site,
          .step = batch.key.step,
          .worker = static_cast<uint32_t>(batch.worker.value),
          .kind = RngKind::kNoise,
          .draw = batch.key.draw};
}

Recorder::Recorder(const Options& options)
    : options_(options),
      parameters_(options.model->parameters().size()),
      values_(options.model->terms().size()),
      counters_(options.model->counters()),
      running_(options.model->counters()),
      dropped_(options.model->counters()),
      scales_(options.model->terms().size()) {
  if (options.tape != nullptr) options.tape->UseProducts(options.precision.products);
  recorded_.reserve(64);
  seeds_.reserve(64);
  inner_seeds_.reserve(64);
}

void Recorder::BeginEvaluation() { std::ranges::fill(running_, 0); }

void Recorder::Begin(const FlatVector* point, const Batch* batch, bool present) {
  point_ = point;
  batch_ = batch;
  present_ = present;
  poison_ = arrival_ = absl::OkStatus();
  sample_values_ = {};
  searching_ = false;
  recorded_.clear();
  std::ranges::fill(parameters_, Var{});
  std::ranges::fill(values_, 0.0);
  std::ranges::fill(counters_, 0);
  if (options_.tape->keeps_segments() || value_of_) return;
  for (const BlockId block : point->layout().local_blocks()) Declare(block);  // before any segment
  if (options_.copies == nullptr) return;
  for (const BlockId block : options_.copies->layout().local_blocks()) Declare(block);
}

void Recorder::UseSampleValues(const Tensor& values, const Tensor& gradient, bool searching) {
  sample_values_ = options_.tape->Parameter({-1}, values, {.first = gradient});  // of no block: nobody is told when its gradient is final
  searching_ = searching;
}

Var Recorder::Parameter(BlockId block) {
  if (options_.before_read && !again() && arrival_.ok()) arrival_ = options_.before_read(block);
  return Declare(block);
}

Var Recorder::Declare(BlockId block) {
  Var& v = parameters_[block.value];
  if (!v.defined()) {
    const FlatVector& values = is_local(block) || options_.copies == nullptr ? *point_ : *options_.copies;
    const Tensor value = value_of_ ? value_of_(block) : values.block(block);
    v = options_.tape->Parameter(block, value, options_.slots == nullptr ? GradientSlot{} : options_.slots->Slot(block));
  }
  return v;
}

std::span<const float> Recorder::buffer(int index) const {
  if (index < 0) return {};
  CHECK(options_.buffers != nullptr) << "buffer " << index;
  return options_.buffers->values(index);
}

void Recorder::AddTerm(int term, Var value, double weight) {
  const Recorded recorded{term, value, weight};
  if (again()) return AddSeed(recorded, inner_seeds_);
  values_[term] += weight * *options_.tape->value(value).data<double>();
  if (pass_ == Tape::Pass::kWhole) recorded_.push_back(recorded);
}

void Recorder::AddSeed(const Recorded& recorded, std::vector<Seed>& seeds) const {
  const TermSpec& spec = options_.model->terms()[recorded.term];
  if (spec.objective) seeds.push_back({recorded.value, recorded.weight * spec.coefficient * scales_[recorded.term]});
}

std::span<const Seed> Recorder::PlantSeeds(std::span<const double> scales) {
  scales_.assign(scales.begin(), scales.end());
  seeds_.clear();
  for (const Recorded& recorded : recorded_) AddSeed(recorded, seeds_);
  return seeds_;
}

void Recorder::Poison(const absl::Status& reason) {
  if (!poison_.ok() || again()) return;
  poison_ = reason;
  values_[0] = std::numeric_limits<double>::quiet_NaN();
}

}  // namespace conclave
