// WorkerMemory: what a lossy exchange remembers of every worker whose vectors come to this rank, keyed by (worker, block).
#ifndef CONCLAVE_COMM_WORKER_MEMORY_H_
#define CONCLAVE_COMM_WORKER_MEMORY_H_

#include <string>
#include <vector>

#include "comm/exchange.h"
#include "tensor/state_dict.h"

namespace conclave {

// Calls visit(first, last) with the ids first .. last - 1 of the workers of each source rank whose vectors of `block` come to this one:
// itself for a replicated block; for an expert block the ranks of its data column.
template <typename F>
void ForSources(const ExchangeContext& context, BlockId block, F&& visit) {
  const WorkerMap& w = context.workers;
  const int me = context.world->rank();
  if (context.layout->parameters()[block].kind != BlockKind::kExpert) return visit(w.First(me), w.First(me + 1));
  const int first = context.data->rank() * w.expert_axis;
  for (int rank = first; rank < first + w.expert_axis; ++rank) visit(w.First(rank), w.First(rank + 1));
}

// Replicated blocks are kept for the rank's own workers; expert blocks for every worker of its data column. So each (worker, block) is kept
// by one rank, whatever the mesh. Zeros at first. Pending is a second copy that Commit takes over; what was not written since the last
// Commit or Discard must not be committed. Memory: twice own workers * replicated bytes + column workers * local expert bytes.
class WorkerMemory {
 public:
  // take: by block id, which local blocks are kept.
  WorkerMemory(const ExchangeContext& context, const std::vector<bool>& take);

  Tensor At(WorkerId worker, BlockId block) const { return View(current_, worker, block); }       // [elements]
  Tensor Pending(WorkerId worker, BlockId block) const { return View(pending_, worker, block); }  // [elements]
  void Commit();
  void Register(StateDict& state, const std::string& part) const;  // "<part>/worker.<m>/<block>"

 private:
  Tensor View(const Buffer& memory, WorkerId worker, BlockId block) const;

  const Layout* layout_;
  DType dtype_;
  int first_ = 0;                              // lowest worker seen here
  std::vector<std::vector<int64_t>> offsets_;  // [block id][worker - first_], in bytes; -1: not kept
  Buffer current_, pending_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_WORKER_MEMORY_H_
