#include "trainer/rebalancer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/log.h"
#include "parallel/trace_files.h"
#include "trainer/agreement.h"

namespace conclave {
namespace {

// Largest load of a rank over the mean, the mean over layers: what the slowest rank waits for.
double MeanLoadRatio(const RoutingCounts& counts, const PlacementTable& table, int ranks) {
  double sum = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    std::vector<int64_t> load(ranks);
    for (int e = 0; e < counts.experts(); ++e) load[table[j][e]] += counts.load(j)[e];
    const double total = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
    if (total > 0) sum += static_cast<double>(*std::ranges::max_element(load)) * ranks / total / counts.layers();
  }
  return sum;
}

}  // namespace

Rebalancer::Rebalancer(const MigratedRun& run, const Options& options) : run_(run), options_(options) {}

void Rebalancer::BeforeStep(int64_t step) {
  if (assembly().routing != nullptr) assembly().routing->Arm(step);
}

absl::Status Rebalancer::AfterStep(int64_t step, StepRecord* record) {
  const int64_t every = assembly().config.observe().routing_window();
  if (assembly().routing != nullptr && step % every == 0) RETURN_IF_ERROR(CloseWindow(step, record));
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  if (rebalance.every() == 0 || step % rebalance.every() != 0 || step < rebalance.after_step()) return absl::OkStatus();
  if (assembly().placement->axis() == 1) return absl::OkStatus();
  const bool root = assembly().mesh->rank() == 0;
  ASSIGN_OR_RETURN(const PlacementTable table, Share(root ? PlanOnRoot(step, record) : absl::StatusOr<PlacementTable>(PlacementTable())));
  return table.empty() ? absl::OkStatus() : MoveTo(table, record);
}

absl::Status Rebalancer::CloseWindow(int64_t step, StepRecord* record) {
  ASSIGN_OR_RETURN(RoutingWindow window, assembly().routing->Gather(assembly().mesh->control()));
  const RoutingCounts& counts = window.counts;
  record->routing = {{"largest_affinity", counts.MeanLargestAffinity()},
                     {"worst_load_ratio", WorstLoadRatio(counts, TableOf(*assembly().placement), assembly().placement->axis())}};
  if (window_) record->routing.push_back({"drift", RoutingDrift(window_->counts, counts)});
  absl::Status written;
  if (assembly().mesh->rank() == 0 && window.tokens() > 0) {
    const TraceHeader header{.experts = counts.experts(),
                             .layers = counts.layers(),
                             .top_k = window.top_k,
                             .corpus = assembly().config.name(),
                             .step = step,
                             .seed = static_cast<uint64_t>(assembly().config.seed()),
                             .checkpoint = ""};
    const absl::StatusOr<RoutingTrace> trace = RoutingTrace::Make(header, window.ids);
    written = trace.status();
    if (written.ok()) written = options_.files->CreateDirs(options_.folder->Routing());
    if (written.ok()) written = WriteTrace(*options_.files, options_.folder->RoutingTrace(step), *trace);
  }
  RETURN_IF_ERROR(AgreeOn(assembly().mesh->control(), written, "writing the routing trace"));
  window_ = std::move(window);
  return absl::OkStatus();
}

absl::StatusOr<PlacementTable> Rebalancer::PlanOnRoot(int64_t step, StepRecord* record) const {
  const ExpertPlacement& placement = *assembly().placement;
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  PlacementConfig config = rebalance.placement();
  if (config.has_random()) config.mutable_random()->set_seed(config.random().seed() + step);
  const RoutingCounts none(placement.layers(), placement.experts(0));
  const RoutingCounts& counts = window_ ? window_->counts : none;
  const PlacementProblem problem{.counts = &counts, .topology = {.ranks = placement.axis()}, .current = TableOf(placement)};
  RETURN_IF_ERROR(CheckPlacementProblem(problem));
  ASSIGN_OR_RETURN(const std::unique_ptr<PlacementSolver> solver, MakePlacementSolver(config));
  ASSIGN_OR_RETURN(PlacementTable table, solver->Solve(problem));
  if (!config.has_random()) table = Align(table, problem.current, problem.topology);
  const bool moves = Pays(problem, table, record);
  return moves ? std::move(table) : PlacementTable();
}

bool Rebalancer::Pays(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const {
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  const RoutingCounts& counts = *problem.counts;
  const int ranks = problem.topology.ranks;
  const double now = MeanLoadRatio(counts, problem.current, ranks), planned = MeanLoadRatio(counts, table, ranks);
  double rows = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    const auto load = counts.load(j);
    rows += static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  }
  // Rows of a step that the busiest rank has less of, there and back, forward and backward.
  const double window = static_cast<double>(std::max<int64_t>(1, assembly().config.observe().routing_window()));
  const double row_bytes =
      assembly().routing == nullptr ? 0 : static_cast<double>(assembly().routing->width() * SizeOf(assembly().dtype()));
  const double saved = (now - planned) * rows / ranks / window * static_cast<double>(rebalance.horizon()) * 4 * row_bytes;
  const auto moves = static_cast<double>(CountMoves(problem.current, table));
  const double experts_here = static_cast<double>(counts.layers()) * counts.experts() / ranks;
  const double moved = moves / experts_here * static_cast<double>(ExpertBytes(assembly().model->parameters(), run_.state()));
  record->placement = {{"planned_moves", moves},
                       {"load_ratio_now", now},
                       {"load_ratio_planned", planned},
                       {"predicted_saved_bytes", saved},
                       {"predicted_moved_bytes", moved}};
  return moves > 0 && (rebalance.hysteresis() == 0 || saved > rebalance.hysteresis() * moved);
}

absl::StatusOr<PlacementTable> Rebalancer::Share(const absl::StatusOr<PlacementTable>& mine) const {
  Communicator& control = assembly().mesh->control();
  RETURN_IF_ERROR(AgreeOn(control, mine.status(), "planning the placement of experts"));
  const ExpertPlacement& placement = *assembly().placement;
  std::vector<int64_t> flat(static_cast<size_t>(placement.layers()) * placement.experts(0), -1);
  auto out = flat.begin();
  for (const std::vector<int>& row : *mine) out = std::ranges::copy(row, out).out;
  RETURN_IF_ERROR(control.Broadcast("placement", Tensor(flat.data(), {static_cast<int64_t>(flat.size())}, DType::kI64), 0));
  if (flat[0] < 0) return PlacementTable();
  PlacementTable table(placement.layers());
  for (int j = 0; j < placement.layers(); ++j) {
    const auto row = flat.begin() + int64_t{j} * placement.experts(0);
    table[j].assign(row, row + placement.experts(0));
  }
  return table;
}

absl::Status Rebalancer::MoveTo(const PlacementTable& table, StepRecord* record) {
  const absl::StatusOr<TransferReport> moved = MigrateExperts(run_, table);
  if (absl::IsUnavailable(moved.status())) return moved.status();
  if (!moved.ok()) {
    LOG_ERROR << "experts stay where they are: " << moved.status().message();
    record->placement.push_back({"refused", 1});
    return absl::OkStatus();
  }
  int64_t bytes = moved->bytes;
  RETURN_IF_ERROR(assembly().mesh->control().AllReduce("migrated bytes", Tensor(&bytes, {1}, DType::kI64), ReduceOp::kSum));
  record->placement.push_back({"moved_experts", static_cast<double>(moved->experts)});
  record->placement.push_back({"moved_bytes", static_cast<double>(bytes)});
  if (moved->experts > 0 && assembly().mesh->rank() == 0) LOG_INFO << moved->experts << " experts changed ranks, " << bytes << " bytes";
  return absl::OkStatus();
}

}  // namespace conclave
