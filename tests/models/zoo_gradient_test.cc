// Every model of the zoo: the gradient of its whole objective in double against central differences, over sampled elements of every block.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

// Configs by member of ModelConfig's oneof. A new model needs a line here.
const std::map<std::string, std::vector<std::string>>& Cases() {
  static const auto& cases = *new std::map<std::string, std::vector<std::string>>{
      {"moe_lm",
       {
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 2 context: 5 }",
           "moe_lm { vocab_size: 11 layers: 2 width: 8 heads: 2 context: 5 bias: true moe { experts: 4 hidden: 5 balance_loss: 0.5 z_loss: "
           "0.1 } }",
           "moe_lm { vocab_size: 11 layers: 2 width: 8 heads: 2 context: 5 position: ROTARY norm: RMS_NORM activation: SWIGLU tied_head: "
           "false"
           "         moe { experts: 4 top_k: 3 hidden: 3 every: 2 router: SOFTMAX_POST balance_scope: SEQUENCE balance_loss: 0.5 } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 5 heads: 1 context: 7 activation: SWIGLU bias: true"
           "         moe { experts: 3 top_k: 2 hidden: 7 renormalize: false balance_scope: GLOBAL balance_loss: 0.5 z_loss: 0.2 } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 3 context: 4 position: ROTARY moe { experts: 3 top_k: 3 hidden: 4 } }",
           "moe_lm { vocab_size: 11 layers: 2 width: 8 heads: 4 kv_heads: 2 context: 5 qk_norm: QK_NORM_WHOLE position: ROTARY norm: "
           "RMS_NORM"
           "         tied_head: false moe { experts: 6 top_k: 3 hidden: 5 router: SIGMOID groups: 3 group_top_k: 2 routed_scale: 1.7"
           "         balance_loss: 0.3 bias_rate: 0.01 shared_hidden: 4 } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 2 kv_heads: 1 head_dim: 4 context: 5 qk_norm: QK_NORM_PER_HEAD qkv_bias: true"
           "         moe { experts: 4 router: SIGMOID renormalize: false capacity { factor: 0.8 } shared_hidden: 4 shared_gate: true } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 2 context: 5 moe { experts: 4 capacity { factor: 0.6 drop: BY_POSITION } } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 2 context: 5 moe { experts: 3 top_k: 1 hidden: 4 router: EXPERT_CHOICE } }",
           "moe_lm { vocab_size: 11 layers: 1 width: 6 heads: 2 context: 4 moe { experts: 1 top_k: 1 hidden: 4 balance_loss: 0 z_loss: 0 } "
           "}",
       }},
      {"linear_vae",
       {
           "linear_vae { data_dim: 5 latent_dim: 3 samples: 0 }",
           "linear_vae { data_dim: 5 latent_dim: 3 samples: 2 beta: 0.7 prior_variance: 1.5 learn_decoder_variance: true decoder_variance: "
           "0.8 }",
           "linear_vae { data_dim: 4 latent_dim: 2 samples: 3 analytic_kl: false decoder_variance: 0.5 }",
           "linear_vae { data_dim: 4 latent_dim: 2 samples: 0 learn_decoder_variance: true }",
       }},
      {"bilinear_game", {"bilinear_game { dim: 4 }", "bilinear_game { dim: 3 lambda: 0.5 heterogeneity: 0.4 spectrum: UNIFORM }"}},
      {"quadratic_game", {"quadratic_game { dim: 4 }", "quadratic_game { dim: 3 heterogeneity: 1 curvature_min: 0.5 coupling: 2 }"}},
      {"matrix_game", {"matrix_game {}", "matrix_game { payoffs: KUHN_POKER }", "matrix_game { payoffs: RANDOM size: 4 }"}},
      {"robust_least_squares",
       {"robust_least_squares { dim: 3 rows: 7 }",
        "robust_least_squares { dim: 3 rows: 7 batch: 4 noise: 1 beta: 0.5 feature_std: 0.3 offset: 2 }"}},
      {"auc_saddle", {"auc_saddle { dim: 3 rows: 9 }", "auc_saddle { dim: 2 rows: 9 batch: 5 positive_share: 0.6 }"}},
      {"group_robust", {"group_robust { groups: 3 dim: 4 }"}},
      {"dirac_gan", {"dirac_gan {}", "dirac_gan { dim: 3 loss: LOGISTIC penalty: 0.5 }"}},
      {"eight_gaussians",
       {"eight_gaussians { hidden: 5 layers: 1 latent_dim: 2 samples: 6 power_steps: 500 }",
        "eight_gaussians { hidden: 4 layers: 2 latent_dim: 3 samples: 5 heterogeneity: 0.5 spectral_norm: false }"}},
      {"masked_lm",
       {"masked_lm { vocab_size: 11 layers: 2 width: 8 heads: 2 context: 5 mask_rate: 0.5 }",
        "masked_lm { vocab_size: 11 layers: 1 width: 6 heads: 1 context: 5 hidden: 7 mask_rate: 0.6 perturbation { norm: L2 radius: 0.3 } "
        "}"}},
      {"robust_mlp",
       {"robust_mlp { inputs: 6 classes: 3 hidden: 5 layers: 2 perturbation { radius: 0.2 } }",
        "robust_mlp { inputs: 4 classes: 2 layers: 0 perturbation { norm: L2 radius: 0.5 every_point: true } }",
        "robust_mlp { inputs: 4 classes: 2 hidden: 3 perturbation { radius: 0 } }"}},
      {"gaussian_wgan", {"gaussian_wgan { dim: 3 }", "gaussian_wgan { dim: 2 samples: 5 penalty: 0.3 }"}},
  };
  return cases;
}

// |gradient - (f(x + h) - f(x - h)) / 2h| <= 2e-7 max(1, |difference|) for up to 5 elements of a block. A block with the id -1 is the
// samples' own.
absl::Status CheckBlock(OneLeaf& leaf, const Batch& batch, const BlockSpec& spec, BlockId id) {
  constexpr double kStep = 1e-5, kTolerance = 2e-7;
  const bool own = id.value < 0;
  const std::span<double> x = (own ? leaf.sample_values() : leaf.point().block(id)).span<double>();
  const std::vector<double> gradient = ValuesOf(own ? leaf.sample_gradient() : leaf.gradient().block(id));
  const RngKey key{.seed = 17, .site = own ? 999 : static_cast<uint32_t>(id.value), .kind = RngKind::kTest};
  for (uint64_t sample = 0; sample < 5; ++sample) {
    const size_t i = key.Below(x.size(), sample);
    const double at = x[i];
    x[i] = at + kStep;
    ASSIGN_OR_RETURN(const double up, leaf.Objective(batch));
    x[i] = at - kStep;
    ASSIGN_OR_RETURN(const double down, leaf.Objective(batch));
    x[i] = at;
    const double difference = (up - down) / (2 * kStep);
    EXPECT_NEAR(gradient[i], difference, kTolerance * std::max(1.0, std::abs(difference))) << spec.name << " element " << i;
  }
  return absl::OkStatus();
}

TEST(Zoo, EveryModelHasAGradientCase) {
  const google::protobuf::OneofDescriptor* kinds = ModelConfig::descriptor()->FindOneofByName("kind");
  ASSERT_NE(kinds, nullptr);
  for (int i = 0; i < kinds->field_count(); ++i) {
    const auto found = Cases().find(kinds->field(i)->name());
    EXPECT_TRUE(found != Cases().end() && !found->second.empty()) << kinds->field(i)->name() << ": add a config to Cases()";
  }
}

TEST(Zoo, GradientsOfTheWholeObjective) {
  for (const auto& [kind, configs] : Cases()) {
    for (const std::string& text : configs) {
      SCOPED_TRACE(text);
      const std::unique_ptr<Model> model = ModelFromText(text);
      ASSERT_NE(model, nullptr);
      BatchBuffer buffer = RandomBatch(model->sample_shape(), 3, model->vocabulary(), DType::kF64);
      OnOneRank(*model, DType::kF64, [&](OneLeaf& leaf) -> absl::Status {
        leaf.Shake(0.3, 5);
        RETURN_IF_ERROR(leaf.Differentiate(buffer.batch()).status());
        for (int b = 0; b < model->parameters().size(); ++b) {
          RETURN_IF_ERROR(CheckBlock(leaf, buffer.batch(), model->parameters()[{b}], {b}));
        }
        if (model->perturbation() != nullptr) RETURN_IF_ERROR(CheckBlock(leaf, buffer.batch(), model->perturbation()->block(), {-1}));
        return absl::OkStatus();
      });
    }
  }
}

// Terms are finite, and the same bits come out twice.
TEST(Zoo, RecordingIsDeterministic) {
  for (const auto& [kind, configs] : Cases()) {
    for (const std::string& text : configs) {
      SCOPED_TRACE(text);
      const std::unique_ptr<Model> model = ModelFromText(text);
      ASSERT_NE(model, nullptr);
      BatchBuffer buffer = RandomBatch(model->sample_shape(), 3, model->vocabulary(), DType::kF32);
      std::vector<double> objectives;
      std::vector<std::vector<double>> gradients;
      for (int run = 0; run < 2; ++run) {
        OnOneRank(*model, DType::kF32, [&](OneLeaf& leaf) -> absl::Status {
          leaf.Shake(0.3, 5);
          // A second evaluation of the same leaf object, with the arena's memory used before.
          for (int again = 0; again < 2; ++again) {
            ASSIGN_OR_RETURN(const double objective, leaf.Differentiate(buffer.batch()));
            objectives.push_back(objective);
            gradients.push_back(ValuesOf(leaf.gradient().flat()));
          }
          return absl::OkStatus();
        });
      }
      ASSERT_EQ(objectives.size(), 4u);
      EXPECT_TRUE(std::isfinite(objectives[0]));
      for (size_t i = 1; i < objectives.size(); ++i) {
        EXPECT_EQ(objectives[i], objectives[0]);
        EXPECT_EQ(gradients[i], gradients[0]);
      }
    }
  }
}

}  // namespace
}  // namespace conclave
