// Generator: continues a text with a language model.
#ifndef CONCLAVE_TRAINER_GENERATOR_H_
#define CONCLAVE_TRAINER_GENERATOR_H_

#include <functional>
#include <string>

#include "trainer/assembly.h"

namespace conclave {

struct GenerateOptions {
  std::string prompt;
  int64_t tokens = 100;
  double temperature = 0.8;  // 0: the likeliest token
  int64_t top_k = 0;         // keep the k likeliest; 0: all
  uint64_t seed = 1;
};

// Extends the prompt one token at a time; the last model.context() tokens are what it sees. `on_text` receives pieces as they are decoded.
// Deterministic in its arguments. Collective: every rank computes, all get the same text. Returns prompt and continuation. Errors: not a
// language model, text without tokens.
absl::StatusOr<std::string> Generate(Assembly& assembly, const GenerateOptions& options,
                                     const std::function<void(const std::string&)>& on_text);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_GENERATOR_H_
