// DiLoCo (Douillard et al., arXiv 2311.08105): every worker m moves its own copy x_m for H steps by an inner rule, without exchanging
// gradients; then the outer gradient, the mean of x - x_m, moves x by SGD with Nesterov momentum, and all copies start again from x:
//   H times:  x_m <- Rule(x_m, F_m(x_m))
//   v <- mu v + mean_m (x - x_m);   x <- x - outer_lr (mean_m (x - x_m) + mu v);   x_m <- x
// Where a copy itself is no longer finite, the refused step ends the round: what the copies walked since the last meeting is lost, and they
// start again from x. M = 1, H = 1, outer_lr 1 and mu 0 is the inner rule, to rounding.
// Where tokens travel to experts, a local step costs as many evaluations as a data column has workers (optim/worker_points.h).
// Memory: four vectors for each worker with AdamW (x_m, F_m and the rule's two).
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/trace.h"
#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/layout_subset.h"
#include "optim/local_copies.h"
#include "optim/parameter_groups.h"
#include "optim/rules.h"
#include "optim/schedule.h"

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
        total_steps_(context.total_steps),
        groups_(std::move(groups)),
        copies_(context, std::move(exchange)),
        clip_(static_cast<size_t>(map_.workers), 1.0) {}

  // Rules and their slots for every worker seen here; the outer one.
  absl::Status MakeRules() {
    const Layout& all = z().layout();
    const WorkerPoints& points = copies_.points();
    for (int i = 0; i < points.count(); ++i) {
      for (int r = 0; r < static_cast<int>(groups_.rules().size()); ++r) {
        layouts_.push_back(std::make_unique<Layout>(LayoutSubset(
            all, [&](BlockId id) { return points.Holds(points.first() + i, id) && groups_[id].rule == r && !groups_[id].frozen; })));
        ASSIGN_OR_RETURN(std::unique_ptr<UpdateRule> rule, MakeUpdateRule(groups_.rules()[r], layouts_.back().get(), z().dtype()));
        rules_.push_back(std::move(rule));
      }
    }
    ASSIGN_OR_RETURN(outer_, MakeUpdateRule(OuterRule(config_.diloco()), &z().layout(), z().dtype()));
    return absl::OkStatus();
  }

  FlatVector& point() override { return copies_.z(); }
  absl::Status Start(Operator&) override {
    copies_.StartFromZ();
    return absl::OkStatus();
  }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    StepReport report{.step = cursor.step};
    report.learning_rate = config_.diloco().lr() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    ASSIGN_OR_RETURN(report.evaluation, copies_.Evaluate(field, copies_.x_m(), cursor.Key()));
    RETURN_IF_ERROR(MeasureNorms(report));
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return copies_.Refuse(std::move(report), verdict, guard, false);
    }
    ++accepted_;
    RETURN_IF_ERROR(MoveCopies(report.learning_rate));
    copies_.GoOn(copies_.x_m());
    const bool last = total_steps_ > 0 && cursor.step + 1 == total_steps_;
    if (copies_.alone() < config_.diloco().local_steps() && !last) return report;
    return Outer(cursor, guard, std::move(report));
  }

  void Register(StateDict& state) override {
    copies_.Register(state, "diloco.x", "diloco.since_outer");
    state.AddScalar("optim.accepted", &accepted_);
    state.AddScalar("diloco.outer_steps", &outer_steps_);
    const size_t kinds = groups_.rules().size();
    for (size_t i = 0; i < rules_.size(); ++i) {
      StateDict own;
      rules_[i]->Register(own);
      AddPrefixed(state, own, absl::StrFormat("diloco.worker.%d/", copies_.points().first() + static_cast<int>(i / kinds)), true);
    }
    StateDict outer;
    outer_->Register(outer);
    AddPrefixed(state, outer, "diloco.outer/", false);
  }

 private:
  absl::Status MeasureNorms(StepReport& report) {
    ASSIGN_OR_RETURN(const std::span<const double> squares,
                     copies_.points().SquaredNorms(copies_.f_m(), [this](BlockId block) { return !groups_[block].frozen; }));
    double clipped = 0;
    for (int m = 0; m < map_.workers; ++m) {
      const double norm = std::sqrt(squares[static_cast<size_t>(m)]);
      clip_[static_cast<size_t>(m)] = config_.clip_norm() > 0 && norm > config_.clip_norm() ? config_.clip_norm() / norm : 1;
      clipped += clip_[static_cast<size_t>(m)];
    }
    report.gradient_norm = RootMean(squares);
    report.norms.total = report.gradient_norm;
    report.clip_factor = clipped / map_.workers;
    return absl::OkStatus();
  }

  absl::Status MoveCopies(double learning_rate) {
    const TraceSpan span("update");
    const size_t kinds = groups_.rules().size();
    return copies_.x_m().ForEach([&](WorkerId worker, BlockId id, const Tensor& x) {
      const BlockSettings& block = groups_[id];
      if (block.frozen) return absl::OkStatus();
      const size_t rule = static_cast<size_t>(worker.value - copies_.points().first()) * kinds + static_cast<size_t>(block.rule);
      rules_[rule]->Apply(id, x, copies_.f_m().At(worker, id),
                          {.learning_rate = learning_rate * block.lr_multiplier,
                           .weight_decay = block.weight_decay,
                           .gradient_scale = clip_[static_cast<size_t>(worker.value)],
                           .t = accepted_});
      return absl::OkStatus();
    });
  }

  absl::StatusOr<StepReport> Outer(const Cursor& cursor, Guard& guard, StepReport report) {
    ASSIGN_OR_RETURN(const Aggregate mean,
                     copies_.MeanMove(copies_.x_m(), cursor.Key().step, [this](BlockId id) { return !groups_[id].frozen; }));
    ASSIGN_OR_RETURN(const double norm, copies_.NormOf(mean));
    if (!std::isfinite(norm)) return copies_.RefuseMeeting(std::move(report), guard);
    copies_.exchange().Commit();
    ++outer_steps_;
    for (const BlockId id : z().layout().local_blocks()) {
      if (!groups_[id].frozen) {
        outer_->Apply(id, z().block(id), mean->block(id), {.learning_rate = config_.diloco().outer_lr(), .t = outer_steps_});
      }
    }
    copies_.StartFromZ();
    return report;
  }

  FlatVector& z() { return copies_.z(); }

  const OptimConfig config_;
  const WorkerMap map_;
  const int64_t total_steps_;
  const ParameterGroups groups_;
  LocalCopies copies_;                              // z: x
  std::vector<double> clip_;                        // by worker
  std::vector<std::unique_ptr<Layout>> layouts_;    // by worker and rule: where its slots are
  std::vector<std::unique_ptr<UpdateRule>> rules_;  // likewise
  std::unique_ptr<UpdateRule> outer_;
  int64_t accepted_ = 0;  // local steps made
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
