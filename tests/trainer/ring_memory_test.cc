// Inference with few layers in memory.
#include "trainer/ring_memory.h"

#include "tests/trainer/text_run.h"
#include "trainer/generator.h"

namespace conclave {
namespace {

constexpr char kDeep[] = R"(name: "deep"
trainer { steps: 20 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { moe_lm { layers: 5 width: 64 heads: 2 init_std: 0.3 moe { experts: 4 top_k: 1 hidden: 64 every: 2 } } }
data { sources { text { path: "0" } } }
)";

class RingMemoryTest : public TextRunTest {
 protected:
  // Texts of two prompts and the held-out loss, with `resident` layers in memory; 0: without a ring.
  struct Told {
    std::vector<std::string> texts;
    double loss = 0;
    int64_t transfers = 0, ring_bytes = 0, layer_bytes = 0;
  };
  absl::StatusOr<Told> Tell(int ranks, int64_t resident) const {
    ASSIGN_OR_RETURN(Experiment config, Config(kDeep, {absl::StrFormat("parallel.expert=%d", ranks)}));
    Told told;
    RETURN_IF_ERROR(RunRanks(ranks, [&](Communicator& world) -> absl::Status {
      Assembly a;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
      std::unique_ptr<RingMemory> ring;
      if (resident > 0) {
        ASSIGN_OR_RETURN(ring, RingMemory::Create(a.scheme->point(), resident, folder_));
        RETURN_IF_ERROR(a.field->ReadWeights([&ring](BlockId id) { return ring->At(id); }));
      }
      const std::vector<std::string> prompts{"line 12 of", "a"};
      ASSIGN_OR_RETURN(const Generated made, Generate(a, prompts, {.tokens = 12, .ring = ring.get()}, nullptr));
      ASSIGN_OR_RETURN(const Evaluation held_out, a.field->EvaluateHeldOut(a.scheme->point(), 4, a.held_out_rows));
      if (world.rank() > 0) return absl::OkStatus();
      told = {.texts = made.texts, .loss = held_out.objective};
      if (ring) told.transfers = ring->transfers(), told.ring_bytes = ring->ring_bytes(), told.layer_bytes = ring->layer_bytes();
      return absl::OkStatus();
    }));
    return told;
  }
};

TEST_F(RingMemoryTest, EveryNumberOfSlotsGivesTheSameBits) {
  for (const int ranks : {1, 2}) {
    const auto whole = Tell(ranks, 0);
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (int64_t resident = 1; resident <= 5; ++resident) {
      const auto ring = Tell(ranks, resident);
      ASSERT_TRUE(ring.ok()) << ring.status();
      EXPECT_EQ(ring->texts, whole->texts) << resident << " of 5 layers on " << ranks << " ranks";
      EXPECT_EQ(ring->loss, whole->loss) << resident;
      EXPECT_EQ(ring->transfers > 0, resident < 5) << resident;
    }
  }
}

// Layers that share their slot with no other are read once: with 3 slots of 5 layers, one; each pass reads the other four.
TEST_F(RingMemoryTest, APassReadsTheLayersThatShareSlots) {
  const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const Experiment config, Config(kDeep));
    Assembly a;
    RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
    const FlatVector& point = a.scheme->point();
    std::map<int, std::string> before;
    for (const BlockId id : a.layout->local_blocks()) {
      const auto bytes = point.block(id).AsBytes();
      before[id.value].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<RingMemory> ring, RingMemory::Create(point, 3, folder_));
    EXPECT_EQ(ring->layers(), 5);
    for (int pass = 1; pass <= 3; ++pass) {
      for (const BlockId id : a.layout->local_blocks()) {
        const auto bytes = ring->At(id).AsBytes();
        EXPECT_EQ(before[id.value], std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())) << id.value;
      }
      EXPECT_EQ(ring->transfers(), 4 * pass);
    }
    // A pass that is cut short and begins anew.
    const BlockId first = a.model->parameters().Find("blocks.0.attention.qkv.weight"),
                  third = a.model->parameters().Find("blocks.3.attention.qkv.weight");
    for (const BlockId id : {third, first, third, first}) {
      const auto bytes = ring->At(id).AsBytes();
      EXPECT_EQ(before[id.value], std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())) << id.value;
    }
    EXPECT_LE(ring->ring_bytes(), ring->layer_bytes());
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(RingMemoryTest, RefusesRingsThatAreNone) {
  for (const int64_t resident : {0, 6}) {
    const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const Experiment config, Config(kDeep));
      Assembly a;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
      return RingMemory::Create(a.scheme->point(), resident, folder_).status();
    });
    EXPECT_EQ(status.message(), absl::StrFormat("ring memory: %d layers in memory, but the model has 5; choose from 1 to 5", resident));
  }
}

// Backward of a search for perturbations would read layers that have left their slots.
TEST_F(RingMemoryTest, IsNotForSamplesThatMove) {
  constexpr char kPerturbed[] = R"(name: "perturbed"
trainer { steps: 20 workers: 4 global_batch: 8 }
optim { first_order { lr: 0.01 rule { adamw {} } } }
model { masked_lm { layers: 3 width: 16 heads: 2 context: 8 perturbation { norm: L2 radius: 0.1 } } }
data { sources { text { path: "0" } } }
)";
  for (const int moves : {0, 2}) {
    const absl::Status status = RunRanks(1, [&](Communicator& world) -> absl::Status {
      ASSIGN_OR_RETURN(const Experiment config, Config(kPerturbed, {absl::StrFormat("model.masked_lm.perturbation.moves=%d", moves)}));
      Assembly a;
      RETURN_IF_ERROR(Assemble(config, world, RealFileSystem(), &a));
      ASSIGN_OR_RETURN(const std::unique_ptr<RingMemory> ring, RingMemory::Create(a.scheme->point(), 2, folder_));
      return a.field->ReadWeights([&ring](BlockId id) { return ring->At(id); });
    });
    EXPECT_EQ(status.message(), moves == 0 ? ""
                                           : "held-out samples of this model are moved along gradients, 2 times each, and gradients need "
                                             "all layers in memory; leave out --resident-layers");
  }
}

}  // namespace
}  // namespace conclave
