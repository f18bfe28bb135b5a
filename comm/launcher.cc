#include "comm/launcher.h"

#include <cstdlib>

namespace conclave {
namespace {

std::optional<int> Number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::atoi(text);
}

}  // namespace

std::optional<LauncherPlace> PlaceByLauncher() {
  if (const auto rank = Number("OMPI_COMM_WORLD_RANK")) return LauncherPlace{*rank, Number("OMPI_COMM_WORLD_SIZE").value_or(1)};
  // Under srun the PMIx variables show that the step was started for MPI.
  if (const auto rank = Number("PMIX_RANK")) return LauncherPlace{*rank, Number("SLURM_NTASKS").value_or(1)};
  return std::nullopt;
}

}  // namespace conclave
