// Whole runs on a little text, assembled from a config as the program does it.
#ifndef CONCLAVE_TESTS_TRAINER_TEXT_RUN_H_
#define CONCLAVE_TESTS_TRAINER_TEXT_RUN_H_

#include <unistd.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/trainer/config_fixture.h"
#include "trainer/assembly.h"

namespace conclave {

class TextRunTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = JoinPath(testing::TempDir(), absl::StrFormat("text-run-%d-%s-%s", getpid(), info->test_suite_name(), info->name()));
    ASSERT_TRUE(RealFileSystem().CreateDirs(folder_).ok());
    for (int task = 0; task < 2; ++task) {
      std::string text;
      for (int i = 0; i < 200; ++i) text += absl::StrFormat(task == 0 ? "line %d of a short text\n" : "%d is another number\n", i * 7);
      ASSERT_TRUE(RealFileSystem().WriteAtomically(Text(task), text).ok());
    }
  }
  void TearDown() override { RealFileSystem().RemoveTree(folder_).IgnoreError(); }

  std::string Text(int task) const { return JoinPath(folder_, absl::StrFormat("%d.txt", task)); }

  absl::StatusOr<Experiment> Config(const std::string& text, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> overrides{"data.sources[0].text.path=\"" + Text(0) + "\"",
                                       "data.cache_dir=\"" + JoinPath(folder_, "cache") + "\"", "model.moe_lm.context=16"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    ASSIGN_OR_RETURN(LoadedConfig loaded, LoadText(text, overrides));
    return std::move(loaded.config);
  }

  struct Trained {
    std::vector<double> objectives;                 // by step
    std::map<std::string, std::string> parameters;  // bytes of blocks, those of rank 0 and of other ranks' experts
    bool operator==(const Trained&) const = default;
  };
  // after: on every rank once the steps are done; may be null.
  static absl::StatusOr<Trained> Train(const Experiment& config, int ranks, int steps,
                                       const std::function<void(Assembly&)>& after = nullptr) {
    std::vector<Trained> of(ranks);
    RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
      RETURN_IF_ERROR(a.scheme->Start(*a.field));
      for (Cursor cursor; cursor.step < steps; ++cursor.step) {
        ASSIGN_OR_RETURN(const StepReport report, a.scheme->Step(*a.field, cursor, *a.guard));
        if (a.expert_memory) a.expert_memory->EndStep();
        of[world.rank()].objectives.push_back(report.evaluation.objective);
      }
      if (after) after(a);
      for (const BlockId id : a.layout->local_blocks()) {
        const auto bytes = a.scheme->point().block(id).AsBytes();
        of[world.rank()].parameters[a.model->parameters()[id].name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      }
      return absl::OkStatus();
    }));
    for (int r = 1; r < ranks; ++r) of[0].parameters.insert(of[r].parameters.begin(), of[r].parameters.end());
    return std::move(of[0]);
  }

  std::string folder_;
};

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_TEXT_RUN_H_
