// DiLoCo (Douillard et al., arXiv 2311.08105): every worker m moves its own copy x_m for H steps by an inner rule, without exchanging
// gradients; then the outer gradient, the mean of x - x_m, moves x by SGD with Nesterov momentum, and all copies start again from x:
//   H times:  x_m <- Rule(x_m, F_m(x_m))
//   v <- mu v + mean_m (x - x_m);   x <- x - outer_lr (mean_m (x - x_m) + mu v);   x_m <- x
// M = 1, H = 1, outer_lr 1 and mu 0 is the inner rule, to rounding.
// An evaluation is at one point for all workers that meet on a replica of the model, so a local step costs as many of them as a data column
// has workers: meant for one. Of each evaluation only the worker whose point it is counts, so the trajectory is the same on every mesh.
// Memory: four vectors for each worker with AdamW (x_m, F_m and the rule's two).
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/trace.h"
#include "comm/exchanges.h"
#include "comm/sums.h"
#include "optim/field_exchange.h"
#include "optim/layout_subset.h"
#include "optim/parameter_groups.h"
#include "optim/rules.h"
#include "optim/schedule.h"
#include "optim/schemes.h"
#include "optim/worker_vectors.h"
#include "tensor/reduce.h"

namespace conclave {
namespace {

// Every entry of `part` under a longer name, written by this rank: what one worker has, no other rank holds.
void AddPrefixed(StateDict& state, const StateDict& part, const std::string& prefix, bool own) {
  for (StateEntry entry : part.entries()) {
    entry.name = prefix + entry.name;
    entry.canonical = entry.canonical || own;
    state.Add(std::move(entry));
  }
}

RuleConfig OuterRule(const DilocoConfig& config) {
  RuleConfig rule;
  rule.mutable_sgd()->set_momentum(config.outer_momentum());
  rule.mutable_sgd()->set_nesterov(config.outer_momentum() > 0);
  rule.mutable_sgd()->set_weight_decay(0);
  return rule;
}

class Diloco final : public Scheme {
 public:
  Diloco(const OptimConfig& config, const SchemeContext& context, ParameterGroups groups, std::unique_ptr<Exchange> exchange)
      : config_(config),
        map_(context.exchange.workers),
        world_(context.exchange.world),
        total_steps_(context.total_steps),
        groups_(std::move(groups)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world),
        z_(InitialPoint(context)),
        point_(context.exchange.layout, context.exchange.dtype),
        x_m_(context.exchange.layout, map_, context.exchange.dtype),
        f_m_(context.exchange.layout, map_, context.exchange.dtype),
        delta_({std::max<int64_t>(1, LargestBlock(*context.exchange.layout))}, context.exchange.dtype),
        squares_({map_.workers, z_.layout().parameters().size()}, DType::kF64),
        clip_(static_cast<size_t>(map_.workers), 1.0) {
    const int column = z_.layout().rank() / map_.expert_axis;
    first_ = map_.ColumnFirst(column);
    count_ = map_.ColumnCount(column);
    for (int j = 0; j < map_.ranks / map_.expert_axis; ++j) evaluations_ = std::max(evaluations_, map_.ColumnCount(j));
  }

  // Rules and their slots for every worker seen here; the outer one.
  absl::Status MakeRules() {
    const Layout& all = z_.layout();
    for (int i = 0; i < count_; ++i) {
      for (int r = 0; r < static_cast<int>(groups_.rules().size()); ++r) {
        layouts_.push_back(std::make_unique<Layout>(
            LayoutSubset(all, [&](BlockId id) { return Holds(first_ + i, id) && groups_[id].rule == r && !groups_[id].frozen; })));
        ASSIGN_OR_RETURN(std::unique_ptr<UpdateRule> rule, MakeUpdateRule(groups_.rules()[r], layouts_.back().get(), z_.dtype()));
        rules_.push_back(std::move(rule));
      }
    }
    ASSIGN_OR_RETURN(outer_, MakeUpdateRule(OuterRule(config_.diloco()), &z_.layout(), z_.dtype()));
    return absl::OkStatus();
  }

  FlatVector& point() override { return z_; }
  absl::Status Start(Operator&) override {
    ToCopies();
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    StepReport report{.step = cursor.step};
    report.learning_rate = config_.diloco().lr() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    RETURN_IF_ERROR(EvaluateAll(field, cursor.Key(), report));
    RETURN_IF_ERROR(MeasureNorms(report));
    // The losses of several workers' points are mixed where they share a replica, so the norm alone is judged.
    if (const absl::Status verdict = guard.Accept(report.gradient_norm, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {});
    }
    ++accepted_;
    ++since_outer_;
    RETURN_IF_ERROR(MoveCopies(report.learning_rate));
    const bool last = total_steps_ > 0 && cursor.step + 1 == total_steps_;
    if (since_outer_ < config_.diloco().local_steps() && !last) return report;
    return Outer(cursor, guard, std::move(report));
  }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.AddScalar("optim.accepted", &accepted_);
    state.AddScalar("diloco.since_outer", &since_outer_);
    state.AddScalar("diloco.outer_steps", &outer_steps_);
    x_m_.Register(state, "diloco.x");
    const size_t kinds = groups_.rules().size();
    for (size_t i = 0; i < rules_.size(); ++i) {
      StateDict own;
      rules_[i]->Register(own);
      AddPrefixed(state, own, absl::StrFormat("diloco.worker.%d/", first_ + static_cast<int>(i / kinds)), true);
    }
    StateDict outer;
    outer_->Register(outer);
    AddPrefixed(state, outer, "diloco.outer/", false);
    exchange_->Register(state, "exchange");
  }

 private:
  // Whether worker m's copy of the block is kept here.
  bool Holds(int worker, BlockId id) const {
    const int own = worker - map_.First(z_.layout().rank());
    return z_.layout().is_local(id) &&
           ((own >= 0 && own < map_.Count(z_.layout().rank())) || z_.layout().parameters()[id].kind == BlockKind::kExpert);
  }

  // All workers' F_m at their own points, into f_m_.
  absl::Status EvaluateAll(Operator& field, const SampleKey& key, StepReport& report) {
    for (int i = 0; i < evaluations_; ++i) {
      const int mine = first_ + std::min(i, count_ - 1);
      for (const BlockId id : z_.layout().local_blocks()) {
        // Of a worker that another rank hosts, only experts are here, and only they matter here.
        point_.block(id).CopyFrom(Holds(mine, id) ? x_m_.At({mine}, id).Reshape(point_.block(id).shape()) : z_.block(id));
      }
      const OnBlock keep = [&](WorkerId worker, BlockId block, const Tensor& span, bool) {
        if (i < count_ && worker.value == mine) f_m_.At(worker, block).Flat().CopyFrom(span.Flat());
        return absl::OkStatus();
      };
      ASSIGN_OR_RETURN(Evaluation evaluation, field.Evaluate(point_, key, /*each_worker=*/true, keep));
      if (i == 0) report.evaluation = std::move(evaluation);
    }
    report.evaluations = 1;
    return Agree(report.evaluation);
  }

  // An operator that derives its terms from the point, and not from what the workers found, sees another point on each rank: the largest
  // value is reported. Collective: one all-reduce of 8 bytes a term.
  absl::Status Agree(Evaluation& evaluation) {
    values_.clear();
    for (const Term& term : evaluation.terms) values_.push_back(term.value);
    values_.push_back(evaluation.objective);
    const Tensor all(values_.data(), {static_cast<int64_t>(values_.size())}, DType::kF64);
    RETURN_IF_ERROR(world_->AllReduce("local losses", all, ReduceOp::kMax));
    for (size_t t = 0; t < evaluation.terms.size(); ++t) evaluation.terms[t].value = values_[t];
    evaluation.objective = values_.back();
    return absl::OkStatus();
  }

  // |F_m| of every worker, summed over blocks in their order: the same bits on any mesh. Collective: one all-reduce of 8 bytes a worker,
  // or a block and worker where experts are spread.
  absl::Status MeasureNorms(StepReport& report) {
    const int64_t blocks = z_.layout().parameters().size();
    double* const table = squares_->data<double>();
    squares_->Zero();
    RETURN_IF_ERROR(f_m_.ForEach([&](WorkerId worker, BlockId block, const Tensor& f) {
      if (!groups_[block].frozen) table[worker.value * blocks + block.value] = SumOfSquares(f);
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
    double all = 0, clipped = 0;
    for (int m = 0; m < map_.workers; ++m) {
      const double norm = std::sqrt(table[m]);
      all += table[m];
      clip_[static_cast<size_t>(m)] = config_.clip_norm() > 0 && norm > config_.clip_norm() ? config_.clip_norm() / norm : 1;
      clipped += clip_[static_cast<size_t>(m)];
    }
    report.gradient_norm = std::sqrt(all / map_.workers);  // root mean square over workers
    report.norms.total = report.gradient_norm;
    report.clip_factor = clipped / map_.workers;
    return absl::OkStatus();
  }

  absl::Status MoveCopies(double learning_rate) {
    const TraceSpan span("update");
    const size_t kinds = groups_.rules().size();
    return x_m_.ForEach([&](WorkerId worker, BlockId id, const Tensor& x) {
      const BlockSettings& block = groups_[id];
      if (block.frozen) return absl::OkStatus();
      const size_t rule = static_cast<size_t>(worker.value - first_) * kinds + static_cast<size_t>(block.rule);
      rules_[rule]->Apply(id, x, f_m_.At(worker, id),
                          {.learning_rate = learning_rate * block.lr_multiplier,
                           .weight_decay = block.weight_decay,
                           .gradient_scale = clip_[static_cast<size_t>(worker.value)],
                           .t = accepted_});
      return absl::OkStatus();
    });
  }

  absl::StatusOr<StepReport> Outer(const Cursor& cursor, Guard& guard, StepReport report) {
    exchange_->Begin(static_cast<uint32_t>(cursor.step), 0);
    RETURN_IF_ERROR(x_m_.ForEach([&](WorkerId worker, BlockId id, const Tensor& x) -> absl::Status {
      if (groups_[id].frozen) return absl::OkStatus();
      const Tensor delta = delta_->Slice(0, x.elements());
      Difference(x.dtype(), z_.block(id).raw(), x.raw(), delta.raw(), x.elements());
      return exchange_->Put(worker, id, delta);
    }));
    ASSIGN_OR_RETURN(const Aggregate mean, exchange_->Finish());
    ASSIGN_OR_RETURN(const VectorNorms norms, norm_.Of(*mean));
    if (!std::isfinite(norms.total)) {
      return RefuseStep(std::move(report), FailedPrecondition("the outer gradient is not finite"), guard, {exchange_.get()});
    }
    exchange_->Commit();
    ++outer_steps_;
    since_outer_ = 0;
    for (const BlockId id : z_.layout().local_blocks()) {
      if (!groups_[id].frozen) {
        outer_->Apply(id, z_.block(id), mean->block(id), {.learning_rate = config_.diloco().outer_lr(), .t = outer_steps_});
      }
    }
    ToCopies();
    return report;
  }

  void ToCopies() {
    CHECK_OK(x_m_.ForEach([&](WorkerId, BlockId id, const Tensor& x) {
      x.Flat().CopyFrom(z_.block(id).Flat());
      return absl::OkStatus();
    }));
  }

  const OptimConfig config_;
  const WorkerMap map_;
  Communicator* const world_;
  const int64_t total_steps_;
  const ParameterGroups groups_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  int first_ = 0, count_ = 0;  // workers of the data column
  int evaluations_ = 0;        // the most workers of any column
  FlatVector z_, point_;       // x; where an evaluation is
  WorkerVectors x_m_, f_m_;
  OwnedTensor delta_;    // [largest block]
  OwnedTensor squares_;  // [M, blocks]
  std::vector<double> clip_, values_;
  std::vector<std::unique_ptr<Layout>> layouts_;    // by worker and rule: where its slots are
  std::vector<std::unique_ptr<UpdateRule>> rules_;  // likewise
  std::unique_ptr<UpdateRule> outer_;
  int64_t accepted_ = 0;     // local steps made
  int64_t since_outer_ = 0;  // of them, since the last outer step
  int64_t outer_steps_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeDiloco(const OptimConfig& config, const SchemeContext& context) {
  const DilocoConfig& own = config.diloco();
  if (own.local_steps() < 1) return InvalidArgument("optim.diloco.local_steps: must be at least 1, got %d", own.local_steps());
  ASSIGN_OR_RETURN(ParameterGroups groups, ParameterGroups::Make(context.exchange.layout->parameters(), own.rule(), config.groups()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(own.exchange(), context.exchange));
  auto scheme = std::make_unique<Diloco>(config, context, std::move(groups), std::move(exchange));
  RETURN_IF_ERROR(scheme->MakeRules());
  return scheme;
}

}  // namespace conclave
