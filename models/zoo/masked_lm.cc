// masked_lm: a small transformer encoder that fills in masked tokens (Devlin et al., arXiv 1810.04805): a share of the positions is chosen
// anew in every step, and of those 80 % are shown as a mask, 10 % as another token, 10 % as they are. Positions are rotary (Su et al.,
// arXiv 2104.09864); embeddings start with length 1. A second player may add to the embedding of every token, within a ball around each
// sequence (FreeLB, Zhu et al., arXiv 1909.11764).
//   accuracy: share of the chosen tokens that are told right, clean_loss: their loss, both of sequences that nobody perturbs
#include <algorithm>
#include <cmath>
#include <optional>

#include "models/model.h"
#include "models/model_rules.h"
#include "models/modules/accuracy.h"
#include "models/modules/layers.h"

namespace conclave {
namespace {

constexpr double kRopeTheta = 10000;
constexpr int kMaskedLoss = 0, kMaskedAccuracy = 1, kMaskedCleanLoss = 2;

// What the numbers of a leaf are drawn for.
enum MaskSite : uint32_t { kChosenSite = 0, kShownSite = 1, kOtherSite = 2 };

struct EncoderBlock {
  NormLayer attention_norm, mlp_norm;
  AttentionLayer attention;
  MlpLayer mlp;
};

// What a leaf's sequences show, and what is hidden in them.
struct MaskedTokens {
  Tensor shown, hidden;  // [sequences * length] i32; hidden: kIgnoredTarget where nothing is to be told
  int64_t chosen = 0;
};

class MaskedLm : public Model {
 public:
  MaskedLm(const MaskedLmConfig& config, int64_t vocabulary) : config_(config), vocabulary_(vocabulary) {
    terms_ = {{"loss", TermScale::kLeafMean, 1.0, true}, {"accuracy", TermScale::kLeafMean, 1.0, false}};
    if (config.has_perturbation() && config.perturbation().radius() > 0) {
      terms_.push_back({"clean_loss", TermScale::kLeafMean, 1.0, false});
      perturbation_.emplace(config.perturbation(), Perturbation::Options{.width = config.context() * config.width()});
    }
    RegisterParameters();
  }

  SampleShape sample_shape() const override { return {SampleShape::Kind::kTokens, config_.context()}; }
  int64_t vocabulary() const override { return vocabulary_; }
  const Perturbation* perturbation() const override { return perturbation_ ? &*perturbation_ : nullptr; }

  absl::Status Record(Recorder& r) const override {
    if (!r.present() || r.batch().sequences == 0) return absl::OkStatus();
    Tape& tape = r.tape();
    const MaskedTokens masked = Mask(r);
    const double share = 1.0 / static_cast<double>(std::max<int64_t>(masked.chosen, 1));
    const Var delta = r.SampleValues();
    Var scores = Scores(r, masked.shown, delta);
    r.AddTerm(kMaskedLoss, CrossEntropy(tape, scores, masked.hidden), share);
    if (r.searching()) return absl::OkStatus();
    if (delta.defined()) {
      scores = Scores(r, masked.shown, Var{});
      r.AddMetric(kMaskedCleanLoss, share * *tape.value(CrossEntropy(tape, scores, masked.hidden)).data<double>());
    }
    r.AddMetric(kMaskedAccuracy, share * static_cast<double>(CountRight(tape.value(scores), masked.hidden)));
    return absl::OkStatus();
  }

 private:
  void RegisterParameters() {
    const int64_t width = config_.width();
    const double std = config_.init_std(), residual_std = std / std::sqrt(2.0 * static_cast<double>(config_.layers()));
    embedding_ = parameters_.Add({.name = "embedding.weight",
                                  .shape = {vocabulary_ + 1, width},
                                  .init = {Init::Kind::kNormal, 1 / std::sqrt(static_cast<double>(width))}});
    const auto norm = [&](const std::string& name) { return NormLayer::Register(parameters_, name, {.width = width, .bias = true}); };
    for (int i = 0; i < config_.layers(); ++i) {
      const std::string name = absl::StrFormat("blocks.%d", i);
      EncoderBlock& block = blocks_.emplace_back();
      block.attention_norm = norm(name + ".attention_norm");
      block.attention = AttentionLayer::Register(parameters_, name + ".attention",
                                                 {.width = width,
                                                  .heads = static_cast<int>(config_.heads()),
                                                  .causal = false,
                                                  .bias = true,
                                                  .rope_theta = kRopeTheta,
                                                  .std = std,
                                                  .residual_std = residual_std,
                                                  .layer = i});
      block.mlp_norm = norm(name + ".mlp_norm");
      const int64_t hidden = config_.hidden() > 0 ? config_.hidden() : 4 * width;
      block.mlp = MlpLayer::Register(parameters_, name + ".mlp",
                                     {.width = width, .hidden = hidden, .bias = true, .std = std, .residual_std = residual_std});
    }
    final_norm_ = norm("final_norm");
    head_ = LinearLayer::Register(parameters_, "head", {.in = width, .out = vocabulary_, .bias = true, .std = std});
  }

  // [sequences * length, vocabulary].
  Var Scores(Recorder& r, const Tensor& shown, Var delta) const {
    Tape& tape = r.tape();
    const int64_t sequences = r.batch().sequences;
    Var x = Embedding(tape, r.Parameter(embedding_), shown);
    if (delta.defined()) x = Add(tape, x, Reshape(tape, delta, tape.value(x).shape()));
    for (const EncoderBlock& block : blocks_) {
      x = AddInto(tape, x, block.attention.Record(r, block.attention_norm.Record(r, x), sequences));
      x = AddInto(tape, x, block.mlp.Record(r, block.mlp_norm.Record(r, x)));
    }
    return head_.Record(r, final_norm_.Record(r, x));
  }

  // A position whose target the data leaves out is neither chosen. The mask is the token behind the vocabulary's last.
  MaskedTokens Mask(const Recorder& r) const {
    const Batch& batch = r.batch();
    const int64_t n = batch.sequences * config_.context();
    MaskedTokens masked{r.tape().arena().New({n}, DType::kI32), r.tape().arena().New({n}, DType::kI32)};
    const RngKey chosen = r.Noise(kChosenSite), kind = r.Noise(kShownSite), other = r.Noise(kOtherSite);
    for (int64_t i = 0; i < n; ++i) {
      const auto element = static_cast<uint64_t>(batch.first_row * config_.context() + i);
      const int32_t token = batch.tokens.data<int32_t>()[i];
      const bool choose = batch.targets.data<int32_t>()[i] != kIgnoredTarget && chosen.Uniform(element) < config_.mask_rate();
      masked.hidden.data<int32_t>()[i] = choose ? token : kIgnoredTarget;
      masked.chosen += choose;
      const float u = choose ? kind.Uniform(element) : 1;
      masked.shown.data<int32_t>()[i] = u < 0.8f   ? static_cast<int32_t>(vocabulary_)
                                        : u < 0.9f ? static_cast<int32_t>(other.Below(static_cast<uint64_t>(vocabulary_), element))
                                                   : token;
    }
    return masked;
  }

  MaskedLmConfig config_;
  int64_t vocabulary_;
  std::optional<Perturbation> perturbation_;
  BlockId embedding_;
  std::vector<EncoderBlock> blocks_;
  NormLayer final_norm_;
  LinearLayer head_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeMaskedLm(const MaskedLmConfig& config, const ModelContext& context) {
  ASSIGN_OR_RETURN(const int64_t vocabulary, VocabularyOf("model.masked_lm", config.vocab_size(), context.vocabulary));
  return std::make_unique<MaskedLm>(config, vocabulary);
}

}  // namespace conclave
