// LayerReport: what the dispatch of one mixture layer was predicted to move and what it moved; as JSON and as a table.
#ifndef CONCLAVE_TRAINER_LAYER_REPORT_H_
#define CONCLAVE_TRAINER_LAYER_REPORT_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "parallel/traffic_prediction.h"
#include "trainer/json.h"

namespace conclave {

// One layer over some steps, all ranks.
struct LayerReport {
  std::optional<TrafficPrediction::Bytes> predicted;  // of rows, from the trace; nothing: none was there, or it cannot tell
  LayerTraffic measured;
  LayerReport& operator+=(const LayerReport& other);  // without a prediction where one of the two has none
};

// As a member `layers` of a line of metrics.jsonl: an array of {predicted, measured, rows, rest}, each {inside, between}.
void AppendLayerReports(std::span<const LayerReport> layers, std::string* out);
// The other way; token_bytes and rows of the rest are not written. Empty: `line` has none. Errors: InvalidArgument for what is not ours.
absl::StatusOr<std::vector<LayerReport>> LayerReportsOf(const JsonValue& line);

// Bytes between and inside nodes, predicted and measured, in 10^6. Every line ends in a newline.
std::string TrafficHeading(std::string_view name);
std::string TrafficLine(std::string_view name, const LayerReport& layer);
// A line a layer, and one for their sum.
std::string TrafficTable(std::string_view title, std::span<const LayerReport> layers);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_LAYER_REPORT_H_
