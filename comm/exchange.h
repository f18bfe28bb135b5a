// Exchange: turns workers' vectors into their mean on the owners of each block.
#ifndef CONCLAVE_COMM_EXCHANGE_H_
#define CONCLAVE_COMM_EXCHANGE_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "base/status.h"
#include "comm/communicator.h"
#include "tensor/layout.h"
#include "tensor/state_dict.h"

namespace conclave {

class CodecDecisions;
struct PoisonCause;

// Which workers (of M) feed which rank's Put calls. Rank r hosts workers First(r) .. First(r + 1) - 1, at least one: equally many as near
// as can be, unless said otherwise. A replicated block receives one Put from each of the rank's own workers; an expert block receives one
// Put from every worker of its owner's data column (the `expert` ranks that share the data coordinate).
struct WorkerMap {
  int workers = 1;          // M
  int ranks = 1;            // P
  int expert_axis = 1;      // ranks per data column; consecutive ranks
  std::vector<int> firsts;  // the first worker of every rank, then M; empty: floor(r M / P)
  int First(int rank) const { return firsts.empty() ? static_cast<int>(int64_t{rank} * workers / ranks) : firsts[rank]; }
  int Count(int rank) const { return First(rank + 1) - First(rank); }
  int MostPerRank() const {
    int most = 0;
    for (int r = 0; r < ranks; ++r) most = std::max(most, Count(r));
    return most;
  }
  // Workers whose contribution to an expert block arrives at the owner in data column `column`: contiguous ids.
  int ColumnFirst(int column) const { return First(column * expert_axis); }
  int ColumnCount(int column) const { return First((column + 1) * expert_axis) - First(column * expert_axis); }
};

// Which workers put vectors, in an exchange to which not all do. The same on all ranks.
struct Participants {
  int count = 0;             // of every exchange
  std::vector<char> chosen;  // [M]; so many are not 0
};

// What an exchange is built from. All pointers outlive it.
struct ExchangeContext {
  const Layout* layout = nullptr;
  WorkerMap workers;
  Communicator* world = nullptr;  // replicated blocks are summed over it
  Communicator* data = nullptr;   // expert blocks are summed over it (ranks of equal expert coordinate, ordered by data coordinate)
  DType dtype = DType::kF32;
  bool world_size_invariant = false;
  int64_t bucket_bytes = int64_t{4} << 20;
  uint64_t seed = 0;
  bool overlap = true;  // exact exchange: buckets and shared blocks travel while evaluations go on; else after them
  // Exact exchange only: the mean of a block goes to its canonical owner alone, which is to update it and hand its value on with
  // StartSharing.
  bool to_canonical = false;
  // Which blocks keep their codec, known from the first Begin on (comm/codec_decisions.h); null: all.
  CodecDecisions* decisions = nullptr;
  // Exact and quantized exchanges only: whoever is chosen there at Begin puts vectors; those of the others are +0, and nothing of them is
  // sent or booked. Parts of the mean that they serve they go on serving. Null: all workers.
  const Participants* participants = nullptr;
  // The two levels of `world`: ranks of one node, and ranks of equal place in theirs, by node. Null: one level. With both, exact exchanges
  // of FIXED_MESH add up a node's vectors before they leave it (comm/node_bucket.h); the same bits.
  Communicator* inside = nullptr;
  Communicator* between = nullptr;
};

// The mean over all M workers: local blocks (with to_canonical: those this rank is canonical for) hold (1/M) sum_m v_m. Valid until the
// next Put.
using Aggregate = const FlatVector*;

// Usage per exchange: Begin, any number of Put, Finish, then Commit or Discard. All ranks alike. State (if any) is keyed by worker and
// block. Where each worker's own vector is wanted, the vectors of one source rank come in the order of its workers; other ranks' may come
// between them. Blocks never put count as +0. A bucket starts when its last expected Put was made and its turn has come (fixed order).
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void Begin(uint32_t step, uint32_t draw) = 0;
  // The whole block `block` of worker m's vector; `span` may be reused after the call. `folded` (only where wants_each_worker() is false):
  // this one Put is the sum over all workers that feed this rank (its own for a replicated block, the data column's for an expert block),
  // and the only one for the block.
  virtual absl::Status Put(WorkerId worker, BlockId block, const Tensor& span, bool folded = false) = 0;
  // Where the mean of `block` will be, as memory in which a folded vector may be formed: Put, called with this very memory, makes the mean
  // of it there, final at once. Whoever writes there ends the last aggregate's life. Undefined: formed elsewhere.
  virtual Tensor Place(BlockId) const { return {}; }
  virtual absl::StatusOr<Aggregate> Finish() = 0;
  // With to_canonical, after Finish: every block of `point` sets out from its canonical owner to the other owners. Until it was awaited, or
  // all were, a block must be neither read nor written. Collective; `point` stays where it is.
  virtual absl::Status StartSharing(const FlatVector& point);
  virtual absl::Status AwaitShared(BlockId) { return absl::OkStatus(); }
  virtual absl::Status FinishSharing() { return absl::OkStatus(); }
  virtual void Commit() = 0;   // accepts the new state
  virtual void Discard() = 0;  // returns to the state before Begin
  // Why a mean is not finite, where this rank's messages know: the lowest worker's lowest block that went as poison. Null: none did.
  virtual const PoisonCause* poison() const { return nullptr; }
  virtual bool wants_each_worker() const = 0;  // false: folded Puts are accepted
  virtual void Register(StateDict& state, const std::string& part) = 0;
};

std::unique_ptr<Exchange> MakeExactExchange(const ExchangeContext& context);

}  // namespace conclave

#endif  // CONCLAVE_COMM_EXCHANGE_H_
