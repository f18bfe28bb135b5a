// group_robust: min_x max_q in the simplex of (1/M) sum_m sum_g q_g (|x - c_g|^2 / 2 + s_gm'x), sum_m s_gm = 0: the worst of several groups
// is made as good as it can be. x is the centre of the smallest ball around the c_g. The prox of the config keeps q on the simplex.

#include <algorithm>
#include <cmath>

#include "models/model.h"
#include "models/problem_algebra.h"

namespace conclave {
namespace {

struct GroupShare {
  ProblemConstant slopes;  // s_gm - c_g: [groups, dim]
};

class GroupRobust : public Model {
 public:
  GroupRobust(const GroupRobustConfig& config, const ModelContext& context) : config_(config) {
    terms_ = {{"loss", TermScale::kOnce, 1.0, true}};
    const int64_t groups = config.groups(), d = config.dim();
    x_ = parameters_.Add({.name = "x", .shape = {d}, .player = Player::kMin, .init = {Init::Kind::kNormal, config.init_std()}});
    q_ = parameters_.Add(
        {.name = "q", .shape = {groups}, .player = Player::kMax, .init = {Init::Kind::kConstant, 1.0 / static_cast<double>(groups)}});
    centres_.resize(groups * d);
    const RngKey key = ProblemKey(context.seed, kSharedWorker, 0);
    key.FillNormal(0, centres_);
    std::vector<double> heights(groups, 0.0);
    for (int64_t i = 0; i < groups * d; ++i) heights[i / d] += 0.5 * centres_[i] * centres_[i];
    heights_ = ProblemConstant(std::move(heights));
    for (int m = 0; m < context.workers; ++m) {
      std::vector<double> slopes = ZeroSumShift(ProblemKey(context.seed, 0, 1), m, context.workers, groups * d, config.heterogeneity());
      for (size_t i = 0; i < slopes.size(); ++i) slopes[i] -= centres_[i];
      workers_.push_back({ProblemConstant(std::move(slopes))});
    }
  }

  SampleShape sample_shape() const override { return {}; }

  // |x - c_g|^2 / 2 = |x|^2 / 2 - c_g'x + |c_g|^2 / 2
  absl::Status Record(Recorder& r) const override {
    if (!r.present()) return absl::OkStatus();
    Tape& tape = r.tape();
    const int64_t groups = config_.groups(), d = config_.dim();
    const Var x = Reshape(tape, r.Parameter(x_), {1, d}), q = Reshape(tape, r.Parameter(q_), {1, groups});
    const Var linear = Linear(tape, x, workers_[r.batch().worker.value].slopes.Record(r, {groups, d}));
    const Var half_square = Affine(tape, Dot(tape, x, x), 0.5, 0);
    const Var losses = Add(tape, Add(tape, linear, heights_.Record(r, {1, groups})), half_square);
    r.AddTerm(0, Dot(tape, q, losses));
    return absl::OkStatus();
  }

  // With two groups the middle between their centres.
  std::vector<double> Solution(BlockId block) const override {
    const int64_t d = config_.dim();
    if (config_.groups() != 2) return {};
    if (block == q_) return {0.5, 0.5};
    std::vector<double> middle(d);
    for (int64_t i = 0; i < d; ++i) middle[i] = 0.5 * (centres_[i] + centres_[d + i]);
    return middle;
  }

  // The largest |x - c_g|^2 / 2, less the least value over x under q: sum q |c|^2 / 2 - |sum q c|^2 / 2.
  std::optional<double> Gap(const FlatVector& point) const override {
    const int64_t groups = config_.groups(), d = config_.dim();
    std::vector<double> x(d), q(groups), mean(d, 0.0);
    DispatchFloat(point.dtype(), [&](auto t) {
      std::ranges::copy(point.block(x_).span<decltype(t)>(), x.begin());
      std::ranges::copy(point.block(q_).span<decltype(t)>(), q.begin());
    });
    double worst = 0, total = 0, low = 0;
    for (double& v : q) total += v = std::max(v, 0.0);
    for (int64_t g = 0; g < groups; ++g) {
      const double share = total > 0 ? q[g] / total : 1.0 / static_cast<double>(groups);
      double distance = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double c = centres_[g * d + i];
        distance += (x[i] - c) * (x[i] - c);
        mean[i] += share * c;
      }
      worst = std::max(worst, 0.5 * distance);
      low += share * heights_[g];
    }
    for (const double v : mean) low -= 0.5 * v * v;
    return worst - low;
  }

 private:
  GroupRobustConfig config_;
  BlockId x_, q_;
  Matrix centres_;  // [groups, dim]
  ProblemConstant heights_;
  std::vector<GroupShare> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeGroupRobust(const GroupRobustConfig& config, const ModelContext& context) {
  return std::make_unique<GroupRobust>(config, context);
}

}  // namespace conclave
