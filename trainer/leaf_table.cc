#include "trainer/leaf_table.h"

#include <algorithm>

#include "comm/reduction_tree.h"

namespace conclave {

void LeafTable::Begin(int64_t leaves) {
  leaves_ = leaves;
  const int64_t size = leaves * columns_ + counters_;
  if (!data_->defined() || data_->elements() < size) data_ = OwnedTensor({size}, DType::kF64);
  data_->Zero();
}

void LeafTable::Count(std::span<const int64_t> counts) {
  double* totals = data_->data<double>() + leaves_ * columns_;
  for (size_t i = 0; i < counts.size(); ++i) totals[i] += static_cast<double>(counts[i]);
}

absl::Status LeafTable::Gather(Communicator& control, int64_t leaves_per_worker, std::span<double> by_worker) {
  RETURN_IF_ERROR(control.AllReduce("leaf table", data_->Slice(0, leaves_ * columns_ + counters_), ReduceOp::kSum));
  if (leaves_ == 0) return absl::OkStatus();
  const std::span<double> rows = data_->span<double>();
  const int64_t workers = leaves_ / leaves_per_worker, share = leaves_per_worker * columns_;
  for (int64_t m = 0; m < workers; ++m) {
    SumLeaves(rows.subspan(m * share, share), static_cast<int>(leaves_per_worker));
    std::copy_n(rows.begin() + m * share, columns_, rows.begin() + m * columns_);
  }
  std::copy_n(rows.begin(), by_worker.size(), by_worker.begin());
  SumLeaves(rows.first(workers * columns_), static_cast<int>(workers));
  return absl::OkStatus();
}

}  // namespace conclave
