// RoutingLog: the experts that a rank's tokens were sent to, in the order in which layers recorded them; written once, replayed any number
// of times.
#ifndef CONCLAVE_MODELS_ROUTING_LOG_H_
#define CONCLAVE_MODELS_ROUTING_LOG_H_

#include <vector>

#include "base/status.h"
#include "tensor/arena.h"

namespace conclave {

// Of one rank, and not thread-safe. A replayed run with the same weights gives the recorded run's bits; with others, the recorded experts
// with the weights that the new logits give them. Writing allocates, replaying does not.
class RoutingLog {
 public:
  // An empty log, to be written.
  RoutingLog() = default;

  bool replays() const { return replays_; }
  // From now on Next reads from the first entry on.
  void Rewind();
  int64_t entries() const { return static_cast<int64_t>(entries_.size()); }

  // ids: i32 [n, k], -1 for no expert.
  void Append(int layer, const Tensor& ids);
  // The record as passes of `layers` entries each: tokens of each pass, and all ids, [tokens, layers, slots]. Errors: FailedPrecondition
  // for entries that do not form such passes, of slots that differ, or with empty slots.
  struct Passes {
    std::vector<int64_t> tokens;
    std::vector<int32_t> ids;
  };
  absl::StatusOr<Passes> ToPasses(int layers, int slots) const;
  // A log to be replayed, of passes of these numbers of tokens. ids: [sum of tokens, layers, slots].
  static RoutingLog OfPasses(const Passes& passes, int layers, int slots);

  // Who reads an entry: `tokens` of this layer, which has so many experts.
  struct Reader {
    int layer = 0;
    int64_t tokens = 0;
    int experts = 0;
  };
  // The next entry, in memory of the arena. Errors: FailedPrecondition where it is of another layer, of another number of tokens, names an
  // expert outside 0..experts-1, or where there is none.
  absl::StatusOr<Tensor> Next(Arena& arena, const Reader& reader);
  // The newest entry of the layer that Next gave, once more: for blocks that backward records again, in whatever order. Errors: Next's.
  absl::StatusOr<Tensor> Again(Arena& arena, const Reader& reader) const;
  // Errors: FailedPrecondition where entries were not replayed.
  absl::Status ExpectEnd() const;

 private:
  struct Entry {
    int layer = 0;
    int64_t tokens = 0, slots = 0;
    size_t begin = 0;  // in ids_
  };
  absl::StatusOr<Tensor> Read(Arena& arena, size_t at, const Reader& reader) const;

  std::vector<Entry> entries_;
  std::vector<int32_t> ids_;
  size_t next_ = 0;
  bool replays_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_ROUTING_LOG_H_
