// robust_mlp: a perceptron that tells classes apart whatever is done to its samples within a ball:
//   min_theta E max over |delta| <= radius of -log softmax(net(x + delta))[class]
// delta is a player of its own, the samples' (models/modules/perturbation.h); where it stands at a maximum, the gradient by theta at x +
// delta is that of the inner maximum (Danskin). Source: Madry et al., arXiv 1706.06083.
//   accuracy, robust_accuracy: share of samples told right as they are, and perturbed
#include <cmath>
#include <optional>

#include "models/model.h"
#include "models/modules/accuracy.h"
#include "models/modules/layers.h"

namespace conclave {
namespace {

constexpr int kMlpLoss = 0, kMlpAccuracy = 1, kMlpRobustAccuracy = 2;

class RobustMlp : public Model {
 public:
  explicit RobustMlp(const RobustMlpConfig& config) : config_(config) {
    terms_ = {{"loss", TermScale::kPerSample, 1.0, true}, {"accuracy", TermScale::kPerSample, 1.0, false}};
    if (config.perturbation().radius() > 0) {
      terms_.push_back({"robust_accuracy", TermScale::kPerSample, 1.0, false});
      perturbation_.emplace(config.perturbation(), Perturbation::Options{.width = config.inputs(), .range = std::pair(0.0, 1.0)});
    }
    for (int64_t i = 0; i <= config.layers(); ++i) {
      const int64_t from = i == 0 ? config.inputs() : config.hidden(), to = i == config.layers() ? config.classes() : config.hidden();
      layers_.push_back(LinearLayer::Register(parameters_, absl::StrFormat("layers.%d", i),
                                              {.in = from, .out = to, .bias = true, .std = std::sqrt(1.0 / static_cast<double>(from))}));
    }
  }

  SampleShape sample_shape() const override { return {SampleShape::Kind::kLabelled, config_.inputs()}; }
  const Perturbation* perturbation() const override { return perturbation_ ? &*perturbation_ : nullptr; }

  absl::Status Record(Recorder& r) const override {
    Tape& tape = r.tape();
    const Var x = tape.Constant(r.batch().features);  // [n, inputs]
    const Tensor targets = r.batch().targets.Flat();
    const Var delta = r.SampleValues();
    const Var logits = Logits(r, delta.defined() ? Add(tape, x, delta) : x);
    r.AddTerm(kMlpLoss, CrossEntropy(tape, logits, targets));
    if (r.searching()) return absl::OkStatus();
    const auto right = [&](Var scores) { return static_cast<double>(CountRight(tape.value(scores), targets)); };
    if (delta.defined()) r.AddMetric(kMlpRobustAccuracy, right(logits));
    r.AddMetric(kMlpAccuracy, right(delta.defined() ? Logits(r, x) : logits));
    return absl::OkStatus();
  }

 private:
  Var Logits(Recorder& r, Var x) const {
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (i > 0) x = Gelu(r.tape(), x);
      x = layers_[i].Record(r, x);
    }
    return x;
  }

  RobustMlpConfig config_;
  std::optional<Perturbation> perturbation_;
  std::vector<LinearLayer> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeRobustMlp(const RobustMlpConfig& config, const ModelContext&) {
  return std::make_unique<RobustMlp>(config);
}

}  // namespace conclave
