// The configs of Hugging Face models: which of them we have, and how ours are written as theirs.
#ifndef CONCLAVE_TRAINER_HF_CONFIG_H_
#define CONCLAVE_TRAINER_HF_CONFIG_H_

#include <string>
#include <string_view>

#include "base/file_system.h"
#include "proto/model.pb.h"
#include "trainer/json.h"

namespace conclave {

enum class HfFamily { kGpt2, kMixtral, kOlmoe, kQwen2Moe, kQwen3Moe };

const char* NameOf(HfFamily family);  // "gpt2", as in "model_type"

struct HfModel {
  HfFamily family = HfFamily::kGpt2;
  MoeLmConfig config;  // without defaults filled in
};

// Reads the content of a config.json. Errors: InvalidArgument that names the key: an unknown model_type (with those we know), a missing
// key, a feature that our model does not have (sliding windows, scaled rotary positions, clipped projections, ...).
absl::StatusOr<HfModel> ParseHfConfig(std::string_view json);

// The family that a model of ours can be written as. Errors: FailedPrecondition with the field that no family has.
absl::StatusOr<HfFamily> FamilyFor(const MoeLmConfig& config);
// config: all fields set. vocabulary: of the model.
std::string HfConfigJson(const MoeLmConfig& config, HfFamily family, int64_t vocabulary);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_HF_CONFIG_H_
