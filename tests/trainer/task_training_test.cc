// Training on tasks with batches of their own.
#include "base/fault_file_system.h"
#include "tests/trainer/checkpoint_fixture.h"
#include "tests/trainer/text_run.h"

namespace conclave {
namespace {

constexpr char kTwoTasks[] = R"(name: "tasks"
trainer { steps: 20 workers: 10 global_batch: 20 }
optim { first_order { lr: 0.01 rule { adamw {} } } clip_norm: 1 }
parallel { numerics: WORLD_SIZE_INVARIANT }
model { moe_lm { layers: 2 width: 16 heads: 2 moe { experts: 4 hidden: 8 } } }
data { sources { batch: 16 text { path: "0" } } sources { batch: 4 text { path: "1" } } }
)";

class TaskTraining : public TextRunTest {
 protected:
  absl::StatusOr<Experiment> Tasks(std::vector<std::string> more) const {
    more.push_back("data.sources[1].text.path=\"" + Text(1) + "\"");
    return Config(kTwoTasks, more);
  }
};

TEST_F(TaskTraining, AssignmentsChangeNoBit) {
  const auto config = Tasks({});
  ASSERT_TRUE(config.ok()) << config.status();
  const auto alone = Train(*config, 1, 3);
  ASSERT_TRUE(alone.ok()) << alone.status();
  for (const char* assignment : {"WORKERS", "TASKS_EVENLY", "TASKS_BY_LOAD"}) {
    for (const auto& [ranks, expert] : {std::pair{4, 1}, {4, 2}, {3, 1}, {1, 1}}) {
      const auto other = Tasks({std::string("parallel.assignment=") + assignment, absl::StrFormat("parallel.expert=%d", expert)});
      const auto trained = Train(*other, ranks, 3);
      ASSERT_TRUE(trained.ok()) << trained.status();
      EXPECT_EQ(*trained, *alone) << assignment << " on " << ranks << " ranks, expert axis " << expert;
    }
  }
}

TEST_F(TaskTraining, TheBusiestRankHasLessToDo) {
  const auto busiest = [&](const char* assignment, int ranks) {
    int most = 0;
    const auto trained = Train(*Tasks({std::string("parallel.assignment=") + assignment}), ranks, 1, [&](Assembly& a) {
      if (a.mesh->rank() == 0) most = a.workers.MostPerRank();
    });
    EXPECT_TRUE(trained.ok()) << trained.status();
    return most;
  };
  EXPECT_EQ(busiest("TASKS_EVENLY", 4), 4);  // 8 workers on 2 ranks
  EXPECT_EQ(busiest("TASKS_BY_LOAD", 4), 3);
  EXPECT_EQ(busiest("TASKS_EVENLY", 2), 8);
  EXPECT_EQ(busiest("TASKS_BY_LOAD", 5), 2);
}

// A worker's rows are of one task, and the tasks' shares of every step are exact.
TEST_F(TaskTraining, WorkersHaveOneTaskEach) {
  const auto config = Tasks({});
  const auto trained = Train(*config, 1, 1, [&](Assembly& a) {
    for (uint32_t step = 0; step < 5; ++step) {
      for (int64_t row = 0; row < 20; ++row) {
        const Loader::Address at = a.data.loader->Locate(step * 20 + row, 0);
        EXPECT_EQ(at.source, row < 16 ? 0 : 1);
      }
    }
  });
  EXPECT_TRUE(trained.ok()) << trained.status();
}

// Groups of two workers, of which rank 0, whose task has one worker, leads none: what its leaders know is saved and comes back.
TEST_F(TaskTraining, StateOfGroupsThatRankZeroDoesNotLeadIsSaved) {
  const std::string marina = "optim.first_order.exchange.hierarchical.exchange.marina.";
  const auto config =
      Tasks({"data.sources[0].batch=2", "data.sources[1].batch=18", "parallel.assignment=TASKS_BY_LOAD",
             "optim.first_order.exchange.hierarchical.workers_per_group=2", marina + "p=0.5", marina + "codec.rand_k.fraction=0.5"});
  ASSERT_TRUE(config.ok()) << config.status();
  const FaultFileSystem files;
  const auto trained = Train(*config, 4, 2, [&](Assembly& a) {
    const int rank = a.mesh->rank();
    ASSERT_EQ(a.workers.Count(0), 1);
    StateDict state;
    a.scheme->Register(state);
    const StateScalar* started = nullptr;
    for (const StateScalar& scalar : state.scalars()) started = scalar.name.ends_with(".groups.started") ? &scalar : started;
    EXPECT_EQ(started != nullptr, rank != 0) << rank;
    const auto store = CheckpointStore::Open(files, a.mesh->control(), "run/checkpoints", KeepAll());
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_EQ((*store)->Save(RequestOf(state, 2)), absl::OkStatus());
    if (started != nullptr) started->set(0);
    const auto loaded = (*store)->LoadNewest(state);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (started == nullptr) return;
    EXPECT_EQ(started->get(), 1) << rank;
  });
  EXPECT_TRUE(trained.ok()) << trained.status();
}

TEST_F(TaskTraining, RefusesWhatIsNoTask) {
  EXPECT_NE(Tasks({"data.sources[1].batch=5"})
                .status()
                .message()
                .find("2 of 2 sources have a batch, 21 samples together; all must have one, and together the 20 of trainer.global_batch"),
            std::string::npos);
  EXPECT_NE(Tasks({"data.sources[0].batch=0", "data.sources[1].batch=0", "parallel.assignment=TASKS_BY_LOAD"})
                .status()
                .message()
                .find("there are no tasks to deal ranks out to"),
            std::string::npos);
  const auto odd = Tasks({"data.sources[0].batch=17", "data.sources[1].batch=3", "parallel.assignment=TASKS_BY_LOAD"});
  EXPECT_NE(odd.status().message().find("the 17 samples of this one are no multiple of the 2 of a worker"), std::string::npos)
      << odd.status();
  EXPECT_TRUE(Tasks({"data.sources[0].batch=17", "data.sources[1].batch=3"}).ok());  // a rank may mix them
  const auto weighted = Tasks({"data.sources[0].weight=3"});
  EXPECT_NE(weighted.status().message().find("a source with a batch has that share of every step"), std::string::npos) << weighted.status();
}

}  // namespace
}  // namespace conclave
