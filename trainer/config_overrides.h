// `--set path=value` and `--set path+=value`: the last layer of a config.
#ifndef CONCLAVE_TRAINER_CONFIG_OVERRIDES_H_
#define CONCLAVE_TRAINER_CONFIG_OVERRIDES_H_

#include <google/protobuf/message.h>

#include "trainer/config_diagnostics.h"
#include "trainer/config_schema.h"

namespace conclave {

// Applies source number `source`, an override, to `config`. The value is text format of the field; a string may go without quotes.
// `=` overwrites a scalar, merges into a block, replaces a list; `+=` appends to a list. Elements of a list of blocks are named as
// sources[0]. Errors go to `diagnostics` with the place inside the override, and then `config` is untouched.
void ApplyOverride(const ConfigSource& override_source, int source, google::protobuf::Message* config, ConfigPlaces* places,
                   DamagedPaths* damaged, ConfigDiagnostics* diagnostics);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_OVERRIDES_H_
