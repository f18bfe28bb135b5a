#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace conclave {
namespace {

// 0 up to `begin`, 1 from `end` on, linear between.
double Progress(int64_t step, int64_t begin, int64_t end) {
  if (step >= end) return 1;
  if (step <= begin) return 0;
  return static_cast<double>(step - begin) / static_cast<double>(end - begin);
}

}  // namespace

double ScheduleFactor(const ScheduleConfig& config, int64_t step, int64_t total_steps) {
  const int64_t warmup = config.warmup_steps();
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup + 1);
  const int64_t last = total_steps - 1;
  switch (config.kind_case()) {
    case ScheduleConfig::kCosine: {
      const double low = config.cosine().min_ratio();
      return low + (1 - low) * 0.5 * (1 + std::cos(std::numbers::pi * Progress(step, warmup, last)));
    }
    case ScheduleConfig::kWsd: {
      const auto decay = static_cast<int64_t>(std::llround(config.wsd().decay_fraction() * static_cast<double>(total_steps)));
      return 1 - (1 - config.wsd().min_ratio()) * Progress(step, std::max(last - decay, warmup), last);
    }
    case ScheduleConfig::kConstant:
    case ScheduleConfig::KIND_NOT_SET:
      return 1;
  }
  return 1;
}

}  // namespace conclave
