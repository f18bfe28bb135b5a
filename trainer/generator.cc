#include "trainer/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/strings.h"
#include "base/system_memory.h"
#include "comm/ledger.h"
#include "models/token_travel.h"
#include "trainer/agreement.h"
#include "trainer/shared_context.h"

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

// One text in the making. Every rank knows all of them, as far as their lengths go; the tokens after the prompt are the owner's, or with a
// shared context, those of its whole data column.
struct TextRequest {
  int index = 0, owner = 0;
  int slot = -1;  // in the cache; -1: not in this rank's
  std::vector<int32_t> tokens;
  int64_t length = 0;  // tokens so far
  std::string text;
};

// Contexts that every rank of a data column knows.
struct CoherentParts {
  CoherentDispatch dispatch;
  TokenTravel travel;
  SharedContext context;
  std::vector<int32_t> sampled;  // by slot
  std::vector<int> at;           // by slot: the rank of its newest token
  CoherentParts(const Assembly& a, KvCache* cache)
      : dispatch(a.mesh.get(), a.placement.get(), a.dispatch_setup.get(), static_cast<int>(a.config.model().moe_lm().moe().top_k())),
        travel(&dispatch, cache),
        context(&a.mesh->dispatch(), cache),
        sampled(cache->slots()),
        at(cache->slots()) {}
};

class Generation {
 public:
  // cache: without layers: none is kept.
  Generation(Assembly& assembly, const GenerateOptions& options, const KvCache::Options& cache, std::vector<TextRequest> requests)
      : a_(assembly),
        options_(options),
        requests_(std::move(requests)),
        rank_(assembly.mesh->rank()),
        tape_(&arena_, /*gradients=*/false),
        logits_(requests_.size()) {
    if (cache.shape.layers > 0) cache_.emplace(cache);
    if (options.coherent) coherent_.emplace(a_, &*cache_);
    for (const TextRequest& request : requests_) {
      if (coherent_ && request.slot >= 0) coherent_->at[request.slot] = request.owner % a_.mesh->shape().expert;
    }
    const Recorder::Options base{.tape = &tape_,
                                 .model = a_.model.get(),
                                 .dispatch = &*a_.dispatch,
                                 .precision = PrecisionOf(a_.config.model()),
                                 .buffers = &a_.field->buffers(),
                                 .routing_log = options.routing_log};
    Recorder::Options continued = base, travelling = base;
    if (cache_) continued.cache = travelling.cache = &*cache_;
    if (coherent_) travelling.travel = &coherent_->travel;
    whole_.emplace(base);
    continued_.emplace(continued);
    travelling_.emplace(travelling);
    if (options.ring == nullptr) return;
    for (Recorder* recorder : {&*whole_, &*continued_, &*travelling_}) {
      recorder->ReadWeights([ring = options.ring](BlockId id) { return ring->At(id); });
    }
  }

  // The next token of every request.
  absl::Status Step(int64_t step, const std::function<void(const std::string&)>& on_text);
  std::vector<TextRequest>& requests() { return requests_; }
  // Tokens a mixture was entered with, and those that left for another rank.
  std::pair<int64_t, int64_t> moves() const {
    return coherent_ ? std::pair(coherent_->dispatch.moves(), coherent_->dispatch.hops()) : std::pair<int64_t, int64_t>();
  }

 private:
  using Requests = std::vector<const TextRequest*>;
  int64_t context() const { return a_.model->context(); }
  bool mine(const TextRequest& request) const { return request.owner == rank_; }
  // Whether this rank has the logits of the request's last position.
  bool here(const TextRequest& request) const {
    return coherent_ ? request.slot >= 0 && coherent_->at[request.slot] == a_.mesh->expert_coordinate() : mine(request);
  }
  // Runs one forward pass for this rank's `batch` (requests of equally many new tokens, perhaps none) and keeps their last logits.
  absl::Status Forward(Recorder& recorder, const Requests& batch, int64_t added);
  // Every request of `which` by itself, over its last `window` tokens; ranks take turns of equal number.
  absl::Status EachAlone(Recorder& recorder, const Requests& which);
  // The contexts of `begun`, all of them prompts, on every rank.
  absl::Status SharePrompts(const Requests& begun);
  // One token of each of these, all ranks of the column together.
  absl::Status Travel(const Requests& going);
  // Logits of the rows of `value`, every `stride`-th, to the requests.
  void KeepLogits(const Tensor& value, int64_t stride, const Requests& batch);
  // Adds the sampled token to its request.
  void Append(int32_t token, TextRequest* request, const std::function<void(const std::string&)>& on_text);

  Assembly& a_;
  GenerateOptions options_;
  std::vector<TextRequest> requests_;
  int rank_;
  Arena arena_;
  Tape tape_;
  std::optional<KvCache> cache_;
  std::optional<CoherentParts> coherent_;
  std::optional<Recorder> whole_, continued_, travelling_;
  std::vector<std::vector<double>> logits_;  // by request: of its last position
  std::vector<int32_t> ids_;
};

void Generation::KeepLogits(const Tensor& value, int64_t stride, const Requests& batch) {
  for (size_t s = 0; s < batch.size(); ++s) {
    std::vector<double>& last = logits_[batch[s]->index];
    last.resize(value.dim(1));
    DispatchFloat(value.dtype(), [&](auto t) {
      const auto* row = value.data<decltype(t)>() + ((static_cast<int64_t>(s) + 1) * stride - 1) * value.dim(1);
      std::copy_n(row, value.dim(1), last.begin());
    });
  }
}

absl::Status Generation::Forward(Recorder& recorder, const Requests& batch, int64_t added) {
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
  if (recorder.travel() != nullptr) {
    recorder.travel()->Begin(slots);
  } else if (recorder.cache() != nullptr) {
    cache_->Begin(slots);
  }
  recorder.BeginEvaluation();
  recorder.Begin(&a_.scheme->point(), &rows, sequences > 0);
  ASSIGN_OR_RETURN(const Var logits, a_.model->Logits(recorder));
  RETURN_IF_ERROR(recorder.poison());
  if (recorder.travel() == nullptr) {
    if (recorder.cache() != nullptr) cache_->Commit(added);
    KeepLogits(tape_.value(logits), added, batch);
    return absl::OkStatus();
  }
  Requests ended;  // by row: where a token ends, its text goes on
  for (const int slot : recorder.travel()->here()) {
    const auto of_slot = [&](const TextRequest& request) { return request.slot == slot; };
    ended.push_back(&*std::ranges::find_if(requests_, of_slot));
    coherent_->at[slot] = a_.mesh->expert_coordinate();
  }
  KeepLogits(tape_.value(logits), 1, ended);
  return absl::OkStatus();
}

absl::Status Generation::SharePrompts(const Requests& begun) {
  std::vector<SharedContext::Prompt> prompts;
  for (const TextRequest* request : begun) {
    if (request->slot >= 0) prompts.push_back({request->slot, coherent_->at[request->slot], request->length});
  }
  return prompts.empty() ? absl::OkStatus() : coherent_->context.SharePrompts(prompts);
}

absl::Status Generation::Travel(const Requests& going) {
  Requests start;
  std::vector<int> slots;
  for (const TextRequest* request : going) {
    if (request->slot < 0) continue;
    slots.push_back(request->slot);
    if (here(*request)) start.push_back(request);
  }
  for (const int slot : slots) coherent_->at[slot] = -1;
  RETURN_IF_ERROR(Forward(*travelling_, start, 1));
  return slots.empty() ? absl::OkStatus() : coherent_->context.ShareStep(slots, coherent_->travel.visited());
}

absl::Status Generation::EachAlone(Recorder& recorder, const Requests& which) {
  Requests left;  // mine
  std::vector<int64_t> turns(a_.mesh->ranks(), 0);
  for (const TextRequest* request : which) {
    ++turns[request->owner];
    if (mine(*request)) left.push_back(request);
  }
  const int64_t most = std::ranges::max(turns);
  for (int64_t turn = 0; turn < most; ++turn) {
    Requests batch;
    if (turn < static_cast<int64_t>(left.size())) batch.push_back(left[turn]);
    const int64_t window = batch.empty() ? 1 : std::min(batch[0]->length, context());
    RETURN_IF_ERROR(Forward(recorder, batch, window));
  }
  return absl::OkStatus();
}

void Generation::Append(int32_t token, TextRequest* request, const std::function<void(const std::string&)>& on_text) {
  request->tokens.push_back(token);
  if (!mine(*request)) return;
  std::string longer = a_.data.tokenizer->Decode(request->tokens);
  // Bytes of an unfinished character may be held back by the tokenizer: show what is new once it extends the old text.
  if (request->index == 0 && longer.size() >= request->text.size() && on_text) on_text(longer.substr(request->text.size()));
  request->text = std::move(longer);
}

absl::Status Generation::Step(int64_t step, const std::function<void(const std::string&)>& on_text) {
  // Which way each request goes depends on its length alone, so all ranks record equally often.
  Requests begins, goes_on, over;
  bool continues = false;
  for (const TextRequest& request : requests_) {
    if (!cache_ || request.length > context()) {
      over.push_back(&request);
      if (coherent_ && request.slot >= 0) coherent_->at[request.slot] = request.owner % a_.mesh->shape().expert;
    } else if (step == 0) {
      begins.push_back(&request);
    } else {
      continues = true;
      if (coherent_ || mine(request)) goes_on.push_back(&request);
    }
  }
  RETURN_IF_ERROR(EachAlone(*continued_, begins));
  if (coherent_ && step == 0) RETURN_IF_ERROR(SharePrompts(begins));
  if (continues) RETURN_IF_ERROR(coherent_ ? Travel(goes_on) : Forward(*continued_, goes_on, 1));
  RETURN_IF_ERROR(EachAlone(*whole_, over));
  if (coherent_) std::ranges::fill(coherent_->sampled, -1);
  for (TextRequest& request : requests_) {
    ++request.length;
    if (!here(request)) continue;
    std::vector<double>& logits = logits_[request.index];
    logits.resize(a_.data.tokenizer->vocab_size());  // ids the tokenizer does not know are never drawn
    if (options_.on_logits) options_.on_logits(request.index, step, logits);
    const RngKey key{.seed = options_.seed, .worker = static_cast<uint32_t>(request.index), .kind = RngKind::kSample};
    const int32_t token = SampleToken(logits, options_, key.UniformDouble(static_cast<uint64_t>(step)));
    if (coherent_) {
      coherent_->sampled[request.slot] = token;
    } else {
      Append(token, &request, on_text);
    }
  }
  if (!coherent_) return absl::OkStatus();
  RETURN_IF_ERROR(coherent_->context.ShareTokens(coherent_->sampled, coherent_->at));
  for (TextRequest& request : requests_) {
    if (request.slot >= 0) Append(coherent_->sampled[request.slot], &request, on_text);
  }
  return absl::OkStatus();
}

absl::Status CheckCoherent(const Assembly& a, const GenerateOptions& options) {
  if (options.routing_log != nullptr) return InvalidArgument("generate: routing is recorded without the coherent mode only");
  if (a.model->experts().empty())
    return FailedPrecondition("generate: the model has no experts for tokens to stay with; leave the coherent mode out");
  if (!options.cache || a.model->cache_shape().layers == 0) {
    return FailedPrecondition("generate: tokens that stay with their experts need keys and values kept, and this model or call keeps none");
  }
  if (a.dispatch_setup->lossy()) {
    return FailedPrecondition(
        "generate: the run's parallel.dispatch rounds rows on their way (a format other than EXACT); tokens that stay with their experts "
        "travel as they are, which would give another text: leave the coherent mode out");
  }
  return absl::OkStatus();
}

// Ranks of this rank's machine.
int RanksBeside(const Communicator& control) {
  int beside = 0;
  for (int r = 0; r < control.size(); ++r) beside += control.Node(r) == control.Node(control.rank()) ? 1 : 0;
  return beside;
}

// Slots and lengths of this rank's cache; gives requests their slots.
absl::StatusOr<KvCache::Options> PlanCache(const Assembly& a, const GenerateOptions& options, std::vector<TextRequest>* requests) {
  const CacheShape shape = a.model->cache_shape();
  if (!options.cache || shape.layers == 0) return KvCache::Options{};
  KvCache::Options cache{.shape = shape, .slots = 0, .capacity = 1, .dtype = a.dtype()};
  for (TextRequest& request : *requests) {
    const bool column = request.owner / a.mesh->shape().expert == a.mesh->data_coordinate();
    if (options.coherent ? column : request.owner == a.mesh->rank()) request.slot = cache.slots++;
    const int64_t known = std::min(a.model->context(), request.length);  // any number of tokens may be asked for
    cache.capacity = std::max(cache.capacity, known + std::min(a.model->context() - known, options.tokens));
  }
  cache.slots = std::max(cache.slots, 1);
  const int beside = RanksBeside(a.mesh->control());
  const int64_t limit = options.memory_bytes > 0 ? options.memory_bytes : AvailableMemory() / beside, needed = KvCache::BytesOf(cache);
  if (limit > 0 && needed > limit) {
    return FailedPrecondition(
        "generate: keys and values of %d texts of up to %d tokens take %s on %s, and a rank may take %s; give fewer prompts or tokens%s",
        cache.slots, cache.capacity, HumanBytes(needed), options.coherent ? "each rank" : "this rank", HumanBytes(limit),
        options.coherent ? ", or leave the coherent mode out: then a rank keeps its own texts only" : "");
  }
  return cache;
}

}  // namespace

absl::StatusOr<Generated> Generate(Assembly& a, std::span<const std::string> prompts, const GenerateOptions& options,
                                   const std::function<void(const std::string&)>& on_text) {
  if (a.model->context() == 0 || a.data.tokenizer == nullptr) {
    return FailedPrecondition("generate: the run's model is no language model; only models with a tokenizer generate text");
  }
  if (options.coherent) RETURN_IF_ERROR(CheckCoherent(a, options));
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
  Communicator& control = a.mesh->control();
  const absl::StatusOr<KvCache::Options> cache = PlanCache(a, options, &requests);
  RETURN_IF_ERROR(AgreeOn(control, cache.status(), "planning the memory of keys and values"));
  if (control.ledger() != nullptr) control.ledger()->Take();
  Generation generation(a, options, *cache, std::move(requests));
  for (int64_t step = 0; step < options.tokens; ++step) RETURN_IF_ERROR(generation.Step(step, on_text));
  Generated generated;
  const WireReport report = control.ledger() != nullptr ? control.ledger()->Take() : WireReport{};
  ASSIGN_OR_RETURN(generated.traffic, SumTraffic(control, report, generation.moves()));
  for (TextRequest& request : generation.requests()) {
    RETURN_IF_ERROR(BroadcastText(control, "generated text", request.owner, &request.text));
    generated.texts.push_back(request.text);
  }
  return generated;
}

}  // namespace conclave
