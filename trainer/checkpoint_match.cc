#include "trainer/checkpoint_match.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "base/strings.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint_manifest.h"
#include "trainer/safetensors.h"

namespace conclave {
namespace {

std::vector<int64_t> Dims(const Shape& shape) {
  std::vector<int64_t> dims;
  for (int d = 0; d < shape.dims(); ++d) dims.push_back(shape[d]);
  return dims;
}

// A list over all ranks, without repetitions. Names hold no line breaks.
absl::StatusOr<std::vector<std::string>> Union(Communicator& control, const std::vector<std::string>& mine) {
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, GatherTexts(control, "checkpoint: what does not fit", JoinStrings(mine, "\n")));
  std::set<std::string> all;
  for (const std::string& text : texts) {
    if (text.empty()) continue;
    for (std::string& name : SplitString(text, '\n')) all.insert(std::move(name));
  }
  return std::vector<std::string>(all.begin(), all.end());
}

void AppendList(const char* what, const std::vector<std::string>& names, std::string* out) {
  constexpr size_t kShown = 5;
  if (names.empty()) return;
  absl::StrAppendFormat(out, "%s %d %s: %s", out->empty() ? "" : ";", names.size(), what,
                        JoinStrings(std::span(names).first(std::min(kShown, names.size())), ", "));
  if (names.size() > kShown) absl::StrAppendFormat(out, " and %d more", names.size() - kShown);
}

absl::Status Judge(const LoadReport& report, const std::string& path) {
  std::string text;
  AppendList("missing in it", report.missing, &text);
  AppendList("of another type or shape", report.mismatched, &text);
  AppendList("unknown to this run", report.unused, &text);
  if (text.empty()) return absl::OkStatus();
  return FailedPrecondition("checkpoint '%s' does not fit this run:%s; is it of another model or optimizer?", path, text);
}

// Matches this rank's tensors; wanted[t] becomes 1 for every tensor of the manifest that is wanted here.
absl::Status MatchTensors(const CheckpointManifest& manifest, const StateDict& dict, const LoadOptions& options,
                          std::vector<uint8_t>* wanted, StateMatch* match) {
  std::map<std::string_view, int> saved;
  for (int t = 0; t < manifest.tensors_size(); ++t) saved.emplace(manifest.tensors(t).name(), t);
  for (const StateEntry& entry : dict.entries()) {
    if (!entry.name.starts_with(options.prefix)) continue;
    if (entry.data.device().kind != DeviceKind::kCpu) return Unimplemented("loading '%s': it is not in host memory", entry.name);
    const auto it = saved.find(entry.name);
    if (it == saved.end()) {
      match->report.missing.push_back(entry.name);
      continue;
    }
    (*wanted)[static_cast<size_t>(it->second)] = 1;
    const SavedTensor& tensor = manifest.tensors(it->second);
    const std::vector<int64_t> dims = Dims(entry.data.shape());
    if (tensor.dtype() == SafetensorsName(entry.data.dtype()) &&
        std::equal(dims.begin(), dims.end(), tensor.shape().begin(), tensor.shape().end())) {
      match->tensors.push_back({&tensor, entry.data});
      continue;
    }
    match->report.mismatched.push_back(
        absl::StrFormat("%s: %s in the checkpoint, %s here", entry.name,
                        DescribeType(tensor.dtype(), {tensor.shape().data(), static_cast<size_t>(tensor.shape_size())}),
                        DescribeType(SafetensorsName(entry.data.dtype()), dims)));
  }
  return absl::OkStatus();
}

// The same for the scalars of the manifest. Ranks may have different ones: those that lead groups of workers, say.
void MatchScalars(const CheckpointManifest& manifest, const StateDict& dict, std::span<uint8_t> wanted, StateMatch* match) {
  std::map<std::string_view, int> saved;
  for (int v = 0; v < manifest.state().values_size(); ++v) saved.emplace(manifest.state().values(v).name(), v);
  for (const StateScalar& scalar : dict.scalars()) {
    const auto it = saved.find(scalar.name);
    if (it == saved.end()) {
      match->report.missing.push_back(scalar.name);
      continue;
    }
    wanted[static_cast<size_t>(it->second)] = 1;
    match->scalars.emplace_back(&scalar, manifest.state().values(it->second).real());
  }
}

}  // namespace

absl::StatusOr<StateMatch> MatchState(Communicator& control, const CheckpointManifest& manifest, const StateDict& dict,
                                      const LoadOptions& options, const std::string& path) {
  StateMatch match;
  // Tensors, then scalars.
  const size_t tensors = static_cast<size_t>(manifest.tensors_size()), scalars = static_cast<size_t>(manifest.state().values_size());
  std::vector<uint8_t> wanted(tensors + scalars, 0);
  const absl::Status status = MatchTensors(manifest, dict, options, &wanted, &match);
  RETURN_IF_ERROR(AgreeOnOutcome(control, "checkpoint: match", status));
  if (options.prefix.empty()) MatchScalars(manifest, dict, std::span(wanted).subspan(tensors), &match);
  if (!wanted.empty()) {
    RETURN_IF_ERROR(control.AllReduce("checkpoint: state wanted", Tensor(wanted.data(), {static_cast<int64_t>(wanted.size())}, DType::kU8),
                                      ReduceOp::kMax));
  }
  LoadReport& report = match.report;
  for (size_t t = 0; t < tensors; ++t) {
    const std::string& name = manifest.tensors(static_cast<int>(t)).name();
    if (wanted[t] == 0 && name.starts_with(options.prefix)) report.unused.push_back(name);
  }
  for (size_t v = 0; options.prefix.empty() && v < scalars; ++v) {
    if (wanted[tensors + v] == 0) report.unused.push_back(manifest.state().values(static_cast<int>(v)).name());
  }
  std::sort(report.unused.begin(), report.unused.end());
  ASSIGN_OR_RETURN(report.missing, Union(control, report.missing));
  ASSIGN_OR_RETURN(report.mismatched, Union(control, report.mismatched));
  if (options.strict) RETURN_IF_ERROR(Judge(report, path));
  return match;
}

}  // namespace conclave
