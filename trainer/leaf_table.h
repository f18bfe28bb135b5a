// LeafTable: one row of f64 per leaf (terms, samples), equal on all ranks after Gather, summed by the reduction tree.
#ifndef CONCLAVE_TRAINER_LEAF_TABLE_H_
#define CONCLAVE_TRAINER_LEAF_TABLE_H_

#include <span>

#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace conclave {

// Rows of leaves that live elsewhere stay +0 until Gather adds them: every entry has one contributor, so nothing is rounded. Counters are
// integers below 2^53, summed over ranks. Memory is kept between uses and grows only when asked for more rows than before.
class LeafTable {
 public:
  LeafTable(int64_t columns, int64_t counters) : columns_(columns), counters_(counters) {}

  void Begin(int64_t leaves);
  double& At(int64_t leaf, int64_t column) { return data_->data<double>()[leaf * columns_ + column]; }
  // Adds to the counters.
  void Count(std::span<const int64_t> counts);
  // Collective. Afterwards the sums are there: workers' leaves by the tree first, then workers by the tree (leaves = workers *
  // leaves_per_worker). by_worker: where not empty, receives the sums of each worker's leaves: [workers, columns].
  absl::Status Gather(Communicator& control, int64_t leaves_per_worker, std::span<double> by_worker = {});
  double Sum(int64_t column) const { return data_->data<double>()[column]; }
  int64_t Counter(int64_t i) const { return static_cast<int64_t>(data_->data<double>()[leaves_ * columns_ + i]); }
  int64_t counters() const { return counters_; }

 private:
  int64_t columns_, counters_, leaves_ = 0;
  OwnedTensor data_;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_LEAF_TABLE_H_
