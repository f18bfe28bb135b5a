#include "trainer/rebalancer.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "base/log.h"
#include "base/strings.h"
#include "parallel/dispatch_grid.h"
#include "parallel/dispatch_route.h"
#include "parallel/expert_replicas.h"
#include "parallel/trace_files.h"
#include "trainer/agreement.h"
#include "trainer/routing_replay.h"

namespace conclave {
namespace {

// A window's sample. ids: [tokens, layers, top_k].
absl::StatusOr<RoutingTrace> SampleOf(const Assembly& a, int64_t step, const std::vector<int32_t>& ids) {
  ASSIGN_OR_RETURN(TraceHeader header, RoutingHeader(a));
  header.step = step;
  header.batches = kSampledBatches;
  return RoutingTrace::Make(header, ids);
}

// Plans are made from memory: a disk that takes no trace ends no run.
void WriteForLater(const FileSystem& files, const RunFolder& folder, const RoutingTrace& trace) {
  const int64_t step = trace.header().step;
  absl::Status written = files.CreateDirs(folder.Routing());
  if (written.ok()) written = WriteTrace(files, folder.RoutingTrace(step), trace);
  if (!written.ok()) LOG_WARNING << "the routing trace of step " << step << " is not in a file, training goes on: " << written.message();
}

// Largest load of a rank over the mean, in every layer: what the slowest rank waits for. Copies share an expert's load.
std::vector<double> LoadRatios(const RoutingCounts& counts, const ExpertPlacement& placement) {
  std::vector<double> ratios;
  for (int j = 0; j < counts.layers(); ++j) {
    std::vector<double> load(placement.axis());
    double total = 0;
    for (int e = 0; e < counts.experts(); ++e) {
      const auto rows = static_cast<double>(counts.load(j)[e]);
      const std::vector<double> shares = placement.Shares(j, e);
      for (int r = 0; r < placement.axis(); ++r) load[r] += rows * shares[r];
      total += rows;
    }
    ratios.push_back(total > 0 ? *std::ranges::max_element(load) * placement.axis() / total : 0);
  }
  return ratios;
}

int64_t CountCopies(const ExpertPlacement& placement) {
  int64_t copies = 0;
  for (int j = 0; j < placement.layers(); ++j) {
    for (int e = 0; e < placement.experts(j); ++e) copies += static_cast<int64_t>(placement.copies(j, e).size());
  }
  return copies;
}

double MeanOf(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(std::max<size_t>(values.size(), 1));
}

// By [layer, expert].
std::vector<int64_t> LoadsOf(const RoutingCounts& counts) {
  std::vector<int64_t> loads;
  for (int j = 0; j < counts.layers(); ++j) loads.insert(loads.end(), counts.load(j).begin(), counts.load(j).end());
  return loads;
}

// False, and nothing done, where they are of another model.
bool SetLoads(const google::protobuf::RepeatedField<int64_t>& loads, RoutingCounts* counts) {
  const int experts = counts->experts();
  if (loads.size() != counts->layers() * experts) return false;
  for (int j = 0; j < counts->layers(); ++j) std::copy_n(loads.begin() + j * experts, experts, counts->load(j).begin());
  return true;
}

// Bytes that a step sent under a label, inside nodes and between them.
void AddSent(const WireReport& wire, std::string_view label, RowCount* bytes) {
  for (const WireLine& line : wire.lines) {
    if (line.label != label) continue;
    bytes->inside += line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes;
    bytes->between += line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes;
  }
}

}  // namespace

Rebalancer::Rebalancer(const MigratedRun& run, const Options& options) : run_(run), options_(options), meter_(run.assembly) {
  const ParallelConfig& parallel = assembly().config.parallel();
  if (parallel.rebalance().every() == 0 || !parallel.rebalance().placement().has_coactivation() || assembly().mesh->rank() != 0) return;
  if (PlannerRanks(*assembly().mesh, parallel.dispatch().ranks_per_node()).even) return;
  LOG_WARNING << "placement: nodes hold unequal numbers of the " << assembly().mesh->shape().expert
              << " ranks of the expert axis, so experts are placed as if all were on one node; parallel.dispatch.ranks_per_node is "
              << parallel.dispatch().ranks_per_node();
}

void Rebalancer::BeforeStep(int64_t step) {
  if (assembly().routing != nullptr) assembly().routing->Arm(step);
  meter_.BeginStep();
}

absl::Status Rebalancer::AfterStep(int64_t step, const WireReport* wire, StepRecord* record) {
  meter_.EndStep();
  if (wire != nullptr) {
    AddSent(*wire, "dispatch rows", &dispatched_);
    AddSent(*wire, "combine rows", &combined_);
  }
  const int64_t every = assembly().config.observe().routing_window();
  if (assembly().routing != nullptr && step % every == 0) RETURN_IF_ERROR(CloseWindow(step, record));
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  if (rebalance.every() == 0 || step % rebalance.every() != 0 || step < rebalance.after_step()) return absl::OkStatus();
  if (assembly().placement->axis() == 1 || !Settled(record)) return absl::OkStatus();
  const bool root = assembly().mesh->rank() == 0;
  ASSIGN_OR_RETURN(const ExpertTables tables, Share(root ? PlanOnRoot(step, record) : absl::StatusOr<ExpertTables>(ExpertTables())));
  return tables.owners.empty() ? absl::OkStatus() : MoveTo(tables, record);
}

bool Rebalancer::Settled(StepRecord* record) const {
  const double most = assembly().config.parallel().rebalance().most_drift();
  if (most >= 1 || (load_drift_ && *load_drift_ <= most)) return true;
  if (load_drift_) record->placement.push_back({"skipped_at_drift", *load_drift_});
  if (assembly().mesh->rank() != 0) return false;
  if (load_drift_) {
    LOG_INFO << absl::StrFormat(
        "placement: nothing is planned while the experts' shares of the load drift, by %.3f from window to window; "
        "parallel.rebalance.most_drift is %g",
        *load_drift_, most);
  } else {
    LOG_INFO << absl::StrFormat(
        "placement: nothing is planned, it takes two routing windows to see how far loads drift; "
        "parallel.rebalance.most_drift is %g",
        most);
  }
  return false;
}

absl::Status Rebalancer::CloseWindow(int64_t step, StepRecord* record) {
  ASSIGN_OR_RETURN(RoutingWindow window, assembly().routing->Gather(assembly().mesh->control()));
  const RoutingCounts& counts = window.counts;
  record->routing = {{"largest_affinity", counts.MeanLargestAffinity()},
                     {"worst_load_ratio", std::ranges::max(LoadRatios(counts, *assembly().placement))}};
  if (window_ && window_->tokens() > 0) record->routing.push_back({"drift", RoutingDrift(window_->counts, counts)});
  if (window_) {
    load_drift_ = LoadDrift(window_->counts, counts);
    record->routing.push_back({"load_drift", *load_drift_});
  }
  RETURN_IF_ERROR(ReportTraffic(record));
  absl::Status made;
  if (assembly().mesh->rank() == 0 && window.tokens() > 0) {
    absl::StatusOr<RoutingTrace> trace = SampleOf(assembly(), step, window.ids);
    made = trace.status();
    if (made.ok()) WriteForLater(*options_.files, *options_.folder, *trace);
    if (made.ok()) trace_ = *std::move(trace);
  }
  RETURN_IF_ERROR(AgreeOn(assembly().mesh->control(), made, "making the routing trace"));
  const bool traced = assembly().mesh->rank() == 0 && window.tokens() > 0;
  ASSIGN_OR_RETURN(record->layers, meter_.Close(traced ? &*trace_ : nullptr, &window));
  window_ = std::move(window);
  return absl::OkStatus();
}

absl::Status Rebalancer::Finish() {
  ASSIGN_OR_RETURN(const std::string table, meter_.Table());
  if (assembly().mesh->rank() != 0) return absl::OkStatus();
  for (const std::string& line : SplitString(table, '\n')) {
    if (!line.empty()) LOG_INFO << line;
  }
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

absl::StatusOr<ExpertTables> Rebalancer::PlanOnRoot(int64_t step, StepRecord* record) const {
  const ExpertPlacement& placement = *assembly().placement;
  const ParallelConfig& parallel = assembly().config.parallel();
  PlacementConfig config = parallel.rebalance().placement();
  if (config.has_random()) config.mutable_random()->set_seed(config.random().seed() + step);
  // Before the first window nothing is known of loads: what is planned from them stays as it is.
  const bool by_load = parallel.rebalance().replicas() > 0 || !(config.has_random() || config.has_contiguous());
  if (by_load && !window_) return ExpertTables();
  const RoutingCounts none(placement.layers(), placement.experts(0));
  const RoutingCounts& counts = window_ ? window_->counts : none;
  PlannerRanks ranks(*assembly().mesh, parallel.dispatch().ranks_per_node());
  if (!config.has_coactivation()) ranks.topology.nodes = 1;  // the other solvers know no nodes, so all ranks are alike to them
  PlacementProblem problem{.counts = &counts, .topology = ranks.topology, .current = Renamed(TableOf(placement), ranks.rank)};
  std::optional<RoutedSets> sets;
  if (config.has_coactivation()) {
    if (!trace_) return ExpertTables();  // right after a resume, say
    sets = RoutedSets::Of(*trace_, problem.topology.ranks);
    problem.sets = &*sets;
    problem.objective = PlacementObjective::kTouched;
  }
  RETURN_IF_ERROR(CheckPlacementProblem(problem));
  ASSIGN_OR_RETURN(const std::unique_ptr<PlacementSolver> solver, MakePlacementSolver(config));
  ASSIGN_OR_RETURN(PlacementTable table, solver->Solve(problem));
  if (!config.has_random()) table = Align(table, problem.current, problem.topology);
  const Candidate next{.table = table, .tables = WithCopies(Renamed(table, ranks.coordinate))};
  ASSIGN_OR_RETURN(const bool pays, Pays(problem, next, record));
  return pays ? next.tables : ExpertTables();
}

ExpertTables Rebalancer::WithCopies(PlacementTable owners) const {
  const ParallelConfig& parallel = assembly().config.parallel();
  ExpertTables tables{.owners = std::move(owners)};
  if (parallel.rebalance().replicas() == 0 || !window_) return tables;
  const std::vector<int> nodes = NodeOfCoordinates(*assembly().mesh, parallel.dispatch().ranks_per_node());
  for (int j = 0; j < window_->counts.layers(); ++j) {
    const std::vector<double> load(window_->counts.load(j).begin(), window_->counts.load(j).end());
    tables.copies.push_back(PlanCopiesOfLayer({.load = load,
                                               .owners = tables.owners[j],
                                               .node_of = nodes,
                                               .ranks = assembly().placement->axis(),
                                               .per_rank = static_cast<int>(parallel.rebalance().replicas())}));
  }
  return tables;
}

double Rebalancer::CopyBytes(const ExpertPlacement& placement) const {
  const Experiment& config = assembly().config;
  // A copy's weights go out once; of the gradients one comes back, or one of each leaf that it served.
  const bool whole = config.parallel().numerics() == ParallelConfig::FIXED_MESH;
  const auto leaves = static_cast<double>(config.trainer().workers() * config.trainer().micro_batches());
  double bytes = 0;
  for (const BlockSpec& spec : assembly().model->parameters().blocks()) {
    if (!spec.of_mixture() || placement.copies(spec.moe_layer, spec.expert).empty()) continue;
    const double copies = static_cast<double>(placement.copies(spec.moe_layer, spec.expert).size()) * assembly().mesh->shape().data;
    const double away = 1 - placement.Shares(spec.moe_layer, spec.expert)[placement.coordinate(spec.moe_layer, spec.expert)];
    bytes += static_cast<double>(spec.shape.elements() * SizeOf(assembly().dtype())) * (copies + (whole ? copies : leaves * away));
  }
  return bytes;
}

double Rebalancer::RowBytes() const {
  return assembly().routing == nullptr ? 0 : static_cast<double>(assembly().routing->width() * SizeOf(assembly().dtype()));
}

// What the busiest rank takes less of, there and back, forward and backward; less its part of what copies cost.
double Rebalancer::SavedByLoad(const PlacementProblem& problem, const ExpertPlacement& next, StepRecord* record) const {
  const RoutingCounts& counts = *problem.counts;
  const int ranks = problem.topology.ranks;
  const double now = MeanOf(LoadRatios(counts, *assembly().placement)), planned = MeanOf(LoadRatios(counts, next));
  record->placement.push_back({"load_ratio_now", now});
  record->placement.push_back({"load_ratio_planned", planned});
  double rows = 0;
  for (int j = 0; j < counts.layers(); ++j) {
    const auto load = counts.load(j);
    rows += static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  }
  const double window = static_cast<double>(std::max<int64_t>(1, assembly().config.observe().routing_window()));
  const double copies = CopyBytes(next);
  if (assembly().config.parallel().rebalance().replicas() > 0) record->placement.push_back({"copy_bytes", copies});
  return (now - planned) * rows / ranks / window * 4 * RowBytes() - (copies - CopyBytes(*assembly().placement)) / ranks;
}

// Rows between nodes, or where there is one, between ranks, by the route in use: tokens on their way out and their gradients (2), results
// on their way home and theirs (2). The sample stands for the window, its homes for any.
double Rebalancer::SavedByRows(const PlacementProblem& problem, const PlacementTable& table, StepRecord* record) const {
  const RoutedSets& sets = *problem.sets;
  const DispatchSetup& setup = *assembly().dispatch_setup;
  const DispatchConfig::Route home = RouteHome(setup.route, setup.pre_reduce);
  const auto load = problem.counts->load(0);
  const double window = static_cast<double>(std::max<int64_t>(1, assembly().config.observe().routing_window()));
  const double tokens = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0})) / sets.top_k() / window;
  const double scale = tokens / static_cast<double>(sets.tokens() * sets.homes());
  const auto crossing = [&](const auto& sum) { return scale * static_cast<double>(problem.topology.nodes > 1 ? sum.between : sum.inside); };
  const auto rows = [&](const PlacementTable& t, DispatchConfig::Route route) {
    RowCount sum;
    for (int j = 0; j < sets.layers(); ++j) sum += CountRows(sets, j, t[j], problem.topology, route);
    return crossing(sum);
  };
  const auto home_rows = [&](const PlacementTable& t) {
    FoldedRows folded;
    for (int j = 0; j < sets.layers() && setup.fold; ++j) folded += CountFolded(sets, j, t[j], problem.topology, setup.route);
    return rows(t, home) - crossing(folded);
  };
  const double now = rows(problem.current, setup.route), planned = rows(table, setup.route);
  record->placement.push_back({"rows_now", now});
  record->placement.push_back({"rows_planned", planned});
  return 2 * (now - planned + home_rows(problem.current) - home_rows(table)) * RowBytes();
}

absl::StatusOr<bool> Rebalancer::Pays(const PlacementProblem& problem, const Candidate& next, StepRecord* record) const {
  const RebalanceConfig& rebalance = assembly().config.parallel().rebalance();
  const std::vector<int> nodes = NodeOfCoordinates(*assembly().mesh, assembly().config.parallel().dispatch().ranks_per_node());
  ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::FromTables(next.tables, problem.topology.ranks, nodes));
  const auto moves = static_cast<double>(CountMoves(problem.current, next.table));
  record->placement = {{"planned_moves", moves}};
  const bool by_load = problem.objective == PlacementObjective::kChain;
  const double saved = (by_load ? SavedByLoad(problem, placement, record) : SavedByRows(problem, next.table, record)) *
                       static_cast<double>(rebalance.horizon());
  const double experts_here = static_cast<double>(problem.counts->layers()) * problem.counts->experts() / problem.topology.ranks;
  const double moved = moves * assembly().mesh->shape().data / experts_here *  // every replica
                       static_cast<double>(ExpertBytes(assembly().model->parameters(), run_.state()));
  record->placement.push_back({"predicted_saved_bytes", saved});
  record->placement.push_back({"predicted_moved_bytes", moved});
  const bool differs = placement.tables() != assembly().placement->tables();
  const bool pays = differs && (rebalance.hysteresis() == 0 || saved > rebalance.hysteresis() * moved);
  LOG_INFO << absl::StrFormat("placement: %d experts to move, %.3g bytes; %.3g bytes predicted to be saved in %d steps: %s",
                              static_cast<int64_t>(moves), moved, saved, rebalance.horizon(), pays ? "they move" : "they stay");
  return pays;
}

absl::Status Rebalancer::Save(SavedState* state) {
  if (assembly().routing == nullptr || assembly().config.parallel().rebalance().every() == 0) return absl::OkStatus();
  std::vector<int64_t> open = LoadsOf(assembly().routing->counts());
  RETURN_IF_ERROR(assembly().mesh->control().AllReduce(
      "routing loads", Tensor(open.data(), {static_cast<int64_t>(open.size())}, DType::kI64), ReduceOp::kSum));
  state->mutable_routing()->mutable_open()->Assign(open.begin(), open.end());
  if (!window_) return absl::OkStatus();
  const std::vector<int64_t> window = LoadsOf(window_->counts);
  state->mutable_routing()->mutable_window()->Assign(window.begin(), window.end());
  if (load_drift_) state->mutable_routing()->set_drift(*load_drift_);
  return absl::OkStatus();
}

void Rebalancer::Restore(const SavedRouting& saved) {
  if (assembly().routing == nullptr) return;
  RoutingCounts& open = assembly().routing->counts();
  // One rank counts for all: windows are summed over ranks when they close.
  if (assembly().mesh->rank() == 0) SetLoads(saved.open(), &open);
  RoutingWindow window{.counts = RoutingCounts(open.layers(), open.experts()), .ids = {}, .leaf = {}, .turn = {}};
  if (!SetLoads(saved.window(), &window.counts)) return;
  window_ = std::move(window);
  if (saved.has_drift()) load_drift_ = saved.drift();
}

absl::StatusOr<ExpertTables> Rebalancer::Share(const absl::StatusOr<ExpertTables>& mine) const {
  Communicator& control = assembly().mesh->control();
  RETURN_IF_ERROR(AgreeOn(control, mine.status(), "planning the placement of experts"));
  const ExpertPlacement& placement = *assembly().placement;
  // Of every expert: its owner, and for each coordinate whether a copy is there.
  const int layers = placement.layers(), experts = placement.experts(0), width = 1 + placement.axis();
  std::vector<int64_t> flat(static_cast<size_t>(layers) * experts * width);
  flat[0] = -1;
  for (int64_t i = 0; !mine->owners.empty() && i < int64_t{layers} * experts; ++i) {
    flat[i * width] = mine->owners[i / experts][i % experts];
    if (mine->copies.empty()) continue;
    for (const int c : mine->copies[i / experts][i % experts]) flat[i * width + 1 + c] = 1;
  }
  RETURN_IF_ERROR(control.Broadcast("placement", Tensor(flat.data(), {static_cast<int64_t>(flat.size())}, DType::kI64), 0));
  ExpertTables tables;
  if (flat[0] < 0) return tables;
  tables.owners.assign(layers, std::vector<int>(experts));
  tables.copies.assign(layers, std::vector<std::vector<int>>(experts));
  for (int64_t i = 0; i < int64_t{layers} * experts; ++i) {
    tables.owners[i / experts][i % experts] = static_cast<int>(flat[i * width]);
    for (int c = 0; c < placement.axis(); ++c) {
      if (flat[i * width + 1 + c] != 0) tables.copies[i / experts][i % experts].push_back(c);
    }
  }
  return tables;
}

absl::Status Rebalancer::MoveTo(const ExpertTables& tables, StepRecord* record) {
  const absl::StatusOr<TransferReport> moved = MigrateExperts(run_, tables);
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
  if (assembly().placement->has_copies()) record->placement.push_back({"copies", static_cast<double>(CountCopies(*assembly().placement))});
  if (moved->experts > 0 && assembly().mesh->rank() == 0) LOG_INFO << moved->experts << " experts changed ranks, " << bytes << " bytes";
  return absl::OkStatus();
}

}  // namespace conclave
