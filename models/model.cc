#include "models/model.h"

#include "models/model_rules.h"

namespace conclave {

absl::StatusOr<Var> Model::Logits(Recorder&) const { return Unimplemented("this model has no logits: only language models generate"); }

std::vector<double> Model::Solution(BlockId) const { return {}; }

std::optional<double> Model::Gap(const FlatVector&) const { return std::nullopt; }

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, const ModelContext& context) {
  if (const std::vector<BrokenRule> broken = BrokenRules(config); !broken.empty()) {
    return InvalidArgument("%s: %s", broken[0].paths[0], broken[0].message);
  }
  switch (config.kind_case()) {
    case ModelConfig::kMoeLm:
      return MakeMoeLm(config.moe_lm(), context);
    case ModelConfig::kLinearVae:
      return MakeLinearVae(config.linear_vae(), context);
    case ModelConfig::kBilinearGame:
      return MakeBilinearGame(config.bilinear_game(), context);
    case ModelConfig::kQuadraticGame:
      return MakeQuadraticGame(config.quadratic_game(), context);
    case ModelConfig::kMatrixGame:
      return MakeMatrixGame(config.matrix_game(), context);
    case ModelConfig::kRobustLeastSquares:
      return MakeRobustLeastSquares(config.robust_least_squares(), context);
    case ModelConfig::kAucSaddle:
      return MakeAucSaddle(config.auc_saddle(), context);
    case ModelConfig::kGroupRobust:
      return MakeGroupRobust(config.group_robust(), context);
    case ModelConfig::kDiracGan:
      return MakeDiracGan(config.dirac_gan(), context);
    case ModelConfig::kGaussianWgan:
      return MakeGaussianWgan(config.gaussian_wgan(), context);
    case ModelConfig::kEightGaussians:
      return MakeEightGaussians(config.eight_gaussians(), context);
    case ModelConfig::kRobustMlp:
      return MakeRobustMlp(config.robust_mlp(), context);
    case ModelConfig::kMaskedLm:
      return MakeMaskedLm(config.masked_lm(), context);
    case ModelConfig::KIND_NOT_SET:
      break;
  }
  const auto* kinds = ModelConfig::descriptor()->FindOneofByName("kind");
  std::string known;
  for (int i = 0; i < kinds->field_count(); ++i) known += (i > 0 ? ", " : "") + kinds->field(i)->name();
  return InvalidArgument("model: no kind is set; choose one of %s", known);
}

DType ComputeDType(const ModelConfig& config) { return config.precision().compute() == PrecisionConfig::F64 ? DType::kF64 : DType::kF32; }

ModelPrecision PrecisionOf(const ModelConfig& config) {
  const auto of = [&config](PrecisionConfig::Dtype dtype) {
    if (dtype == PrecisionConfig::BF16) return ProductPrecision::kBf16;
    return config.precision().products() == PrecisionConfig::LIBRARY ? ProductPrecision::kFullLibrary : ProductPrecision::kFull;
  };
  return {.products = of(config.precision().compute()), .router = of(config.precision().router())};
}

}  // namespace conclave
