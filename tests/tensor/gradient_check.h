// Gradient check as a library: the Jacobian of an op (or of any function of tape ops) by central differences in double against its backward
// pass.
//
//   TEST(Gelu, Gradient) {
//     EXPECT_TRUE(CheckGradients({RandomInput({3, 7}, 1)}, [](Tape& t, std::span<const Var> x) { return Gelu(t, x[0]); }));
//   }
//
// Checked together: every element of every input; accumulation (gradient slots are filled beforehand); each input alone wanting a gradient;
// outputs that arrive uninitialised (the arena is filled with NaN); a tape without gradients gives the same bits.
#ifndef CONCLAVE_TESTS_TENSOR_GRADIENT_CHECK_H_
#define CONCLAVE_TESTS_TENSOR_GRADIENT_CHECK_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tensor/tape.h"

namespace conclave {

// An input of a checked function, in double.
struct GradientInput {
  Shape shape;
  std::vector<double> values;
};

// Uniform values in [low, high).
inline GradientInput RandomInput(const Shape& shape, uint64_t seed, double low = -1, double high = 1) {
  const RngKey key{.seed = seed, .kind = RngKind::kTest};
  GradientInput input{shape, std::vector<double>(shape.elements())};
  for (size_t i = 0; i < input.values.size(); ++i) input.values[i] = low + (high - low) * key.UniformDouble(i);
  return input;
}

struct GradientCheckOptions {
  double step = 1e-5;             // h of (f(x + h) - f(x - h)) / 2h; the error of the difference is about 1e-10 for functions of size 1
  double tolerance = 2e-7;        // |backward - difference| <= tolerance * max(1, |difference|)
  uint64_t seed = 7;              // of the output cotangents and of what the gradient slots hold beforehand
  int64_t arena_bytes = 1 << 18;  // how much of the arena is filled with NaN
};

// Computes an output of any shape (f64) from the inputs. Must compute the same function at every call.
using GradientFunction = std::function<Var(Tape&, std::span<const Var>)>;

namespace gradient_check {

// sum of cotangent * y, made of the tape alone, so that no op is checked against another.
inline Var WeightedSum(Tape& tape, Var y, const double* cotangent) {
  const Tensor sum = tape.arena().New({1}, DType::kF64);
  const std::span<const double> values = tape.value(y).span<double>();
  double s = 0;
  for (size_t i = 0; i < values.size(); ++i) s += cotangent[i] * values[i];
  *sum.data<double>() = s;
  const Var out = tape.Record(sum, {y});
  tape.OnBackward(out, [y, cotangent, out](Tape& t) {
    if (!t.wants_gradient(y)) return;
    const double g = *t.gradient(out).data<double>();
    const std::span<double> dy = t.gradient(y).span<double>();
    for (size_t i = 0; i < dy.size(); ++i) dy[i] += g * cotangent[i];
  });
  return out;
}

// One recording: inputs, an arena full of NaN, and gradient slots with something in them.
class Recording {
 public:
  Recording(const std::vector<GradientInput>& inputs, const GradientCheckOptions& options) : options_(options), inputs_(inputs) {
    const RngKey key{.seed = options.seed, .site = 1, .kind = RngKind::kTest};
    uint64_t element = 0;
    for (const GradientInput& input : inputs) {
      EXPECT_EQ(input.shape.elements(), static_cast<int64_t>(input.values.size()));
      prefill_.emplace_back(input.values.size());
      for (double& p : prefill_.back()) p = 2 * key.UniformDouble(element++) - 1;
    }
  }

  // The output's values. wanted: the input that wants a gradient, -1 for all, -2 for a tape without gradients.
  std::vector<double> Forward(const GradientFunction& f, int wanted) {
    Tape tape(&Prepare(), wanted != -2);
    const Var y = f(tape, Variables(tape, wanted));
    const std::span<const double> values = tape.value(y).span<double>();
    return {values.begin(), values.end()};
  }

  // What backward added to the gradient of each input, for the output cotangent.
  std::vector<std::vector<double>> Backward(const GradientFunction& f, const std::vector<double>& cotangent, int wanted) {
    Tape tape(&Prepare());
    const Var y = f(tape, Variables(tape, wanted));
    const Seed seed{.var = WeightedSum(tape, y, cotangent.data())};
    int finals = 0;
    EXPECT_TRUE(tape.Backward(std::span(&seed, 1), [&](BlockId) { return ++finals, absl::OkStatus(); }).ok());
    EXPECT_EQ(finals, wanted == -1 ? static_cast<int>(inputs_.size()) : 1);
    std::vector<std::vector<double>> added = slots_;
    for (size_t k = 0; k < added.size(); ++k) {
      for (size_t i = 0; i < added[k].size(); ++i) added[k][i] -= prefill_[k][i];
    }
    return added;
  }

  double& value(size_t input, size_t i) { return inputs_[input].values[i]; }

 private:
  Arena& Prepare() {
    arena_.Reset();
    std::memset(arena_.Allocate(options_.arena_bytes), 0xFF, options_.arena_bytes);
    arena_.Reset();
    slots_ = prefill_;
    return arena_;
  }

  std::vector<Var> Variables(Tape& tape, int wanted) {
    std::vector<Var> vars;
    for (int k = 0; k < static_cast<int>(inputs_.size()); ++k) {
      const Shape& shape = inputs_[k].shape;
      GradientSlot slot;
      if (wanted < 0 || wanted == k) slot.first = Tensor(slots_[k].data(), shape, DType::kF64);
      vars.push_back(tape.Parameter({k}, Tensor(inputs_[k].values.data(), shape, DType::kF64), slot));
    }
    return vars;
  }

  GradientCheckOptions options_;
  Arena arena_;
  std::vector<GradientInput> inputs_;
  std::vector<std::vector<double>> prefill_, slots_;
};

// The worst element of a comparison.
struct Worst {
  double excess = 0;  // |a - b| / (tolerance * max(1, |b|))
  int input = -1, wanted = -1;
  size_t element = 0;
  double backward = 0, difference = 0;

  void Take(const Worst& other) {
    if (!std::isnan(excess) && !(other.excess <= excess)) *this = other;
  }
};

}  // namespace gradient_check

// Compares c^T J (J by central differences, three random cotangents c) with backward.
inline ::testing::AssertionResult CheckGradients(const std::vector<GradientInput>& inputs, const GradientFunction& f,
                                                 const GradientCheckOptions& options = {}) {
  using gradient_check::Worst;
  gradient_check::Recording recording(inputs, options);
  const std::vector<double> y = recording.Forward(f, -1);
  const std::vector<double> without_gradients = recording.Forward(f, -2);
  if (y.size() != without_gradients.size() ||
      (!y.empty() && std::memcmp(y.data(), without_gradients.data(), y.size() * sizeof(double)) != 0)) {
    return ::testing::AssertionFailure() << "a tape without gradients gives other values";
  }

  const RngKey key{.seed = options.seed, .site = 2, .kind = RngKind::kTest};
  constexpr int kCotangents = 3;
  std::vector<std::vector<double>> cotangents(kCotangents, std::vector<double>(y.size()));
  for (int c = 0; c < kCotangents; ++c) {
    for (size_t i = 0; i < y.size(); ++i) cotangents[c][i] = 2 * key.UniformDouble(c * y.size() + i) - 1;
  }

  Worst worst;
  std::vector<std::vector<std::vector<double>>> all, alone(inputs.size());
  for (const auto& c : cotangents) all.push_back(recording.Backward(f, c, -1));
  for (int k = 0; k < static_cast<int>(inputs.size()); ++k) alone[k] = recording.Backward(f, cotangents[0], k);

  for (int k = 0; k < static_cast<int>(inputs.size()); ++k) {
    for (size_t i = 0; i < inputs[k].values.size(); ++i) {
      const double x = inputs[k].values[i];
      recording.value(k, i) = x + options.step;
      const std::vector<double> up = recording.Forward(f, -2);
      recording.value(k, i) = x - options.step;
      const std::vector<double> down = recording.Forward(f, -2);
      recording.value(k, i) = x;
      const double width = (x + options.step) - (x - options.step);
      for (int c = 0; c < kCotangents; ++c) {
        double difference = 0;
        for (size_t j = 0; j < y.size(); ++j) difference += cotangents[c][j] * ((up[j] - down[j]) / width);
        const auto compare = [&](double backward, int wanted) {
          const double bound = options.tolerance * std::max(1.0, std::abs(difference));
          worst.Take({std::abs(backward - difference) / bound, k, wanted, i, backward, difference});
        };
        compare(all[c][k][i], -1);
        if (c == 0) compare(alone[k][k][i], k);
      }
    }
  }
  if (worst.excess <= 1) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "input " << worst.input << " element " << worst.element << ": backward " << worst.backward
                                       << ", central difference " << worst.difference << ", tolerance " << options.tolerance << ", step "
                                       << options.step << ", seed " << options.seed
                                       << (worst.wanted < 0 ? "" : ", when it alone wants a gradient");
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TENSOR_GRADIENT_CHECK_H_
