#include "models/model_rules.h"

#include "absl/strings/str_format.h"

namespace conclave {
namespace {

class RuleBook {
 public:
  void Require(bool holds, std::vector<std::string_view> paths, std::string message) {
    if (!holds) broken_.push_back({std::move(paths), std::move(message)});
  }
  std::vector<BrokenRule> Take() { return std::move(broken_); }

 private:
  std::vector<BrokenRule> broken_;
};

// Group-limited selection.
void AskGroups(const MoeConfig& moe, RuleBook* rules) {
  const bool divides = moe.groups() <= moe.experts() && moe.experts() % moe.groups() == 0;
  rules->Require(divides, {"model.moe_lm.moe.groups", "model.moe_lm.moe.experts"},
                 absl::StrFormat("%d experts cannot be cut into %d equal groups", moe.experts(), moe.groups()));
  rules->Require(moe.group_top_k() <= moe.groups(), {"model.moe_lm.moe.group_top_k", "model.moe_lm.moe.groups"},
                 absl::StrFormat("group_top_k %d is more than the %d groups there are", moe.group_top_k(), moe.groups()));
  const int64_t size = divides ? moe.experts() / moe.groups() : moe.experts();
  rules->Require(
      moe.top_k() <= moe.group_top_k() * size || moe.top_k() > moe.experts(),
      {"model.moe_lm.moe.top_k", "model.moe_lm.moe.group_top_k", "model.moe_lm.moe.groups"},
      absl::StrFormat("top_k %d is more than the %d experts of %d groups", moe.top_k(), moe.group_top_k() * size, moe.group_top_k()));
  rules->Require(moe.group_score_top() <= size || moe.experts() == 0, {"model.moe_lm.moe.group_score_top", "model.moe_lm.moe.groups"},
                 absl::StrFormat("a group's score sums its %d largest scores, but it has %d experts", moe.group_score_top(), size));
}

void AskMixture(const MoeLmConfig& lm, RuleBook* rules) {
  const MoeConfig& moe = lm.moe();
  rules->Require(moe.top_k() <= moe.experts(), {"model.moe_lm.moe.top_k", "model.moe_lm.moe.experts"},
                 absl::StrFormat("top_k %d is more than the %d experts there are", moe.top_k(), moe.experts()));
  rules->Require(moe.every() <= lm.layers(), {"model.moe_lm.moe.every", "model.moe_lm.layers"},
                 absl::StrFormat("every = %d leaves no mixture in %d layers", moe.every(), lm.layers()));
  AskGroups(moe, rules);
  const bool chooses = moe.router() == MoeConfig::EXPERT_CHOICE;
  rules->Require(moe.selection() == MoeConfig::BY_SCORE || (!chooses && moe.groups() == 1 && moe.bias_rate() == 0),
                 {"model.moe_lm.moe.selection", "model.moe_lm.moe.router", "model.moe_lm.moe.groups", "model.moe_lm.moe.bias_rate"},
                 "ROUND_ROBIN does not look at scores: EXPERT_CHOICE, groups and bias_rate have no meaning beside it");
  rules->Require(!chooses || moe.groups() == 1, {"model.moe_lm.moe.groups", "model.moe_lm.moe.router"},
                 "with EXPERT_CHOICE experts choose tokens: groups have no meaning");
  rules->Require(!chooses || moe.bias_rate() == 0, {"model.moe_lm.moe.bias_rate", "model.moe_lm.moe.router"},
                 "with EXPERT_CHOICE loads are equal by construction: bias_rate has no meaning");
}

// About as many numbers as the parameters are; in doubles, which no size overflows.
double RoughSize(const MoeLmConfig& lm) {
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double width = real(lm.width()), mlp = lm.dense_hidden() > 0 ? real(lm.dense_hidden()) : 4 * width;
  const double attention = lm.head_dim() > 0 ? real(lm.heads()) * real(lm.head_dim()) : width;
  double layer = 4 * attention + 3 * mlp;
  if (lm.has_moe()) {
    const MoeConfig& moe = lm.moe();
    const double hidden = moe.hidden() > 0 ? real(moe.hidden()) : 4 * width / real(moe.top_k());
    layer += 3 * (real(moe.experts()) * hidden + real(moe.shared_hidden()));
  }
  return width * (real(lm.vocab_size()) + real(lm.context()) + real(lm.layers()) * layer);
}

void AskMoeLm(const MoeLmConfig& lm, RuleBook* rules) {
  constexpr double kMostNumbers = 1e15;
  rules->Require(RoughSize(lm) < kMostNumbers, {"model.moe_lm.width", "model.moe_lm.layers", "model.moe_lm"},
                 absl::StrFormat("about %.2g parameters, more than any machine holds (%.0e)", RoughSize(lm), kMostNumbers));
  const bool whole_heads = lm.head_dim() > 0 || lm.width() % lm.heads() == 0;
  rules->Require(whole_heads, {"model.moe_lm.heads", "model.moe_lm.width"},
                 absl::StrFormat("width %d is not divisible by %d heads", lm.width(), lm.heads()));
  const int64_t head_dim = lm.head_dim() > 0 ? lm.head_dim() : lm.width() / lm.heads();
  rules->Require(lm.position() != MoeLmConfig::ROTARY || !whole_heads || head_dim % 2 == 0,
                 {"model.moe_lm.position", "model.moe_lm.head_dim", "model.moe_lm.heads", "model.moe_lm.width"},
                 absl::StrFormat("ROTARY turns pairs of coordinates, but a head has %d", head_dim));
  rules->Require(lm.kv_heads() == 0 || lm.heads() % lm.kv_heads() == 0, {"model.moe_lm.kv_heads", "model.moe_lm.heads"},
                 absl::StrFormat("%d query heads cannot be shared out evenly among %d kv_heads", lm.heads(), lm.kv_heads()));
  const int64_t parts = lm.embedding_parts();
  rules->Require(lm.width() % parts == 0, {"model.moe_lm.embedding_parts", "model.moe_lm.width"},
                 absl::StrFormat("width %d cannot be cut into %d equal parts", lm.width(), parts));
  rules->Require(parts == 1 || !lm.tied_head(), {"model.moe_lm.embedding_parts", "model.moe_lm.tied_head"},
                 "a head that is the embedding needs all of it on every rank; set tied_head to false");
  if (lm.has_moe()) AskMixture(lm, rules);
}

void AskMaskedLm(const MaskedLmConfig& lm, RuleBook* rules) {
  const bool whole_heads = lm.width() % lm.heads() == 0;
  rules->Require(whole_heads, {"model.masked_lm.heads", "model.masked_lm.width"},
                 absl::StrFormat("width %d is not divisible by %d heads", lm.width(), lm.heads()));
  rules->Require(!whole_heads || lm.width() / lm.heads() % 2 == 0, {"model.masked_lm.heads", "model.masked_lm.width"},
                 absl::StrFormat("rotary positions turn pairs of coordinates, but a head has %d", lm.width() / lm.heads()));
}

}  // namespace

std::vector<BrokenRule> BrokenRules(const ModelConfig& config) {
  RuleBook rules;
  if (config.has_moe_lm()) AskMoeLm(config.moe_lm(), &rules);
  if (config.has_masked_lm()) AskMaskedLm(config.masked_lm(), &rules);
  const LinearVaeConfig& vae = config.linear_vae();
  rules.Require(!config.has_linear_vae() || vae.samples() > 0 || vae.analytic_kl(),
                {"model.linear_vae.samples", "model.linear_vae.analytic_kl"},
                "samples 0 leaves nothing to estimate the KL from; set analytic_kl: true or draw samples");
  const BilinearGameConfig& bilinear = config.bilinear_game();
  rules.Require(!config.has_bilinear_game() || bilinear.sigma_min() <= bilinear.sigma_max(),
                {"model.bilinear_game.sigma_min", "model.bilinear_game.sigma_max"},
                absl::StrFormat("sigma_min %g is above sigma_max %g", bilinear.sigma_min(), bilinear.sigma_max()));
  const QuadraticGameConfig& quadratic = config.quadratic_game();
  rules.Require(!config.has_quadratic_game() || quadratic.curvature_min() <= quadratic.curvature_max(),
                {"model.quadratic_game.curvature_min", "model.quadratic_game.curvature_max"},
                absl::StrFormat("curvature_min %g is above curvature_max %g", quadratic.curvature_min(), quadratic.curvature_max()));
  return rules.Take();
}

absl::StatusOr<int64_t> VocabularyOf(std::string_view model, int64_t wanted, int64_t tokenizer) {
  const int64_t vocabulary = wanted > 0 ? wanted : tokenizer;
  if (vocabulary <= 0) return InvalidArgument("%s.vocab_size: not set and there is no tokenizer to take it from", model);
  if (tokenizer > vocabulary) {
    return InvalidArgument("%s.vocab_size: %d, but the tokenizer makes ids up to %d; set it to at least %d or leave it unset", model,
                           vocabulary, tokenizer - 1, tokenizer);
  }
  return vocabulary;
}

}  // namespace conclave
