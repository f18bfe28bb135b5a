// SparseSums: for blocks of one kind, every worker's few terms go to the owners of regions of the blocks, who add them by the reduction
// tree over workers, drop sums below a threshold and send the rest to everyone. Everyone goes on with the decoded sums: equal bits on every
// rank and for any number of ranks.
//
// Memory: for each region of a block the most that all its sums may take, a region may come to hold all of them; pages that no message
// reaches are never touched.
// Bytes sent with one worker a rank, for k terms a worker of b bytes each: k b (M - 1) / M up, and as many down for k sums that remain.
#ifndef CONCLAVE_COMM_SPARSE_SUMS_H_
#define CONCLAVE_COMM_SPARSE_SUMS_H_

#include <vector>

#include "comm/exchange.h"
#include "comm/ledger.h"
#include "comm/reduction_tree.h"
#include "comm/region_exchange.h"
#include "comm/sparse_terms.h"

namespace conclave {

// One block and how it is cut: `regions` runs with an owner each, the workers first_owner, first_owner + 1, ... mod M.
struct SparseBlock {
  BlockId id;
  int64_t elements = 0;
  int64_t most_terms = 0;  // of one worker
  int regions = 1, first_owner = 0;
};

// What follows for one exchange. Whoever calls gives all ranks the same.
struct SparsePlan {
  std::vector<int64_t> cuts;  // [regions + 1], ascending from 0 to elements
  double threshold = 0;       // sums of smaller magnitude stay where they are; 0: all come back
};

class SparseSums {
 public:
  SparseSums(const ExchangeContext& context, bool expert, std::vector<SparseBlock> blocks);

  // The workers whose vectors come to this rank: ids first() .. first() + count() - 1.
  int first() const { return own_.lo; }
  int count() const { return own_.hi - own_.lo; }
  const std::vector<SparseBlock>& blocks() const { return blocks_; }

  // Before Send. block: index. Null terms: not finite, which makes the block's sums NaN everywhere.
  SparsePlan& plan(size_t block) { return plans_[block]; }
  void Begin(const CodecKey& key);
  void Set(int worker, size_t block, const SparseTerms* terms);
  // All members alike, once every worker's terms of every block are set: to the owners and back. Errors: DataLoss.
  absl::Status Run();
  // After Run: the block's means that came back, or null where they are poisoned.
  const SparseTerms* means(size_t block) const { return poisoned_[block] ? nullptr : &means_[block]; }
  // Of the last Run, with one worker a rank for replicated blocks; what this rank really sends for expert blocks.
  const LogicalWire& logical() const { return now_; }

 private:
  // One region of one block.
  struct Region {
    size_t block = 0;
    int number = 0;
    int owner_worker = 0, owner = 0;     // and the member that hosts it
    int64_t up_most = 0, down_most = 0;  // bytes of a message, frame included
  };
  struct Scratch {
    SparseTerms left, right;
  };
  int LogicalOwner(const Region& region) const { return expert_ ? region.owner : region.owner_worker; }
  int LogicalMembers() const { return expert_ ? group_->size() : workers_; }
  SparseRange RangeOf(const Region& region) const;
  CodecKey KeyOf(const Region& region, WorkerId worker) const;
  void PlanRegions(const ExchangeContext& context);
  absl::Status SendUp();
  absl::Status FindUp();
  absl::Status SumRegion(size_t served, const TreeNode& workers, size_t depth, SparseTerms& out, bool& poisoned);
  absl::Status SendDown();
  absl::Status TakeDown();
  void BookUp(const Region& region, int worker, int64_t payload);
  void BookDown(const Region& region, int64_t payload);
  void BookLengths();

  const int workers_;
  const DType dtype_;
  const bool expert_;
  Communicator* const group_;
  const int me_;
  TreeNode own_;
  std::vector<TreeNode> ranges_;  // workers, by member
  std::vector<SparseBlock> blocks_;
  std::vector<SparsePlan> plans_;
  std::vector<Region> regions_;
  std::vector<size_t> served_;                     // regions owned here
  std::vector<bool> owns_;                         // a region, by logical member
  std::vector<const SparseTerms*> terms_;          // [own workers, blocks]
  std::vector<std::span<const std::byte>> found_;  // [served, workers]
  std::vector<int64_t> next_;                      // by member
  ServedRuns runs_;
  std::vector<Scratch> scratch_;  // by depth of the tree
  SparseTerms sum_;
  std::vector<SparseTerms> means_;  // by block
  std::vector<bool> poisoned_;      // by block
  CodecKey key_;
  LogicalWire now_;
};

}  // namespace conclave

#endif  // CONCLAVE_COMM_SPARSE_SUMS_H_
