// Config files in memory, for the tests of the config loader.
#ifndef CONCLAVE_TESTS_TRAINER_CONFIG_FIXTURE_H_
#define CONCLAVE_TESTS_TRAINER_CONFIG_FIXTURE_H_

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "trainer/config_loader.h"

namespace conclave {

// The shortest legal config of a language model; tests append to it or override it.
inline constexpr char kSmallConfig[] = R"(name: "small"
trainer { steps: 20 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { moe_lm { layers: 2 width: 16 heads: 2 moe { experts: 4 } } }
data { sources { text { path: "a.txt" } } }
)";

inline FileReader MemoryReader(std::map<std::string, std::string> files) {
  return [files = std::move(files)](const std::string& path) -> absl::StatusOr<std::string> {
    const auto found = files.find(path);
    if (found == files.end()) return NotFound("cannot open '%s': no such file", path);
    return found->second;
  };
}

// Loads `text` as the file x.textproto.
inline absl::StatusOr<LoadedConfig> LoadText(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return LoadConfig("x.textproto", overrides, MemoryReader({{"x.textproto", text}}));
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_CONFIG_FIXTURE_H_
