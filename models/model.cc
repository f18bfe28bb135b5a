#include "models/model.h"

namespace conclave {

absl::StatusOr<Var> Model::Logits(Recorder&) const { return Unimplemented("this model has no logits: only language models generate"); }

std::vector<double> Model::Solution(BlockId) const { return {}; }

std::optional<double> Model::Gap(const FlatVector&) const { return std::nullopt; }

absl::StatusOr<std::unique_ptr<Model>> MakeModel(const ModelConfig& config, const ModelContext& context) {
  switch (config.kind_case()) {
    case ModelConfig::kMoeLm:
      return MakeMoeLm(config.moe_lm(), context);
    case ModelConfig::kLinearVae:
      return MakeLinearVae(config.linear_vae(), context);
    case ModelConfig::kBilinearGame:
      return MakeBilinearGame(config.bilinear_game(), context);
    case ModelConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("model: no kind is set; choose one of moe_lm, linear_vae, bilinear_game");
}

DType ComputeDType(const ModelConfig& config) { return config.precision().compute() == PrecisionConfig::F64 ? DType::kF64 : DType::kF32; }

}  // namespace conclave
