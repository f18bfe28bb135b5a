// conclave eval: the held-out loss of a run's newest checkpoint.

#include <cmath>
#include <cstdio>

#include "launch/commands.h"
#include "launch/job.h"
#include "launch/loading.h"
#include "parallel/trace_files.h"
#include "trainer/agreement.h"
#include "trainer/choice_evaluation.h"
#include "trainer/routing_replay.h"
#include "trainer/stop_signal.h"

namespace conclave {
namespace {

void Print(const Evaluation& result, const DataSet& data, bool json) {
  std::string text = json ? "{" : "";
  const auto add = [&](const std::string& name, double value) {
    if (json) {
      absl::StrAppendFormat(&text, "%s\"%s\": %.17g", text.size() > 1 ? ", " : "", name, value);
    } else {
      absl::StrAppendFormat(&text, "%-18s %.6f\n", name, value);
    }
  };
  for (const Term& term : result.terms) add(term.name, term.value);
  add("samples", static_cast<double>(result.samples));
  if (data.bytes_per_token > 0) add("bits_per_byte", result.terms[0].value / std::log(2.0) / data.bytes_per_token);
  std::printf("%s%s", text.c_str(), json ? "}\n" : "");
}

void PrintChoices(const ChoiceScore& score, bool json) {
  const double questions = static_cast<double>(std::max<int64_t>(score.questions, 1));
  const double by_mean = static_cast<double>(score.right_by_mean) / questions, by_sum = static_cast<double>(score.right_by_sum) / questions;
  std::printf(json ? "{\"questions\": %lld, \"accuracy\": %.17g, \"accuracy_by_sum\": %.17g, \"cut\": %lld}\n"
                   : "questions          %lld\naccuracy           %.4f\naccuracy_by_sum    %.4f\ncut                %lld\n",
              static_cast<long long>(score.questions), by_mean, by_sum, static_cast<long long>(score.cut));
}

// Evaluates, recording or replaying routing where asked for.
absl::StatusOr<Evaluation> Evaluate(Assembly& a, const OpenedWeights& weights, const Arguments& arguments, int64_t batches) {
  RoutingLog log;
  RoutingLog* used = nullptr;
  const std::string record = arguments.Get("--record-routing"), replay = arguments.Get("--replay-routing");
  if (!record.empty()) {
    RETURN_IF_ERROR(RoutingHeader(a).status());  // before anything is evaluated
    used = &log;
  }
  if (!replay.empty()) {
    ASSIGN_OR_RETURN(const RoutingTrace trace, ReadTrace(RealFileSystem(), replay));
    ASSIGN_OR_RETURN(log, HeldOutRouting(a, trace, batches));
    used = &log;
  }
  ASSIGN_OR_RETURN(const Evaluation result, a.field->EvaluateHeldOut(a.scheme->point(), batches, a.held_out_rows, used));
  if (!record.empty()) {
    RoutingOrigin origin{.step = weights.step, .checkpoint = weights.digest};
    ASSIGN_OR_RETURN(origin.batches, HeldOutDigest(a, batches));
    ASSIGN_OR_RETURN(const RoutingTrace trace, GatherRouting(a, log, origin));
    absl::Status written;
    if (a.mesh->rank() == 0) written = WriteTrace(RealFileSystem(), record, trace);
    RETURN_IF_ERROR(AgreeOn(a.mesh->control(), written, "writing the routing"));
  }
  return result;
}

int RunEval(const Arguments& arguments, const std::vector<std::string>&) {
  const RunFolder folder(&RealFileSystem(), arguments.positional());
  const absl::StatusOr<int64_t> batches = arguments.Integer("--batches", 0);
  if (!batches.ok() || *batches < 0) return Fail(InvalidArgument("--batches: a number from 0 on is needed"));
  if (arguments.Has("--record-routing") && arguments.Has("--replay-routing"))
    return Fail(InvalidArgument("--record-routing and --replay-routing: give one of them"));
  if (arguments.Has("--resident-layers") && arguments.Has("--choices"))
    return Fail(
        InvalidArgument("--resident-layers: multiple-choice questions are scored with all layers in memory; leave one of them out"));
  return RunJob({}, [&](Communicator& world) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const Experiment config, ConfigForReading(folder, world.size()));
    Assembly assembly;
    ASSIGN_OR_RETURN(const OpenedWeights weights, OpenTrained(folder, config, world, &assembly));
    if (arguments.Has("--choices")) {
      ASSIGN_OR_RETURN(const std::vector<ChoiceQuestion> questions, ReadChoiceFile(RealFileSystem(), arguments.Get("--choices")));
      ASSIGN_OR_RETURN(const ChoiceScore score, EvaluateChoices(assembly, questions));
      if (world.rank() == 0) PrintChoices(score, arguments.Has("--json"));
      return kExitFinished;
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<RingMemory> ring, RingFrom(arguments, folder, assembly));
    if (ring) RETURN_IF_ERROR(assembly.field->ReadWeights([&ring](BlockId id) { return ring->At(id); }));
    ASSIGN_OR_RETURN(const Evaluation result, Evaluate(assembly, weights, arguments, *batches));
    if (world.rank() == 0) Print(result, assembly.data, arguments.Has("--json"));
    return kExitFinished;
  });
}

}  // namespace

Command EvalCommand() {
  Command command{{.name = "eval",
                   .positional = "RUN_DIR",
                   .summary = "Evaluates the newest checkpoint of a run on its held-out data.",
                   .options = {{"--batches", "N", "held-out batches to use (default: all)"},
                               {"--choices", "FILE", "accuracy on multiple-choice questions (llm.c's format) instead"},
                               {"--record-routing", "FILE.npy", "write which experts every token chose, as a trace for 'conclave place'"},
                               {"--replay-routing", "FILE.npy", "send tokens where a record of the same batches sent them"},
                               {"--json", "", "print one JSON object"}}},
                  RunEval};
  for (const OptionSpec& option : RingOptions()) command.spec.options.push_back(option);
  return command;
}

}  // namespace conclave
