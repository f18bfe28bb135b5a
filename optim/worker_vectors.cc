#include "optim/worker_vectors.h"

#include <algorithm>

#include "optim/layout_subset.h"

namespace conclave {

WorkerVectors::WorkerVectors(const Layout* layout, const WorkerMap& workers, DType dtype) {
  const int rank = layout->rank();
  const int column = rank / workers.expert_axis;
  first_ = workers.ColumnFirst(column);
  all_ = std::make_unique<Layout>(*layout);
  experts_ =
      std::make_unique<Layout>(LayoutSubset(*layout, [layout](BlockId id) { return layout->parameters()[id].kind == BlockKind::kExpert; }));
  for (int i = 0; i < workers.ColumnCount(column); ++i) {
    const int own = first_ + i - workers.First(rank);
    vectors_.emplace_back(own >= 0 && own < workers.Count(rank) ? all_.get() : experts_.get(), dtype);
  }
}

Tensor WorkerVectors::At(WorkerId worker, BlockId block) const {
  const int index = worker.value - first_;
  CHECK(index >= 0 && index < static_cast<int>(vectors_.size())) << "worker " << worker.value << " is not of this column";
  return vectors_[index].block(block);
}

absl::Status WorkerVectors::ForEach(const std::function<absl::Status(WorkerId, BlockId, const Tensor&)>& visit) const {
  for (size_t i = 0; i < vectors_.size(); ++i) {
    for (const BlockId id : vectors_[i].layout().local_blocks()) {
      RETURN_IF_ERROR(visit({first_ + static_cast<int>(i)}, id, vectors_[i].block(id)));
    }
  }
  return absl::OkStatus();
}

void WorkerVectors::CopyFrom(const WorkerVectors& source) {
  for (size_t i = 0; i < vectors_.size(); ++i) vectors_[i].CopyFrom(source.vectors_[i]);
}

void WorkerVectors::CopyFrom(const FlatVector& source) {
  for (const FlatVector& vector : vectors_) {
    for (const BlockId id : vector.layout().local_blocks()) vector.block(id).CopyFrom(source.block(id));
  }
}

void WorkerVectors::Combine(double a, const WorkerVectors& x, double b, const WorkerVectors& y) {
  for (size_t i = 0; i < vectors_.size(); ++i) vectors_[i].Combine(a, x.vectors_[i], b, y.vectors_[i]);
}

void WorkerVectors::Register(StateDict& state, const std::string& part) const {
  for (size_t i = 0; i < vectors_.size(); ++i) {
    const Layout& layout = vectors_[i].layout();
    for (const BlockId id : layout.local_blocks()) {
      state.Add(StateEntry{.name = absl::StrFormat("%s/worker.%d/%s", part, first_ + static_cast<int>(i), layout.parameters()[id].name),
                           .data = vectors_[i].block(id),
                           .canonical = true});
    }
  }
}

int64_t LargestBlock(const Layout& layout) {
  int64_t most = 0;
  for (const BlockId id : layout.local_blocks()) most = std::max(most, layout.parameters()[id].shape.elements());
  return most;
}

}  // namespace conclave
