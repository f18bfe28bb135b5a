#include "optim/guard.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace conclave {
namespace {

class DivergenceGuard final : public Guard {
 public:
  DivergenceGuard(const GuardConfig& config, int rank) : config_(config), rank_(rank), norms_({config.window()}, DType::kF64) {}

  absl::Status Accept(double loss, double norm) override {
    if (!std::isfinite(loss)) return FailedPrecondition("loss is %f", loss);
    if (!std::isfinite(norm)) return FailedPrecondition("operator norm is %f", norm);
    if (config_.spike_zscore() > 0 && accepted_ >= config_.window()) {
      const auto [mean, deviation] = Statistics();
      const double zscore = (norm - mean) / deviation;
      if (deviation > 0 && zscore > config_.spike_zscore()) {
        return FailedPrecondition("operator norm %g is %.1f deviations above the mean %g of the last %d accepted steps, allowed %g", norm,
                                  zscore, mean, config_.window(), config_.spike_zscore());
      }
    }
    double& oldest = norms_->data<double>()[accepted_ % config_.window()];
    replaced_ = std::exchange(oldest, norm);
    ++accepted_;
    refused_before_ = std::exchange(refused_in_a_row_, 0);
    return absl::OkStatus();
  }

  void Withdraw() override {
    --accepted_;
    norms_->data<double>()[accepted_ % config_.window()] = replaced_;
    refused_in_a_row_ = refused_before_;
  }

  absl::Status Refused(const absl::Status& reason) override {
    ++refused_in_a_row_;
    if (config_.policy() == GuardConfig::HALT) return Annotate(reason, "guard (policy HALT): step refused, nothing was updated");
    if (refused_in_a_row_ >= config_.max_consecutive_skips()) {
      return Annotate(reason,
                      absl::StrFormat("guard: %d steps refused in a row, allowed fewer than %d; lower the learning rate or resume from an "
                                      "earlier checkpoint; last reason",
                                      refused_in_a_row_, config_.max_consecutive_skips()));
    }
    return absl::OkStatus();
  }

  void Register(StateDict& state) override {
    state.Add(StateEntry{.name = "guard/norms", .data = *norms_, .canonical = rank_ == 0});
    state.AddScalar("guard.accepted", &accepted_);
    state.AddScalar("guard.refused_in_a_row", &refused_in_a_row_);
  }

 private:
  struct Moments {
    double mean, deviation;
  };
  // Over the full window, in slot order: the same bits after a resume.
  Moments Statistics() const {
    double sum = 0, squares = 0;
    for (const double norm : norms_->span<double>()) sum += norm;
    const double mean = sum / static_cast<double>(config_.window());
    for (const double norm : norms_->span<double>()) squares += (norm - mean) * (norm - mean);
    return {mean, std::max(std::sqrt(squares / static_cast<double>(config_.window())), 1e-3 * mean)};
  }

  GuardConfig config_;
  int rank_;
  OwnedTensor norms_;  // [window] f64, a ring
  int64_t accepted_ = 0;
  int64_t refused_in_a_row_ = 0;
  double replaced_ = 0;  // what the step accepted last replaced: that norm, and how many were refused in a row before it
  int64_t refused_before_ = 0;
};

}  // namespace

std::unique_ptr<Guard> MakeGuard(const GuardConfig& config, int rank) { return std::make_unique<DivergenceGuard>(config, rank); }

}  // namespace conclave
