// Generator: continues texts with a language model.
#ifndef CONCLAVE_TRAINER_GENERATOR_H_
#define CONCLAVE_TRAINER_GENERATOR_H_

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "trainer/assembly.h"

namespace conclave {

struct GenerateOptions {
  int64_t tokens = 100;
  double temperature = 0.8;  // 0: the likeliest token
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  uint64_t seed = 1;
  bool cache = true;  // keep keys and values of earlier tokens where the model can; the text is the same without
};

// Extends each prompt one token at a time; the last model.context() tokens are what it sees. Prompts are dealt out over the ranks, which
// all hold experts; a prompt's text depends on its place in the list and on the other arguments, never on the ranks or on other prompts.
// `on_text` of the first prompt's rank, 0, receives pieces of its text as they are decoded; may be null. Collective. Returns prompts and
// continuations on every rank. Errors: not a language model, a prompt without tokens.
absl::StatusOr<std::vector<std::string>> Generate(Assembly& assembly, std::span<const std::string> prompts, const GenerateOptions& options,
                                                  const std::function<void(const std::string&)>& on_text);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_GENERATOR_H_
