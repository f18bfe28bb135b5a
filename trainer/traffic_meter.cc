#include "trainer/traffic_meter.h"

#include <algorithm>

#include "base/strings.h"
#include "trainer/assembly.h"
#include "trainer/expert_migration.h"

namespace conclave {
namespace {

void AddLayers(const std::vector<LayerReport>& more, std::vector<LayerReport>* sum) {
  if (sum->empty()) {
    *sum = more;
    return;
  }
  for (size_t j = 0; j < sum->size(); ++j) (*sum)[j] += more[j];
}

}  // namespace

void TrafficMeter::BeginStep() { std::ranges::fill(assembly_.dispatch->traffic(), LayerTraffic()); }

void TrafficMeter::EndStep() {
  const std::vector<LayerTraffic>& step = assembly_.dispatch->traffic();
  open_.resize(step.size());
  for (size_t j = 0; j < step.size(); ++j) open_[j] += step[j];
  ++open_steps_;
}

// Where and when the tokens ran.
std::vector<TrafficPrediction::Source> TrafficMeter::SourcesOf(const RoutingWindow& window) const {
  const WorkerMap& workers = assembly_.workers;
  const int64_t leaves = assembly_.config.trainer().micro_batches();
  std::vector<int> home(static_cast<size_t>(workers.workers));
  for (int rank = 0; rank < workers.ranks; ++rank) {
    std::fill(home.begin() + workers.First(rank), home.begin() + workers.First(rank + 1), rank);
  }
  std::vector<TrafficPrediction::Source> sources;
  for (size_t t = 0; t < window.leaf.size(); ++t) sources.push_back({home[static_cast<size_t>(window.leaf[t] / leaves)], window.turn[t]});
  return sources;
}

absl::StatusOr<std::vector<LayerReport>> TrafficMeter::Close(const RoutingTrace* trace, const RoutingWindow* window) {
  if (!open_.empty()) RETURN_IF_ERROR(SumTraffic(assembly_.mesh->control(), &open_));
  std::vector<LayerReport> layers(open_.size());
  for (size_t j = 0; j < layers.size(); ++j) layers[j].measured = open_[j];
  if (trace != nullptr) {
    const DispatchSetup& setup = *assembly_.dispatch_setup;
    const int64_t ranks_per_node = assembly_.config.parallel().dispatch().ranks_per_node();
    const auto prediction =
        TrafficPrediction::For(*assembly_.mesh, {.route = setup.route, .ranks_per_node = ranks_per_node, .top_k = trace->top_k()});
    if (prediction) {
      const std::vector<TrafficPrediction::Bytes> bytes = prediction->Of(*trace, SourcesOf(*window), *assembly_.placement, open_);
      for (size_t j = 0; j < layers.size(); ++j) layers[j].predicted = bytes[j];
    }
  }
  AddLayers(layers, &closed_);
  closed_steps_ += open_steps_;
  open_.assign(open_.size(), {});
  open_steps_ = 0;
  return layers;
}

absl::StatusOr<std::string> TrafficMeter::Table() {
  if (assembly_.placement->axis() == 1 || assembly_.placement->layers() == 0) return "";
  if (closed_steps_ == 0) RETURN_IF_ERROR(Close().status());
  return TrafficTable(absl::StrFormat("rows to experts and home in %d steps, all ranks", closed_steps_), closed_);
}

}  // namespace conclave
