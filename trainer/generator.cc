#include "trainer/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/kv_cache.h"

namespace conclave {
namespace {

// Draws from softmax(logits / temperature) restricted to the top_k largest. logits: [vocabulary], f64. draw: of this token.
int32_t SampleToken(const std::vector<double>& logits, const GenerateOptions& options, double draw) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.temperature <= 0) return order[0];
  if (options.top_k > 0) order.resize(std::min<size_t>(order.size(), options.top_k));
  std::vector<double> weights;
  for (const int32_t token : order) weights.push_back(std::exp((logits[token] - logits[order[0]]) / options.temperature));
  double left = std::accumulate(weights.begin(), weights.end(), 0.0) * draw;
  for (size_t i = 0; i < order.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order.back();
}

// One text in the making. Every rank knows all of them, as far as their lengths go; the owner alone has the tokens after the prompt.
struct TextRequest {
  int index = 0, owner = 0;
  int slot = 0;  // in the owner's cache
  std::vector<int32_t> tokens;
  int64_t length = 0;  // tokens so far
  std::string text;
};

class Generation {
 public:
  Generation(Assembly& assembly, const GenerateOptions& options, std::vector<TextRequest> requests)
      : a_(assembly),
        options_(options),
        requests_(std::move(requests)),
        rank_(assembly.mesh->rank()),
        tape_(&arena_, /*gradients=*/false),
        logits_(requests_.size()) {
    const CacheShape shape = a_.model->cache_shape();
    std::vector<int> held(a_.mesh->ranks(), 0);
    for (TextRequest& request : requests_) request.slot = held[request.owner]++;
    if (options.cache && shape.layers > 0) {
      cache_.emplace(KvCache::Options{.shape = shape, .slots = std::max(1, held[rank_]), .capacity = context(), .dtype = a_.dtype()});
    }
    const Recorder::Options base{.parameters = &a_.model->parameters(),
                                 .terms = &a_.model->terms(),
                                 .dispatch = &*a_.dispatch,
                                 .counters = a_.model->counters(),
                                 .buffers = &a_.field->buffers()};
    Recorder::Options whole = base, continued = base;
    whole.tape = continued.tape = &tape_;
    if (cache_) continued.cache = &*cache_;
    whole_.emplace(whole);
    continued_.emplace(continued);
  }

  // The next token of every request.
  absl::Status Step(int64_t step, const std::function<void(const std::string&)>& on_text);
  std::vector<TextRequest>& requests() { return requests_; }

 private:
  int64_t context() const { return a_.model->context(); }
  bool mine(const TextRequest& request) const { return request.owner == rank_; }
  // Runs one forward pass for this rank's `batch` (requests of equally many new tokens, perhaps none) and keeps their last logits.
  absl::Status Forward(Recorder& recorder, const std::vector<const TextRequest*>& batch, int64_t added);
  // Every request of `which` by itself, over its last `window` tokens; ranks take turns of equal number.
  absl::Status EachAlone(Recorder& recorder, const std::vector<const TextRequest*>& which);

  Assembly& a_;
  GenerateOptions options_;
  std::vector<TextRequest> requests_;
  int rank_;
  Arena arena_;
  Tape tape_;
  std::optional<KvCache> cache_;
  std::optional<Recorder> whole_, continued_;
  std::vector<std::vector<double>> logits_;  // by request: of its last position
  std::vector<int32_t> ids_;
};

absl::Status Generation::Forward(Recorder& recorder, const std::vector<const TextRequest*>& batch, int64_t added) {
  tape_.Reset();
  arena_.Reset();
  ids_.clear();
  std::vector<int> slots;
  for (const TextRequest* request : batch) {
    ids_.insert(ids_.end(), request->tokens.end() - added, request->tokens.end());
    slots.push_back(request->slot);
  }
  const int64_t sequences = static_cast<int64_t>(batch.size());
  Batch rows;
  rows.tokens = Tensor(ids_.data(), {sequences, added}, DType::kI32);
  rows.sequences = sequences;
  if (recorder.cache() != nullptr) cache_->Begin(slots);
  recorder.BeginEvaluation();
  recorder.Begin(&a_.scheme->point(), &rows, sequences > 0);
  ASSIGN_OR_RETURN(const Var logits, a_.model->Logits(recorder));
  RETURN_IF_ERROR(recorder.poison());
  if (recorder.cache() != nullptr) cache_->Commit(added);
  const Tensor value = tape_.value(logits);
  for (int64_t s = 0; s < sequences; ++s) {
    std::vector<double>& last = logits_[batch[s]->index];
    last.resize(value.dim(1));
    DispatchFloat(value.dtype(), [&](auto t) {
      const auto* row = value.data<decltype(t)>() + ((s + 1) * added - 1) * value.dim(1);
      std::copy_n(row, value.dim(1), last.begin());
    });
  }
  return absl::OkStatus();
}

absl::Status Generation::EachAlone(Recorder& recorder, const std::vector<const TextRequest*>& which) {
  std::vector<const TextRequest*> left;  // mine
  std::vector<int64_t> turns(a_.mesh->ranks(), 0);
  for (const TextRequest* request : which) {
    ++turns[request->owner];
    if (mine(*request)) left.push_back(request);
  }
  const int64_t most = std::ranges::max(turns);
  for (int64_t turn = 0; turn < most; ++turn) {
    std::vector<const TextRequest*> batch;
    if (turn < static_cast<int64_t>(left.size())) batch.push_back(left[turn]);
    const int64_t window = batch.empty() ? 1 : std::min(batch[0]->length, context());
    RETURN_IF_ERROR(Forward(recorder, batch, window));
  }
  return absl::OkStatus();
}

absl::Status Generation::Step(int64_t step, const std::function<void(const std::string&)>& on_text) {
  // Which way each request goes depends on its length alone, so all ranks record equally often.
  std::vector<const TextRequest*> begins, goes_on, over;
  bool continues = false;
  for (const TextRequest& request : requests_) {
    if (!cache_ || request.length > context()) {
      over.push_back(&request);
    } else if (step == 0) {
      begins.push_back(&request);
    } else {
      continues = true;
      if (mine(request)) goes_on.push_back(&request);
    }
  }
  RETURN_IF_ERROR(EachAlone(*continued_, begins));
  if (continues) RETURN_IF_ERROR(Forward(*continued_, goes_on, 1));
  RETURN_IF_ERROR(EachAlone(*whole_, over));
  const Tokenizer& tokenizer = *a_.data.tokenizer;
  for (TextRequest& request : requests_) {
    ++request.length;
    if (!mine(request)) continue;
    std::vector<double>& logits = logits_[request.index];
    logits.resize(tokenizer.vocab_size());  // ids the tokenizer does not know are never drawn
    const RngKey key{.seed = options_.seed, .worker = static_cast<uint32_t>(request.index), .kind = RngKind::kSample};
    request.tokens.push_back(SampleToken(logits, options_, key.UniformDouble(static_cast<uint64_t>(step))));
    std::string longer = tokenizer.Decode(request.tokens);
    // Bytes of an unfinished character may be held back by the tokenizer: show what is new once it extends the old text.
    if (request.index == 0 && longer.size() >= request.text.size() && on_text) on_text(longer.substr(request.text.size()));
    request.text = std::move(longer);
  }
  return absl::OkStatus();
}

// The owner's text on every rank.
absl::Status Share(Communicator& control, TextRequest* request) {
  int64_t size = static_cast<int64_t>(request->text.size());
  RETURN_IF_ERROR(control.Broadcast("generated length", Tensor(&size, {1}, DType::kI64), request->owner));
  request->text.resize(size);
  if (size == 0) return absl::OkStatus();
  return control.Broadcast("generated text", Tensor(request->text.data(), {size}, DType::kU8), request->owner);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> Generate(Assembly& a, std::span<const std::string> prompts, const GenerateOptions& options,
                                                  const std::function<void(const std::string&)>& on_text) {
  if (a.model->context() == 0 || a.data.tokenizer == nullptr) {
    return FailedPrecondition("generate: the run's model is no language model; only models with a tokenizer generate text");
  }
  std::vector<TextRequest> requests;
  for (const std::string& prompt : prompts) {
    TextRequest& request = requests.emplace_back();
    request.index = static_cast<int>(requests.size()) - 1;
    request.owner = request.index % a.mesh->ranks();
    ASSIGN_OR_RETURN(request.tokens, a.data.tokenizer->Encode(prompt));
    if (request.tokens.empty()) {
      if (a.data.tokenizer->end_of_document() < 0) return InvalidArgument("generate: the prompt is empty; give --prompt TEXT");
      request.tokens.push_back(a.data.tokenizer->end_of_document());
    }
    request.length = static_cast<int64_t>(request.tokens.size());
    request.text = a.data.tokenizer->Decode(request.tokens);
    if (request.index == 0 && a.mesh->rank() == 0 && on_text) on_text(request.text);
  }
  Generation generation(a, options, std::move(requests));
  for (int64_t step = 0; step < options.tokens; ++step) RETURN_IF_ERROR(generation.Step(step, on_text));
  std::vector<std::string> texts;
  for (TextRequest& request : generation.requests()) {
    RETURN_IF_ERROR(Share(a.mesh->control(), &request));
    texts.push_back(request.text);
  }
  return texts;
}

}  // namespace conclave
