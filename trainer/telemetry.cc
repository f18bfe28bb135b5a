#include "trainer/telemetry.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/strings.h"
#include "trainer/json.h"

namespace conclave {
namespace {

constexpr std::string_view kSchemaLine = "{\"schema\":\"conclave.metrics\",\"version\":1}\n";
constexpr std::string_view kStepKey = "{\"step\":";

void AppendKey(std::string_view key, std::string* out) {
  if (out->back() != '{') out->push_back(',');
  AppendJsonString(key, out);
  out->push_back(':');
}

void AppendNumber(std::string_view key, double value, std::string* out) {
  AppendKey(key, out);
  AppendJsonNumber(value, out);
}

void AppendInteger(std::string_view key, int64_t value, std::string* out) {
  AppendKey(key, out);
  absl::StrAppendFormat(out, "%d", value);
}

void AppendText(std::string_view key, std::string_view value, std::string* out) {
  AppendKey(key, out);
  AppendJsonString(value, out);
}

void AppendNumbers(std::string_view key, const std::vector<NamedNumber>& numbers, std::string* out) {
  if (numbers.empty()) return;
  AppendKey(key, out);
  out->push_back('{');
  for (const NamedNumber& number : numbers) AppendNumber(number.name, number.value, out);
  out->push_back('}');
}

// The step of a line, without parsing all of it; -1: not one of ours.
int64_t StepOf(std::string_view line) {
  if (!line.starts_with(kStepKey)) return -1;
  line.remove_prefix(kStepKey.size());
  const auto step = ParseInt64(line.substr(0, line.find_first_of(",}")));
  return step.ok() ? *step : -1;
}

// How many bytes of the file are whole lines of steps up to `last_step`, the schema included; 0: not even that is whole.
absl::StatusOr<int64_t> WholeBytes(const ReadableFile& file, const std::string& path, int64_t last_step) {
  constexpr int64_t kPiece = 1 << 20;
  ASSIGN_OR_RETURN(const int64_t size, file.Size());
  std::string text;        // from the beginning of a line
  int64_t text_begin = 0;  // in the file
  for (int64_t at = 0; at < size;) {
    const size_t old = text.size(), n = static_cast<size_t>(std::min(kPiece, size - at));
    text.resize(old + n);
    RETURN_IF_ERROR(file.Read(at, std::as_writable_bytes(std::span(text).subspan(old))));
    at += static_cast<int64_t>(n);
    size_t begin = 0;
    for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const int64_t line_begin = text_begin + static_cast<int64_t>(begin);
      const std::string_view line = std::string_view(text).substr(begin, end + 1 - begin);
      if (line_begin == 0) {
        if (line != kSchemaLine)
          return FailedPrecondition("'%s' begins with other than %s; move it away", path,
                                    std::string(kSchemaLine.substr(0, kSchemaLine.size() - 1)));
        continue;
      }
      const int64_t step = StepOf(line);
      if (step < 0 || step > last_step || line[line.size() - 2] != '}') return line_begin;
    }
    text.erase(0, begin);
    text_begin += static_cast<int64_t>(begin);
  }
  return text_begin;
}

}  // namespace

Telemetry::Telemetry(const TelemetryOptions& options)
    : files_(options.files != nullptr ? *options.files : RealFileSystem()),
      clock_(options.clock != nullptr ? *options.clock : RealClock()),
      options_(options),
      metrics_path_(JoinPath(options.folder, kMetricsFile)),
      status_path_(JoinPath(options.folder, kStatusFile)) {}

absl::StatusOr<std::unique_ptr<Telemetry>> Telemetry::Open(const TelemetryOptions& options) {
  std::unique_ptr<Telemetry> telemetry(new Telemetry(options));
  if (options.metrics) RETURN_IF_ERROR(telemetry->OpenMetrics());
  return telemetry;
}

absl::Status Telemetry::OpenMetrics() {
  if (files_.Exists(metrics_path_)) {
    ASSIGN_OR_RETURN(const auto file, files_.OpenForRead(metrics_path_));
    ASSIGN_OR_RETURN(metrics_bytes_, WholeBytes(*file, metrics_path_, options_.resumed_step));
    RETURN_IF_ERROR(files_.Truncate(metrics_path_, metrics_bytes_));
  }
  ASSIGN_OR_RETURN(metrics_, files_.OpenForWrite(metrics_path_, WriteMode::kAppend));
  if (metrics_bytes_ > 0) return absl::OkStatus();
  RETURN_IF_ERROR(metrics_->Write(kSchemaLine));
  metrics_bytes_ = static_cast<int64_t>(kSchemaLine.size());
  return absl::OkStatus();
}

void Telemetry::Warn(const absl::Status& failed) {
  if (!first_failure_.ok()) return;
  first_failure_ = failed;
  LOG_WARNING << "the run goes on, but not all that it tells of itself can be written: " << failed.message();
}

// Writes line_.
absl::Status Telemetry::WriteLine() {
  if (torn_) RETURN_IF_ERROR(files_.Truncate(metrics_path_, metrics_bytes_));
  torn_ = false;
  const absl::Status written = metrics_->Write(line_);
  torn_ = !written.ok();
  if (written.ok()) metrics_bytes_ += static_cast<int64_t>(line_.size());
  return written;
}

void Telemetry::Record(const StepRecord& record) {
  if (metrics_ == nullptr) return;
  line_.clear();
  AppendMetricsLine(record, clock_.WallNanos() / 1'000'000, &line_);
  const absl::Status written = WriteLine();
  if (written.ok()) return;
  Warn(written);
  if (missing_++ == 0) first_missing_ = record.step;
  last_missing_ = record.step;
}

std::string Telemetry::Missing() const {
  if (first_failure_.ok()) return "";
  const std::string why(first_failure_.message());
  if (missing_ == 0) return "what the run tells of itself could not always be written: " + why;
  return absl::StrFormat("'%s' lacks %d lines, of steps between %d and %d: %s", metrics_path_, missing_, first_missing_, last_missing_,
                         why);
}

void Telemetry::UpdateStatus(const RunStatus& status, bool force) {
  if (!options_.status) return;
  const double now = clock_.Seconds();
  if (!force && has_status_ && now - last_status_ < options_.status_seconds) return;
  has_status_ = true;
  last_status_ = now;
  std::string text = "{";
  AppendText("run_id", status.run_id, &text);
  AppendText("phase", status.phase, &text);
  AppendInteger("step", status.step, &text);
  AppendInteger("steps", status.steps, &text);
  AppendNumber("steps_per_second", status.steps_per_second, &text);
  AppendInteger("ranks", status.ranks, &text);
  AppendInteger("last_checkpoint", status.last_checkpoint, &text);
  AppendInteger("heartbeat_unix_ms", clock_.WallNanos() / 1'000'000, &text);
  text += "}\n";
  if (const absl::Status written = WriteStatus(text); !written.ok()) Warn(written);
}

// Renamed without a sync: readers always see a whole file, and one of these after a power loss is worth nothing.
absl::Status Telemetry::WriteStatus(const std::string& text) {
  const std::string temporary = status_path_ + ".tmp";
  ASSIGN_OR_RETURN(const auto file, files_.OpenForWrite(temporary, WriteMode::kTruncate));
  RETURN_IF_ERROR(file->Write(text));
  RETURN_IF_ERROR(file->Close());
  return files_.Rename(temporary, status_path_);
}

void Telemetry::Sync() {
  if (metrics_ == nullptr) return;
  if (const absl::Status synced = metrics_->Sync(); !synced.ok()) Warn(synced);
}

void AppendMetricsLine(const StepRecord& record, int64_t wall_ms, std::string* out) {
  out->push_back('{');
  AppendInteger("step", record.step, out);
  AppendNumber("objective", record.objective, out);
  AppendNumbers("terms", record.terms, out);
  AppendNumber("gradient_norm", record.gradient_norm, out);
  AppendNumber("learning_rate", record.learning_rate, out);
  AppendInteger("samples", record.samples, out);
  AppendInteger("tokens", record.tokens, out);
  if (record.skipped) {
    AppendKey("skipped", out);
    out->append("true");
    AppendText("reason", record.reason, out);
  }
  AppendNumbers("evaluation", record.evaluation, out);
  AppendNumbers("extra", record.extra, out);
  AppendKey("wire", out);
  out->push_back('{');
  AppendInteger("logical_up", record.wire.logical_up, out);
  AppendInteger("logical_down", record.wire.logical_down, out);
  AppendInteger("physical_sent", record.wire.physical_sent, out);
  AppendInteger("physical_received", record.wire.physical_received, out);
  out->push_back('}');
  AppendNumbers("routing", record.routing, out);
  AppendNumbers("placement", record.placement, out);
  if (!record.layers.empty()) {
    AppendKey("layers", out);
    AppendLayerReports(record.layers, out);
  }
  out->append(",\"clock\":{");
  AppendInteger("unix_ms", wall_ms, out);
  AppendNumber("step_seconds", record.seconds.step, out);
  if (record.seconds.evaluation > 0) AppendNumber("evaluation_seconds", record.seconds.evaluation, out);
  if (record.seconds.checkpoint > 0) AppendNumber("checkpoint_seconds", record.seconds.checkpoint, out);
  out->append("}}\n");
}

}  // namespace conclave
