// Kernels at the shapes of the quickstart's model: leaves of 512 tokens, width 128, 4 heads, 1,024 ids.
#include <utility>

#include "base/rng.h"
#include "bench/benches.h"
#include "bench/instruction_rates.h"
#include "optim/rules.h"
#include "tensor/layout.h"
#include "tensor/ops/ops.h"
#include "tensor/products.h"

namespace conclave {
namespace {

constexpr int64_t kTokens = 512, kWidth = 128, kVocabulary = 1024, kHidden = 384;

OwnedTensor Noise(const Shape& shape, uint32_t site) {
  OwnedTensor tensor(shape, DType::kF32);
  const RngKey key{.seed = 1, .site = site};
  for (int64_t i = 0; i < shape.elements(); ++i) tensor->data<float>()[i] = static_cast<float>(key.Normal(static_cast<uint64_t>(i)));
  return tensor;
}

class KernelBench {
 public:
  KernelBench() : copy_(MeasureCopy(int64_t{16} << 20)) { report_.results.push_back(copy_); }

  void Product(const std::string& what, int64_t n, int64_t in, int64_t out) {
    const OwnedTensor x = Noise({n, in}, 1), w = Noise({out, in}, 2), y = Noise({n, out}, 3);
    const double work = 2e-9 * static_cast<double>(n) * static_cast<double>(in) * static_cast<double>(out);
    const std::string shape = absl::StrFormat("%s %d x %d -> %d", what, n, in, out);
    Add(shape + " forward", "GFLOP/s", work, [&] { ProductNT(*x, *w, Tensor(), *y); });
    Add(shape + " input gradient", "GFLOP/s", work, [&] { ProductNN(*y, *w, *x); });
    Add(shape + " weight gradient", "GFLOP/s", work, [&] { ProductTN(*y, *x, *w); });
  }

  // op(tape, x) on x of `shape`, which moves `bytes` a call. With `backward`, a scalar op is differentiated too.
  template <typename Op>
  void Memory(const std::string& name, const Shape& shape, double bytes, bool backward, const Op& op) {
    const OwnedTensor x = Noise(shape, 4), gradient(shape, DType::kF32);
    Arena arena;
    Tape tape(&arena, backward);
    Add(name, "GB/s", bytes * 1e-9, [&] { RunOp(tape, *x, *gradient, backward, op); });
    report_.results.back().facts.emplace_back("of_copy", report_.results.back().Rate() / copy_.Rate());
  }

  void Attention(int64_t sequences, int64_t length, int heads, int64_t head_dim) {
    const AttentionOptions options{.sequences = sequences, .heads = heads, .kv_heads = heads};
    const Shape shape{sequences * length, 3 * heads * head_dim};
    const OwnedTensor qkv = Noise(shape, 5), gradient(shape, DType::kF32);
    Arena arena;
    // Two products over the causal half of [length, length] a head; five more in backward.
    const double forward = 2e-9 * static_cast<double>(sequences * heads * length * length * head_dim);
    Tape values(&arena, false), both(&arena);
    const std::string name = absl::StrFormat("attention %d x %d, %d heads of %d", sequences, length, heads, head_dim);
    const auto op = [&](Tape& tape, Var x) { return SumAll(tape, CausalAttention(tape, x, options)); };
    Add(name + " forward", "GFLOP/s", forward, [&] { RunOp(values, *qkv, *gradient, false, op); });
    Add(name + " and backward", "GFLOP/s", 3.5 * forward, [&] { RunOp(both, *qkv, *gradient, true, op); });
  }

  absl::Status AdamW(int64_t n) {
    ParameterSet parameters;
    const BlockId block = parameters.Add({.name = "w", .shape = {n}});
    const Layout layout = ReplicatedLayout(&parameters, 0, 1);
    RuleConfig config;
    AdamWConfig* adamw = config.mutable_adamw();
    adamw->set_beta1(0.9);
    adamw->set_beta2(0.95);
    adamw->set_eps(1e-8);
    adamw->set_weight_decay(0.1);
    ASSIGN_OR_RETURN(const std::unique_ptr<UpdateRule> rule, MakeUpdateRule(config, &layout, DType::kF32));
    const OwnedTensor value = Noise({n}, 6), gradient = Noise({n}, 7);
    int64_t t = 0;
    // Value and both moments are read and written, the gradient is read.
    Add(absl::StrFormat("adamw %d", n), "GB/s", 28e-9 * static_cast<double>(n),
        [&] { rule->Apply(block, *value, *gradient, {.learning_rate = 1e-3, .weight_decay = 0.1, .t = ++t}); });
    report_.results.back().facts.emplace_back("of_copy", report_.results.back().Rate() / copy_.Rate());
    return absl::OkStatus();
  }

  void Add(const std::string& name, const std::string& unit, double work, const std::function<void()>& body) {
    report_.results.push_back({.name = name, .unit = unit, .work = work, .seconds = Measure(body)});
  }

  void Instructions() {
    for (BenchResult& rate : InstructionRates()) report_.results.push_back(std::move(rate));
  }

  BenchReport Take() { return std::move(report_); }

 private:
  template <typename Op>
  static void RunOp(Tape& tape, const Tensor& x, const Tensor& gradient, bool backward, const Op& op) {
    tape.Reset();
    tape.arena().Reset();
    const Var out = op(tape, backward ? tape.Parameter(BlockId{0}, x, {.first = gradient}) : tape.Constant(x));
    if (!backward) return;
    const Seed seed{out, 1.0};
    CHECK(tape.Backward({&seed, 1}, [](BlockId) { return absl::OkStatus(); }).ok());
  }

  BenchResult copy_;
  BenchReport report_{.bench = "kernels"};
};

}  // namespace

absl::StatusOr<BenchReport> BenchKernels() {
  UseOneComputeThread();
  KernelBench bench;
  bench.Instructions();
  bench.Product("qkv", kTokens, kWidth, 3 * kWidth);
  bench.Product("expert", kTokens / 4, kWidth, 2 * kHidden);
  bench.Product("head", kTokens, kWidth, kVocabulary);
  bench.Attention(4, 128, 4, 32);
  bench.Attention(1, 1024, 4, 32);
  // From here on tensors of 16 MiB, which no core's cache holds.
  const int64_t n = 32768;
  const double bytes = 4.0 * static_cast<double>(n * kWidth);
  const OwnedTensor gain = Noise({kWidth}, 8);
  const auto shape = [](const char* name, int64_t rows, int64_t width) { return absl::StrFormat("%s %d x %d", name, rows, width); };
  bench.Memory(shape("rms norm", n, kWidth), {n, kWidth}, 2 * bytes, false,
               [&](Tape& tape, Var x) { return RmsNorm(tape, x, tape.Constant(*gain)); });
  bench.Memory(shape("layer norm", n, kWidth), {n, kWidth}, 2 * bytes, false,
               [&](Tape& tape, Var x) { return LayerNorm(tape, x, tape.Constant(*gain), {}); });
  bench.Memory(shape("softmax", n, kWidth), {n, kWidth}, 2 * bytes, false, [](Tape& tape, Var x) { return Softmax(tape, x); });
  bench.Memory(shape("gelu", n, kWidth), {n, kWidth}, 2 * bytes, false, [](Tape& tape, Var x) { return Gelu(tape, x); });
  const int64_t rows = n * kWidth / kVocabulary;
  const OwnedTensor targets({rows}, DType::kI32);
  for (int64_t i = 0; i < rows; ++i) targets->data<int32_t>()[i] = static_cast<int32_t>(i % kVocabulary);
  // Logits are read twice, their gradient is read and written.
  bench.Memory(shape("cross-entropy with gradient", rows, kVocabulary), {rows, kVocabulary}, 4 * bytes, true,
               [&](Tape& tape, Var x) { return CrossEntropy(tape, x, *targets); });
  RETURN_IF_ERROR(bench.AdamW(int64_t{1} << 22));
  return bench.Take();
}

}  // namespace conclave
