#include "optim/worker_points.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/reduction_tree.h"
#include "tensor/reduce.h"

namespace conclave {

WorkerPoints::WorkerPoints(const ExchangeContext& context)
    : map_(context.workers),
      layout_(context.layout),
      world_(context.world),
      point_(context.layout, context.dtype),
      squares_({map_.workers, context.layout->parameters().size()}, DType::kF64),
      chosen_(static_cast<size_t>(map_.workers)) {
  const int column = layout_->rank() / map_.expert_axis;
  first_ = map_.ColumnFirst(column);
  count_ = map_.ColumnCount(column);
  for (int j = 0; j < map_.ranks / map_.expert_axis; ++j) evaluations_ = std::max(evaluations_, map_.ColumnCount(j));
}

bool WorkerPoints::Holds(int worker, BlockId id) const {
  const int own = worker - map_.First(layout_->rank());
  return layout_->is_local(id) && ((own >= 0 && own < map_.Count(layout_->rank())) || layout_->parameters()[id].kind == BlockKind::kExpert);
}

std::span<const char> WorkerPoints::Choose(int i) {
  std::ranges::fill(chosen_, 0);
  for (int j = 0; j < map_.ranks / map_.expert_axis; ++j) {
    if (i < map_.ColumnCount(j)) chosen_[map_.ColumnFirst(j) + i] = 1;
  }
  return chosen_;
}

absl::StatusOr<Evaluation> WorkerPoints::Evaluate(Operator& field, const WorkerVectors& x_m, const FlatVector& z, const SampleKey& key,
                                                  const WorkerVectors& f_m) {
  Evaluation result;
  for (int i = 0; i < evaluations_; ++i) {
    const int mine = first_ + std::min(i, count_ - 1);
    for (const BlockId id : layout_->local_blocks()) {
      // Of a worker that another rank hosts, only experts are here, and only they matter here.
      point_.block(id).CopyFrom(Holds(mine, id) ? x_m.At({mine}, id).Reshape(point_.block(id).shape()) : z.block(id));
    }
    const OnBlock keep = [&](WorkerId worker, BlockId block, const Tensor& span, bool) {
      f_m.At(worker, block).Flat().CopyFrom(span.Flat());
      return absl::OkStatus();
    };
    field.Select(Choose(i));
    absl::StatusOr<Evaluation> evaluation = field.Evaluate(point_, key, /*each_worker=*/true, keep);
    field.Select({});
    RETURN_IF_ERROR(evaluation.status());
    if (i == 0) terms_.assign(evaluation->by_worker.size(), 0);
    for (int m = map_.First(layout_->rank()); m < map_.First(layout_->rank() + 1); ++m) {
      const size_t columns = evaluation->terms.size(), row = static_cast<size_t>(m) * columns;
      if (chosen_[m]) std::copy_n(evaluation->by_worker.begin() + row, columns, terms_.begin() + row);
    }
    if (i == 0) {
      result = *std::move(evaluation);
    } else {
      for (size_t c = 0; c < result.counters.size(); ++c) result.counters[c] += evaluation->counters[c];
    }
  }
  RETURN_IF_ERROR(AddTerms(result));
  return result;
}

// By the tree over workers, whichever repetitions they came from.
absl::Status WorkerPoints::AddTerms(Evaluation& evaluation) {
  const Tensor all(terms_.data(), {static_cast<int64_t>(terms_.size())}, DType::kF64);
  RETURN_IF_ERROR(world_->AllReduce("local losses", all, ReduceOp::kSum));
  evaluation.by_worker.assign(terms_.begin(), terms_.end());
  SumLeaves(terms_, map_.workers);
  evaluation.objective = 0;
  for (size_t t = 0; t < evaluation.terms.size(); ++t) {
    Term& term = evaluation.terms[t];
    term.value = terms_[t];
    if (term.objective) evaluation.objective += term.coefficient * term.value;
  }
  return absl::OkStatus();
}

// Blocks are added in their order.
absl::StatusOr<std::span<const double>> WorkerPoints::SquaredNorms(const WorkerVectors& v_m, const std::function<bool(BlockId)>& counts) {
  const int64_t blocks = layout_->parameters().size();
  double* const table = squares_->data<double>();
  squares_->Zero();
  RETURN_IF_ERROR(v_m.ForEach([&](WorkerId worker, BlockId block, const Tensor& v) {
    if (counts(block)) table[worker.value * blocks + block.value] = SumOfSquares(v);
    return absl::OkStatus();
  }));
  const bool spread = map_.expert_axis > 1;
  if (spread) RETURN_IF_ERROR(world_->AllReduce("local norms", squares_->Flat(), ReduceOp::kSum));
  for (int m = 0; m < map_.workers; ++m) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += table[m * blocks + b];
    table[m] = sum;  // row m begins at or behind what is still to be read
  }
  const Tensor sums(table, {map_.workers}, DType::kF64);
  if (!spread) RETURN_IF_ERROR(world_->AllReduce("local norms", sums, ReduceOp::kSum));
  return std::span<const double>(table, static_cast<size_t>(map_.workers));
}

double RootMean(std::span<const double> squares) {
  double sum = 0;
  for (const double square : squares) sum += square;
  return std::sqrt(sum / static_cast<double>(squares.size()));
}

}  // namespace conclave
