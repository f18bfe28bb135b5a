#include "launch/contest.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/strings.h"
#include "comm/loopback.h"
#include "google/protobuf/message.h"
#include "trainer/config_loader.h"

namespace conclave {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

double MedianOf(std::vector<double> values) {
  if (values.empty()) return kNever;
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

// Pieces between commas that stand outside of braces, brackets and quotes.
std::vector<std::string> SplitValues(std::string_view text) {
  std::vector<std::string> values{""};
  int depth = 0;
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '{' || c == '[')) ++depth;
    if (!quoted && (c == '}' || c == ']')) --depth;
    if (c == ',' && depth == 0 && !quoted) {
      values.emplace_back();
    } else {
      values.back() += c;
    }
  }
  return values;
}

// LOW..HIGH/N.
absl::Status AppendGeometric(const std::string& text, std::vector<std::string>* values) {
  const size_t dots = text.find(".."), slash = text.find('/', dots);
  const auto low = ParseDouble(text.substr(0, dots)), high = ParseDouble(text.substr(dots + 2, slash - dots - 2));
  const auto count = slash == std::string::npos ? InvalidArgument("no count") : ParseInt64(text.substr(slash + 1));
  if (!low.ok() || !high.ok() || !count.ok() || !(*low > 0) || !(*high > *low) || *count < 2 || *count > 1000) {
    return InvalidArgument("'%s': expected LOW..HIGH/N with 0 < LOW < HIGH and N from 2 to 1000, as in 0.1..1.6/5", text);
  }
  for (int64_t i = 0; i < *count; ++i) {
    values->push_back(absl::StrFormat("%.6g", *low * std::pow(*high / *low, static_cast<double>(i) / static_cast<double>(*count - 1))));
  }
  return absl::OkStatus();
}

absl::StatusOr<Experiment> LoadEntrant(const Entrant& entrant, const std::vector<std::string>& settings, int seed) {
  std::vector<std::string> overrides = entrant.overrides;
  overrides.insert(overrides.end(), settings.begin(), settings.end());
  overrides.push_back(absl::StrFormat("seed=%d", seed));
  ASSIGN_OR_RETURN(LoadedConfig loaded, LoadConfig(entrant.config_path, overrides));
  return std::move(loaded.config);
}

absl::StatusOr<RaceResult> RaceOnThreads(const Experiment& config, int ranks, const RaceOptions& options) {
  RaceResult result;
  RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(RaceResult mine, RunRace(config, world, RealFileSystem(), options));
    if (world.rank() == 0) result = std::move(mine);
    return absl::OkStatus();
  }));
  return result;
}

// Points of the grid in order, as indices into the axes' values.
bool NextPoint(const std::vector<GridAxis>& axes, std::vector<size_t>* point) {
  for (size_t i = 0; i < axes.size(); ++i) {
    if (++(*point)[i] < axes[i].values.size()) return true;
    (*point)[i] = 0;
  }
  return false;
}

std::vector<std::string> SettingsAt(const std::vector<GridAxis>& axes, const std::vector<size_t>& point) {
  std::vector<std::string> settings;
  for (size_t i = 0; i < axes.size(); ++i) settings.push_back(axes[i].path + "=" + axes[i].values[point[i]]);
  return settings;
}

// The sum of costs over the tuning seeds; infinite once it is above `best`.
absl::StatusOr<double> TuningCost(const Entrant& entrant, const std::vector<std::string>& settings, const ContestOptions& options,
                                  double best) {
  double sum = 0;
  for (int seed = 1; seed <= options.tuning_seeds; ++seed) {
    ASSIGN_OR_RETURN(const Experiment config, LoadEntrant(entrant, settings, seed));
    RaceOptions race = options.race;
    race.budget = std::isfinite(best) ? best - sum : 0;
    ASSIGN_OR_RETURN(const RaceResult result, RaceOnThreads(config, options.ranks, race));
    if (result.end != RaceEnd::kReached) return kNever;
    sum += result.costs.Of(race.budgeted);
    if (sum >= best) return kNever;
  }
  return sum;
}

bool TravelsExactly(const OptimConfig& optim) {
  const auto* descriptor = OptimConfig::descriptor()->FindOneofByName("scheme");
  const auto* member = optim.GetReflection()->GetOneofFieldDescriptor(optim, descriptor);
  if (member == nullptr) return false;
  const google::protobuf::Message& scheme = optim.GetReflection()->GetMessage(optim, member);
  const auto* field = scheme.GetDescriptor()->FindFieldByName("exchange");
  if (field == nullptr) return false;
  const auto& exchange = static_cast<const ExchangeConfig&>(scheme.GetReflection()->GetMessage(scheme, field));
  return exchange.kind_case() == ExchangeConfig::kExact;
}

}  // namespace

absl::StatusOr<GridAxis> ParseGridAxis(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size()) {
    return InvalidArgument("'%s': expected PATH=V1,V2,..., as in optim.*.gamma=0.1,0.2,0.4", std::string(text));
  }
  GridAxis axis{.path = std::string(text.substr(0, equals))};
  for (const std::string& value : SplitValues(text.substr(equals + 1))) {
    if (value.find('{') == std::string::npos && value.find("..") != std::string::npos) {
      RETURN_IF_ERROR(AppendGeometric(value, &axis.values));
    } else {
      axis.values.push_back(value);
    }
  }
  return axis;
}

std::string ResolvePath(const Experiment& config, std::string_view path) {
  const google::protobuf::Message* message = &config;
  std::string resolved;
  const std::vector<std::string> steps = SplitString(path, '.');
  for (size_t i = 0; i < steps.size(); ++i) {
    if (message == nullptr) return "";
    const google::protobuf::FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(steps[i].substr(0, steps[i].find('[')));
    if (steps[i] == "*") {
      if (message->GetDescriptor()->real_oneof_decl_count() == 0) return "";
      field = message->GetReflection()->GetOneofFieldDescriptor(*message, message->GetDescriptor()->oneof_decl(0));
    }
    const bool other_member =
        field != nullptr && field->real_containing_oneof() != nullptr && !message->GetReflection()->HasField(*message, field);
    if (field == nullptr || (other_member && i + 1 < steps.size())) return "";
    resolved += (i > 0 ? "." : "") + (steps[i] == "*" ? field->name() : steps[i]);
    const bool block = field->message_type() != nullptr && !field->is_repeated();
    message = block ? &message->GetReflection()->GetMessage(*message, field) : nullptr;
  }
  return resolved;
}

int EntrantResult::reached() const {
  return static_cast<int>(std::ranges::count_if(races, [](const RaceResult& race) { return race.end == RaceEnd::kReached; }));
}

double EntrantResult::Median(double RaceCosts::*cost) const {
  std::vector<double> values;
  for (const RaceResult& race : races) values.push_back(race.end == RaceEnd::kReached ? race.costs.*cost : kNever);
  return MedianOf(std::move(values));
}

double EntrantResult::MedianTime() const { return Median(&RaceCosts::seconds); }

absl::StatusOr<EntrantResult> RunEntrant(const Entrant& entrant, const ContestOptions& options) {
  ASSIGN_OR_RETURN(const Experiment first, LoadEntrant(entrant, {}, 1));
  EntrantResult result{.name = entrant.name, .exact = TravelsExactly(first.optim()), .alone = first.trainer().workers() == options.ranks};
  std::vector<GridAxis> axes;
  for (const GridAxis& axis : options.tuned) {
    const std::string path = ResolvePath(first, axis.path);
    if (!path.empty()) axes.push_back({path, axis.values});
  }
  std::vector<size_t> point(axes.size(), 0), best_point = point;
  if (!axes.empty()) {
    double best = kNever;
    result.candidates = 0;
    do {
      ++result.candidates;
      ASSIGN_OR_RETURN(const double cost, TuningCost(entrant, SettingsAt(axes, point), options, best));
      if (cost < best) {
        best = cost;
        best_point = point;
      }
    } while (NextPoint(axes, &point));
  }
  result.settings = SettingsAt(axes, best_point);
  for (size_t i = 0; i < axes.size(); ++i) {
    const size_t last = axes[i].values.size() - 1;
    result.at_edge |= last > 0 && (best_point[i] == 0 || best_point[i] == last);
  }
  for (int seed = 1; seed <= options.seeds; ++seed) {
    ASSIGN_OR_RETURN(const Experiment config, LoadEntrant(entrant, result.settings, seed));
    ASSIGN_OR_RETURN(RaceResult race, RaceOnThreads(config, options.ranks, options.race));
    result.races.push_back(std::move(race));
  }
  return result;
}

double MedianGain(const EntrantResult& baseline, const EntrantResult& entrant, double RaceCosts::*cost) {
  std::vector<double> gains;
  for (size_t i = 0; i < std::min(baseline.races.size(), entrant.races.size()); ++i) {
    const bool both = baseline.races[i].end == RaceEnd::kReached && entrant.races[i].end == RaceEnd::kReached;
    gains.push_back(both ? baseline.races[i].costs.*cost / (entrant.races[i].costs.*cost) : 0.0);
  }
  return gains.empty() ? 0 : MedianOf(std::move(gains));
}

}  // namespace conclave
