// Loader: the global stream of training samples, addressed by position.
#ifndef CONCLAVE_DATA_LOADER_H_
#define CONCLAVE_DATA_LOADER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "data/mixture.h"
#include "data/source.h"
#include "tensor/ids.h"

namespace conclave {

// Positions of the global stream that are left out: the samples of a bad stretch. Later samples move up.
struct SkippedRange {
  int64_t first = 0;  // position in the stream before anything is left out
  int64_t count = 0;
};

struct LoaderOptions {
  uint64_t seed = 0;
  int workers = 1;                    // M
  int64_t global_batch = 0;           // samples a step; divisible by workers * micro_batches; 0: the model needs none
  int64_t micro_batches = 1;          // leaves a worker
  bool shuffle = true;                // a new order every epoch; else the sources' own
  std::vector<SkippedRange> skipped;  // ascending, disjoint
};

struct WeightedSource {
  double weight = 1;
  std::unique_ptr<Source> source;
  int64_t batch = 0;  // samples a step; 0 for all sources: mixed by weight
};

// Row i of leaf b of worker m in step s is position s * global_batch + (m * micro_batches + b) * rows + i of the stream. The position picks
// the source (Mixture, or where sources have batches, source after source) and its running number n there; epoch = n / size, and the sample
// is the (n % size)-th of that epoch's permutation. Every draw of SampleKey is a stream of its own in which the same holds. So workers and
// leaves are disjoint, the samples of a step depend on global_batch alone, an epoch covers every sample once, and resuming needs nothing
// but the step. Immutable but for Skip; const methods are thread-safe.
class Loader {
 public:
  // Errors: InvalidArgument for a batch that does not divide, sources of different shapes, bad weights or bad ranges, batches of some
  // sources or with another sum than global_batch.
  static absl::StatusOr<Loader> Create(const LoaderOptions& options, std::vector<WeightedSource> sources);

  const SampleShape& shape() const { return shape_; }
  int64_t rows() const { return options_.global_batch / (options_.workers * options_.micro_batches); }  // samples of a leaf
  int64_t samples_per_epoch() const;                                                                    // of all sources together

  // Fills `buffer` with the samples of one leaf; leaf in [0, micro_batches). FULL: leaf b of worker m is part m * micro_batches + b of the
  // source's training samples cut into equal runs (they differ by at most one sample), in the source's order; skipped ranges do not matter.
  // Errors: those of the source; FailedPrecondition for FULL with several sources, whose weights it could not honour.
  absl::Status FillLeaf(const SampleKey& key, WorkerId worker, int64_t leaf, BatchBuffer* buffer) const;

  // Which sample a position of the stream is, after skipping.
  struct Address {
    int source = 0;
    int64_t epoch = 0;
    int64_t sample = 0;
  };
  Address Locate(int64_t position, uint32_t draw) const;

  // Leaves out `count` positions of the stream as it now is, from `position` on: what later steps would have read there, they do not read.
  // The list is train state. Errors: InvalidArgument for a negative position or a count below 1.
  absl::Status Skip(int64_t position, int64_t count);
  const std::vector<SkippedRange>& skipped() const { return options_.skipped; }

 private:
  Loader(const LoaderOptions& options, std::vector<WeightedSource> sources, Mixture mixture);
  absl::Status FillFull(int64_t part, Batch* batch) const;
  int64_t BeforeSkipping(int64_t position) const;

  LoaderOptions options_;
  std::vector<WeightedSource> sources_;
  Mixture mixture_;
  SampleShape shape_;
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_LOADER_H_
