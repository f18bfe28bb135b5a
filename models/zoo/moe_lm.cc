// moe_lm: a pre-norm GPT whose blocks hold a dense MLP or a mixture of experts.
// Sources: Radford et al. 2019 (GPT-2 layout and initialisation), Shazeer et al. 2017 and Fedus et al. 2021 (mixture, balance loss),
// Zoph et al. 2022 (router z-loss), Su et al. 2021 (rotary positions).

#include <cmath>

#include "absl/strings/str_format.h"
#include "models/kv_cache.h"
#include "models/model.h"
#include "models/model_rules.h"
#include "models/modules/layers.h"
#include "models/modules/mixture.h"
#include "models/token_travel.h"
#include "parallel/partitioned_embedding.h"

namespace conclave {
namespace {

struct Block {
  NormLayer attention_norm, mlp_norm;
  AttentionLayer attention;
  std::optional<MlpLayer> dense;
  std::optional<MixtureLayer> mixture;
};

class MoeLm : public Model {
 public:
  MoeLm(const MoeLmConfig& config, int64_t vocabulary) : config_(config), vocabulary_(vocabulary) {
    terms_.push_back({"loss", TermScale::kPerSample, 1.0, true});
    if (config.has_moe()) AddRouterTerms();
    RegisterParameters();
  }

  SampleShape sample_shape() const override { return {SampleShape::Kind::kTokens, config_.context()}; }
  std::vector<int> experts() const override { return std::vector<int>(moe_layers_, static_cast<int>(config_.moe().experts())); }
  int64_t counters() const override { return moe_layers_ * (config_.moe().experts() + (config_.moe().has_capacity() ? 1 : 0)); }
  std::vector<BufferSpec> buffers() const override {
    std::vector<BufferSpec> specs;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (!blocks_[i].mixture || blocks_[i].mixture->options().bias_buffer < 0) continue;
      specs.push_back({absl::StrFormat("blocks.%d.moe.router.balance_bias", i), config_.moe().experts()});
    }
    return specs;
  }
  void UpdateBuffers(std::span<const int64_t> counters, ModelBuffers* buffers) const override {
    const int64_t experts = config_.moe().experts();
    for (int i = 0; i < buffers->size(); ++i) {
      UpdateRouterBias(counters.subspan(i * experts, experts), {config_.moe().bias_rate(), config_.moe().bias_step()}, buffers->values(i));
    }
  }
  int64_t context() const override { return config_.context(); }
  int64_t vocabulary() const override { return vocabulary_; }
  // Experts that choose tokens, or have no room for more, see a leaf's tokens together.
  CacheShape cache_shape() const override {
    if (config_.has_moe() && (config_.moe().router() == MoeConfig::EXPERT_CHOICE || config_.moe().has_capacity())) return {};
    return {.layers = static_cast<int>(blocks_.size()), .row = blocks_[0].attention.cache_row()};
  }

  absl::Status Record(Recorder& r) const override {
    ASSIGN_OR_RETURN(const Var x, BeforeHead(r));
    if (!r.present()) return absl::OkStatus();
    r.AddTerm(0, LinearCrossEntropy(r.tape(), x, r.Parameter(head_), r.batch().targets.Flat()));
    return absl::OkStatus();
  }

  absl::StatusOr<Var> Logits(Recorder& r) const override {
    ASSIGN_OR_RETURN(const Var x, BeforeHead(r));
    return Linear(r.tape(), x, r.Parameter(head_));
  }

 private:
  absl::StatusOr<Var> BeforeHead(Recorder& r) const {  // [tokens, width]
    Tape& tape = r.tape();
    const Tensor tokens = r.batch().tokens;
    const int64_t sequences = tokens.dim(0), length = tokens.dim(1);
    ASSIGN_OR_RETURN(Var x, RecordEmbedding(r, tokens.Flat()));
    if (positions_.value >= 0) {
      const std::span<const int64_t> first = r.cache() != nullptr ? r.cache()->first() : std::span<const int64_t>();
      x = Add(tape, x, Embedding(tape, r.Parameter(positions_), Positions(tape.arena(), {sequences, length}, first)));
    }
    for (const Block& block : blocks_) {
      ASSIGN_OR_RETURN(x, r.Block(x, [&block, sequences](Recorder& r, Var x) { return RecordBlock(r, block, x, sequences); }));
    }
    return final_norm_.Record(r, x);
  }

  static absl::StatusOr<Var> RecordBlock(Recorder& r, const Block& block, Var x, int64_t sequences) {
    Tape& tape = r.tape();
    if (r.travel() != nullptr) sequences = static_cast<int64_t>(r.travel()->here().size());
    x = AddInto(tape, x, block.attention.Record(r, block.attention_norm.Record(r, x), sequences));
    if (block.mixture && r.travel() != nullptr) return block.mixture->RecordTravelling(r, x, block.mlp_norm);
    const Var normed = block.mlp_norm.Record(r, x);
    Var update;
    if (block.mixture) {
      ASSIGN_OR_RETURN(update, block.mixture->Record(r, normed, sequences));
    } else {
      update = block.dense->Record(r, normed);
    }
    return AddInto(tape, x, update);
  }

  absl::StatusOr<Var> RecordEmbedding(Recorder& r, const Tensor& ids) const {
    if (embedding_parts_.empty()) return Embedding(r.tape(), r.Parameter(embedding_), ids);
    Var* const local = static_cast<Var*>(r.tape().arena().Allocate(embedding_parts_.size() * sizeof(Var)));
    size_t count = 0;
    for (const BlockId part : embedding_parts_) {
      if (r.is_local(part)) local[count++] = r.Parameter(part);
    }
    return PartitionedEmbedding(
        r.tape(), r.dispatch().mesh(),
        {.local = {local, count}, .parts = static_cast<int>(embedding_parts_.size()), .width = config_.width(), .dtype = r.dtype()}, ids);
  }

  // of: sequences, length. first: by sequence, the position of its first token; empty: 0.
  static Tensor Positions(Arena& arena, std::pair<int64_t, int64_t> of, std::span<const int64_t> first) {
    const auto [sequences, length] = of;
    const Tensor ids = arena.New({sequences * length}, DType::kI32);
    for (int64_t i = 0; i < ids.elements(); ++i) {
      ids.data<int32_t>()[i] = static_cast<int32_t>(i % length + (first.empty() ? 0 : first[i / length]));
    }
    return ids;
  }

  void AddRouterTerms() {
    const MoeConfig& moe = config_.moe();
    if (moe.balance_loss() > 0 && moe.router() != MoeConfig::EXPERT_CHOICE) {
      router_terms_.balance = static_cast<int>(terms_.size());
      terms_.push_back({"balance", TermScale::kLeafMean, moe.balance_loss(), true});
    }
    if (moe.z_loss() > 0) {
      router_terms_.z = static_cast<int>(terms_.size());
      terms_.push_back({"router_z", TermScale::kLeafMean, moe.z_loss(), true});
    }
  }

  void RegisterParameters() {
    const int64_t width = config_.width();
    const double std = config_.init_std(), residual_std = std / std::sqrt(2.0 * static_cast<double>(config_.layers()));
    const bool rotary = config_.position() == MoeLmConfig::ROTARY;
    const int parts = static_cast<int>(config_.embedding_parts());
    if (parts == 1) {
      embedding_ = parameters_.Add({.name = "embedding.weight", .shape = {vocabulary_, width}, .init = {Init::Kind::kNormal, std}});
    }
    for (int p = 0; parts > 1 && p < parts; ++p) {
      embedding_parts_.push_back(parameters_.Add({.name = absl::StrFormat("embedding.parts.%d.weight", p),
                                                  .shape = {vocabulary_, width / parts},
                                                  .kind = BlockKind::kExpert,
                                                  .expert = p,
                                                  .init = {Init::Kind::kNormal, std}}));
    }
    if (!rotary) {
      positions_ = parameters_.Add({.name = "positions.weight", .shape = {config_.context(), width}, .init = {Init::Kind::kNormal, std}});
    }
    const auto norm = [&](const std::string& name) {
      return NormLayer::Register(
          parameters_, name,
          {.width = width, .rms = config_.norm() == MoeLmConfig::RMS_NORM, .bias = config_.bias(), .epsilon = config_.norm_eps()});
    };
    MlpOptions mlp{.width = width,
                   .swiglu = config_.activation() == MoeLmConfig::SWIGLU,
                   .bias = config_.bias(),
                   .std = std,
                   .residual_std = residual_std};
    for (int i = 0; i < config_.layers(); ++i) {
      const std::string name = absl::StrFormat("blocks.%d", i);
      Block& block = blocks_.emplace_back();
      block.attention_norm = norm(name + ".attention_norm");
      block.attention = AttentionLayer::Register(parameters_, name + ".attention",
                                                 {.width = width,
                                                  .heads = static_cast<int>(config_.heads()),
                                                  .kv_heads = static_cast<int>(config_.kv_heads()),
                                                  .head_dim = config_.head_dim(),
                                                  .bias = config_.bias(),
                                                  .qkv_bias = config_.qkv_bias(),
                                                  .rope_theta = rotary ? config_.rope_theta() : 0,
                                                  .qk_norm = config_.qk_norm(),
                                                  .norm_epsilon = config_.norm_eps(),
                                                  .std = std,
                                                  .residual_std = residual_std,
                                                  .layer = i});
      block.mlp_norm = norm(name + ".mlp_norm");
      if (config_.has_moe() && (i + 1) % config_.moe().every() == 0) {
        block.mixture = RegisterMixture(name + ".moe", mlp);
      } else {
        mlp.hidden = config_.dense_hidden() > 0 ? config_.dense_hidden() : 4 * width;
        block.dense = MlpLayer::Register(parameters_, name + ".mlp", mlp);
      }
    }
    final_norm_ = norm("final_norm");
    head_ = config_.tied_head()
                ? embedding_
                : parameters_.Add({.name = "head.weight", .shape = {vocabulary_, width}, .init = {Init::Kind::kNormal, std}});
  }

  MixtureLayer RegisterMixture(const std::string& name, MlpOptions expert) {
    const MoeConfig& moe = config_.moe();
    expert.hidden = moe.hidden() > 0 ? moe.hidden() : 4 * config_.width() / moe.top_k();
    const RouterOptions router{.experts = static_cast<int>(moe.experts()),
                               .top_k = static_cast<int>(moe.top_k()),
                               .kind = moe.router(),
                               .renormalize = moe.renormalize(),
                               .scale = moe.routed_scale(),
                               .groups = static_cast<int>(moe.groups()),
                               .group_top_k = static_cast<int>(moe.group_top_k()),
                               .group_score_top = static_cast<int>(moe.group_score_top()),
                               .in_turn = moe.selection() == MoeConfig::ROUND_ROBIN,
                               .capacity = CapacityOf(moe),
                               .scope = moe.balance_scope()};
    MixtureLayer::Options options{.router = router, .expert = expert, .layer = moe_layers_, .terms = router_terms_};
    if (router_terms_.balance >= 0) {
      options.terms.layer_balance = static_cast<int>(terms_.size());
      terms_.push_back({absl::StrFormat("balance.%d", moe_layers_), TermScale::kLeafMean, 1.0, false});
    }
    options.shared_hidden = moe.shared_hidden();
    options.shared_gate = moe.shared_gate();
    const int64_t mixtures = config_.layers() / moe.every();
    if (moe.has_capacity()) options.dropped_counter = static_cast<int>(mixtures * moe.experts() + moe_layers_);
    if (moe.bias_rate() > 0) options.bias_buffer = moe_layers_;
    ++moe_layers_;
    return MixtureLayer::Register(parameters_, name, options);
  }

  static CapacityOptions CapacityOf(const MoeConfig& moe) {
    if (!moe.has_capacity()) return {};
    return {.factor = moe.capacity().factor(), .minimum = moe.capacity().minimum(), .drop = moe.capacity().drop()};
  }

  MoeLmConfig config_;
  int64_t vocabulary_;
  int moe_layers_ = 0;
  MixtureTerms router_terms_;
  BlockId embedding_{-1}, positions_{-1}, head_;
  std::vector<BlockId> embedding_parts_;  // empty: the embedding is whole
  std::vector<Block> blocks_;
  NormLayer final_norm_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeMoeLm(const MoeLmConfig& config, const ModelContext& context) {
  ASSIGN_OR_RETURN(const int64_t vocabulary, VocabularyOf("model.moe_lm", config.vocab_size(), context.vocabulary));
  return std::make_unique<MoeLm>(config, vocabulary);
}

}  // namespace conclave
