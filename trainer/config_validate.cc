#include "trainer/config_validate.h"

#include <vector>

#include "models/model_rules.h"
#include "parallel/dispatch_route.h"

namespace conclave {
namespace {

void CheckMoe(const MoeLmConfig& lm, const Experiment& config, ConfigRules* rules) {
  const MoeConfig& moe = lm.moe();
  const int64_t axis = config.parallel().expert();
  rules->Require(moe.experts() % axis == 0, {"model.moe_lm.moe.experts", "parallel.expert"},
                 absl::StrFormat("%d experts cannot be split evenly over an expert axis of %d ranks", moe.experts(), axis));
  const bool invariant = config.parallel().numerics() == ParallelConfig::WORLD_SIZE_INVARIANT;
  const bool crosses = moe.balance_scope() == MoeConfig::GLOBAL || moe.balance_scope() == MoeConfig::BATCH;
  rules->Require(
      !invariant || !crosses, {"model.moe_lm.moe.balance_scope", "parallel.numerics"},
      absl::StrFormat("balance_scope %s depends on which leaves run together, so WORLD_SIZE_INVARIANT refuses it; use SEQUENCE or "
                      "WORKER",
                      MoeConfig::BalanceScope_Name(moe.balance_scope())));
  const DispatchConfig& wire = config.parallel().dispatch();
  const bool rounds_home = wire.combine_forward() != DispatchConfig::EXACT || wire.dispatch_backward() != DispatchConfig::EXACT;
  const bool sums_by_rank = moe.combine_order() == MoeConfig::PRE_REDUCE && (moe.top_k() > 2 || rounds_home);
  rules->Require(
      !invariant || !sums_by_rank, {"model.moe_lm.moe.combine_order", "parallel.numerics"},
      "combine_order PRE_REDUCE adds up by rank, so with more than two experts a token, or with a lossy way home, results depend on "
      "the mesh and WORLD_SIZE_INVARIANT refuses it; use EXACT");
  rules->Require(moe.router() != MoeConfig::EXPERT_CHOICE || config.observe().routing_window() == 0,
                 {"observe.routing_window", "model.moe_lm.moe.router"},
                 "with EXPERT_CHOICE a token has any number of experts, and a trace wants the same for all; set observe.routing_window: 0");
}

int64_t SmallestVocabulary(const TokenizerConfig& tokenizer) {
  switch (tokenizer.kind_case()) {
    case TokenizerConfig::kBytes:
      return 257;
    case TokenizerConfig::kSentencepiece:
      return tokenizer.sentencepiece().vocab_size();
    default:
      return 0;
  }
}

void CheckMoeLm(const Experiment& config, ConfigRules* rules) {
  const MoeLmConfig& lm = config.model().moe_lm();
  const int64_t parts = lm.embedding_parts(), axis = config.parallel().expert();
  rules->Require(parts == 1 || parts % axis == 0, {"model.moe_lm.embedding_parts", "parallel.expert"},
                 absl::StrFormat("%d parts of the embedding cannot be split evenly over an expert axis of %d ranks", parts, axis));
  if (lm.has_moe()) {
    CheckMoe(lm, config, rules);
  } else {
    rules->Require(config.parallel().expert() == 1, {"parallel.expert", "model.moe_lm.moe"},
                   absl::StrFormat("an expert axis of %d ranks needs experts, but model.moe_lm.moe is absent", config.parallel().expert()));
  }
  bool has_text = false;
  for (const SourceConfig& source : config.data().sources()) has_text = has_text || source.has_text();
  const int64_t smallest = has_text ? SmallestVocabulary(config.data().tokenizer()) : 0;
  rules->Require(lm.vocab_size() == 0 || lm.vocab_size() >= smallest, {"model.moe_lm.vocab_size", "data.tokenizer"},
                 absl::StrFormat("vocab_size %d is too small for the tokenizer, which has %d ids; 0 takes the tokenizer's", lm.vocab_size(),
                                 smallest));
}

void CheckLinearVae(const Experiment& config, ConfigRules* rules) {
  const LinearVaeConfig& vae = config.model().linear_vae();
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const SourceConfig& source = config.data().sources(i);
    if (!source.has_gaussian()) continue;
    const std::string path = absl::StrFormat("data.sources[%d].gaussian", i);
    rules->Require(
        source.gaussian().dim() == vae.data_dim(), {path + ".dim", "model.linear_vae.data_dim"},
        absl::StrFormat("samples have %d dimensions, but model.linear_vae.data_dim is %d", source.gaussian().dim(), vae.data_dim()));
    rules->Require(source.gaussian().eigenvalues_size() <= source.gaussian().dim(), {path + ".eigenvalues", path + ".dim"},
                   absl::StrFormat("%d eigenvalues for %d dimensions", source.gaussian().eigenvalues_size(), source.gaussian().dim()));
  }
  rules->Require(config.parallel().expert() == 1, {"parallel.expert"}, "an expert axis needs a model with experts; linear_vae has none");
}

void CheckRobustMlp(const Experiment& config, ConfigRules* rules) {
  const RobustMlpConfig& model = config.model().robust_mlp();
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const SourceConfig& source = config.data().sources(i);
    if (!source.has_images()) continue;
    const ImagesSourceConfig& images = source.images();
    const std::string path = absl::StrFormat("data.sources[%d].images", i);
    rules->Require(images.classes() <= model.classes(), {"model.robust_mlp.classes", path + ".classes"},
                   absl::StrFormat("images of %d classes, but model.robust_mlp.classes is %d", images.classes(), model.classes()));
    rules->Require(images.held_out_path().empty() == images.held_out_labels().empty(), {path + ".held_out_path", path + ".held_out_labels"},
                   "held_out_path and held_out_labels go together: images and their classes");
  }
}

bool HasSimplex(const ProxConfig& prox) {
  bool found = prox.has_simplex();
  for (const ProxFactorConfig& factor : prox.product().factors()) found = found || factor.prox().has_simplex();
  return found;
}

// Models whose players choose mixed strategies.
void CheckStrategies(const Experiment& config, ConfigRules* rules) {
  const ModelConfig& model = config.model();
  rules->Require(!model.has_matrix_game() || config.optim().prox().has_simplex(), {"optim.prox", "model.matrix_game"},
                 "both players of a matrix game choose mixed strategies: set optim.prox { simplex {} }");
  rules->Require(
      !model.has_group_robust() || HasSimplex(config.optim().prox()), {"optim.prox", "model.group_robust"},
      "the weights q of the groups are a mixed strategy: set optim.prox { product { factors { pattern: \"q\" prox { simplex {} } } } }");
}

// Models that make their own numbers; the others learn from data.sources.
bool IsGame(ModelConfig::KindCase model) {
  switch (model) {
    case ModelConfig::kBilinearGame:
    case ModelConfig::kQuadraticGame:
    case ModelConfig::kMatrixGame:
    case ModelConfig::kRobustLeastSquares:
    case ModelConfig::kAucSaddle:
    case ModelConfig::kGroupRobust:
    case ModelConfig::kDiracGan:
    case ModelConfig::kGaussianWgan:
    case ModelConfig::kEightGaussians:
      return true;
    default:
      return false;
  }
}

// What kinds of source a model can learn from, as names of SourceConfig.kind.
std::vector<SourceConfig::KindCase> UsableSources(ModelConfig::KindCase model) {
  switch (model) {
    case ModelConfig::kMoeLm:
    case ModelConfig::kMaskedLm:
      return {SourceConfig::kText, SourceConfig::kShards};
    case ModelConfig::kLinearVae:
      return {SourceConfig::kGaussian};
    case ModelConfig::kRobustMlp:
      return {SourceConfig::kImages};
    default:
      return {SourceConfig::kNone};
  }
}

void CheckPrecision(const Experiment& config, ConfigRules* rules) {
  const PrecisionConfig& precision = config.model().precision();
  const bool rounds = precision.router() == PrecisionConfig::BF16 && precision.compute() == PrecisionConfig::BF16;
  rules->Require(precision.router() == PrecisionConfig::F32 || rounds, {"model.precision.router", "model.precision.compute"},
                 "router says how routers are computed where compute is BF16; set F32, or BF16 with compute: BF16");
  rules->Require(precision.products() == PrecisionConfig::AUTO || precision.compute() == PrecisionConfig::F32,
                 {"model.precision.products", "model.precision.compute"},
                 "products says how products of F32 are made; set AUTO, or compute: F32");
  rules->Require(!IsGame(config.model().kind_case()) || precision.compute() != PrecisionConfig::BF16, {"model.precision.compute"},
                 "BF16 would round the numbers that a game is made of; set F32 or F64");
}

void CheckSources(const Experiment& config, ConfigRules* rules) {
  const ModelConfig::KindCase model = config.model().kind_case();
  if (model == ModelConfig::KIND_NOT_SET) return;
  const auto name = [](SourceConfig::KindCase kind) { return SourceConfig::descriptor()->FindFieldByNumber(kind)->name(); };
  const std::string model_name = ModelConfig::descriptor()->FindFieldByNumber(model)->name();
  const std::vector<SourceConfig::KindCase> usable = UsableSources(model);
  std::string names;
  for (const SourceConfig::KindCase kind : usable) names += (names.empty() ? "" : " or ") + name(kind);
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const SourceConfig::KindCase kind = config.data().sources(i).kind_case();
    if (kind == SourceConfig::KIND_NOT_SET) continue;
    bool fits = false;
    for (const SourceConfig::KindCase candidate : usable) fits = fits || candidate == kind;
    const std::string path = absl::StrFormat("data.sources[%d]", i);
    rules->Require(fits, {path + "." + name(kind), path, "model"},
                   absl::StrFormat("%s learns from %s, not from %s", model_name, names, name(kind)));
  }
  const bool needs_data = !IsGame(model);
  rules->Require(!needs_data || config.data().sources_size() > 0, {"data.sources", "model"},
                 absl::StrFormat("%s needs data.sources { %s { ... } }", model_name, name(usable.front())));
  const TrainerConfig& trainer = config.trainer();
  const int64_t leaves = trainer.workers() * trainer.micro_batches();
  rules->Require(!needs_data || (trainer.global_batch() > 0 && trainer.global_batch() % leaves == 0),
                 {"trainer.global_batch", "trainer.workers", "trainer.micro_batches"},
                 absl::StrFormat("global_batch %d must be a positive multiple of %d = %d workers * %d micro_batches",
                                 trainer.global_batch(), leaves, trainer.workers(), trainer.micro_batches()));
}

// Evaluations between steps, of models that learn from data.
void CheckHeldOut(const Experiment& config, ConfigRules* rules) {
  if (IsGame(config.model().kind_case())) return;
  bool held_out = config.data().validation_fraction() > 0;
  for (const SourceConfig& source : config.data().sources()) held_out = held_out || !source.images().held_out_path().empty();
  rules->Require(config.trainer().eval().every() == 0 || held_out, {"trainer.eval.every", "data.validation_fraction"},
                 "evaluation needs held-out data, but data.validation_fraction is 0");
}

void CheckTokenizer(const Experiment& config, ConfigRules* rules) {
  const SentencePieceConfig& pieces = config.data().tokenizer().sentencepiece();
  const bool none = config.data().tokenizer().has_sentencepiece() && !pieces.train() && pieces.model_path().empty();
  rules->Require(!none, {"data.tokenizer.sentencepiece.train", "data.tokenizer.sentencepiece.model_path"},
                 "without training, data.tokenizer.sentencepiece.model_path must name a model");
}

void CheckSchedule(const Experiment& config, ConfigRules* rules) {
  const OptimConfig& optim = config.optim();
  const int64_t steps = config.trainer().steps();
  const int64_t warmup = optim.schedule().warmup_steps();
  rules->Require(warmup <= steps, {"optim.schedule.warmup_steps", "trainer.steps"},
                 absl::StrFormat("%d warm-up steps do not fit into %d steps", warmup, steps));
  const double stable = (1 - optim.schedule().wsd().decay_fraction()) * static_cast<double>(steps);
  rules->Require(!optim.schedule().has_wsd() || static_cast<double>(warmup) <= stable,
                 {"optim.schedule.wsd.decay_fraction", "optim.schedule.wsd", "optim.schedule.warmup_steps", "trainer.steps"},
                 absl::StrFormat("%d warm-up steps run into the decay, which begins at step %.0f", warmup, stable));
}

void CheckStep(const OptimConfig& optim, ConfigRules* rules) {
  const auto* member = optim.GetReflection()->GetOneofFieldDescriptor(optim, OptimConfig::descriptor()->FindOneofByName("scheme"));
  if (member == nullptr) return;
  const google::protobuf::Message& scheme = optim.GetReflection()->GetMessage(optim, member);
  const auto* gamma = scheme.GetDescriptor()->FindFieldByName("gamma");
  const std::string path = "optim." + member->name();
  rules->Require(gamma == nullptr || optim.step() != OptimConfig::GIVEN || scheme.GetReflection()->HasField(scheme, gamma), {path, "optim"},
                 absl::StrFormat("'%s' needs 'gamma' (step size), or optim.step: PROVABLE or AUTO_TUNE, which find one", path));
  rules->Require(gamma != nullptr || optim.step() == OptimConfig::GIVEN, {"optim.step"},
                 absl::StrFormat("optim.step finds a gamma, and %s has none", member->name()));
}

// A constant step leaves a method as far off the solution as the noise of its samples takes it; differences of one sample at two points
// have noise that vanishes there.
void CheckProvable(const Experiment& config, ConfigRules* rules) {
  if (config.optim().step() != OptimConfig::PROVABLE || config.optim().masha1().variance_reduced()) return;
  const ModelConfig& model = config.model();
  const auto refuse = [&](bool samples, const char* field) {
    rules->Require(!samples, {"optim.step", field},
                   absl::StrFormat("no constant step is proven for evaluations of samples, and %s says so; set it to 0 (all data), take "
                                   "step: AUTO_TUNE, or give gamma",
                                   field));
  };
  refuse(model.auc_saddle().batch() > 0, "model.auc_saddle.batch");
  refuse(model.robust_least_squares().batch() > 0, "model.robust_least_squares.batch");
  refuse(model.gaussian_wgan().samples() > 0, "model.gaussian_wgan.samples");
}

void CheckOptim(const Experiment& config, ConfigRules* rules) {
  const OptimConfig& optim = config.optim();
  CheckStep(optim, rules);
  CheckProvable(config, rules);
  const bool by_rule = optim.has_first_order() || optim.has_diloco() || optim.scheme_case() == OptimConfig::SCHEME_NOT_SET;
  rules->Require(by_rule || optim.clip_norm() == 0, {"optim.clip_norm", "optim"},
                 "clip_norm goes with first_order and diloco only: a clipped operator is no longer the one the scheme's steps are about");
  for (int i = 0; i < optim.groups_size(); ++i) {
    const std::string path = absl::StrFormat("optim.groups[%d]", i);
    rules->Require(by_rule || !optim.groups(i).has_rule(), {path + ".rule", path, "optim"},
                   "an update rule goes with first_order and diloco only");
    rules->Require(by_rule || optim.groups(i).weight_decay() == 0, {path + ".weight_decay", path, "optim"},
                   "weight decay goes with first_order and diloco only");
  }
  rules->Require(!by_rule || !optim.has_prox() || optim.prox().has_zero(), {"optim.prox", "optim"},
                 "a prox goes with schemes that step by gamma; with first_order use weight_decay");
  rules->Require(!optim.has_masha2() || !optim.has_prox() || optim.prox().has_zero(), {"optim.prox", "optim.masha2", "optim"},
                 "masha2 knows no constraints and no regulariser: error feedback would carry what a prox cuts off; use masha1");
  const int64_t participants = optim.masha1().participants(), workers = config.trainer().workers();
  rules->Require(participants >= 0 && participants <= workers, {"optim.masha1.participants", "trainer.workers", "optim.masha1"},
                 absl::StrFormat("%d participants of %d workers; 0 stands for all", participants, workers));
  rules->Require(!optim.has_proxskip() || !optim.has_prox() || optim.prox().has_zero(), {"optim.prox", "optim.proxskip", "optim"},
                 "proxskip skips the prox of consensus and takes no other; use local_extragradient");
  rules->Require(!optim.prox().has_box() || optim.prox().box().lower() <= optim.prox().box().upper(),
                 {"optim.prox.box.lower", "optim.prox.box.upper"},
                 absl::StrFormat("lower %g is above upper %g", optim.prox().box().lower(), optim.prox().box().upper()));
  CheckSchedule(config, rules);
}

void CheckMesh(const Experiment& config, ConfigRules* rules) {
  const ParallelConfig& mesh = config.parallel();
  const int64_t ranks = mesh.data() * mesh.expert();
  rules->Require(ranks <= config.trainer().workers(), {"parallel.data", "parallel.expert", "trainer.workers"},
                 absl::StrFormat("a mesh of %d x %d ranks needs as many workers, trainer.workers is %d", mesh.data(), mesh.expert(),
                                 config.trainer().workers()));
  if (mesh.data() != 0) return;
  rules->Require(mesh.expert() <= config.trainer().workers(), {"parallel.expert", "trainer.workers"},
                 absl::StrFormat("an expert axis of %d ranks needs as many workers, trainer.workers is %d", mesh.expert(),
                                 config.trainer().workers()));
}

// Copies of hot experts.
void CheckReplicas(const Experiment& config, ConfigRules* rules) {
  const RebalanceConfig& rebalance = config.parallel().rebalance();
  if (rebalance.replicas() == 0) return;
  const int64_t experts = config.model().moe_lm().moe().experts(), axis = config.parallel().expert(), owned = experts / axis;
  rules->Require(
      rebalance.replicas() <= experts - owned, {"parallel.rebalance.replicas", "parallel.expert"},
      absl::StrFormat("%d copies of experts on a rank are over the budget: of a layer's %d experts a rank of parallel.expert: %d "
                      "owns %d and can hold copies of the other %d",
                      rebalance.replicas(), experts, axis, owned, experts - owned));
  rules->Require(!rebalance.placement().has_coactivation(), {"parallel.rebalance.replicas", "parallel.rebalance.placement.coactivation"},
                 "copies are planned to level loads, coactivation plans the rows that travel and would not count them; use load_greedy");
  rules->Require(config.observe().routing_window() > 0, {"parallel.rebalance.replicas"},
                 "copies are planned from the loads of the last window, but observe.routing_window is 0");
}

// Moving experts while training.
void CheckRebalance(const Experiment& config, ConfigRules* rules) {
  const RebalanceConfig& rebalance = config.parallel().rebalance();
  rules->Require(rebalance.every() > 0 || rebalance.replicas() == 0, {"parallel.rebalance.replicas", "parallel.rebalance.every"},
                 "copies of experts are planned with placements, and parallel.rebalance.every is 0: never");
  if (rebalance.every() == 0) return;
  const PlacementConfig& placement = rebalance.placement();
  rules->Require(config.model().has_moe_lm() && config.model().moe_lm().has_moe(), {"parallel.rebalance.every", "parallel.rebalance"},
                 "there are no experts to move: the model has none");
  rules->Require(
      !placement.has_affinity() && !placement.has_exact(),
      {"parallel.rebalance.placement.affinity", "parallel.rebalance.placement.exact", "parallel.rebalance.placement"},
      "inter-layer affinity is about tokens that stay with their expert until the next layer; in training the combine brings every "
      "token home after every layer, so this objective alone would move experts and save nothing; use coactivation or load_greedy");
  rules->Require(
      config.parallel().updates() != ParallelConfig::SHARDED, {"parallel.rebalance.every", "parallel.updates"},
      "experts take their state along inside a data column, and parallel.updates: SHARDED keeps it anywhere; choose one of the two");
  const DispatchConfig::Route route = config.parallel().dispatch().route();
  rules->Require(!placement.has_coactivation() || route == DispatchConfig::AUTO || SendsOnce(route),
                 {"parallel.rebalance.placement.coactivation", "parallel.dispatch.route"},
                 absl::StrFormat("coactivation brings a token's experts together so that one row serves them all, and route %s sends a row "
                                 "for each; use DEDUPLICATED, DEDUPLICATED_HIERARCHICAL or AUTO",
                                 DispatchConfig::Route_Name(route)));
  CheckReplicas(config, rules);
  rules->Require(placement.has_contiguous() || placement.has_random() || config.observe().routing_window() > 0,
                 {"parallel.rebalance.placement.load_greedy", "parallel.rebalance.placement.coactivation", "parallel.rebalance.every",
                  "parallel.rebalance"},
                 "placements are planned from the routing of the last window, but observe.routing_window is 0");
  rules->Require(rebalance.most_drift() >= 1 || config.observe().routing_window() > 0, {"parallel.rebalance.most_drift"},
                 "how far loads drift is seen from window to window, but observe.routing_window is 0");
}

// Experts on disk.
void CheckExpertMemory(const Experiment& config, ConfigRules* rules) {
  if (!config.parallel().has_expert_memory()) return;
  constexpr std::string_view kPath = "parallel.expert_memory";
  rules->Require(config.model().has_moe_lm() && config.model().moe_lm().has_moe(), {kPath}, "there are no experts: the model has none");
  rules->Require(config.optim().has_first_order(), {kPath, "optim"},
                 "only first_order says when it is done with an expert; with another scheme leave expert_memory out");
  rules->Require(config.parallel().rebalance().every() == 0, {kPath, "parallel.rebalance"},
                 "experts that are on disk do not move between ranks; leave expert_memory or rebalance out");
  rules->Require(config.trainer().eval().ema_decay() == 0, {kPath, "trainer.eval.ema_decay"},
                 "averaged weights are kept in memory and read every expert at every step; set ema_decay to 0 or leave expert_memory out");
}

// Sources that are tasks of their own.
void CheckTasks(const Experiment& config, ConfigRules* rules) {
  int64_t with = 0, sum = 0;
  for (const SourceConfig& source : config.data().sources()) {
    with += source.batch() > 0 ? 1 : 0;
    sum += source.batch();
  }
  rules->Require(with == 0 || (with == config.data().sources_size() && sum == config.trainer().global_batch()),
                 {"data.sources[0].batch", "data.sources", "trainer.global_batch"},
                 absl::StrFormat("%d of %d sources have a batch, %d samples together; all must have one, and together the %d of "
                                 "trainer.global_batch",
                                 with, config.data().sources_size(), sum, config.trainer().global_batch()));
  rules->Require(with > 0 || config.parallel().assignment() == ParallelConfig::WORKERS, {"parallel.assignment"},
                 "there are no tasks to deal ranks out to; give every source a batch, or set WORKERS");
  const int64_t rows = config.trainer().global_batch() / std::max<int64_t>(config.trainer().workers(), 1);
  for (int i = 0; i < config.data().sources_size(); ++i) {
    const SourceConfig& source = config.data().sources(i);
    if (source.batch() == 0) continue;
    const std::string path = absl::StrFormat("data.sources[%d]", i);
    rules->Require(source.weight() == 1, {path + ".weight", path + ".batch", path, "data.sources"},
                   "a source with a batch has that share of every step; leave its weight out");
    rules->Require(
        config.parallel().assignment() == ParallelConfig::WORKERS || rows == 0 || source.batch() % rows == 0,
        {path + ".batch", path, "data.sources", "trainer.workers"},
        absl::StrFormat("a rank is to have one task, but the %d samples of this one are no multiple of the %d of a worker; choose "
                        "another trainer.workers",
                        source.batch(), rows));
  }
}

}  // namespace

void ConfigRules::Require(bool holds, std::initializer_list<std::string_view> paths, const std::string& message) {
  if (!holds) Report(std::span(paths.begin(), paths.size()), message);
}

void ConfigRules::Report(std::span<const std::string_view> paths, const std::string& message) {
  for (const std::string_view path : paths) {
    if (damaged_.Touches(path)) return;
  }
  for (const std::string_view path : paths) {
    const auto found = places_.find(path);
    if (found != places_.end()) return diagnostics_->Add(found->second, message);
  }
  diagnostics_->Add(NearestPlace(places_, paths.front(), root_), message);
}

void CheckRules(const Experiment& config, ConfigRules* rules) {
  for (const BrokenRule& rule : BrokenRules(config.model())) rules->Report(rule.paths, rule.message);
  switch (config.model().kind_case()) {
    case ModelConfig::kMoeLm:
      CheckMoeLm(config, rules);
      break;
    case ModelConfig::kLinearVae:
      CheckLinearVae(config, rules);
      break;
    case ModelConfig::kRobustMlp:
      CheckRobustMlp(config, rules);
      break;
    default:
      break;
  }
  rules->Require(config.model().has_moe_lm() || config.model().has_linear_vae() || config.parallel().expert() == 1, {"parallel.expert"},
                 "an expert axis needs a model with experts");
  CheckPrecision(config, rules);
  CheckStrategies(config, rules);
  CheckSources(config, rules);
  CheckHeldOut(config, rules);
  CheckTokenizer(config, rules);
  CheckOptim(config, rules);
  CheckMesh(config, rules);
  CheckWire(config, rules);
  CheckRebalance(config, rules);
  CheckExpertMemory(config, rules);
  CheckTasks(config, rules);
}

void CheckRanks(const Experiment& config, int ranks, ConfigRules* rules) {
  const ParallelConfig& mesh = config.parallel();
  if (mesh.data() == 0) {
    rules->Require(
        ranks % mesh.expert() == 0, {"parallel.expert"},
        absl::StrFormat("%d ranks cannot be split over an expert axis of %d; start a multiple of %d", ranks, mesh.expert(), mesh.expert()));
  } else {
    rules->Require(mesh.data() * mesh.expert() == ranks, {"parallel.data", "parallel.expert"},
                   absl::StrFormat("the mesh is data %d x expert %d = %d ranks, but %d were started", mesh.data(), mesh.expert(),
                                   mesh.data() * mesh.expert(), ranks));
  }
  rules->Require(ranks <= config.trainer().workers(), {"trainer.workers"},
                 absl::StrFormat("%d ranks for %d workers: each rank needs one; start fewer ranks or raise trainer.workers", ranks,
                                 config.trainer().workers()));
}

}  // namespace conclave
