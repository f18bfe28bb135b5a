#include "trainer/layer_report.h"

#include "base/strings.h"

namespace conclave {
namespace {

std::string Megabytes(double bytes) { return absl::StrFormat("%12.3f", bytes / 1e6); }

void AppendBytes(std::string_view key, const TrafficPrediction::Bytes& bytes, std::string* out) {
  if (out->back() != '{') out->push_back(',');
  AppendJsonString(key, out);
  out->append(":{\"inside\":");
  AppendJsonNumber(bytes.inside, out);
  out->append(",\"between\":");
  AppendJsonNumber(bytes.between, out);
  out->push_back('}');
}

TrafficPrediction::Bytes AsBytes(const RowCount& count) {
  return {.inside = static_cast<double>(count.inside), .between = static_cast<double>(count.between)};
}

absl::StatusOr<TrafficPrediction::Bytes> BytesOf(const JsonValue& layer, std::string_view key) {
  const JsonValue* const value = layer.Find(key);
  const JsonValue* const inside = value == nullptr ? nullptr : value->Find("inside");
  const JsonValue* const between = value == nullptr ? nullptr : value->Find("between");
  if (inside == nullptr || between == nullptr) return InvalidArgument("layers: expected '%s' with inside and between", std::string(key));
  TrafficPrediction::Bytes bytes;
  ASSIGN_OR_RETURN(bytes.inside, inside->AsDouble());
  ASSIGN_OR_RETURN(bytes.between, between->AsDouble());
  return bytes;
}

RowCount AsCount(const TrafficPrediction::Bytes& bytes) {
  return {.inside = static_cast<int64_t>(bytes.inside), .between = static_cast<int64_t>(bytes.between)};
}

}  // namespace

LayerReport& LayerReport::operator+=(const LayerReport& other) {
  measured += other.measured;
  if (predicted && other.predicted) {
    predicted->inside += other.predicted->inside, predicted->between += other.predicted->between;
  } else {
    predicted.reset();
  }
  return *this;
}

std::string TrafficHeading(std::string_view name) {
  return absl::StrFormat("%-8s%24s%24s%12s\n", "MB", "between nodes", "inside nodes", "beside rows") +
         absl::StrFormat("%-8s%12s%12s%12s%12s%12s\n", std::string(name), "predicted", "measured", "predicted", "measured", "both");
}

std::string TrafficLine(std::string_view name, const LayerReport& layer) {
  const auto predicted = [&](double bytes) { return layer.predicted ? Megabytes(bytes) : absl::StrFormat("%12s", "-"); };
  const auto measured = [](int64_t bytes) { return Megabytes(static_cast<double>(bytes)); };
  const TrafficPrediction::Bytes bytes = layer.predicted.value_or(TrafficPrediction::Bytes());
  const LayerTraffic& m = layer.measured;
  return absl::StrFormat("%-8s", std::string(name)) + predicted(bytes.between) + measured(m.rows.bytes.between) + predicted(bytes.inside) +
         measured(m.rows.bytes.inside) + measured(m.rest.bytes.between + m.rest.bytes.inside) + "\n";
}

std::string TrafficTable(std::string_view title, std::span<const LayerReport> layers) {
  std::string text = std::string(title) + "\n" + TrafficHeading("layer");
  if (layers.empty()) return text;
  LayerReport sum = layers[0];
  for (size_t j = 0; j < layers.size(); ++j) {
    text += TrafficLine(absl::StrFormat("%d", j), layers[j]);
    if (j > 0) sum += layers[j];
  }
  return text + TrafficLine("all", sum);
}

void AppendLayerReports(std::span<const LayerReport> layers, std::string* out) {
  out->push_back('[');
  for (const LayerReport& layer : layers) {
    out->append(&layer == layers.data() ? "{" : ",{");
    if (layer.predicted) AppendBytes("predicted", *layer.predicted, out);
    AppendBytes("measured", AsBytes(layer.measured.rows.bytes), out);
    AppendBytes("rows", AsBytes(layer.measured.rows.rows), out);
    AppendBytes("rest", AsBytes(layer.measured.rest.bytes), out);
    out->push_back('}');
  }
  out->push_back(']');
}

absl::StatusOr<std::vector<LayerReport>> LayerReportsOf(const JsonValue& line) {
  std::vector<LayerReport> layers;
  const JsonValue* const all = line.Find("layers");
  if (all == nullptr) return layers;
  for (const JsonValue& item : all->items) {
    LayerReport& layer = layers.emplace_back();
    if (item.Find("predicted") != nullptr) {
      ASSIGN_OR_RETURN(layer.predicted, BytesOf(item, "predicted"));
    }
    ASSIGN_OR_RETURN(const TrafficPrediction::Bytes measured, BytesOf(item, "measured"));
    ASSIGN_OR_RETURN(const TrafficPrediction::Bytes rows, BytesOf(item, "rows"));
    ASSIGN_OR_RETURN(const TrafficPrediction::Bytes rest, BytesOf(item, "rest"));
    layer.measured.rows = {.rows = AsCount(rows), .bytes = AsCount(measured)};
    layer.measured.rest.bytes = AsCount(rest);
  }
  return layers;
}

}  // namespace conclave
