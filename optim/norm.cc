#include "optim/norm.h"

#include <algorithm>
#include <cmath>

#include "base/trace.h"
#include "tensor/reduce.h"

namespace conclave {

LogicalNorm::LogicalNorm(const Layout* layout, Communicator* world, const std::function<bool(BlockId)>& counts)
    : layout_(layout), world_(world), noted_(layout->parameters().size()), squares_({layout->parameters().size()}, DType::kF64) {
  for (int i = 0; i < layout->parameters().size(); ++i) {
    const BlockSpec& spec = layout->parameters()[{i}];
    if (counts && !counts({i})) {
      parts_.push_back(Part::kNone);
    } else if (spec.of_mixture()) {
      parts_.push_back(Part::kExpert);
    } else {
      parts_.push_back(spec.name.find("router") != std::string::npos ? Part::kRouter : Part::kDense);
    }
  }
}

void LogicalNorm::Note(BlockId block, const Tensor& value) {
  const TraceSpan span("gradient norm");
  if (!counts_here(block)) return;
  squares_->span<double>()[block.value] = SumOfSquares(value);
  noted_[block.value] = 1;
}

absl::StatusOr<VectorNorms> LogicalNorm::Of(const FlatVector& x) {
  const TraceSpan span("gradient norm");
  const auto squares = squares_->span<double>();
  for (size_t i = 0; i < squares.size(); ++i) squares[i] = noted_[i] != 0 ? squares[i] : 0;
  for (const BlockId id : layout_->local_blocks()) {
    if (counts_here(id) && noted_[id.value] == 0) squares[id.value] = SumOfSquares(x.block(id));
  }
  std::ranges::fill(noted_, 0);
  RETURN_IF_ERROR(world_->AllReduce("norm", *squares_, ReduceOp::kSum));
  VectorNorms norms;
  for (size_t i = 0; i < parts_.size(); ++i) {
    norms.total += squares[i];
    switch (parts_[i]) {
      case Part::kNone:
        break;
      case Part::kDense:
        norms.dense += squares[i];
        break;
      case Part::kRouter:
        norms.router += squares[i];
        break;
      case Part::kExpert:
        norms.expert += squares[i];
        break;
    }
  }
  for (double* value : {&norms.total, &norms.dense, &norms.router, &norms.expert}) *value = std::sqrt(*value);
  return norms;
}

}  // namespace conclave
