// Rules about what travels: workers' vectors through exchanges, tokens to experts.
#include "parallel/dispatch_route.h"
#include "tensor/ops/mlp_pieces.h"
#include "trainer/config_codecs.h"
#include "trainer/config_defaults.h"
#include "trainer/config_validate.h"

namespace conclave {
namespace {

// Exchanges, wherever the scheme has them.
void CheckExchanges(const Experiment& config, ConfigRules* rules) {
  const bool invariant = config.parallel().numerics() == ParallelConfig::WORLD_SIZE_INVARIANT;
  const int64_t workers = config.trainer().workers();
  VisitBlocks(config.optim(), "optim", [&](const google::protobuf::Message& block, const std::string& path) {
    if (block.GetDescriptor() == WhenItPaysConfig::descriptor()) {
      const auto& pays = static_cast<const WhenItPaysConfig&>(block);
      rules->Require(!invariant || (pays.link_rate() > 0 && pays.codec_rate() > 0), {path, "parallel.numerics"},
                     "decisions from measured rates differ from run to run, so WORLD_SIZE_INVARIANT wants both link_rate and codec_rate");
    }
    if (block.GetDescriptor() == HierarchicalConfig::descriptor() && path.find(".hierarchical.exchange.") == std::string::npos) {
      const int64_t size = static_cast<const HierarchicalConfig&>(block).workers_per_group();
      rules->Require(size < 1 || workers % size == 0, {path + ".workers_per_group", "trainer.workers"},
                     absl::StrFormat("%d workers cannot be cut into equal groups of %d", workers, size));
    }
  });
}

// Schemes whose method has an exchange of one kind.
void CheckKinds(const OptimConfig& optim, ConfigRules* rules) {
  const auto* kinds = ExchangeConfig::descriptor()->FindOneofByName("kind");
  const auto require = [&](bool chosen, const std::string& scheme, const ExchangeConfig& exchange, ExchangeConfig::KindCase lossy) {
    if (!chosen || exchange.kind_case() == ExchangeConfig::kExact || exchange.kind_case() == lossy) return;
    const std::string path = "optim." + scheme + ".exchange";
    const auto* kind = exchange.GetReflection()->GetOneofFieldDescriptor(exchange, kinds);
    const std::string got = kind == nullptr ? "none" : kind->name();
    rules->Require(
        false, {path + "." + got, path, "optim." + scheme},
        absl::StrFormat("%s takes exact or %s, not %s", path, ExchangeConfig::descriptor()->FindFieldByNumber(lossy)->name(), got));
  };
  require(optim.has_masha1(), "masha1", optim.masha1().exchange(), ExchangeConfig::kQuantized);
  require(optim.has_masha2(), "masha2", optim.masha2().exchange(), ExchangeConfig::kEf14);
  require(optim.has_optimistic_masha(), "optimistic_masha", optim.optimistic_masha().exchange(), ExchangeConfig::kQuantized);
}

// How tokens travel to experts.
void CheckDispatch(const Experiment& config, ConfigRules* rules) {
  const DispatchConfig& wire = config.parallel().dispatch();
  const MoeConfig& moe = config.model().moe_lm().moe();
  const bool experts = config.model().has_moe_lm() && config.model().moe_lm().has_moe();
  rules->Require(experts || wire.most_rows() == 0, {"parallel.dispatch.most_rows"},
                 "there are no experts to send rows to: the model has none");
  rules->Require(experts || wire.pieces() == 0, {"parallel.dispatch.pieces"},
                 "there are no rows to cut into pieces: the model has no experts");
  rules->Require(experts || !wire.fold(), {"parallel.dispatch.fold"}, "there are no experts that could send sums home: the model has none");
  const bool pre_reduce = moe.combine_order() == MoeConfig::PRE_REDUCE;
  if (wire.beyond_most_rows() == DispatchConfig::IN_PIECES) {
    rules->Require(wire.most_rows() > kMostMlpPieceRows, {"parallel.dispatch.most_rows", "parallel.dispatch.beyond_most_rows"},
                   absl::StrFormat("with beyond_most_rows: IN_PIECES most_rows must be at least %d, since so many rows of one expert go in "
                                   "one piece; it is %d",
                                   kMostMlpPieceRows + 1, wire.most_rows()));
    rules->Require(!pre_reduce, {"parallel.dispatch.beyond_most_rows", "model.moe_lm.moe.combine_order"},
                   "IN_PIECES needs combine_order: EXACT: sums formed by ranks (PRE_REDUCE) would depend on the pieces");
  }
  if (!experts) return;
  const bool rounds_home = wire.combine_forward() != DispatchConfig::EXACT || wire.dispatch_backward() != DispatchConfig::EXACT;
  rules->Require(
      wire.route() != DispatchConfig::AUTO || !pre_reduce || (moe.top_k() <= 2 && !rounds_home),
      {"parallel.dispatch.route", "model.moe_lm.moe.combine_order"},
      "with combine_order PRE_REDUCE and more than two experts a token, or a lossy way home, results depend on the route, and AUTO "
      "measures one at every start: a resumed run could go on with other bits; name a route");
  if (!wire.fold()) return;
  const auto refuse = [&](bool holds, std::string_view other, const std::string& why) {
    rules->Require(holds, {"parallel.dispatch.fold", other}, "fold has nothing to do " + why + "; leave it out");
  };
  refuse(wire.route() == DispatchConfig::AUTO || SendsOnce(wire.route()), "parallel.dispatch.route",
         absl::StrFormat("on route %s: it sums what a DEDUPLICATED route brought together", DispatchConfig::Route_Name(wire.route())));
  refuse(!pre_reduce, "model.moe_lm.moe.combine_order", "beside combine_order PRE_REDUCE, which sums everything on the way");
  refuse(!rounds_home, "parallel.dispatch.combine_forward",
         "where rows are rounded on their way home (combine_forward, dispatch_backward)");
  refuse(moe.top_k() <= kMostFoldedSlots, "model.moe_lm.moe.top_k", absl::StrFormat("with more than %d experts a token", kMostFoldedSlots));
}

}  // namespace

void CheckWire(const Experiment& config, ConfigRules* rules) {
  CheckExchanges(config, rules);
  CheckKinds(config.optim(), rules);
  CheckCodecs(config, nullptr, rules);
  CheckDispatch(config, rules);
}

}  // namespace conclave
