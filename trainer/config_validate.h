// What fields must be to each other.
#ifndef CONCLAVE_TRAINER_CONFIG_VALIDATE_H_
#define CONCLAVE_TRAINER_CONFIG_VALIDATE_H_

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "proto/experiment.pb.h"
#include "trainer/config_diagnostics.h"
#include "trainer/config_schema.h"

namespace conclave {

// Reports breaches of rules between fields, each at the place of the field that is likeliest to be wrong.
class ConfigRules {
 public:
  // All outlive the rules. `root`: number of the main file's source.
  ConfigRules(const ConfigPlaces& places, const DamagedPaths& damaged, int root, ConfigDiagnostics* diagnostics)
      : places_(places), damaged_(damaged), root_(root), diagnostics_(diagnostics) {}

  // Reports `message` unless `holds`. `paths`: the fields the rule is about, the one to point at first; a field that has an error already
  // says nothing, so then the rule is silent. Of fields that no layer set, the next one that was set is pointed at.
  void Require(bool holds, std::initializer_list<std::string_view> paths, const std::string& message);
  // The same of a rule that does not hold.
  void Report(std::span<const std::string_view> paths, const std::string& message);

 private:
  const ConfigPlaces& places_;
  const DamagedPaths& damaged_;
  const int root_;
  ConfigDiagnostics* const diagnostics_;
};

// The rules that need no knowledge of the machine. All defaults of `config` are filled.
void CheckRules(const Experiment& config, ConfigRules* rules);

// Of these, the ones about what travels: exchanges, and tokens on their way to experts.
void CheckWire(const Experiment& config, ConfigRules* rules);

// The rules that a number of ranks adds: the mesh has that many places, there is a worker for each.
void CheckRanks(const Experiment& config, int ranks, ConfigRules* rules);

}  // namespace conclave

#endif  // CONCLAVE_TRAINER_CONFIG_VALIDATE_H_
