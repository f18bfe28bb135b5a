// FIRST_ORDER: one evaluation, one exchange, one update rule. Evaluate -> finish -> norm -> guard -> commit -> clip -> apply.
#include <functional>
#include <utility>
#include <vector>

#include "base/trace.h"
#include "comm/exchanges.h"
#include "optim/field_exchange.h"
#include "optim/layout_subset.h"
#include "optim/parameter_groups.h"
#include "optim/rules.h"
#include "optim/schedule.h"
#include "optim/schemes.h"

namespace conclave {
namespace {

class FirstOrder final : public Scheme {
 public:
  FirstOrder(const OptimConfig& config, const SchemeContext& context, ParameterGroups groups, std::unique_ptr<Exchange> exchange)
      : config_(config),
        total_steps_(context.total_steps),
        sharded_(context.exchange.to_canonical),
        updated_(context.updated),
        groups_(std::move(groups)),
        exchange_(std::move(exchange)),
        norm_(context.exchange.layout, context.exchange.world, [this](BlockId id) { return !groups_[id].frozen; }),
        z_(InitialPoint(context)) {}

  // One rule object per config, with slots for the blocks that it moves and no others.
  absl::Status MakeRules() {
    for (int i = 0; i < static_cast<int>(groups_.rules().size()); ++i) {
      layouts_.push_back(
          std::make_unique<Layout>(LayoutSubset(z_.layout(), [&](BlockId id) { return groups_[id].rule == i && updates(id); })));
      ASSIGN_OR_RETURN(std::unique_ptr<UpdateRule> rule, MakeUpdateRule(groups_.rules()[i], layouts_.back().get(), z_.dtype()));
      rules_.push_back(std::move(rule));
    }
    return absl::OkStatus();
  }

  FlatVector& point() override { return z_; }
  absl::Status Settle() override { return exchange_->FinishSharing(); }
  absl::Status Start(Operator&) override { return absl::OkStatus(); }

  absl::StatusOr<StepReport> Step(Operator& field, const Cursor& cursor, Guard& guard) override {
    StepReport report{.step = cursor.step};
    report.learning_rate = config_.first_order().lr() * ScheduleFactor(config_.schedule(), cursor.step, total_steps_);
    ASSIGN_OR_RETURN(Exchanged f, ExchangeField(field, z_, cursor.Key(), 0, *exchange_, &norm_));
    report.evaluation = std::move(f.evaluation);
    ASSIGN_OR_RETURN(report.norms, NormOf(*f.aggregate, f, norm_));
    report.gradient_norm = report.norms.total;
    if (const absl::Status verdict = guard.Accept(report.evaluation.objective, report.gradient_norm); !verdict.ok()) {
      return RefuseStep(std::move(report), verdict, guard, {exchange_.get()});
    }
    exchange_->Commit();
    if (config_.clip_norm() > 0 && report.gradient_norm > config_.clip_norm())
      report.clip_factor = config_.clip_norm() / report.gradient_norm;
    const TraceSpan span("update");
    Apply(*f.aggregate, report);
    if (sharded_) RETURN_IF_ERROR(exchange_->StartSharing(z_));
    return report;
  }

  Exchange* exchange() override { return exchange_.get(); }

  void Register(StateDict& state) override {
    state.Add("model", z_);
    state.AddScalar("optim.accepted", &accepted_);
    for (const auto& rule : rules_) rule->Register(state);
    exchange_->Register(state, "exchange");
  }

 private:
  // Whether this rank moves the block: with sharded updates, its canonical owner alone.
  bool updates(BlockId id) const { return !groups_[id].frozen && (!sharded_ || z_.layout().is_canonical(id)); }

  void Apply(const FlatVector& gradient, const StepReport& report) {
    ++accepted_;
    for (const BlockId id : z_.layout().local_blocks()) {
      const BlockSettings& block = groups_[id];
      if (!updates(id)) continue;
      rules_[block.rule]->Apply(id, z_.block(id), gradient.block(id),
                                {.learning_rate = report.learning_rate * block.lr_multiplier,
                                 .weight_decay = block.weight_decay,
                                 .gradient_scale = report.clip_factor,
                                 .t = accepted_});
      if (updated_) updated_(id);
    }
  }

  OptimConfig config_;
  int64_t total_steps_;
  bool sharded_;
  std::function<void(BlockId)> updated_;
  ParameterGroups groups_;
  std::unique_ptr<Exchange> exchange_;
  LogicalNorm norm_;
  FlatVector z_;                                  // the master parameters
  std::vector<std::unique_ptr<Layout>> layouts_;  // by rule: where its slots are
  std::vector<std::unique_ptr<UpdateRule>> rules_;
  int64_t accepted_ = 0;  // updates made: the rules' t
};

}  // namespace

absl::StatusOr<std::unique_ptr<Scheme>> MakeFirstOrder(const OptimConfig& config, const SchemeContext& context) {
  ASSIGN_OR_RETURN(ParameterGroups groups,
                   ParameterGroups::Make(context.exchange.layout->parameters(), config.first_order().rule(), config.groups()));
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(config.first_order().exchange(), context.exchange));
  auto scheme = std::make_unique<FirstOrder>(config, context, std::move(groups), std::move(exchange));
  RETURN_IF_ERROR(scheme->MakeRules());
  return scheme;
}

}  // namespace conclave
