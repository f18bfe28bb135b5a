#include "base/log.h"
#include "parallel/dispatch_choice.h"
#include "parallel/dispatch_route.h"
#include "parallel/expert_dispatch.h"
#include "parallel/piece_plan.h"
#include "tensor/ops/mlp_pieces.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<DispatchSetup>> DispatchSetup::Create(const Mesh& mesh, const Request& request) {
  auto setup = std::make_unique<DispatchSetup>();
  const DispatchConfig& config = request.config;
  setup->route = config.route();
  setup->pre_reduce = request.pre_reduce;
  setup->pieces = static_cast<int>(config.pieces());
  setup->most_rows = config.most_rows();
  setup->bounded = setup->most_rows > 0 && config.beyond_most_rows() == DispatchConfig::IN_PIECES;
  CHECK(!setup->bounded || (setup->most_rows > kMostMlpPieceRows && !setup->pre_reduce)) << setup->most_rows;  // configs are checked for it
  if (setup->bounded) {
    setup->most_pieces = MostPiecesNeeded(request.tokens * request.top_k * mesh.shape().expert, setup->most_rows);
  }
  bool two_levels = InTwoLevels(config.route());
  if (config.route() == DispatchConfig::AUTO) {
    ASSIGN_OR_RETURN(two_levels, NodesAreEven(mesh, config.ranks_per_node()));
  }
  if (two_levels) {
    ASSIGN_OR_RETURN(setup->grid, DispatchGrid::Create(mesh, config.ranks_per_node()));
  }
  if (config.route() == DispatchConfig::AUTO) {
    DispatchLoad load{.tokens = request.tokens,
                      .experts = request.experts,
                      .top_k = request.top_k,
                      .row_bytes = request.width * SizeOf(request.dtype),
                      .pre_reduce = request.pre_reduce,
                      .config = &config};
    RETURN_IF_ERROR(MeasureLinks(setup->grid.get(), mesh.dispatch(), &load));
    const RouteChoice choice = ChooseRoute(load);
    // Columns of the mesh may have measured otherwise; rank 0's word holds for all.
    int64_t route = choice.route;
    RETURN_IF_ERROR(mesh.control().Broadcast("dispatch route", Tensor(&route, {1}, DType::kI64), 0));
    setup->route = static_cast<DispatchConfig::Route>(route);
    if (mesh.rank() == 0) LOG_INFO << choice.reason;
    if (mesh.rank() == 0 && config.fold() && !SendsOnce(setup->route)) LOG_WARNING << "dispatch.fold has nothing to do on this route";
  }
  const auto codec = [&](DispatchConfig::Wire wire) { return RowCodec::Make(wire, request.width, request.dtype); };
  ASSIGN_OR_RETURN(setup->dispatch_forward, codec(config.dispatch_forward()));
  ASSIGN_OR_RETURN(setup->combine_forward, codec(config.combine_forward()));
  ASSIGN_OR_RETURN(setup->combine_backward, codec(config.combine_backward()));
  ASSIGN_OR_RETURN(setup->dispatch_backward, codec(config.dispatch_backward()));
  setup->fold = FoldsHome(config, setup->route, request.top_k, setup->pre_reduce);
  return setup;
}

}  // namespace conclave
