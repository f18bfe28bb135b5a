// Training with migrations to random placements, and the law that they change nothing.
#ifndef CONCLAVE_TESTS_TRAINER_MIGRATION_RUN_H_
#define CONCLAVE_TESTS_TRAINER_MIGRATION_RUN_H_

#include <gtest/gtest.h>

#include "parallel/chain_search.h"
#include "tests/trainer/forwarding_communicator.h"
#include "tests/trainer/laws.h"
#include "trainer/expert_migration.h"

namespace conclave {

// Flips a bit of what rank `victim` receives of expert parcels.
class DamagingCommunicator : public ForwardingCommunicator {
 public:
  DamagingCommunicator(Communicator* inner, std::unique_ptr<Communicator> owned, int victim)
      : ForwardingCommunicator(inner, std::move(owned)), victim_(victim) {}

 protected:
  std::unique_ptr<Communicator> Wrap(std::unique_ptr<Communicator> part) override {
    Communicator* const raw = part.get();
    return std::make_unique<DamagingCommunicator>(raw, std::move(part), victim_);
  }
  absl::StatusOr<Request> StartImpl(const Collective& op, int64_t sequence) override {
    if (op.label != "migration") return ForwardingCommunicator::StartImpl(op, sequence);
    RETURN_IF_ERROR(inner().AllToAllV(op));
    if (rank() == victim_ && op.recv.bytes() > 0) op.recv.AsBytes().back() ^= std::byte{1};
    return Request();
  }

 private:
  int victim_;
};

struct MigrationCase {
  ModelRun run;
  int64_t every = 0;  // steps between migrations to random placements; 0: none
  int damaged_rank = -1;
  int copies = 0;  // of other ranks' experts on every rank, anew with each migration
};

// `copies` experts of others on every rank, drawn by (layer, step).
inline ExpertCopyTable RandomCopies(const PlacementTable& owners, int axis, int copies, uint32_t step) {
  ExpertCopyTable table;
  for (size_t layer = 0; layer < owners.size(); ++layer) {
    const int64_t experts = static_cast<int64_t>(owners[layer].size());
    std::vector<std::vector<int>>& row = table.emplace_back(experts);
    const RngKey key{.seed = 5, .site = static_cast<uint32_t>(layer), .step = step, .kind = RngKind::kTest};
    for (int rank = 0; rank < axis; ++rank) {
      const int64_t first = key.Below(experts, rank);
      for (int64_t i = 0, left = copies; i < experts && left > 0; ++i) {
        const int64_t e = (first + 3 * i) % experts;
        if (owners[layer][e] != rank) row[e].push_back(rank), --left;
      }
    }
  }
  return table;
}

struct RankState {
  std::map<std::string, std::string> tensors;  // by name
  std::map<std::string, double> scalars;
  std::vector<StepReport> reports;
  std::vector<TransferReport> transfers;
  std::vector<absl::Status> failures;
};

inline absl::Status MigrateAndTrain(const MigrationCase& test, Communicator& world, RankState* out) {
  Assembly a;
  RETURN_IF_ERROR(BuildRun(test.run, world, &a));
  FlatVector averaged(a.layout.get(), a.dtype());
  averaged.CopyFrom(a.scheme->point());
  const auto state = [&] {
    StateDict dict;
    a.scheme->Register(dict);
    a.guard->Register(dict);
    dict.Add("average", averaged);
    return dict;
  };
  RETURN_IF_ERROR(a.scheme->Start(*a.field));
  for (Cursor cursor; cursor.step < test.run.steps; ++cursor.step) {
    ASSIGN_OR_RETURN(StepReport report, a.scheme->Step(*a.field, cursor, *a.guard));
    out->reports.push_back(std::move(report));
    averaged.Combine(0.5, averaged, 0.5, a.scheme->point());
    if (test.every == 0 || cursor.step % test.every != 0) continue;
    const std::vector<int> experts = a.model->experts();
    const PlacementTable table =
        RandomTable(static_cast<int>(experts.size()), experts[0], test.run.expert, 11, static_cast<uint32_t>(cursor.step));
    const auto moved =
        MigrateExperts({.assembly = &a, .averaged = &averaged, .state = state},
                       {.owners = table, .copies = RandomCopies(table, test.run.expert, test.copies, static_cast<uint32_t>(cursor.step))});
    if (moved.ok()) out->transfers.push_back(*moved);
    if (moved.ok()) CHECK(TableOf(*a.placement) == table);
    if (!moved.ok()) out->failures.push_back(moved.status());
  }
  const StateDict dict = state();
  for (const StateEntry& entry : dict.entries()) {
    const auto bytes = entry.data.AsBytes();
    out->tensors[entry.name].assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  for (const StateScalar& scalar : dict.scalars()) out->scalars[scalar.name] = scalar.get();
  return absl::OkStatus();
}

// Every rank's end; the tensors of all ranks together are the job's state.
inline absl::StatusOr<std::vector<RankState>> RunMigrations(const MigrationCase& test) {
  std::vector<RankState> ranks(test.run.ranks());
  RETURN_IF_ERROR(RunRanks(test.run.ranks(), [&](Communicator& world) -> absl::Status {
    DamagingCommunicator damaging(&world, nullptr, test.damaged_rank);
    return MigrateAndTrain(test, test.damaged_rank < 0 ? world : damaging, &ranks[world.rank()]);
  }));
  return ranks;
}

inline std::map<std::string, std::string> TogetherOf(const std::vector<RankState>& ranks) {
  std::map<std::string, std::string> all;
  for (const RankState& rank : ranks) all.insert(rank.tensors.begin(), rank.tensors.end());
  return all;
}

inline void ExpectSameJob(const std::vector<RankState>& a, const std::vector<RankState>& b) {
  const auto all_a = TogetherOf(a), all_b = TogetherOf(b);
  EXPECT_EQ(all_a.size(), all_b.size());
  for (const auto& [name, bytes] : all_a) {
    const auto found = all_b.find(name);
    ASSERT_NE(found, all_b.end()) << name;
    EXPECT_EQ(found->second, bytes) << name << " has other bits";
  }
  EXPECT_EQ(a[0].scalars, b[0].scalars);
  ASSERT_EQ(a[0].reports.size(), b[0].reports.size());
  for (size_t step = 0; step < a[0].reports.size(); ++step) EXPECT_EQ(ReportDifference(a[0].reports[step], b[0].reports[step]), "") << step;
}

// Replicas of one run after migrations agree: what two ranks both hold has the same bits.
inline void ExpectReplicasAgree(const std::vector<RankState>& ranks) {
  const auto all = TogetherOf(ranks);
  for (const RankState& rank : ranks) {
    for (const auto& [name, bytes] : rank.tensors) EXPECT_EQ(all.at(name), bytes) << name;
  }
}

inline void ExpectMovesChangeNothing(ModelRun run, int64_t every, const std::vector<std::pair<int, int>>& splits, int copies = 0) {
  for (const auto& split : splits) {
    SCOPED_TRACE(NameOfSplit(split));
    std::tie(run.data, run.expert) = split;
    const auto stayed = RunMigrations({.run = run}), moved = RunMigrations({.run = run, .every = every, .copies = copies});
    ASSERT_TRUE(stayed.ok()) << stayed.status();
    ASSERT_TRUE(moved.ok()) << moved.status();
    ASSERT_FALSE((*moved)[0].transfers.empty());
    EXPECT_GT((*moved)[0].transfers[0].experts, 0);
    EXPECT_GT((*moved)[0].transfers[0].bytes, 0);
    ExpectSameJob(*stayed, *moved);
    ExpectReplicasAgree(*moved);
  }
}

}  // namespace conclave

#endif  // CONCLAVE_TESTS_TRAINER_MIGRATION_RUN_H_
