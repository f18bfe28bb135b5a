#include "data/loader.h"

#include <algorithm>

#include "base/check.h"
#include "base/rng.h"

namespace conclave {
namespace {

absl::Status CheckOptions(const LoaderOptions& options) {
  const int64_t leaves = options.workers * options.micro_batches;
  if (options.workers < 1 || options.micro_batches < 1 || options.global_batch < 0 || options.global_batch % leaves != 0) {
    return InvalidArgument("trainer.global_batch %d must be a multiple of workers * micro_batches = %d * %d", options.global_batch,
                           options.workers, options.micro_batches);
  }
  int64_t end = 0;
  for (const SkippedRange& range : options.skipped) {
    if (range.first < end || range.count < 1) {
      return InvalidArgument("skipped samples: expected ascending ranges, got %d samples at %d after %d", range.count, range.first, end);
    }
    end = range.first + range.count;
  }
  return absl::OkStatus();
}

absl::StatusOr<Mixture> MixtureOf(const LoaderOptions& options, const std::vector<WeightedSource>& sources) {
  std::vector<double> weights;
  std::vector<int64_t> batches;
  int64_t sum = 0;
  for (const WeightedSource& source : sources) {
    weights.push_back(source.weight);
    if (source.batch > 0) batches.push_back(source.batch);
    sum += source.batch;
  }
  if (batches.empty()) return Mixture::Create(options.seed, weights);
  if (batches.size() == sources.size() && sum == options.global_batch) return Mixture::OfBatches(batches);
  return InvalidArgument(
      "data.sources: %d of %d have a batch, %d samples together; all must have one, and together the %d of trainer.global_batch",
      batches.size(), sources.size(), sum, options.global_batch);
}

}  // namespace

absl::StatusOr<Loader> Loader::Create(const LoaderOptions& options, std::vector<WeightedSource> sources) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(Mixture mixture, MixtureOf(options, sources));
  for (size_t i = 0; i < sources.size(); ++i) {
    const SampleShape shape = sources[i].source->shape(), first = sources[0].source->shape();
    if (shape != first) {
      return InvalidArgument(
          "data.sources[%d] gives samples of another kind or width (%d) than data.sources[0] (%d); only equal ones can be mixed", i,
          shape.width, first.width);
    }
    if (sources[i].source->size() < 1 && options.global_batch > 0) return InvalidArgument("data.sources[%d] holds no sample", i);
  }
  return Loader(options, std::move(sources), std::move(mixture));
}

Loader::Loader(const LoaderOptions& options, std::vector<WeightedSource> sources, Mixture mixture)
    : options_(options), sources_(std::move(sources)), mixture_(std::move(mixture)), shape_(sources_[0].source->shape()) {}

int64_t Loader::samples_per_epoch() const {
  int64_t samples = 0;
  for (const WeightedSource& source : sources_) samples += source.source->size();
  return samples;
}

absl::Status Loader::FillLeaf(const SampleKey& key, WorkerId worker, int64_t leaf, BatchBuffer* buffer) const {
  CHECK(worker.value >= 0 && worker.value < options_.workers) << "worker " << worker.value << " of " << options_.workers;
  CHECK(leaf >= 0 && leaf < options_.micro_batches) << "leaf " << leaf << " of " << options_.micro_batches;
  CHECK(buffer->shape() == shape_) << "a buffer of another sample shape";
  const int64_t part = worker.value * options_.micro_batches + leaf, parts = options_.workers * options_.micro_batches;
  const int64_t samples = sources_[0].source->size();
  Batch& batch = buffer->Resize(key.full ? (part + 1) * samples / parts - part * samples / parts : rows());
  batch.key = key;
  batch.worker = worker;
  batch.first_row = key.full ? part * samples / parts - (part - leaf) * samples / parts : leaf * rows();
  if (key.full) return FillFull(part, &batch);
  const int64_t first = int64_t{key.step} * options_.global_batch + part * rows();
  for (int64_t row = 0; row < batch.sequences; ++row) {
    const Address at = Locate(first + row, key.draw);
    RETURN_IF_ERROR(sources_[at.source].source->Fetch(at.sample, at.epoch, row, &batch));
  }
  return absl::OkStatus();
}

absl::Status Loader::FillFull(int64_t part, Batch* batch) const {
  if (sources_.size() > 1) {
    return FailedPrecondition(
        "a pass over the full data needs a single source, this config mixes %d; use one source or a scheme without full passes",
        sources_.size());
  }
  const int64_t first = part * sources_[0].source->size() / (options_.workers * options_.micro_batches);
  for (int64_t row = 0; row < batch->sequences; ++row) RETURN_IF_ERROR(sources_[0].source->Fetch(first + row, 0, row, batch));
  return absl::OkStatus();
}

Loader::Address Loader::Locate(int64_t position, uint32_t draw) const {
  const Mixture::Pick pick = mixture_.At(BeforeSkipping(position), draw);
  const int64_t size = sources_[pick.source].source->size();
  const int64_t epoch = pick.number / size, place = pick.number % size;
  if (!options_.shuffle) return {pick.source, epoch, place};
  const IndexPermutation permutation({.seed = options_.seed,
                                      .site = static_cast<uint32_t>(pick.source),
                                      .step = static_cast<uint32_t>(epoch),
                                      .kind = RngKind::kShuffle,
                                      .draw = draw},
                                     static_cast<uint64_t>(size));
  return {pick.source, epoch, static_cast<int64_t>(permutation(static_cast<uint64_t>(place)))};
}

int64_t Loader::BeforeSkipping(int64_t position) const {
  for (const SkippedRange& range : options_.skipped) {
    if (position < range.first) break;
    position += range.count;
  }
  return position;
}

absl::Status Loader::Skip(int64_t position, int64_t count) {
  if (position < 0 || count < 1) return InvalidArgument("cannot skip %d samples at position %d", count, position);
  const int64_t first = BeforeSkipping(position), end = BeforeSkipping(position + count - 1) + 1;
  std::erase_if(options_.skipped, [&](const SkippedRange& range) { return range.first >= first && range.first < end; });  // they lie inside
  const auto after = std::ranges::find_if(options_.skipped, [&](const SkippedRange& range) { return range.first >= end; });
  options_.skipped.insert(after, {first, end - first});
  return absl::OkStatus();
}

}  // namespace conclave
