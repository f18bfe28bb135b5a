#include "parallel/expert_dispatch.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include <gtest/gtest.h>

#include "comm/loopback.h"
#include "tests/parallel/dispatch_case.h"

namespace conclave {
namespace {

void ExpectNear(const std::vector<double>& got, const std::vector<double>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - want[i]), 1e-13 * std::max(1.0, std::abs(want[i])))
        << what << " element " << i << ": " << got[i] << " vs " << want[i];
  }
}

void ExpectEqual(const DispatchOutcome& a, const DispatchOutcome& b) {
  for (size_t r = 0; r < a.ranks.size(); ++r) {
    EXPECT_EQ(a.ranks[r].y, b.ranks[r].y) << "rank " << r;
    EXPECT_EQ(a.ranks[r].dx, b.ranks[r].dx) << "rank " << r;
    EXPECT_EQ(a.ranks[r].dweights, b.ranks[r].dweights) << "rank " << r;
  }
  EXPECT_EQ(a.dexpert, b.dexpert);
}

// Bytes that crossed between ranks under a label.
int64_t SentBytes(const WireReport& report, const std::string& label) {
  int64_t bytes = 0;
  for (const WireLine& line : report.lines) {
    if (line.label != label) continue;
    bytes +=
        line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes + line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes;
  }
  return bytes;
}

// Bytes under a label that the rank sent itself, and received.
std::pair<int64_t, int64_t> OwnBytes(const WireReport& report, const std::string& label) {
  std::pair<int64_t, int64_t> bytes;
  for (const WireLine& line : report.lines) {
    if (line.label != label) continue;
    const WireCount& self = line.links[static_cast<int>(LinkClass::kSelf)];
    bytes.first += self.sent_bytes, bytes.second += self.received_bytes;
  }
  return bytes;
}

class DispatchAgainstOracle : public ::testing::TestWithParam<DispatchCase> {};

TEST_P(DispatchAgainstOracle, ValuesAndGradients) {
  const DispatchCase& c = GetParam();
  const auto got = RunDispatch(c, DType::kF64);
  ASSERT_TRUE(got.ok()) << got.status();
  const DispatchOutcome want = Oracle(c);
  for (int r = 0; r < c.ranks(); ++r) {
    ExpectNear(got->ranks[r].y, want.ranks[r].y, "y of rank " + std::to_string(r));
    ExpectNear(got->ranks[r].dx, want.ranks[r].dx, "dx of rank " + std::to_string(r));
    ExpectNear(got->ranks[r].dweights, want.ranks[r].dweights, "dweights of rank " + std::to_string(r));
  }
  ASSERT_EQ(got->dexpert.size(), want.dexpert.size());
  for (const auto& [key, dw] : want.dexpert) {
    ExpectNear(got->dexpert.at(key), dw, "column " + std::to_string(key.first) + " expert " + std::to_string(key.second));
  }
}

// Flat exchange: a slot whose expert lives elsewhere costs one row each way, forward and backward; the counts are P x S integers. Rows that
// a rank sends itself are counted apart, unless it is alone.
TEST_P(DispatchAgainstOracle, BytesAreTheCountFromTheIds) {
  const DispatchCase& c = GetParam();
  const auto got = RunDispatch(c, DType::kF32);
  ASSERT_TRUE(got.ok()) << got.status();
  const int64_t row = c.width * int64_t{sizeof(float)};
  std::vector<int64_t> leaving(c.ranks(), 0), arriving(c.ranks(), 0), staying(c.ranks(), 0);
  for (int r = 0; r < c.ranks(); ++r) {
    for (const int32_t e : c.Ids(r)) {
      if (e < 0) continue;
      const int owner = r / c.expert * c.expert + c.Home(e);
      if (owner != r) ++leaving[r], ++arriving[owner];
      if (owner == r && c.expert > 1) ++staying[r];
    }
  }
  for (int r = 0; r < c.ranks(); ++r) {
    const DispatchOutcome::Rank& mine = got->ranks[r];
    EXPECT_EQ(SentBytes(mine.forward, "dispatch rows"), leaving[r] * row) << "rank " << r;
    EXPECT_EQ(SentBytes(mine.forward, "combine rows"), arriving[r] * row) << "rank " << r;
    EXPECT_EQ(SentBytes(mine.backward, "dispatch rows"), leaving[r] * row) << "rank " << r;
    EXPECT_EQ(SentBytes(mine.backward, "combine rows"), arriving[r] * row) << "rank " << r;
    EXPECT_EQ(SentBytes(mine.forward, "dispatch counts"), int64_t{c.expert - 1} * (c.experts / c.expert) * 8) << "rank " << r;
    EXPECT_EQ(SentBytes(mine.backward, "dispatch counts"), 0) << "rank " << r;
    for (const WireReport& report : {mine.forward, mine.backward}) {
      const std::pair<int64_t, int64_t> own{staying[r] * row, staying[r] * row};
      EXPECT_EQ(OwnBytes(report, "dispatch rows"), own) << "rank " << r;
      EXPECT_EQ(OwnBytes(report, "combine rows"), own) << "rank " << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DispatchAgainstOracle,
    ::testing::Values(DispatchCase{.name = "OneRank", .experts = 6, .top_k = 2, .tokens = {7}},
                      DispatchCase{.name = "TwoRanks", .expert = 2, .experts = 6, .top_k = 2, .tokens = {7, 4}},
                      DispatchCase{.name = "ThreeRanks", .expert = 3, .experts = 6, .top_k = 3, .tokens = {5, 1, 8}},
                      DispatchCase{.name = "FourRanks", .expert = 4, .experts = 8, .top_k = 2, .tokens = {3, 6, 2, 5}},
                      DispatchCase{.name = "TwoByTwo", .data = 2, .expert = 2, .experts = 4, .top_k = 2, .tokens = {3, 6, 2, 5}},
                      DispatchCase{.name = "DataOnly", .data = 3, .experts = 4, .top_k = 2, .tokens = {3, 0, 2}},
                      DispatchCase{.name = "RankWithoutTokens", .expert = 2, .experts = 4, .top_k = 2, .tokens = {0, 5}},
                      DispatchCase{.name = "NoTokensAtAll", .expert = 2, .experts = 4, .top_k = 2, .tokens = {0, 0}},
                      DispatchCase{.name = "AllOnOneExpert", .expert = 2, .experts = 4, .tokens = {4, 3}, .only_expert = 3},
                      DispatchCase{.name = "EveryExpert", .expert = 2, .experts = 4, .top_k = 4, .tokens = {3, 2}},
                      DispatchCase{.name = "OneExpert", .experts = 1, .tokens = {5}},
                      DispatchCase{.name = "MoreExpertsThanTokens", .expert = 4, .experts = 16, .tokens = {1, 0, 1, 1}},
                      DispatchCase{.name = "Placed", .expert = 2, .experts = 4, .top_k = 2, .tokens = {4, 5}, .table = {1, 0, 0, 1}},
                      DispatchCase{.name = "Lanes", .expert = 3, .experts = 6, .top_k = 2, .tokens = {4, 0, 5}, .lanes = true},
                      DispatchCase{.name = "EmptySlots", .expert = 2, .experts = 4, .top_k = 2, .tokens = {4, 5}, .holes = true},
                      DispatchCase{.name = "EmptySlotsAlone", .experts = 4, .top_k = 1, .tokens = {7}, .holes = true}),
    [](const auto& info) { return info.param.name; });

// Where an expert lives is a relabelling: no bit of a token's result depends on it.
TEST(ExpertDispatch, PlacementChangesNoBit) {
  DispatchCase c{.expert = 2, .experts = 6, .top_k = 3, .tokens = {9, 6}, .width = 5};
  const auto contiguous = RunDispatch(c, DType::kF32);
  ASSERT_TRUE(contiguous.ok()) << contiguous.status();
  for (const std::vector<int>& table : {std::vector<int>{0, 1, 0, 1, 0, 1}, {1, 1, 1, 0, 0, 0}, {1, 0, 0, 1, 1, 0}}) {
    c.table = table;
    const auto placed = RunDispatch(c, DType::kF32);
    ASSERT_TRUE(placed.ok()) << placed.status();
    ExpectEqual(*placed, *contiguous);
  }
}

TEST(ExpertDispatch, DelaysChangeNoBit) {
  DispatchCase c{.data = 2, .expert = 2, .experts = 4, .top_k = 2, .tokens = {4, 0, 3, 5}};
  const auto prompt = RunDispatch(c, DType::kF32);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  c.delays = true;
  const auto late = RunDispatch(c, DType::kF32);
  ASSERT_TRUE(late.ok()) << late.status();
  ExpectEqual(*late, *prompt);
}

// All 28 pairs of 8 experts over 4 ranks, seen from one rank: 1.5 rows a token leave it.
TEST(ExpertDispatch, ExpectedRowsUnderUniformRouting) {
  std::vector<int32_t> pairs;
  for (int32_t a = 0; a < 8; ++a) {
    for (int32_t b = a + 1; b < 8; ++b) pairs.insert(pairs.end(), {a, b});
  }
  ASSERT_EQ(pairs.size(), 56u);
  int64_t rows = 0;
  ASSERT_TRUE(RunRanks(4, [&](Communicator& world) -> absl::Status {
                ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 1, .expert = 4}));
                const std::vector<int> experts = {8};
                ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(experts, 4));
                const ExpertDispatch dispatch(mesh.get(), &placement);
                Arena arena;
                Tape tape(&arena, /*gradients=*/false);
                const OwnedTensor x({28, 1}, DType::kF64);
                DispatchPlan plan;
                world.ledger()->Take();
                RETURN_IF_ERROR(dispatch.Dispatch(tape, tape.Constant(*x), Tensor(pairs.data(), {28, 2}, DType::kI32), 0, &plan).status());
                if (world.rank() == 0) rows = SentBytes(world.ledger()->Take(), "dispatch rows") / 8;
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(rows, 28 * 3 / 2);
}

// What one rank sees of a dispatch without experts: rows straight from Dispatch into Combine.
struct Straight {
  std::vector<double> x, rows, y, dx, row_gradients;
  std::vector<double> cotangent;
};

std::vector<double> ReadF64(const Tensor& t) { return {t.span<double>().begin(), t.span<double>().end()}; }

absl::StatusOr<std::vector<Straight>> RunStraight(const DispatchCase& c) {
  std::vector<Straight> all(c.ranks());
  RETURN_IF_ERROR(RunRanks(c.ranks(), [&](Communicator& world) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = c.data, .expert = c.expert}));
    const std::vector<int> experts = {c.experts};
    ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(experts, c.expert));
    const ExpertDispatch dispatch(mesh.get(), &placement);
    Straight& mine = all[world.rank()];
    const int64_t n = c.tokens[world.rank()];
    std::vector<int32_t> ids = c.Ids(world.rank());
    mine.x = c.Tokens(world.rank()), mine.cotangent = c.Cotangent(world.rank());
    Arena arena;
    Tape tape(&arena);
    const OwnedTensor gradient({n, c.width}, DType::kF64), weights({n, c.top_k}, DType::kF64);
    weights->Fill(1.0 / c.top_k);
    const Var x = tape.Parameter({0}, Tensor(mine.x.data(), {n, c.width}, DType::kF64), {.first = *gradient});
    DispatchPlan plan;
    ASSIGN_OR_RETURN(const Var rows, dispatch.Dispatch(tape, x, Tensor(ids.data(), {n, c.top_k}, DType::kI32), 0, &plan));
    // Zeros that are added to the rows: a parameter keeps its gradient, which is theirs.
    const OwnedTensor zeros(tape.value(rows).shape(), DType::kF64), row_gradients(tape.value(rows).shape(), DType::kF64);
    const Var moved = Add(tape, rows, tape.Parameter({1}, *zeros, {.first = *row_gradients}));
    ASSIGN_OR_RETURN(const Var y, dispatch.Combine(tape, moved, tape.Constant(*weights), plan));
    const Seed seed{Dot(tape, y, tape.Constant(Tensor(mine.cotangent.data(), {n, c.width}, DType::kF64)))};
    RETURN_IF_ERROR(tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }));
    mine.rows = ReadF64(tape.value(rows)), mine.y = ReadF64(tape.value(y));
    mine.dx = ReadF64(*gradient), mine.row_gradients = ReadF64(*row_gradients);

    // The plan's two maps are permutations, and its groups hold every row.
    std::vector<int64_t> position(plan.position.begin(), plan.position.end()), wire(plan.wire_of.begin(), plan.wire_of.end());
    std::ranges::sort(position), std::ranges::sort(wire);
    for (size_t i = 0; i < position.size(); ++i) CHECK_EQ(position[i], static_cast<int64_t>(i));
    for (size_t i = 0; i < wire.size(); ++i) CHECK_EQ(wire[i], static_cast<int64_t>(i));
    CHECK_EQ(std::accumulate(plan.groups.rows.begin(), plan.groups.rows.end(), int64_t{0}), plan.received);
    return absl::OkStatus();
  }));
  return all;
}

// With weights 1/k (a power of two: exact) and no experts in between, what returns is what was sent, and so is the gradient.
TEST(ExpertDispatch, RoundTripIsTheIdentity) {
  for (const int k : {1, 2, 4}) {
    const auto all = RunStraight({.expert = 2, .experts = 4, .top_k = k, .tokens = {5, 3}});
    ASSERT_TRUE(all.ok()) << all.status();
    for (const Straight& rank : *all) {
      EXPECT_EQ(rank.y, rank.x) << "k " << k;
      EXPECT_EQ(rank.dx, rank.cotangent) << "k " << k;
    }
  }
}

// <D x, r> = <x, D' r> and <C r, y> = <r, C' y>, each summed over ranks: r are the gradients that reached the rows.
TEST(ExpertDispatch, BackwardIsTheAdjoint) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  for (const int expert : {1, 2, 3}) {
    const DispatchCase c{.expert = expert, .experts = 6, .top_k = 3, .tokens = {5, 0, 4}};
    const auto all = RunStraight(c);
    ASSERT_TRUE(all.ok()) << all.status();
    double dispatched = 0, dispatch_adjoint = 0, combined = 0, combine_adjoint = 0;
    for (const Straight& rank : *all) {
      dispatched += dot(rank.rows, rank.row_gradients);
      dispatch_adjoint += dot(rank.x, rank.dx);
      combined += dot(rank.y, rank.cotangent);
      combine_adjoint += dot(rank.rows, rank.row_gradients);
    }
    EXPECT_NEAR(dispatched, dispatch_adjoint, 1e-12 * std::max(1.0, std::abs(dispatched)));
    EXPECT_NEAR(combined, combine_adjoint, 1e-12 * std::max(1.0, std::abs(combined)));
  }
}

// Inside an expert: by source rank, then token, then slot.
TEST(ExpertDispatch, OrderOfRows) {
  // Two ranks, two experts on each. Tokens are named 10 * rank + token.
  std::vector<std::vector<int32_t>> ids = {{2, 0, 0, 3, 2, 1}, {0, 2, 3, 2}};
  std::vector<std::vector<double>> tokens = {{0, 1, 2}, {10, 11}}, rows(2);
  std::vector<std::vector<int64_t>> groups(2);
  ASSERT_TRUE(RunRanks(2, [&](Communicator& world) -> absl::Status {
                ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 1, .expert = 2}));
                const std::vector<int> experts = {4};
                ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(experts, 2));
                const ExpertDispatch dispatch(mesh.get(), &placement);
                Arena arena;
                Tape tape(&arena, /*gradients=*/false);
                const int r = world.rank();
                const int64_t n = static_cast<int64_t>(tokens[r].size());
                DispatchPlan plan;
                ASSIGN_OR_RETURN(const Var out, dispatch.Dispatch(tape, tape.Constant(Tensor(tokens[r].data(), {n, 1}, DType::kF64)),
                                                                  Tensor(ids[r].data(), {n, 2}, DType::kI32), 0, &plan));
                rows[r] = ReadF64(tape.value(out));
                groups[r].assign(plan.groups.rows.begin(), plan.groups.rows.end());
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(rows[0], (std::vector<double>{0, 1, 10, 2}));  // expert 0: tokens 0, 1 of rank 0 and 10; expert 1: token 2
  EXPECT_EQ(groups[0], (std::vector<int64_t>{2, 1, 1, 0}));
  EXPECT_EQ(rows[1], (std::vector<double>{0, 2, 10, 11, 1, 11}));  // expert 2: 0, 2, 10, 11; expert 3: 1, 11
  EXPECT_EQ(groups[1], (std::vector<int64_t>{2, 2, 1, 1}));
}

// All tokens of a data column on one rank: as many rows as are allowed pass, one fewer is refused by every rank of both columns, before
// anything is sent.
TEST(ExpertDispatch, MoreRowsThanAllowedAreRefusedByAllRanks) {
  for (const DispatchConfig::Route route : {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED_HIERARCHICAL}) {
    DispatchCase c{.data = 2, .expert = 2, .experts = 4, .top_k = 1, .tokens = {3, 4, 1, 2}, .only_expert = 2, .route = route};
    c.most_rows = 7;
    EXPECT_TRUE(RunDispatch(c, DType::kF32).ok());
    c.most_rows = 6;
    std::vector<absl::Status> seen(4);
    ASSERT_TRUE(RunRanks(4, [&](Communicator& world) -> absl::Status {
                  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 2, .expert = 2}));
                  const std::vector<int> experts = {4};
                  ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(experts, 2));
                  DispatchSetup::Request request{.width = 1, .dtype = DType::kF32};
                  request.config.set_route(route);
                  request.config.set_most_rows(c.most_rows);
                  ASSIGN_OR_RETURN(const std::unique_ptr<DispatchSetup> setup, DispatchSetup::Create(*mesh, request));
                  const ExpertDispatch dispatch(mesh.get(), &placement, setup.get());
                  Arena arena;
                  Tape tape(&arena, /*gradients=*/false);
                  const int64_t n = c.tokens[world.rank()];
                  const Tensor x = arena.NewZeroed({n, 1}, DType::kF32), ids = arena.NewZeroed({n, 1}, DType::kI32);
                  for (int32_t& id : ids.span<int32_t>()) id = c.only_expert;
                  DispatchPlan plan;
                  seen[world.rank()] = dispatch.Dispatch(tape, tape.Constant(x), ids, 0, &plan).status();
                  return absl::OkStatus();
                }).ok());
    for (const absl::Status& status : seen) {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_NE(std::string(status.message()).find("layer 0 send 7 rows to the experts of rank 1, and parallel.dispatch.most_rows is 6"),
                std::string::npos)
          << status;
    }
  }
}

TEST(ExpertDispatch, SumOverTokensReachesEveryRank) {
  std::vector<int64_t> sums(4);
  ASSERT_TRUE(RunRanks(4, [&](Communicator& world) -> absl::Status {
                ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 2, .expert = 2}));
                const std::vector<int> experts = {2};
                ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::Contiguous(experts, 2));
                sums[world.rank()] = int64_t{1} << (8 * world.rank());
                return ExpertDispatch(mesh.get(), &placement).SumOverTokens(Tensor(&sums[world.rank()], {1}, DType::kI64));
              }).ok());
  for (const int64_t sum : sums) EXPECT_EQ(sum, 0x01010101);
}

}  // namespace
}  // namespace conclave
