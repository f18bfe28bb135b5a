#include "trainer/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

// Draws from softmax(logits / temperature) restricted to the top_k largest. logits: [vocabulary], f64.
int32_t SampleToken(const std::vector<double>& logits, const GenerateOptions& options, int64_t position) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.temperature <= 0) return order[0];
  if (options.top_k > 0) order.resize(std::min<size_t>(order.size(), options.top_k));
  std::vector<double> weights;
  for (const int32_t token : order) weights.push_back(std::exp((logits[token] - logits[order[0]]) / options.temperature));
  double left = std::accumulate(weights.begin(), weights.end(), 0.0) *
                RngKey{.seed = options.seed, .kind = RngKind::kSample}.UniformDouble(static_cast<uint64_t>(position));
  for (size_t i = 0; i < order.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order.back();
}

// Logits of the last position of `window`.
absl::StatusOr<std::vector<double>> LastLogits(Assembly& a, Tape& tape, Recorder& recorder, std::span<const int32_t> window) {
  const int64_t length = static_cast<int64_t>(window.size());
  tape.Reset();
  tape.arena().Reset();
  Batch batch;
  batch.tokens = Tensor(const_cast<int32_t*>(window.data()), {1, length}, DType::kI32);
  batch.sequences = 1;
  recorder.BeginEvaluation();
  recorder.Begin(&a.scheme->point(), &batch, true);
  ASSIGN_OR_RETURN(const Var logits, a.model->Logits(recorder));
  RETURN_IF_ERROR(recorder.poison());
  const Tensor value = tape.value(logits);
  std::vector<double> last(value.dim(1));
  DispatchFloat(value.dtype(), [&](auto t) {
    const auto* row = value.data<decltype(t)>() + (length - 1) * value.dim(1);
    std::copy_n(row, value.dim(1), last.begin());
  });
  return last;
}

}  // namespace

absl::StatusOr<std::string> Generate(Assembly& a, const GenerateOptions& options, const std::function<void(const std::string&)>& on_text) {
  if (a.model->context() == 0 || a.data.tokenizer == nullptr) {
    return FailedPrecondition("generate: the run's model is no language model; only models with a tokenizer generate text");
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens, a.data.tokenizer->Encode(options.prompt));
  if (tokens.empty()) {
    if (a.data.tokenizer->end_of_document() < 0) return InvalidArgument("generate: the prompt is empty; give --prompt TEXT");
    tokens.push_back(a.data.tokenizer->end_of_document());
  }
  Arena arena;
  Tape tape(&arena, /*gradients=*/false);
  Recorder recorder({.tape = &tape,
                     .parameters = &a.model->parameters(),
                     .terms = &a.model->terms(),
                     .dispatch = &*a.dispatch,
                     .counters = a.model->counters(),
                     .buffers = &a.field->buffers()});
  std::string text = a.data.tokenizer->Decode(tokens);
  if (on_text) on_text(text);
  for (int64_t i = 0; i < options.tokens; ++i) {
    const size_t seen = std::min<size_t>(tokens.size(), a.model->context());
    ASSIGN_OR_RETURN(std::vector<double> logits, LastLogits(a, tape, recorder, std::span(tokens).last(seen)));
    logits.resize(a.data.tokenizer->vocab_size());  // ids the tokenizer does not know are never drawn
    tokens.push_back(SampleToken(logits, options, i));
    std::string longer = a.data.tokenizer->Decode(tokens);
    // Bytes of an unfinished character may be held back by the tokenizer: print what is new once it extends the old text.
    if (longer.size() >= text.size() && on_text) on_text(longer.substr(text.size()));
    text = std::move(longer);
  }
  return text;
}

}  // namespace conclave
