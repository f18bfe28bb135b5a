#include "tests/parallel/dispatch_case.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/loopback.h"
#include "parallel/expert_dispatch.h"

namespace conclave {
namespace {

std::vector<double> Numbers(uint32_t site, int which, int64_t n) {
  const RngKey key{.seed = 11, .site = site, .worker = static_cast<uint32_t>(which), .kind = RngKind::kTest};
  std::vector<double> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[i] = 2 * key.UniformDouble(i) - 1;
  return values;
}

// A tensor with its own memory, from doubles.
OwnedTensor Make(const std::vector<double>& values, const Shape& shape, DType dtype) {
  OwnedTensor tensor(shape, dtype);
  DispatchFloat(dtype, [&](auto t) {
    std::ranges::transform(values, tensor->data<decltype(t)>(), [](double v) { return static_cast<decltype(t)>(v); });
  });
  return tensor;
}

std::vector<double> Read(const Tensor& tensor) {
  return DispatchFloat(tensor.dtype(), [&](auto t) {
    const auto span = tensor.span<decltype(t)>();
    return std::vector<double>(span.begin(), span.end());
  });
}

// One rank's variables and their gradients.
struct RankRun {
  const DispatchCase& c;
  DType dtype;
  Arena arena{0};
  Tape tape{&arena};
  std::vector<OwnedTensor> memory;  // values and gradients

  Var Parameter(int block, const std::vector<double>& values, const Shape& shape, int lanes = 1) {
    const Tensor value = *memory.emplace_back(Make(values, shape, dtype));
    const Tensor gradient = *memory.emplace_back(Shape{lanes, shape.elements()}, dtype);
    return tape.Parameter({block}, value, {gradient.Slice(0, 1).Reshape(shape), lanes, value.bytes()});
  }

  void Sleep(int rank, int place) const {
    if (c.delays) std::this_thread::sleep_for(std::chrono::milliseconds((rank * 5 + place * 3) % 7));
  }
};

absl::Status RunRank(Communicator& world, const DispatchCase& c, DType dtype, DispatchOutcome* outcome) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = c.data, .expert = c.expert}));
  std::vector<int> table(c.experts);
  for (int e = 0; e < c.experts; ++e) table[e] = c.Home(e);
  ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::FromTable({table}, c.expert));
  DispatchSetup::Request request{.pre_reduce = c.pre_reduce, .width = c.width, .dtype = dtype};
  request.config.set_route(c.route);
  request.config.set_most_rows(c.most_rows);
  request.config.set_fold(c.fold);
  request.config.set_dispatch_forward(c.wire), request.config.set_combine_forward(c.wire);
  request.config.set_dispatch_backward(c.wire), request.config.set_combine_backward(c.wire);
  ASSIGN_OR_RETURN(const std::unique_ptr<DispatchSetup> setup, DispatchSetup::Create(*mesh, request));
  const ExpertDispatch dispatch(mesh.get(), &placement, setup.get());
  const int rank = world.rank(), slots = placement.slots(0);
  const int64_t n = c.tokens[rank];

  RankRun run{c, dtype};
  const Var x = run.Parameter(0, c.Tokens(rank), {n, c.width});
  const Var weights = run.Parameter(1, c.Weights(rank), {n, c.top_k});
  std::vector<Var> experts;
  for (int s = 0; s < slots; ++s) {
    const int e = placement.expert_at(0, dispatch.coordinate(), s);
    experts.push_back(run.Parameter(2 + e, c.Expert(e), {c.width, c.width}, c.lanes ? c.expert : 1));
  }
  std::vector<int32_t> ids = c.Ids(rank);

  world.ledger()->Take();
  run.Sleep(rank, 0);
  DispatchPlan plan;
  ASSIGN_OR_RETURN(const Var rows, dispatch.Dispatch(run.tape, x, Tensor(ids.data(), {n, c.top_k}, DType::kI32), 0, &plan));
  run.Sleep(rank, 1);
  const Var out = GroupedLinear(run.tape, rows, experts, {}, plan.groups);
  ASSIGN_OR_RETURN(const Var y, dispatch.Combine(run.tape, out, weights, plan));
  DispatchOutcome::Rank& mine = outcome->ranks[rank];
  mine.forward = world.ledger()->Take();
  run.Sleep(rank, 2);
  const OwnedTensor cotangent = Make(c.Cotangent(rank), {n, c.width}, dtype);
  const Seed seed{Dot(run.tape, y, run.tape.Constant(*cotangent))};
  RETURN_IF_ERROR(run.tape.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }));
  mine.backward = world.ledger()->Take();
  mine.traffic = dispatch.traffic()[0];

  mine.y = Read(run.tape.value(y));
  mine.dx = Read(run.tape.gradient(x));
  mine.dweights = Read(run.tape.gradient(weights));
  // One rank at a time may touch the map.
  for (int turn = 0; turn < c.ranks(); ++turn) {
    for (int s = 0; s < slots && turn == rank; ++s) {
      const int e = placement.expert_at(0, dispatch.coordinate(), s);
      std::vector<double>& dw = outcome->dexpert[{mesh->data_coordinate(), e}];
      for (int l = 0; l < run.tape.lanes(experts[s]); ++l)
        std::ranges::copy(Read(run.tape.gradient(experts[s], l)), std::back_inserter(dw));
    }
    RETURN_IF_ERROR(world.Barrier("turn"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<int32_t> DispatchCase::Ids(int rank) const {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens[rank]; ++t) {
    if (only_expert >= 0) {
      ids.push_back(only_expert);
      continue;
    }
    const RngKey key{.seed = 5, .site = static_cast<uint32_t>(t), .worker = static_cast<uint32_t>(rank), .kind = RngKind::kTest};
    std::vector<int32_t> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::sort(order, {}, [&](int32_t e) { return key.Bits(e); });
    ids.insert(ids.end(), order.begin(), order.begin() + top_k);
  }
  for (size_t i = 0; holes && i < ids.size(); i += 3) ids[i] = -1;
  return ids;
}

std::vector<double> DispatchCase::Tokens(int rank) const { return Numbers(1, rank, tokens[rank] * width); }
std::vector<double> DispatchCase::Weights(int rank) const { return Numbers(2, rank, tokens[rank] * top_k); }
std::vector<double> DispatchCase::Cotangent(int rank) const { return Numbers(3, rank, tokens[rank] * width); }
std::vector<double> DispatchCase::Expert(int e) const { return Numbers(4, e, width * width); }

absl::StatusOr<DispatchOutcome> RunDispatch(const DispatchCase& c, DType dtype) {
  DispatchOutcome outcome;
  outcome.ranks.resize(c.ranks());
  RETURN_IF_ERROR(RunRanks(c.ranks(), [&](Communicator& world) { return RunRank(world, c, dtype, &outcome); }, {.nodes = c.nodes}));
  ExpectTrafficOfTheLedger(outcome);
  return outcome;
}

DispatchOutcome Oracle(const DispatchCase& c) {
  DispatchOutcome outcome;
  const int64_t h = c.width;
  for (int column = 0; column < c.data; ++column) {
    for (int e = 0; e < c.experts; ++e) outcome.dexpert[{column, e}].assign(h * h * (c.lanes ? c.expert : 1), 0.0);
  }
  for (int r = 0; r < c.ranks(); ++r) {
    const std::vector<int32_t> ids = c.Ids(r);
    const std::vector<double> x = c.Tokens(r), w = c.Weights(r), dy = c.Cotangent(r);
    DispatchOutcome::Rank& mine = outcome.ranks.emplace_back();
    mine.y.assign(x.size(), 0.0), mine.dx.assign(x.size(), 0.0), mine.dweights.assign(w.size(), 0.0);
    for (int64_t i = 0; i < c.tokens[r] * c.top_k; ++i) {
      const int64_t t = i / c.top_k;
      if (ids[i] < 0) continue;
      const std::vector<double> matrix = c.Expert(ids[i]);
      double* dmatrix = outcome.dexpert[{r / c.expert, ids[i]}].data() + (c.lanes ? r % c.expert * h * h : 0);
      for (int64_t o = 0; o < h; ++o) {
        double row = 0;
        for (int64_t j = 0; j < h; ++j) {
          row += matrix[o * h + j] * x[t * h + j];
          mine.dx[t * h + j] += w[i] * dy[t * h + o] * matrix[o * h + j];
          dmatrix[o * h + j] += w[i] * dy[t * h + o] * x[t * h + j];
        }
        mine.y[t * h + o] += w[i] * row;
        mine.dweights[i] += dy[t * h + o] * row;
      }
    }
  }
  return outcome;
}

std::vector<DispatchCase> CasesOfTwoNodes() {
  return {
      {.name = "k2", .expert = 4, .experts = 8, .top_k = 2, .tokens = {9, 6, 0, 7}, .nodes = {0, 1, 0, 1}, .width = 5},
      {.name = "k1", .expert = 4, .experts = 4, .top_k = 1, .tokens = {5, 6, 3, 7}, .nodes = {0, 0, 1, 1}},
      {.name = "k8", .expert = 4, .experts = 16, .top_k = 8, .tokens = {9, 6, 5, 7}, .nodes = {0, 1, 1, 0}, .width = 5},
      {.name = "holes", .expert = 4, .experts = 8, .top_k = 4, .tokens = {9, 6, 0, 7}, .nodes = {0, 0, 1, 1}, .holes = true},
      {.name = "one", .expert = 4, .experts = 8, .top_k = 1, .tokens = {4, 6, 5, 7}, .only_expert = 5, .nodes = {0, 0, 1, 1}},
      {.name = "none", .expert = 4, .experts = 8, .top_k = 2, .tokens = {0, 0, 0, 0}, .nodes = {0, 0, 1, 1}},
      {.name = "columns", .data = 2, .expert = 2, .experts = 4, .top_k = 2, .tokens = {4, 6, 5, 7}, .nodes = {0, 1, 0, 1}, .lanes = true}};
}

void ExpectTrafficOfTheLedger(const DispatchOutcome& outcome) {
  for (const DispatchOutcome::Rank& rank : outcome.ranks) {
    RowCount rows, rest;
    for (const WireReport* report : {&rank.forward, &rank.backward}) {
      for (const WireLine& line : report->lines) {
        if (line.kind != CollectiveKind::kAllToAllV) continue;
        (line.label == "dispatch rows" || line.label == "combine rows" ? rows : rest) +=
            {.inside = line.links[static_cast<int>(LinkClass::kIntraNode)].sent_bytes,
             .between = line.links[static_cast<int>(LinkClass::kInterNode)].sent_bytes};
      }
    }
    EXPECT_EQ(rank.traffic.rows.bytes, rows);
    EXPECT_EQ(rank.traffic.rest.bytes, rest);
  }
}

void ExpectSameBits(const DispatchOutcome& a, const DispatchOutcome& b) {
  ASSERT_EQ(a.ranks.size(), b.ranks.size());
  for (size_t r = 0; r < a.ranks.size(); ++r) {
    EXPECT_EQ(a.ranks[r].y, b.ranks[r].y) << "rank " << r;
    EXPECT_EQ(a.ranks[r].dx, b.ranks[r].dx) << "rank " << r;
    EXPECT_EQ(a.ranks[r].dweights, b.ranks[r].dweights) << "rank " << r;
  }
  EXPECT_EQ(a.dexpert, b.dexpert);
}

}  // namespace conclave
