// The mixture layer against a dense MLP and against a loop over tokens.
#include "models/modules/mixture.h"

#include <cmath>
#include <optional>

#include <gtest/gtest.h>

#include "tests/models/one_leaf.h"

namespace conclave {
namespace {

// x -> layer -> <cotangent, y>: x is a parameter, so that its gradient is seen.
class LayerModel : public Model {
 public:
  LayerModel(int64_t rows, const MlpOptions& mlp, std::optional<RouterOptions> router, const MixtureLayer::Options& more = {})
      : rows_(rows), width_(mlp.width), router_(router) {
    terms_ = {{"loss", TermScale::kOnce}};
    x_ = parameters_.Add({.name = "x", .shape = {rows, mlp.width}, .init = {Init::Kind::kNormal, 1}});
    if (router) {
      MixtureLayer::Options options = more;
      options.router = *router;
      options.expert = mlp;
      mixture_ = MixtureLayer::Register(parameters_, "m", options);
    } else {
      dense_ = MlpLayer::Register(parameters_, "m", mlp);
    }
  }
  SampleShape sample_shape() const override { return {}; }
  std::vector<int> experts() const override { return router_ ? std::vector<int>{router_->experts} : std::vector<int>{}; }
  int64_t counters() const override { return router_ ? router_->experts + 1 : 0; }  // the last: dropped slots
  absl::Status Record(Recorder& r) const override {
    const Var x = r.Parameter(x_);
    if (mixture_) {
      ASSIGN_OR_RETURN(y_, mixture_->Record(r, x, 1));
    } else {
      y_ = dense_->Record(r, x);
    }
    const Tensor cotangent = r.tape().arena().New({rows_, width_}, r.dtype());
    const RngKey key{.seed = 21, .kind = RngKind::kTest};
    DispatchFloat(r.dtype(), [&](auto t) {
      int64_t i = 0;
      for (auto& v : cotangent.span<decltype(t)>()) v = static_cast<decltype(t)>(key.Normal(i++));
    });
    r.AddTerm(0, Dot(r.tape(), y_, r.tape().Constant(cotangent)));
    return absl::OkStatus();
  }
  Var y() const { return y_; }  // of the last recording; these models record on one thread

 private:
  int64_t rows_, width_;
  std::optional<RouterOptions> router_;
  std::optional<MixtureLayer> mixture_;
  std::optional<MlpLayer> dense_;
  BlockId x_;
  mutable Var y_;
};

using Named = std::map<std::string, std::vector<double>>;

struct LayerResult {
  std::vector<double> y;
  Named values, gradients;
  std::vector<int64_t> counters;
};

// Runs the layer with every block set from `values` (by name with ".experts.0" cut out) or, where it is not there, at random.
LayerResult RunLayer(const LayerModel& model, DType dtype, const Named& values = {}) {
  LayerResult result;
  OnOneRank(model, dtype, [&](OneLeaf& leaf) -> absl::Status {
    leaf.Shake(0.5, 31);
    BatchBuffer none({}, 1, dtype);
    const auto short_name = [](std::string name) {
      if (const size_t at = name.find(".experts.0"); at != std::string::npos) name.erase(at, 10);
      return name;
    };
    for (int b = 0; b < model.parameters().size(); ++b) {
      const std::string& name = model.parameters()[{b}].name;
      const Tensor block = leaf.point().block({b});
      if (const auto it = values.find(short_name(name)); it != values.end()) {
        DispatchFloat(dtype, [&](auto t) {
          std::ranges::transform(it->second, block.data<decltype(t)>(), [](double v) { return static_cast<decltype(t)>(v); });
        });
      }
      result.values[short_name(name)] = ValuesOf(block);
    }
    RETURN_IF_ERROR(leaf.Differentiate(none.batch()).status());
    for (int b = 0; b < model.parameters().size(); ++b) {
      result.gradients[short_name(model.parameters()[{b}].name)] = ValuesOf(leaf.gradient().block({b}));
    }
    result.y = ValuesOf(leaf.tape().value(model.y()));
    const auto counters = leaf.recorder().counters();
    result.counters.assign(counters.begin(), counters.end());
    return absl::OkStatus();
  });
  return result;
}

// A mixture of one expert is the dense MLP: every value and every gradient, to the bit.
TEST(Mixture, OneExpertIsADenseMlp) {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const bool swiglu : {false, true}) {
      for (const RouterOptions& router :
           {RouterOptions{}, RouterOptions{.renormalize = false}, RouterOptions{.kind = MoeConfig::SOFTMAX_POST}}) {
        const MlpOptions mlp{.width = 20, .hidden = 36, .swiglu = swiglu, .bias = true};
        const LayerModel one(17, mlp, router), dense(17, mlp, std::nullopt);
        const LayerResult mixture = RunLayer(one, dtype), plain = RunLayer(dense, dtype, mixture.values);
        EXPECT_EQ(mixture.y, plain.y);
        ASSERT_GT(plain.gradients.size(), 4u);
        for (const auto& [name, gradient] : plain.gradients) EXPECT_EQ(mixture.gradients.at(name), gradient) << name;
      }
    }
  }
}

double Activate(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

// y = sum over the k experts of largest probability of weight * down(gelu(up x)), token by token.
TEST(Mixture, EqualsALoopOverTokens) {
  struct Widths {
    int64_t rows, width, hidden;
  };
  for (const auto& [rows, width, hidden] : {Widths{1, 7, 3}, {9, 5, 6}, {40, 100, 17}, {3, 33, 60}}) {
    const int experts = 5, k = 3;
    const LayerModel model(rows, {.width = width, .hidden = hidden}, RouterOptions{.experts = experts, .top_k = k});
    const LayerResult got = RunLayer(model, DType::kF64);
    const auto expert = [&](int e, const std::string& part) -> const std::vector<double>& {
      return got.values.at(e == 0 ? "m." + part : "m.experts." + std::to_string(e) + "." + part);
    };
    const std::vector<double>&x = got.values.at("x"), &router = got.values.at("m.router.weight");
    std::vector<int64_t> counts(experts, 0);
    double worst = 0;
    for (int64_t t = 0; t < rows; ++t) {
      std::vector<double> p(experts, 0.0), y(width, 0.0);
      for (int e = 0; e < experts; ++e) {
        double z = 0;
        for (int64_t j = 0; j < width; ++j) z += router[e * width + j] * x[t * width + j];
        p[e] = std::exp(z);
      }
      std::vector<int> chosen;
      double sum = 0;
      for (int s = 0; s < k; ++s) {
        int best = -1;
        for (int e = 0; e < experts; ++e) {
          if (std::ranges::find(chosen, e) == chosen.end() && (best < 0 || p[e] > p[best])) best = e;
        }
        chosen.push_back(best);
        sum += p[best];
      }
      for (const int e : chosen) {
        ++counts[e];
        for (int64_t f = 0; f < hidden; ++f) {
          double inner = 0;
          for (int64_t j = 0; j < width; ++j) inner += expert(e, "up.weight")[f * width + j] * x[t * width + j];
          for (int64_t j = 0; j < width; ++j) y[j] += p[e] / sum * expert(e, "down.weight")[j * hidden + f] * Activate(inner);
        }
      }
      for (int64_t j = 0; j < width; ++j) worst = std::max(worst, std::abs(y[j] - got.y[t * width + j]) / std::max(1.0, std::abs(y[j])));
    }
    EXPECT_LE(worst, 1e-12) << rows << " x " << width << " x " << hidden;
    EXPECT_EQ(std::vector<int64_t>(got.counters.begin(), got.counters.end() - 1), counts);
    int64_t total = 0;
    for (const int64_t c : got.counters) total += c;
    EXPECT_EQ(total, rows * k);
  }
}

// With room for all, a capacity changes no bit; with less, the output is the sum of what was kept, and nothing flows into what was dropped.
TEST(Mixture, CapacityWithRoomIsDropless) {
  const MlpOptions mlp{.width = 6, .hidden = 5};
  RouterOptions router{.experts = 4, .top_k = 2};
  const LayerModel dropless(20, mlp, router);
  router.capacity.factor = 4;
  const LayerModel roomy(20, mlp, router, {.dropped_counter = 4});
  const LayerResult a = RunLayer(dropless, DType::kF32), b = RunLayer(roomy, DType::kF32);
  EXPECT_EQ(b.y, a.y);
  EXPECT_EQ(b.gradients, a.gradients);
  EXPECT_EQ(b.counters, a.counters);
}

TEST(Mixture, CapacityKeepsSumsOfWhatFits) {
  const MlpOptions mlp{.width = 6, .hidden = 5};
  for (const CapacityConfig::Drop drop : {CapacityConfig::BY_WEIGHT, CapacityConfig::BY_POSITION}) {
    RouterOptions router{.experts = 3, .top_k = 1, .renormalize = false};
    const LayerModel dropless(12, mlp, router);
    const LayerResult all = RunLayer(dropless, DType::kF64);
    router.capacity = {.factor = 0.75, .drop = drop};  // 3 rows an expert
    const LayerModel tight(12, mlp, router, {.dropped_counter = 3});
    const LayerResult kept = RunLayer(tight, DType::kF64);
    int64_t overflow = 0, zero_rows = 0;
    for (int e = 0; e < 3; ++e) overflow += std::max<int64_t>(all.counters[e] - 3, 0);
    ASSERT_GT(overflow, 0);
    EXPECT_EQ(kept.counters[3], overflow);
    for (int t = 0; t < 12; ++t) {
      const auto row = [&](const LayerResult& r) { return std::vector<double>(r.y.begin() + t * 6, r.y.begin() + (t + 1) * 6); };
      if (row(kept) == std::vector<double>(6, 0.0)) {
        ++zero_rows;
      } else {
        EXPECT_EQ(row(kept), row(all)) << t;
      }
    }
    EXPECT_EQ(zero_rows, overflow);
  }
}

// E = 256 with k = 16, and every expert chosen: layers against the sum over experts by hand are covered above; here sizes at the edge.
TEST(Mixture, ManyFineGrainedExperts) {
  const LayerModel model(8, {.width = 4, .hidden = 1}, RouterOptions{.experts = 256, .top_k = 16});
  const LayerResult got = RunLayer(model, DType::kF64);
  int64_t total = 0;
  for (const int64_t c : got.counters) total += c;
  EXPECT_EQ(total, 8 * 16);
  for (const double v : got.y) EXPECT_TRUE(std::isfinite(v));
  // k = E: every expert takes every token.
  const LayerModel every(5, {.width = 4, .hidden = 2}, RouterOptions{.experts = 16, .top_k = 16});
  const LayerResult all = RunLayer(every, DType::kF64);
  for (int e = 0; e < 16; ++e) EXPECT_EQ(all.counters[e], 5);
}

// A shared expert adds its MLP of every token; with a gate, times a sigmoid.
TEST(Mixture, SharedExpertsSeeEveryToken) {
  const MlpOptions mlp{.width = 6, .hidden = 5};
  const RouterOptions router{.experts = 4, .top_k = 2};
  for (const bool gate : {false, true}) {
    const LayerModel with(9, mlp, router, {.shared_hidden = 7, .shared_gate = gate}), without(9, mlp, router);
    const LayerResult a = RunLayer(with, DType::kF64), b = RunLayer(without, DType::kF64, a.values);
    const std::vector<double>&x = a.values.at("x"), &up = a.values.at("m.shared.up.weight"), &down = a.values.at("m.shared.down.weight");
    for (int t = 0; t < 9; ++t) {
      double factor = 1;
      if (gate) {
        double z = 0;
        for (int j = 0; j < 6; ++j) z += a.values.at("m.shared_gate.weight")[j] * x[t * 6 + j];
        factor = 1 / (1 + std::exp(-z));
      }
      for (int o = 0; o < 6; ++o) {
        double shared = 0;
        for (int f = 0; f < 7; ++f) {
          double inner = 0;
          for (int j = 0; j < 6; ++j) inner += up[f * 6 + j] * x[t * 6 + j];
          shared += down[o * 7 + f] * Activate(inner);
        }
        EXPECT_NEAR(a.y[t * 6 + o], b.y[t * 6 + o] + factor * shared, 1e-12);
      }
    }
  }
}

// An expert that no token chose has a gradient of exact zeros.
TEST(Mixture, UnusedExpertsHaveZeroGradients) {
  const LayerModel model(1, {.width = 6, .hidden = 5, .bias = true}, RouterOptions{.experts = 4, .top_k = 1});
  const LayerResult got = RunLayer(model, DType::kF32);
  for (int e = 1; e < 4; ++e) {
    const bool used = got.counters[e] > 0;
    for (const char* part : {"up.weight", "up.bias", "down.weight", "down.bias"}) {
      const std::vector<double>& gradient = got.gradients.at("m.experts." + std::to_string(e) + "." + part);
      EXPECT_EQ(std::ranges::all_of(gradient, [](double g) { return g == 0; }), !used) << "expert " << e << ' ' << part;
    }
  }
}

}  // namespace
}  // namespace conclave
