// hf_logits_program HF_DIR TOKENS LOGITS OUT_DIR: loads a Hugging Face model, writes the logits of a sequence (f32, raw) and the model
// again.
#include <cstdio>
#include <fstream>
#include <sstream>

#include "comm/loopback.h"
#include "trainer/config_defaults.h"
#include "trainer/hf_weights.h"
#include "trainer/trainer.h"

namespace conclave {
namespace {

absl::Status LogitsProgram(char** arguments) {
  const std::string folder = arguments[1];
  std::vector<int32_t> tokens;
  std::ifstream in(arguments[2]);
  for (int32_t token; in >> token;) tokens.push_back(token);
  ASSIGN_OR_RETURN(const HfModel hf, ReadHfModel(RealFileSystem(), folder));
  Experiment config;
  *config.mutable_model()->mutable_moe_lm() = hf.config;
  ConfigPlaces places;
  FillDefaults(&config, &places);
  ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, MakeModel(config.model(), {}));
  return RunRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {}));
    ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(model->experts(), 1));
    const ExpertDispatch dispatch(mesh.get(), &placement);
    const Layout layout = PlanLayout(&model->parameters(), mesh->shape(), 0, placement);
    FlatVector point(&layout, DType::kF32);
    RETURN_IF_ERROR(LoadHfWeights(RealFileSystem(), folder, hf, &point));
    Arena arena;
    Tape tape(&arena, /*gradients=*/false);
    Recorder recorder({.tape = &tape, .model = model.get(), .dispatch = &dispatch});
    Batch batch;
    batch.sequences = 1;
    batch.tokens = Tensor(tokens.data(), {1, static_cast<int64_t>(tokens.size())}, DType::kI32);
    recorder.Begin(&point, &batch, true);
    ASSIGN_OR_RETURN(const Var logits, model->Logits(recorder));
    const auto bytes = tape.value(logits).AsBytes();
    const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    RETURN_IF_ERROR(RealFileSystem().WriteAtomically(arguments[3], content));
    return SaveHfModel(RealFileSystem(), arguments[4], config.model().moe_lm(), point);
  });
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const absl::Status status = conclave::LogitsProgram(argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
