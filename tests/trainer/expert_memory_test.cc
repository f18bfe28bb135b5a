// Experts on disk: the same bits, less memory.
#include "trainer/expert_memory.h"

#include "tests/trainer/text_run.h"
#include "trainer/memory_plan.h"

namespace conclave {
namespace {

// 8 experts in 2 layers, each of 2 x 128 x 32 numbers with as many first and second moments.
constexpr char kExperts[] = R"(name: "experts"
trainer { steps: 20 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } clip_norm: 1 }
model { moe_lm { layers: 2 width: 32 heads: 2 moe { experts: 4 top_k: 1 hidden: 128 } } }
data { sources { text { path: "0" } } }
)";

class ExpertMemoryTest : public TextRunTest {};

TEST_F(ExpertMemoryTest, TrainsToTheSameBits) {
  for (const char* more : {"parallel.numerics=FIXED_MESH", "parallel.numerics=WORLD_SIZE_INVARIANT", "model.recompute=BLOCKS"}) {
    for (const int expert : {1, 2}) {
      const std::vector<std::string> settings{more, absl::StrFormat("parallel.expert=%d", expert)};
      const auto resident = Train(*Config(kExperts, settings), expert, 6);
      ASSERT_TRUE(resident.ok()) << resident.status();
      for (const char* room : {"0", "1", "3", "100"}) {
        std::vector<std::string> paged = settings;
        for (const std::string& field :
             {std::string("resident_experts=") + room, std::string("decay_every=2"), std::string("write_back_every=3")}) {
          paged.push_back("parallel.expert_memory." + field);
        }
        const auto trained = Train(*Config(kExperts, paged), expert, 6);
        ASSERT_TRUE(trained.ok()) << trained.status();
        EXPECT_EQ(*trained, *resident) << more << ", room for " << room;
      }
    }
  }
}

TEST_F(ExpertMemoryTest, ThePlanKnowsWhatIsOnDisk) {
  int64_t disk = 0, cached = 0, total = 0, resident_total = 0;
  ExpertMemory::Counts counts;
  const auto measure = [&](int64_t* sum) {
    return [&, sum](Assembly& a) {
      const auto plan = PlanMemory(a);
      ASSERT_TRUE(plan.ok()) << plan.status();
      *sum = plan->total();
      if (a.expert_memory == nullptr) return;
      disk = a.expert_memory->bytes(), cached = a.expert_memory->cached_bytes(), counts = a.expert_memory->TakeCounts();
      EXPECT_EQ(plan->on_disk, disk - cached);
      EXPECT_NE(MemoryTable(a, *plan).find("experts on disk alone"), std::string::npos);
    };
  };
  ASSERT_TRUE(Train(*Config(kExperts), 1, 2, measure(&resident_total)).ok());
  const auto trained = Train(*Config(kExperts, {"parallel.expert_memory.resident_experts=2"}), 1, 2, measure(&total));
  ASSERT_TRUE(trained.ok()) << trained.status();
  const int64_t expert = 2 * 128 * 32 * 4 * 3;  // bytes: parameters and two moments
  EXPECT_GT(disk, 7 * expert);                  // but for pages at the ends
  EXPECT_LE(disk, 8 * expert + 6 * 4096);
  EXPECT_EQ(cached, disk / 8 * 2);
  EXPECT_NEAR(static_cast<double>(resident_total - total), static_cast<double>(disk - cached), 2048);  // activations are foretold
  EXPECT_GT(counts.fetched, 0);
  EXPECT_GT(counts.uncached + counts.hits, 0);
}

TEST_F(ExpertMemoryTest, AFolderThatCannotBeIsNamed) {
  const auto refused = Train(*Config(kExperts, {"parallel.expert_memory.folder=\"/proc/none\""}), 1, 1);
  EXPECT_NE(refused.status().message().find("parallel.expert_memory: "), std::string::npos) << refused.status();
  EXPECT_NE(refused.status().message().find("/proc/none"), std::string::npos) << refused.status();
}

TEST_F(ExpertMemoryTest, GoesWithWhatSaysWhenItIsDone) {
  for (const char* wrong : {"trainer.eval.ema_decay=0.9", "parallel.rebalance.every=5"}) {
    EXPECT_FALSE(Config(kExperts, {"parallel.expert_memory.resident_experts=2", wrong}).ok()) << wrong;
  }
}

}  // namespace
}  // namespace conclave
