// Codecs that an exchange cannot take, found in the config, before a run is built.
#ifndef CONCLAVE_TRAINER_CONFIG_CODECS_H_
#define CONCLAVE_TRAINER_CONFIG_CODECS_H_

#include "tensor/parameter_set.h"
#include "trainer/config_loader.h"
#include "trainer/config_validate.h"

namespace conclave {

// Reports the exchanges of the scheme that cannot take their codecs on `parameters`, each with its first such block, at the codec. Memory:
// the scratch of one block's codecs. Null parameters: what no block of any size to speak of could have.
void CheckCodecs(const Experiment& config, const ParameterSet* parameters, ConfigRules* rules);

// The same of a loaded config and the blocks of its model. Errors: InvalidArgument, formatted as LoadConfig's.
absl::Status CheckCodecsOf(const LoadedConfig& loaded, const ParameterSet& parameters);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_CODECS_H_
