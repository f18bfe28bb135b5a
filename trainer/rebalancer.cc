#include "trainer/rebalancer.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "base/log.h"
#include "parallel/dispatch_grid.h"
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

// Bytes that a step sent under a label, inside nodes and between them.
void AddSent(const WireReport& wire, std::string_view label, RowCount* bytes) {
  for (const WireLine& line : wire.lines) {
    if (line.label != label) continue;
    bytes->inside += line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes;
    bytes->between += line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes;
  }
}

// Coordinates of the expert axis in the order of their nodes, which is how the planner counts ranks.
struct PlannerRanks {
  Topology topology;
  std::vector<int> coordinate, rank;  // of a planner's rank, of a coordinate

  PlannerRanks(const Mesh& mesh, int64_t ranks_per_node) : topology{.ranks = mesh.shape().expert} {
    const std::vector<std::vector<int>> nodes = CoordinatesByNode(mesh, ranks_per_node);
    for (const std::vector<int>& members : nodes) coordinate.insert(coordinate.end(), members.begin(), members.end());
    const bool even = std::ranges::all_of(nodes, [&](const auto& members) { return members.size() == nodes[0].size(); });
    if (even) topology.nodes = static_cast<int>(nodes.size());
    rank.resize(coordinate.size());
    for (size_t r = 0; r < coordinate.size(); ++r) rank[coordinate[r]] = static_cast<int>(r);
  }
};

PlacementTable Renamed(PlacementTable table, const std::vector<int>& to) {
  for (std::vector<int>& row : table) {
    for (int& rank : row) rank = to[rank];
  }
  return table;
}

}  // namespace

Rebalancer::Rebalancer(const MigratedRun& run, const Options& options) : run_(run), options_(options) {}

void Rebalancer::BeforeStep(int64_t step) {
  if (assembly().routing != nullptr) assembly().routing->Arm(step);
}

absl::Status Rebalancer::AfterStep(int64_t step, const WireReport* wire, StepRecord* record) {
  if (wire != nullptr) {
    AddSent(*wire, "dispatch rows", &dispatched_);
    AddSent(*wire, "combine rows", &combined_);
  }
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
  RETURN_IF_ERROR(ReportTraffic(record));
  absl::Status written;
  if (assembly().mesh->rank() == 0 && window.tokens() > 0) {
    const TraceHeader header{.experts = counts.experts(),
                             .layers = counts.layers(),
                             .top_k = window.top_k,
                             .corpus = assembly().config.name(),
                             .step = step,
                             .seed = static_cast<uint64_t>(assembly().config.seed()),
                             .checkpoint = ""};
    absl::StatusOr<RoutingTrace> trace = RoutingTrace::Make(header, window.ids);
    written = trace.status();
    if (written.ok()) written = options_.files->CreateDirs(options_.folder->Routing());
    if (written.ok()) written = WriteTrace(*options_.files, options_.folder->RoutingTrace(step), *trace);
    if (trace.ok()) trace_ = *std::move(trace);
  }
  RETURN_IF_ERROR(AgreeOn(assembly().mesh->control(), written, "writing the routing trace"));
  window_ = std::move(window);
  return absl::OkStatus();
}

absl::Status Rebalancer::ReportTraffic(StepRecord* record) {
  std::array<int64_t, 4> bytes = {dispatched_.inside, dispatched_.between, combined_.inside, combined_.between};
  RETURN_IF_ERROR(assembly().mesh->control().AllReduce("dispatched bytes", Tensor(bytes.data(), {4}, DType::kI64), ReduceOp::kSum));
  static constexpr std::array kNames = {"dispatch_bytes_inside", "dispatch_bytes_between", "combine_bytes_inside", "combine_bytes_between"};
  for (size_t i = 0; i < kNames.size(); ++i) record->routing.push_back({kNames[i], static_cast<double>(bytes[i])});
  dispatched_ = combined_ = RowCount();
  return absl::OkStatus();
}

absl::StatusOr<PlacementTable> Rebalancer::PlanOnRoot(int64_t step, StepRecord* record) const {
  const ExpertPlacement& placement = *assembly().placement;
  const ParallelConfig& parallel = assembly().config.parallel();
  PlacementConfig config = parallel.rebalance().placement();
  if (config.has_random()) config.mutable_random()->set_seed(config.random().seed() + step);
  const RoutingCounts none(placement.layers(), placement.experts(0));
  const RoutingCounts& counts = window_ ? window_->counts : none;
  PlannerRanks ranks(*assembly().mesh, parallel.dispatch().ranks_per_node());
  if (!config.has_coactivation()) ranks.topology.nodes = 1;  // the other solvers know no nodes, so all ranks are alike to them
  PlacementProblem problem{.counts = &counts, .topology = ranks.topology, .current = Renamed(TableOf(placement), ranks.rank)};
  std::optional<RoutedSets> sets;
  if (config.has_coactivation()) {
    if (!trace_) return PlacementTable();  // right after a resume, say
    sets = RoutedSets::Of(*trace_, problem.topology.ranks);
    problem.sets = &*sets;
    problem.objective = PlacementObjective::kTouched;
  }
  RETURN_IF_ERROR(CheckPlacementProblem(problem));
  ASSIGN_OR_RETURN(const std::unique_ptr<PlacementSolver> solver, MakePlacementSolver(config));
  ASSIGN_OR_RETURN(PlacementTable table, solver->Solve(problem));
  if (!config.has_random()) table = Align(table, problem.current, problem.topology);
  const bool moves = Pays(problem, table, record);
  return moves ? Renamed(std::move(table), ranks.coordinate) : PlacementTable();
}

double Rebalancer::RowBytes() const {
  return assembly().routing == nullptr ? 0 : static_cast<double>(assembly().routing->width() * SizeOf(assembly().dtype()));
}

// What the busiest rank takes less of, there and back, forward and backward.
double Rebalancer::SavedByLoad(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const {
  const RoutingCounts& counts = *problem.counts;
  const int ranks = problem.topology.ranks;
  const double now = MeanLoadRatio(counts, problem.current, ranks), planned = MeanLoadRatio(counts, table, ranks);
  record->placement.push_back({"load_ratio_now", now});
  record->placement.push_back({"load_ratio_planned", planned});
  double rows = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    const auto load = counts.load(j);
    rows += static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  }
  const double window = static_cast<double>(std::max<int64_t>(1, assembly().config.observe().routing_window()));
  return (now - planned) * rows / ranks / window * 4 * RowBytes();
}

// Rows between nodes, or where there is one, between ranks, by the route in use: tokens on their way out and their gradients (2), results
// on their way home and theirs (2). The sample stands for the window, its homes for any.
double Rebalancer::SavedByRows(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const {
  const RoutedSets& sets = *problem.sets;
  const DispatchSetup& setup = *assembly().dispatch_setup;
  const bool two_levels = setup.route == DispatchConfig::HIERARCHICAL || setup.route == DispatchConfig::DEDUPLICATED_HIERARCHICAL;
  const DispatchConfig::Route home = setup.pre_reduce ? setup.route : two_levels ? DispatchConfig::HIERARCHICAL : DispatchConfig::FLAT;
  const auto load = problem.counts->load(0);
  const double window = static_cast<double>(std::max<int64_t>(1, assembly().config.observe().routing_window()));
  const double tokens = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) / sets.top_k() / window;
  const double scale = tokens / static_cast<double>(sets.tokens() * sets.homes());
  const auto rows = [&](const PlacementTable& t, DispatchConfig::Route route) {
    RowCount sum;
    for (int j = 0; j < sets.layers(); ++j) sum += CountRows(sets, j, t[j], problem.topology, route);
    return scale * static_cast<double>(problem.topology.nodes > 1 ? sum.between : sum.inside);
  };
  const double now = rows(problem.current, setup.route), planned = rows(table, setup.route);
  record->placement.push_back({"rows_now", now});
  record->placement.push_back({"rows_planned", planned});
  return 2 * (now - planned + rows(problem.current, home) - rows(table, home)) * RowBytes();
}

bool Rebalancer::Pays(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const {
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  const auto moves = static_cast<double>(CountMoves(problem.current, table));
  record->placement = {{"planned_moves", moves}};
  const bool by_load = problem.objective == PlacementObjective::kChain;
  const double saved =
      (by_load ? SavedByLoad(problem, table, record) : SavedByRows(problem, table, record)) * static_cast<double>(rebalance.horizon());
  const double experts_here = static_cast<double>(problem.counts->layers()) * problem.counts->experts() / problem.topology.ranks;
  const double moved = moves / experts_here * static_cast<double>(ExpertBytes(assembly().model->parameters(), run_.state()));
  record->placement.push_back({"predicted_saved_bytes", saved});
  record->placement.push_back({"predicted_moved_bytes", moved});
  const bool pays = moves > 0 && (rebalance.hysteresis() == 0 || saved > rebalance.hysteresis() * moved);
  LOG_INFO << absl::StrFormat("placement: %d experts to move, %.3g bytes; %.3g bytes predicted to be saved in %d steps: %s",
                              static_cast<int64_t>(moves), moved, saved, rebalance.horizon(), pays ? "they move" : "they stay");
  return pays;
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
