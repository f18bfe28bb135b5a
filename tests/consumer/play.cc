// A program of somebody else's, built against an installed Conclave: plays a bilinear game on two ranks and prints what is left of F.
#include <cstdio>
#include <string>

#include "comm/loopback.h"
#include "google/protobuf/text_format.h"
#include "trainer/assembly.h"
#include "trainer/config_defaults.h"

namespace {

constexpr char kGame[] = R"(name: "consumer"
  trainer { steps: 300 workers: 2 global_batch: 0 }
  optim { extragradient { gamma: 0.3 } }
  model { bilinear_game { dim: 4 lambda: 0.1 } precision { compute: F64 } })";

absl::Status Play(const conclave::Experiment& config, conclave::Communicator& world, double* norm) {
  conclave::Assembly assembly;
  absl::Status status = conclave::Assemble(config, world, conclave::RealFileSystem(), &assembly);
  for (conclave::Cursor cursor; status.ok() && cursor.step < config.trainer().steps(); ++cursor.step) {
    const absl::StatusOr<conclave::StepReport> report = assembly.scheme->Step(*assembly.field, cursor, *assembly.guard);
    status = report.status();
    if (status.ok() && world.rank() == 0) *norm = report->gradient_norm;
  }
  return status;
}

}  // namespace

int main() {
  conclave::Experiment config;
  if (!google::protobuf::TextFormat::ParseFromString(kGame, &config)) return 2;
  conclave::ConfigPlaces places;
  conclave::FillDefaults(&config, &places);
  double norm = 0;
  const absl::Status status = conclave::RunRanks(2, [&](conclave::Communicator& world) { return Play(config, world, &norm); });
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  std::printf("norm of F after %lld steps: %g\n", static_cast<long long>(config.trainer().steps()), norm);
  return norm > 0 && norm < 1e-3 ? 0 : 1;
}
