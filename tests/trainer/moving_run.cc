#include "tests/trainer/moving_run.h"

#include <unistd.h>

#include <filesystem>
#include <mutex>

#include <gtest/gtest.h>

#include "base/strings.h"
#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "tests/trainer/forwarding_communicator.h"
#include "tests/trainer/state_fields.h"
#include "trainer/checkpoint_manifest.h"

namespace conclave {
namespace {

// Once so many layers of experts went over the wire, the process is gone before it can say anything else.
class DyingCommunicator : public ForwardingCommunicator {
 public:
  DyingCommunicator(Communicator* inner, std::unique_ptr<Communicator> owned, std::shared_ptr<int> left)
      : ForwardingCommunicator(inner, std::move(owned)), left_(std::move(left)) {}

 protected:
  std::unique_ptr<Communicator> Wrap(std::unique_ptr<Communicator> part) override {
    Communicator* const raw = part.get();
    return std::make_unique<DyingCommunicator>(raw, std::move(part), left_);
  }
  absl::StatusOr<Request> StartImpl(const Collective& op, int64_t sequence) override {
    if (*left_ == 0) _exit(MovingRun::kDead);
    if (op.label != "migration") return ForwardingCommunicator::StartImpl(op, sequence);
    RETURN_IF_ERROR(inner().AllToAllV(op));
    --*left_;
    return Request();
  }

 private:
  std::shared_ptr<int> left_;
};

int NextFolder() {
  static int number = 0;
  return number++;
}

}  // namespace

const char kMovingConfig[] = R"(name: "moving"
trainer { steps: 9 workers: 4 global_batch: 8 eval { ema_decay: 0.5 every: 4 batches: 1 } }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { moe_lm { layers: 2 width: 16 heads: 2 context: 8 moe { experts: 8 top_k: 2 hidden: 8 } } }
parallel { numerics: WORLD_SIZE_INVARIANT }
data { sources { text { path: "a.txt" } } validation_fraction: 0.2 }
checkpoint { every: 3 keep_last: 9 }
)";

MovingFolder::MovingFolder() : MovingFolder(std::to_string(NextFolder())) {}

MovingFolder::MovingFolder(const std::string& name) {
  const int process = static_cast<int>(testing::internal::InDeathTestChild() ? getppid() : getpid());
  path_ = absl::StrFormat("%s/rebalancer.%d.%s", testing::TempDir(), process, name);
  std::filesystem::create_directories(path_);
}

MovingFolder::~MovingFolder() { std::filesystem::remove_all(path_); }

std::vector<std::string> Joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

absl::StatusOr<std::pair<std::map<std::string, std::string>, std::string>> TrainMoving(const MovingRun& run) {
  std::string text;
  for (int i = 0; i < 400; ++i)
    absl::StrAppendFormat(&text, "the %dth of %d said unto %d\n%s", i * 79 % 97, i % 13, i * 31 % 11, i % 6 == 0 ? "\n" : "");
  RETURN_IF_ERROR(RealFileSystem().WriteAtomically(run.files->At("a.txt"), text));
  ASSIGN_OR_RETURN(
      const LoadedConfig loaded,
      LoadText(kMovingConfig, Joined(run.overrides, {absl::StrFormat("data.sources[0].text.path=\"%s\"", run.files->At("a.txt")),
                                                     absl::StrFormat("data.cache_dir=\"%s\"", run.files->At("cache"))})));
  const RunFolder folder(&RealFileSystem(), run.files->At("run"));
  RETURN_IF_ERROR(folder.Prepare(loaded, {}, run.overrides, run.resume));
  const StopRequests stop(&RealFileSystem(), "", 0);
  std::map<std::string, std::string> weights;
  std::mutex mutex;
  RETURN_IF_ERROR(RunRanks(
      run.ranks,
      [&](Communicator& communicator) -> absl::Status {
        DyingCommunicator dying(&communicator, nullptr, std::make_shared<int>(run.dies_after_layers));
        Communicator& world = run.dies_after_layers > 0 && communicator.rank() == 1 ? dying : communicator;
        Assembly assembly;
        RETURN_IF_ERROR(Assemble(loaded.config, world, RealFileSystem(), &assembly));
        ASSIGN_OR_RETURN(
            const std::unique_ptr<Trainer> trainer,
            Trainer::Create(
                &assembly, &world,
                {.files = &RealFileSystem(), .folder = &folder, .stop = &stop, .resume = run.resume, .stop_after = run.stop_after}));
        RETURN_IF_ERROR(trainer->Run().status());
        const std::lock_guard<std::mutex> lock(mutex);
        for (const BlockId id : assembly.layout->local_blocks()) {
          const auto bytes = assembly.scheme->point().block(id).AsBytes();
          weights[assembly.model->parameters()[id].name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        }
        return absl::OkStatus();
      },
      {.nodes = run.nodes}));
  ASSIGN_OR_RETURN(const std::string metrics, RealFileSystem().ReadAll(folder.Metrics()));
  std::string states;
  for (const std::string& line : SplitString(metrics, '\n')) states += std::string(StateFields(line)) + "\n";
  return std::pair(weights, states);
}

std::vector<int> SavedCoordinates(const MovingFolder& files, int step) {
  const auto found = FindCheckpoint(RealFileSystem(), files.At(absl::StrFormat("run/checkpoints/step-%d", step)));
  CHECK_OK(found.status());
  std::vector<int> all;
  for (const SavedPlacement& layer : found->manifest.state().placement())
    all.insert(all.end(), layer.coordinate().begin(), layer.coordinate().end());
  return all;
}

double MetricOf(const std::string& metrics, int step, const std::string& name) {
  for (const std::string& line : SplitString(metrics, '\n')) {
    if (!line.starts_with(absl::StrFormat("{\"step\":%d,", step))) continue;
    const size_t at = line.find("\"" + name + "\":");
    return at == std::string::npos ? -1 : std::stod(line.substr(at + name.size() + 3));
  }
  return -1;
}

}  // namespace conclave
