// Generator: continues texts with a language model.
#ifndef CONCLAVE_TRAINER_GENERATOR_H_
#define CONCLAVE_TRAINER_GENERATOR_H_

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/routing_log.h"
#include "trainer/assembly.h"
#include "trainer/generation_traffic.h"
#include "trainer/ring_memory.h"

namespace conclave {

struct GenerateOptions {
  int64_t tokens = 100;
  double temperature = 0.8;  // 0: the likeliest token
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  uint64_t seed = 1;
  bool cache = true;  // keep keys and values of earlier tokens where the model can; the text is the same without
  // Tokens stay on the rank of their first expert, layer after layer, and every rank knows every context: about half the rows of a forward
  // pass, the keys and values of each token on every rank. The text is the same. Source: Yao et al., 2024 (ExFlow).
  bool coherent = false;
  // Sees the logits, [vocabulary], that each token is drawn from, on the rank that draws it; may be empty.
  std::function<void(int prompt, int64_t step, std::span<const double> logits)> on_logits;
  RingMemory* ring = nullptr;         // parameters are read there; null: all are in memory
  RoutingLog* routing_log = nullptr;  // receives the experts of every token, prompts included; not with coherent. Null: none
  int64_t memory_bytes = 0;  // what a rank's keys and values may take; 0: what the machine has left, shared with the ranks beside it
};

struct Generated {
  std::vector<std::string> texts;
  GenerationTraffic traffic;
};

// Extends each prompt one token at a time; the last model.context() tokens are what it sees. Prompts are dealt out over the ranks, which
// all hold experts; a prompt's text depends on its place in the list and on the other arguments, never on the ranks or on other prompts.
// `on_text` of the first prompt's rank, 0, receives pieces of its text as they are decoded; may be null. Collective. Returns prompts and
// continuations on every rank. Errors: not a language model, a prompt without tokens, more keys and values than memory; coherent: a model
// without experts or without a cache, rows with lossy codecs.
absl::StatusOr<Generated> Generate(Assembly& assembly, std::span<const std::string> prompts, const GenerateOptions& options,
                                   const std::function<void(const std::string&)>& on_text);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_GENERATOR_H_
