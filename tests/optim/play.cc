// Playing a game with a scheme: configs, saved states, ranks.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "comm/loopback.h"
#include "google/protobuf/text_format.h"
#include "optim/gap.h"
#include "optim/guard.h"
#include "proto/options.pb.h"
#include "tests/optim/test_operators.h"

namespace conclave {
namespace {

void FillDefaults(google::protobuf::Message* message) {
  const google::protobuf::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const google::protobuf::FieldDescriptor* field = message->GetDescriptor()->field(i);
    const FieldSpec& spec = field->options().GetExtension(field_spec);
    if (field->is_repeated()) {
      if (field->message_type() == nullptr) continue;
      for (int j = 0; j < reflection.FieldSize(*message, field); ++j) FillDefaults(reflection.MutableRepeatedMessage(message, field, j));
    } else if (field->message_type() != nullptr) {
      const bool member = field->real_containing_oneof() != nullptr;
      if (reflection.HasField(*message, field) || (!member && !spec.presence())) FillDefaults(reflection.MutableMessage(message, field));
    } else if (spec.has_default_value() && !reflection.HasField(*message, field)) {
      CHECK(google::protobuf::TextFormat::ParseFieldValueFromString(spec.default_value(), field, message)) << field->full_name();
    }
  }
}

Layout PlanLayout(const ParameterSet* parameters, int rank, const Play& play) {
  std::vector<BlockHome> homes(parameters->size());
  for (int i = 0; i < parameters->size(); ++i) {
    const BlockSpec& spec = (*parameters)[{i}];
    const bool expert = spec.kind == BlockKind::kExpert;
    const int place = expert ? spec.expert * play.expert_axis / play.game.experts : 0;
    for (int r = place; r < play.ranks; r += expert ? play.expert_axis : 1) homes[i].owners.push_back(r);
    homes[i].canonical = place;
  }
  return Layout(parameters, rank, std::move(homes));
}

std::string RawBytes(const Tensor& tensor) {
  const auto bytes = tensor.AsBytes();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Equal bits: not-a-numbers are compared too.
bool Same(double a, double b) { return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b); }

// Reports of all ranks must agree to the bit.
bool SameReport(const StepReport& a, const StepReport& b) {
  return Same(a.gradient_norm, b.gradient_norm) && Same(a.norms.dense, b.norms.dense) && Same(a.norms.expert, b.norms.expert) &&
         Same(a.clip_factor, b.clip_factor) && Same(a.learning_rate, b.learning_rate) &&
         Same(a.evaluation.objective, b.evaluation.objective) && a.skipped == b.skipped && a.reason == b.reason;
}

// What one rank leaves behind: its outcome, and the entries that another rank is to write.
struct RankOutcome : Outcome {
  std::map<std::string, std::string> replicas;
};

absl::Status PlayRank(Communicator& world, const Play& play, RankOutcome* outcome) {
  Stage stage(world, play);
  RETURN_IF_ERROR(stage.Open());
  ASSIGN_OR_RETURN(std::unique_ptr<Scheme> scheme, MakeScheme(play.config, stage.context));
  std::unique_ptr<Guard> guard = MakeGuard(play.config.guard(), world.rank());
  StateDict state;
  scheme->Register(state);
  guard->Register(state);
  FlatVector solution(stage.layout.get(), play.game.dtype);
  stage.game->Solution(solution);
  if (play.from_solution) scheme->point().CopyFrom(solution);
  RETURN_IF_ERROR(play.resume != nullptr ? play.resume->Restore(state) : scheme->Start(*stage.game));
  GapMeasures gap(stage.context.exchange);
  ASSIGN_OR_RETURN(const double at_start, gap.Distance(scheme->point(), solution));
  outcome->distances.push_back(at_start);
  for (Cursor cursor{play.first}; cursor.step < play.first + play.steps; ++cursor.step) {
    const double evaluated = stage.game->evaluations();
    ASSIGN_OR_RETURN(StepReport report, scheme->Step(*stage.game, cursor, *guard));
    outcome->evaluations.push_back(stage.game->evaluations() - evaluated);
    ASSIGN_OR_RETURN(const double distance, gap.Distance(scheme->point(), solution));
    outcome->reports.push_back(std::move(report));
    outcome->distances.push_back(distance);
  }
  outcome->wires.push_back(world.ledger()->Take());
  outcome->state.Add(state);
  for (const StateEntry& entry : state.entries()) {
    if (!entry.canonical) outcome->replicas[entry.name] = RawBytes(entry.data);
  }
  return absl::OkStatus();
}

}  // namespace

template <typename Config>
Config ParseConfig(const std::string& text) {
  Config config;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &config)) << text;
  FillDefaults(&config);
  return config;
}
template OptimConfig ParseConfig(const std::string&);
template ScheduleConfig ParseConfig(const std::string&);
template GuardConfig ParseConfig(const std::string&);

void SavedState::Add(const StateDict& state) {
  for (const StateEntry& entry : state.entries()) {
    if (!entry.canonical) continue;
    CHECK(tensors.emplace(entry.name, RawBytes(entry.data)).second) << entry.name;
  }
  for (const StateScalar& scalar : state.scalars()) scalars[scalar.name] = scalar.get();
}

absl::Status SavedState::Restore(const StateDict& state) const {
  for (const StateEntry& entry : state.entries()) {
    const auto it = tensors.find(entry.name);
    if (it == tensors.end()) return NotFound("state \"%s\"", entry.name);
    if (static_cast<int64_t>(it->second.size()) != entry.data.bytes()) return InvalidArgument("state \"%s\": other size", entry.name);
    std::memcpy(entry.data.raw(), it->second.data(), it->second.size());
  }
  for (const StateScalar& scalar : state.scalars()) {
    const auto it = scalars.find(scalar.name);
    if (it == scalars.end()) return NotFound("scalar \"%s\"", scalar.name);
    scalar.set(it->second);
  }
  return absl::OkStatus();
}

std::vector<double> SavedState::Doubles(const std::string& name) const {
  const std::string& bytes = tensors.at(name);
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<double> SavedState::All(const std::string& part) const {
  std::vector<double> values;
  for (const auto& [name, bytes] : tensors) {
    if (name.starts_with(part + "/")) std::ranges::copy(Doubles(name), std::back_inserter(values));
  }
  return values;
}

std::string FirstDifference(const SavedState& a, const SavedState& b) {
  for (const auto& [name, bytes] : a.tensors) {
    const auto it = b.tensors.find(name);
    if (it == b.tensors.end()) return name + " is missing";
    if (it->second != bytes) return name + " has other bits";
  }
  for (const auto& [name, value] : a.scalars) {
    const auto it = b.scalars.find(name);
    if (it == b.scalars.end() || it->second != value) return name + " differs";
  }
  return a.tensors.size() == b.tensors.size() && a.scalars.size() == b.scalars.size() ? "" : "one holds more";
}

Stage::Stage(Communicator& world, const Play& play) : play(play), world(world), parameters(GameParameters(play.game)) {
  layout = std::make_unique<Layout>(PlanLayout(&parameters, world.rank(), play));
}

absl::Status Stage::Open() {
  const int axis = play.expert_axis;
  ASSIGN_OR_RETURN(data, world.Split(world.rank() % axis, world.rank() / axis, "data"));
  context.exchange = {.layout = layout.get(),
                      .workers = {.workers = play.game.workers, .ranks = play.ranks, .expert_axis = axis},
                      .world = &world,
                      .data = data.get(),
                      .dtype = play.game.dtype,
                      .world_size_invariant = play.invariant,
                      .bucket_bytes = 4096,
                      .seed = play.seed};
  context.initial = [this](BlockId id, const Tensor& value) { Initialize(parameters[id], id, play.game.seed, value); };
  context.total_steps = 1000;
  game = std::make_unique<AffineGame>(play.game, context.exchange.workers, layout.get());
  return absl::OkStatus();
}

absl::StatusOr<Outcome> PlayGame(const Play& play) {
  std::vector<RankOutcome> outcomes(play.ranks);
  RETURN_IF_ERROR(RunRanks(play.ranks, [&](Communicator& world) { return PlayRank(world, play, &outcomes[world.rank()]); }));
  Outcome result = std::move(outcomes[0]);
  for (int r = 1; r < play.ranks; ++r) {
    if (outcomes[r].evaluations != result.evaluations) return Internal("rank %d: other evaluations than rank 0", r);
    result.wires.push_back(std::move(outcomes[r].wires[0]));
    for (size_t i = 0; i < result.reports.size(); ++i) {
      if (!SameReport(result.reports[i], outcomes[r].reports[i]) || result.distances[i + 1] != outcomes[r].distances[i + 1]) {
        return Internal("step %d: rank %d reports something else than rank 0", i, r);
      }
    }
    if (outcomes[r].state.scalars != result.state.scalars) return Internal("rank %d: other scalars than rank 0", r);
    for (const auto& [name, bytes] : outcomes[r].state.tensors) {
      if (!result.state.tensors.emplace(name, bytes).second) return Internal("rank %d: %s is canonical twice", r, name);
    }
  }
  for (int r = 0; r < play.ranks; ++r) {
    for (const auto& [name, bytes] : outcomes[r].replicas) {
      if (result.state.tensors.at(name) != bytes) return Internal("rank %d: its replica of %s has other bits", r, name);
    }
  }
  return result;
}

}  // namespace conclave
