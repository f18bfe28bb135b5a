// TrafficMeter: what the dispatch of each mixture layer moved while a run trained, beside what the routing says that it moves.
#ifndef CONCLAVE_TRAINER_TRAFFIC_METER_H_
#define CONCLAVE_TRAINER_TRAFFIC_METER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "parallel/routing_recorder.h"
#include "trainer/layer_report.h"

namespace conclave {

struct Assembly;

// Every rank owns one. The assembly, whose experts may move between two steps, must outlive it.
class TrafficMeter {
 public:
  explicit TrafficMeter(const Assembly* assembly) : assembly_(*assembly) {}

  // What was moved until here is no part of a step.
  void BeginStep();
  void EndStep();
  // The steps since the last call, [layers]. trace: their routing, or a sample of it, whose tokens are those of `window`; both are read
  // on rank 0 alone, null: no prediction. Predicted are the ways that tokens truly went (TrafficPrediction), for experts and copies where
  // they are now. Collective.
  absl::StatusOr<std::vector<LayerReport>> Close(const RoutingTrace* trace = nullptr, const RoutingWindow* window = nullptr);
  // All that was closed so far, or the steps since the start where nothing was, as a table; empty: nothing can have moved. Collective.
  absl::StatusOr<std::string> Table();

 private:
  std::vector<TrafficPrediction::Source> SourcesOf(const RoutingWindow& window) const;

  const Assembly& assembly_;
  std::vector<LayerTraffic> open_;   // this rank's, since the last Close
  std::vector<LayerReport> closed_;  // all that was
  int64_t open_steps_ = 0, closed_steps_ = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_TRAFFIC_METER_H_
