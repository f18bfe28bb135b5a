#include "optim/rules.h"

namespace conclave {

std::unique_ptr<UpdateRule> MakeSgd(const SgdConfig& config, const Layout* layout, DType dtype);
std::unique_ptr<UpdateRule> MakeAdamW(const AdamWConfig& config, const Layout* layout, DType dtype);
absl::StatusOr<std::unique_ptr<UpdateRule>> MakeMuon(const MuonConfig& config, const Layout* layout, DType dtype);

absl::StatusOr<std::unique_ptr<UpdateRule>> MakeUpdateRule(const RuleConfig& config, const Layout* layout, DType dtype) {
  switch (config.kind_case()) {
    case RuleConfig::kSgd:
      return MakeSgd(config.sgd(), layout, dtype);
    case RuleConfig::kAdamw:
      return MakeAdamW(config.adamw(), layout, dtype);
    case RuleConfig::kMuon:
      return MakeMuon(config.muon(), layout, dtype);
    case RuleConfig::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("optim: a rule must be chosen, one of sgd, adamw, muon");
}

double WeightDecayOf(const RuleConfig& config) {
  switch (config.kind_case()) {
    case RuleConfig::kSgd:
      return config.sgd().weight_decay();
    case RuleConfig::kAdamw:
      return config.adamw().weight_decay();
    case RuleConfig::kMuon:
      return config.muon().weight_decay();
    case RuleConfig::KIND_NOT_SET:
      break;
  }
  return 0;
}

}  // namespace conclave
