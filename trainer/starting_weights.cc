#include "trainer/starting_weights.h"

#include <map>

#include "base/log.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint_load.h"
#include "trainer/hf_weights.h"

namespace conclave {
namespace {

// OK where `config` describes the model that `theirs` does, as far as tensors do not show it.
absl::Status CheckSameModel(const MoeLmConfig& theirs, const MoeLmConfig& config) {
  std::string differences;
  const auto compare = [&](const std::string& field, const std::string& want, const std::string& got) {
    if (want != got) absl::StrAppendFormat(&differences, "%s%s is %s, there %s", differences.empty() ? "" : "; ", field, got, want);
  };
  const auto number = [&](const std::string& field, double want, double got) {
    compare(field, absl::StrFormat("%.9g", want), absl::StrFormat("%.9g", got));
  };
  const auto kv_heads = [](const MoeLmConfig& c) { return static_cast<double>(c.kv_heads() > 0 ? c.kv_heads() : c.heads()); };
  number("heads", static_cast<double>(theirs.heads()), static_cast<double>(config.heads()));
  number("kv_heads", kv_heads(theirs), kv_heads(config));
  number("norm_eps", theirs.norm_eps(), config.norm_eps());
  compare("position", MoeLmConfig::Position_Name(theirs.position()), MoeLmConfig::Position_Name(config.position()));
  compare("norm", MoeLmConfig::Norm_Name(theirs.norm()), MoeLmConfig::Norm_Name(config.norm()));
  compare("activation", MoeLmConfig::Activation_Name(theirs.activation()), MoeLmConfig::Activation_Name(config.activation()));
  compare("qk_norm", MoeLmConfig::QkNorm_Name(theirs.qk_norm()), MoeLmConfig::QkNorm_Name(config.qk_norm()));
  if (theirs.position() == MoeLmConfig::ROTARY) number("rope_theta", theirs.rope_theta(), config.rope_theta());
  // The other way round the files may still have one matrix twice, which only their bytes tell.
  if (theirs.tied_head()) compare("tied_head", "true", config.tied_head() ? "true" : "false");
  if (theirs.has_moe() && config.has_moe()) {
    number("moe.top_k", static_cast<double>(theirs.moe().top_k()), static_cast<double>(config.moe().top_k()));
    number("moe.routed_scale", 1, config.moe().routed_scale());
    number("moe.groups", 1, static_cast<double>(config.moe().groups()));
    compare("moe.capacity", "none", config.moe().has_capacity() ? "set" : "none");
    compare("moe.selection", "BY_SCORE", MoeConfig::Selection_Name(config.moe().selection()));
    const auto router = [](const MoeConfig& moe) {
      // Softmax over the selected is the same as normalising what is selected of all.
      const bool post = moe.router() == MoeConfig::SOFTMAX_POST || (moe.router() == MoeConfig::SOFTMAX_PRE && moe.renormalize());
      return post ? std::string("a softmax over the selected") : MoeConfig::Router_Name(moe.router());
    };
    MoeConfig theirs_full = theirs.moe();
    if (!theirs_full.has_renormalize()) theirs_full.set_renormalize(true);
    compare("moe.router", router(theirs_full), router(config.moe()));
  }
  if (differences.empty()) return absl::OkStatus();
  return FailedPrecondition("trainer.init_from: model.moe_lm is another model: %s; `conclave import` prints the fitting config",
                            differences);
}

absl::Status LoadHf(const FileSystem& files, Assembly* a) {
  const std::string& folder = a->config.trainer().init_from().path();
  if (!a->config.model().has_moe_lm())
    return FailedPrecondition("trainer.init_from: '%s' holds a language model, the config does not", folder);
  ASSIGN_OR_RETURN(const HfModel model, ReadHfModel(files, folder));
  RETURN_IF_ERROR(CheckSameModel(model.config, a->config.model().moe_lm()));
  RETURN_IF_ERROR(LoadHfWeights(files, folder, model, &a->scheme->point()));
  if (a->mesh->rank() == 0) LOG_INFO << "weights of the " << NameOf(model.family) << " model in " << folder;
  return absl::OkStatus();
}

// "blocks.3.moe.experts.5.up.weight" -> "blocks.3.mlp.up.weight"; others stay.
std::string DenseName(const std::string& name) {
  const size_t begin = name.find(".moe.experts.");
  if (begin == std::string::npos) return name;
  const size_t part = name.find('.', begin + std::string_view(".moe.experts.").size());
  return name.substr(0, begin) + ".mlp" + name.substr(part);
}

absl::Status CheckUpcycling(const MoeLmConfig& config) {
  const MoeConfig& moe = config.moe();
  const bool sums_to_one = moe.router() == MoeConfig::SOFTMAX_POST ||
                           ((moe.router() == MoeConfig::SOFTMAX_PRE || moe.router() == MoeConfig::SIGMOID) && moe.renormalize());
  if (config.has_moe() && sums_to_one && moe.routed_scale() == 1 && moe.shared_hidden() == 0 && !moe.has_capacity())
    return absl::OkStatus();
  return FailedPrecondition(
      "trainer.init_from.upcycle: copies of the dense MLP give the dense model only if the weights of a token's experts sum to 1 and "
      "nothing is "
      "added to them: SOFTMAX_POST, or renormalize: true; routed_scale: 1, no shared expert, no capacity");
}

absl::StatusOr<LoadedCheckpoint> LoadUpcycled(const FileSystem& files, Communicator& control, Assembly* a) {
  RETURN_IF_ERROR(CheckUpcycling(a->config.model().moe_lm()));
  const FlatVector& point = a->scheme->point();
  const ParameterSet& parameters = a->model->parameters();
  StateDict state;
  std::map<std::string, Tensor> first;  // local experts of one layer share what they are read from
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (const BlockId id : a->layout->local_blocks()) {
    const std::string& name = parameters[id].name;
    if (name.ends_with(".moe.router.weight")) continue;
    const std::string dense = DenseName(name);
    const auto [it, added] = first.emplace(dense, point.block(id));
    if (added) {
      state.Add({.name = "model/" + dense, .data = point.block(id), .canonical = control.rank() == 0});
    } else {
      copies.emplace_back(it->second, point.block(id));
    }
  }
  const InitFromConfig& from = a->config.trainer().init_from();
  ASSIGN_OR_RETURN(LoadedCheckpoint loaded,
                   LoadCheckpoint(files, control, from.path(), state, {.prefix = "model/", .strict = from.strict()}));
  for (const auto& [source, copy] : copies) copy.CopyFrom(source);
  return loaded;
}

}  // namespace

absl::Status LoadStartingWeights(const FileSystem& files, Communicator& control, Assembly* a) {
  const InitFromConfig& from = a->config.trainer().init_from();
  if (IsHfFolder(files, from.path())) {
    if (!from.upcycle()) return AgreeOn(control, LoadHf(files, a), "loading the starting weights");
    return FailedPrecondition(
        "trainer.init_from: '%s' is a Hugging Face model, and upcycle takes checkpoints of ours; first let a dense run of no steps begin "
        "with "
        "it (trainer { steps: 0 init_from { path } }), then upcycle that run's checkpoints",
        from.path());
  }
  LoadedCheckpoint loaded;
  if (from.upcycle()) {
    ASSIGN_OR_RETURN(loaded, LoadUpcycled(files, control, a));
  } else {
    StateDict state;
    state.Add("model", a->scheme->point());
    a->field->buffers().Register("model", control.rank() == 0, state);
    ASSIGN_OR_RETURN(loaded, LoadCheckpoint(files, control, from.path(), state, {.prefix = "model/", .strict = from.strict()}));
  }
  if (control.rank() == 0) {
    LOG_INFO << "weights from " << loaded.path << " (" << loaded.report.missing.size() << " kept as initialised, "
             << loaded.report.unused.size() << " unused)";
  }
  return absl::OkStatus();
}

}  // namespace conclave
