// A mixture whose rows travel in pieces, beside the experts' work and that of a shared expert: the bits of one whose rows travel at once.
#include <algorithm>
#include <numeric>
#include <optional>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/ledger.h"
#include "comm/loopback.h"
#include "parallel/expert_dispatch.h"
#include "parallel/piece_plan.h"
#include "tests/parallel/dispatch_case.h"

namespace conclave {
namespace {

constexpr int64_t kInner = 6;  // width of an expert

struct PieceOptions {
  int pieces = 0;
  int64_t most_rows = 0;  // above 0: more go in pieces
  bool beside = false;    // a shared layer is recorded while rows travel
  bool gradients = true;
};

std::vector<double> PieceNumbers(uint32_t site, int which, int64_t n) {
  const RngKey key{.seed = 13, .site = site, .worker = static_cast<uint32_t>(which), .kind = RngKind::kTest};
  std::vector<double> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[i] = 2 * key.UniformDouble(i) - 1;
  return values;
}

// One rank's mixture: experts with biases, and a layer that sees every token.
class PieceRank {
 public:
  PieceRank(Communicator& world, const DispatchCase& c, const PieceOptions& o) : world_(world), c_(c), o_(o) {}

  absl::Status Run(DispatchOutcome* outcome) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world_, {.data = c_.data, .expert = c_.expert}));
    std::vector<int> table(c_.experts);
    for (int e = 0; e < c_.experts; ++e) table[e] = c_.Home(e);
    ASSIGN_OR_RETURN(const ExpertPlacement placement, ExpertPlacement::FromTable({table}, c_.expert));
    DispatchSetup::Request request{.pre_reduce = c_.pre_reduce, .width = c_.width, .top_k = c_.top_k};
    request.config.set_route(c_.route), request.config.set_fold(c_.fold);
    request.config.set_pieces(o_.pieces), request.config.set_most_rows(o_.most_rows);
    if (o_.most_rows > 0) request.config.set_beyond_most_rows(DispatchConfig::IN_PIECES);
    request.config.set_dispatch_forward(c_.wire), request.config.set_combine_forward(c_.wire);
    request.config.set_dispatch_backward(c_.wire), request.config.set_combine_backward(c_.wire);
    ASSIGN_OR_RETURN(const std::unique_ptr<DispatchSetup> setup, DispatchSetup::Create(*mesh, request));
    ExpertDispatch dispatch(mesh.get(), &placement, setup.get());
    for (int turn = 0; turn < 2; ++turn) {  // the second time on memory that was used
      Clear();
      dispatch.BeginLeaf(turn);
      RETURN_IF_ERROR(Step(dispatch, placement, outcome));
    }
    return Collect(*mesh, placement, outcome);
  }

 private:
  void Clear() {
    tape_.Reset(), arena_.Reset();
    memory_.clear();
    blocks_ = 0;
  }

  Var Parameter(const std::vector<double>& values, const Shape& shape, int lanes = 1) {
    const Tensor value = *memory_.emplace_back(shape, DType::kF32),
                 gradient = *memory_.emplace_back(Shape{lanes, shape.elements()}, DType::kF32);
    std::ranges::transform(values, value.data<float>(), [](double v) { return static_cast<float>(v); });
    gradient.Zero();
    return tape_.Parameter({blocks_++}, value, {gradient.Slice(0, 1).Reshape(shape), lanes, value.bytes()});
  }

  absl::Status Step(const ExpertDispatch& dispatch, const ExpertPlacement& placement, DispatchOutcome* outcome) {
    const int rank = world_.rank(), lanes = c_.lanes ? c_.expert : 1;
    const int64_t n = c_.tokens[rank], h = c_.width;
    x_ = Parameter(c_.Tokens(rank), {n, h}), weights_ = Parameter(c_.Weights(rank), {n, c_.top_k});
    shared_ = Parameter(PieceNumbers(9, 0, h * h), {h, h});
    up_.clear(), up_bias_.clear(), down_.clear(), down_bias_.clear();
    for (int s = 0; s < placement.slots(0); ++s) {
      const int e = placement.expert_at(0, dispatch.coordinate(), s);
      up_.push_back(Parameter(PieceNumbers(5, e, kInner * h), {kInner, h}, lanes));
      up_bias_.push_back(Parameter(PieceNumbers(6, e, kInner), {kInner}, lanes));
      down_.push_back(Parameter(PieceNumbers(7, e, kInner * h), {h, kInner}, lanes));
      down_bias_.push_back(Parameter(PieceNumbers(8, e, h), {h}, lanes));
    }
    const ExpertMlps experts{{.up = up_, .up_bias = up_bias_, .down = down_, .down_bias = down_bias_}, Activation::kGelu};
    std::vector<int32_t> ids = c_.Ids(rank);
    world_.ledger()->Take();
    dispatch.traffic()[0] = {};
    DispatchPlan plan;
    RETURN_IF_ERROR(dispatch.Plan(tape_.arena(), {Tensor(ids.data(), {n, c_.top_k}, DType::kI32), 0, h, c_.lanes}, &plan));
    Var beside;
    const auto record_beside = [&] {
      if (o_.beside) beside = Linear(tape_, x_, shared_, {});
    };
    if (plan.pieces > 0) {
      ASSIGN_OR_RETURN(PieceRun* const run, dispatch.Depart(tape_, x_, weights_, plan));
      record_beside();
      ASSIGN_OR_RETURN(y_, dispatch.Work(tape_, run, experts));
    } else {
      ASSIGN_OR_RETURN(const Var rows, dispatch.Send(tape_, x_, plan));
      const Var out = GroupedMlp(tape_, rows, experts.weights, experts.activation, plan.groups);
      ASSIGN_OR_RETURN(y_, dispatch.Combine(tape_, out, weights_, plan));
      record_beside();
    }
    if (o_.beside) y_ = Add(tape_, y_, beside);
    DispatchOutcome::Rank& mine = outcome->ranks[rank];
    mine.forward = world_.ledger()->Take();
    mine.traffic = dispatch.traffic()[0];
    if (!o_.gradients) return absl::OkStatus();
    const std::vector<double> cotangent = c_.Cotangent(rank);
    const Tensor dy = arena_.New({n, h}, DType::kF32);
    std::ranges::transform(cotangent, dy.data<float>(), [](double v) { return static_cast<float>(v); });
    const Seed seed{Dot(tape_, y_, tape_.Constant(dy))};
    RETURN_IF_ERROR(tape_.Backward(std::span(&seed, 1), [](BlockId) { return absl::OkStatus(); }));
    mine.backward = world_.ledger()->Take();
    mine.traffic = dispatch.traffic()[0];
    return absl::OkStatus();
  }

  static void Append(const Tensor& t, std::vector<double>* to) { to->insert(to->end(), t.data<float>(), t.data<float>() + t.elements()); }

  absl::Status Collect(const Mesh& mesh, const ExpertPlacement& placement, DispatchOutcome* outcome) {
    DispatchOutcome::Rank& mine = outcome->ranks[world_.rank()];
    Append(tape_.value(y_), &mine.y);
    if (!o_.gradients) return absl::OkStatus();
    Append(tape_.gradient(x_), &mine.dx), Append(tape_.gradient(weights_), &mine.dweights);
    Append(tape_.gradient(shared_), &mine.dx);
    for (int turn = 0; turn < c_.ranks(); ++turn) {  // one rank at a time may touch the map
      for (size_t s = 0; s < up_.size() && turn == world_.rank(); ++s) {
        const int e = placement.expert_at(0, mesh.expert_coordinate(), static_cast<int>(s));
        for (const Var v : {up_[s], up_bias_[s], down_[s], down_bias_[s]}) {
          for (int l = 0; l < tape_.lanes(v); ++l) Append(tape_.gradient(v, l), &outcome->dexpert[{mesh.data_coordinate(), e}]);
        }
      }
      RETURN_IF_ERROR(world_.Barrier("turn"));
    }
    return absl::OkStatus();
  }

  Communicator& world_;
  const DispatchCase& c_;
  const PieceOptions& o_;
  Arena arena_;
  Tape tape_{&arena_, o_.gradients};
  std::vector<OwnedTensor> memory_;
  int blocks_ = 0;
  Var x_, weights_, shared_, y_;
  std::vector<Var> up_, up_bias_, down_, down_bias_;
};

absl::StatusOr<DispatchOutcome> RunPieces(const DispatchCase& c, const PieceOptions& o) {
  DispatchOutcome outcome;
  outcome.ranks.resize(c.ranks());
  RETURN_IF_ERROR(RunRanks(c.ranks(), [&](Communicator& world) { return PieceRank(world, c, o).Run(&outcome); }, {.nodes = c.nodes}));
  ExpectTrafficOfTheLedger(outcome);
  return outcome;
}

// To other ranks.
int64_t SentBytes(const WireReport& report, std::string_view label) {
  int64_t bytes = 0;
  for (const WireLine& line : report.lines) {
    for (const LinkClass link : {LinkClass::kIntraNode, LinkClass::kInterNode}) {
      bytes += line.label == label ? line.links[static_cast<int>(link)].sent_bytes : 0;
    }
  }
  return bytes;
}

// The most rows that a rank receives.
int64_t MostReceived(const DispatchCase& c) {
  std::vector<int64_t> rows(c.expert);
  for (int r = 0; r < c.ranks(); ++r) {
    for (const int32_t id : c.Ids(r)) ++rows[c.Home(id)];
  }
  return *std::ranges::max_element(rows);
}

std::vector<DispatchCase> PieceCases() {
  std::vector<DispatchCase> cases = CasesOfTwoNodes();
  cases.push_back({.name = "alone", .expert = 1, .experts = 4, .top_k = 2, .tokens = {9}});
  cases.push_back({.name = "two", .expert = 2, .experts = 8, .top_k = 2, .tokens = {9, 6}, .width = 5});
  return cases;
}

TEST(DispatchPieces, GiveTheBitsOfTheWholeOnEveryRoute) {
  for (DispatchCase c : PieceCases()) {
    SCOPED_TRACE(c.name);
    for (const DispatchConfig::Route route :
         {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::HIERARCHICAL, DispatchConfig::DEDUPLICATED_HIERARCHICAL}) {
      if (c.expert < 4 && InTwoLevels(route)) continue;
      SCOPED_TRACE(DispatchConfig::Route_Name(route));
      c.route = route, c.fold = SendsOnce(route);
      const auto whole = RunPieces(c, {.beside = true});
      ASSERT_TRUE(whole.ok()) << whole.status();
      for (const int pieces : {1, 2, 3, 7}) {
        SCOPED_TRACE(pieces);
        const auto cut = RunPieces(c, {.pieces = pieces, .beside = true});
        ASSERT_TRUE(cut.ok()) << cut.status();
        ExpectSameBits(*cut, *whole);
        for (int r = 0; r < c.ranks(); ++r) {
          for (const std::string_view label : {"dispatch rows", "combine rows"}) {
            EXPECT_EQ(SentBytes(cut->ranks[r].forward, label), SentBytes(whole->ranks[r].forward, label)) << label << " of rank " << r;
            EXPECT_EQ(SentBytes(cut->ranks[r].backward, label), SentBytes(whole->ranks[r].backward, label)) << label << " of rank " << r;
          }
          EXPECT_EQ(SentBytes(cut->ranks[r].backward, "copy weights"), 0) << "rank " << r << ": backward waits for no weights";
        }
      }
    }
  }
}

TEST(DispatchPieces, GoWithLossyWiresAndSumsOnTheWay) {
  for (DispatchCase c : PieceCases()) {
    SCOPED_TRACE(c.name);
    for (const bool sums : {false, true}) {
      c.pre_reduce = sums;
      c.wire = sums ? DispatchConfig::EXACT : DispatchConfig::BF16;
      c.route = c.expert < 4 ? DispatchConfig::DEDUPLICATED : DispatchConfig::DEDUPLICATED_HIERARCHICAL;
      const auto whole = RunPieces(c, {}), cut = RunPieces(c, {.pieces = 3, .beside = false});
      ASSERT_TRUE(whole.ok() && cut.ok()) << whole.status() << cut.status();
      ExpectSameBits(*cut, *whole);
    }
  }
}

TEST(DispatchPieces, GoWithoutGradients) {
  for (DispatchCase c : PieceCases()) {
    SCOPED_TRACE(c.name);
    c.route = DispatchConfig::DEDUPLICATED;
    for (const bool fold : {false, true}) {
      c.fold = fold;
      const auto whole = RunPieces(c, {.beside = true}), cut = RunPieces(c, {.pieces = 3, .beside = true, .gradients = false});
      ASSERT_TRUE(whole.ok() && cut.ok()) << whole.status() << cut.status();
      for (int r = 0; r < c.ranks(); ++r) EXPECT_EQ(cut->ranks[r].y, whole->ranks[r].y) << "rank " << r;
    }
  }
}

// An expert with more rows than a piece may have, and ranks with none: on one rank, two and four, by lanes and not.
TEST(DispatchPieces, BoundedPiecesGiveTheBitsOfTheWhole) {
  const std::vector<DispatchCase> cases = {{.name = "one", .expert = 1, .experts = 2, .top_k = 1, .tokens = {3000}},
                                           {.name = "two", .expert = 2, .experts = 4, .top_k = 1, .tokens = {1700, 1500}, .only_expert = 2},
                                           {.name = "lanes", .expert = 2, .experts = 4, .top_k = 2, .tokens = {2000, 1500}, .lanes = true},
                                           {.name = "four",
                                            .expert = 4,
                                            .experts = 8,
                                            .top_k = 2,
                                            .tokens = {1200, 900, 0, 1300},
                                            .table = {3, 3, 1, 1, 0, 0, 2, 2},
                                            .nodes = {0, 0, 1, 1}}};
  for (DispatchCase c : cases) {
    SCOPED_TRACE(c.name);
    for (const DispatchConfig::Route route :
         {DispatchConfig::FLAT, DispatchConfig::DEDUPLICATED, DispatchConfig::DEDUPLICATED_HIERARCHICAL}) {
      if (c.expert < 4 && InTwoLevels(route)) continue;
      SCOPED_TRACE(DispatchConfig::Route_Name(route));
      c.route = route, c.fold = SendsOnce(route);
      const auto whole = RunPieces(c, {.beside = true});
      ASSERT_TRUE(whole.ok()) << whole.status();
      for (const int64_t most : {1280, 2000}) {
        const auto bounded = RunPieces(c, {.most_rows = most, .beside = true});
        ASSERT_TRUE(bounded.ok()) << bounded.status();
        ExpectSameBits(*bounded, *whole);
        for (int r = 0; r < c.ranks() && !SendsOnce(route); ++r) {  // forward the same rows; backward those of forward once more
          const int64_t out = SentBytes(whole->ranks[r].forward, "dispatch rows");
          EXPECT_EQ(SentBytes(bounded->ranks[r].forward, "dispatch rows"), out);
          const int64_t again = MostReceived(c) > most ? out : 0;
          EXPECT_EQ(SentBytes(bounded->ranks[r].backward, "dispatch rows"), SentBytes(whole->ranks[r].backward, "dispatch rows") + again);
          EXPECT_EQ(SentBytes(bounded->ranks[r].forward, "combine rows"), SentBytes(whole->ranks[r].forward, "combine rows"));
        }
      }
      const auto both = RunPieces(c, {.pieces = 3, .most_rows = 100000, .beside = true});
      ASSERT_TRUE(both.ok()) << both.status();
      ExpectSameBits(*both, *whole);
    }
  }
}

// Rows of three experts, two lanes each, cut between experts, between lanes, and inside of what is long.
TEST(DispatchPieces, CutsLieWhereSumsAreCut) {
  const std::vector<int64_t> rows = {1500, 1500, 0, 0, 700, 300};
  const RowGroups groups{.rows = rows, .experts = 3, .lanes = 2};
  EXPECT_EQ(PiecesNeeded(groups, {.most_rows = 4000}), 1);
  EXPECT_EQ(PiecesNeeded(groups, {.most_rows = 2048}), 2);  // 1,024 and 1,024; 952 and 1,000
  EXPECT_EQ(PiecesNeeded(groups, {.most_rows = 1280}), 4);
  EXPECT_EQ(PiecesNeeded(groups, {.most_rows = 1280, .by_lane = true}), 5);  // 1,024; 476; 1,024; 476 and 700; 300
  EXPECT_EQ(PiecesNeeded(groups, {}), 1);
}

// Groups that use pieces badly: a unit of 1,279 rows beside one that just does not fit, and long experts in pieces hardly longer than a
// unit.
TEST(DispatchPieces, NeverNeedMoreThanTheBound) {
  EXPECT_EQ(MostPiecesNeeded(0, 1280), 1);
  EXPECT_EQ(MostPiecesNeeded(1280, 1280), 1);
  EXPECT_EQ(MostPiecesNeeded(100000, 100000), 1);
  for (const int64_t most : {1280, 1500, 2558, 4000}) {
    for (const std::vector<int64_t>& rows : std::vector<std::vector<int64_t>>{{1279, most - 1278, 1279, most - 1278, 1279},
                                                                              {20000},
                                                                              {1, most, 1, most, 1},
                                                                              {most / 2 + 1, most / 2 + 1, most / 2 + 1},
                                                                              {0, 5, 0}}) {
      const RowGroups groups{.rows = rows, .experts = static_cast<int>(rows.size())};
      const int64_t all = std::accumulate(rows.begin(), rows.end(), int64_t{0});
      const int needed = PiecesNeeded(groups, {.most_rows = most});
      EXPECT_LE(needed, MostPiecesNeeded(all, most)) << all << " rows of " << rows.size() << " experts, " << most << " at a time";
      EXPECT_GE(needed * most, all);
      EXPECT_LE(MostPiecesNeeded(all, most), 2 * needed) << "nor many fewer";
    }
  }
}

}  // namespace
}  // namespace conclave
