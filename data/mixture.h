// Mixture: which source each sample of the global stream comes from.
#ifndef CONCLAVE_DATA_MIXTURE_H_
#define CONCLAVE_DATA_MIXTURE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace conclave {

// The stream is cut into blocks of kBlock samples. Each holds an exact quota of every source (its weight's share, rounded to 1/kBlock by
// largest remainder) in an order of its own, drawn by the counter generator. So any position can be asked alone, proportions are exact over
// whole blocks, and the samples of one source are numbered without gaps: a source is run through epoch by epoch, as if it were alone. With
// one source the stream is the source.
class Mixture {
 public:
  static constexpr int64_t kBlock = 4096;

  // weights: positive, one a source. Errors: InvalidArgument for a weight that is not positive and finite, or so small that its quota is 0.
  static absl::StatusOr<Mixture> Create(uint64_t seed, const std::vector<double>& weights);
  // Blocks of another kind: batches[0] samples of the first source, then batches[1] of the second, and so on, all positive.
  static Mixture OfBatches(const std::vector<int64_t>& batches);

  struct Pick {
    int source = 0;
    int64_t number = 0;  // counts the samples of this source in the stream
  };
  // Position >= 0; `draw` (0..15) names one of independent streams with the same proportions.
  Pick At(int64_t position, uint32_t draw) const;

  int64_t quota(int source) const { return begins_[source + 1] - begins_[source]; }  // samples a block
  int sources() const { return static_cast<int>(begins_.size()) - 1; }

 private:
  uint64_t seed_ = 0;
  bool in_order_ = false;
  std::vector<int64_t> begins_;  // slots begins_[i] .. begins_[i + 1] - 1 of a block, before it is shuffled, are source i's
};

}  // namespace conclave

#endif  // CONCLAVE_DATA_MIXTURE_H_
