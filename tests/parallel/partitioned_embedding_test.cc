#include "parallel/partitioned_embedding.h"

#include <cmath>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "comm/ledger.h"
#include "comm/loopback.h"
#include "tensor/ops/ops.h"

namespace conclave {
namespace {

constexpr int64_t kVocabulary = 11, kWidth = 12;

// Tokens of each rank; some appear often, and one rank may have none.
std::vector<int32_t> TokensOf(int rank, bool none_on_rank_one) {
  const RngKey key{.seed = 3, .worker = static_cast<uint32_t>(rank), .kind = RngKind::kTest};
  std::vector<int32_t> ids(none_on_rank_one && rank == 1 ? 0 : 5 + 4 * rank);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(key.Below(kVocabulary, i));
  return ids;
}

double NumberAt(uint32_t site, int64_t row, int64_t column) {
  const RngKey key{.seed = 4, .site = site, .kind = RngKind::kTest};
  return 2 * key.UniformDouble(static_cast<uint64_t>(row * kWidth + column)) - 1;
}

struct OneRank {
  std::vector<float> output, gradient;  // [n, width]; [lanes, v, columns here]
  std::map<std::string, int64_t> sent;  // bytes by ledger line
  std::vector<int> parts;               // here
};

struct PartitionCase {
  int ranks = 1, parts = 1;
  bool lanes = false, empty = false;
};

// The loss is the sum over tokens and columns of output * NumberAt(2, token number of all ranks, column).
absl::Status RunPartition(const PartitionCase& c, Communicator& world, OneRank* out) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Mesh> mesh, Mesh::Create(&world, {.data = 1, .expert = c.ranks}));
  Arena arena(0);
  Tape tape(&arena);
  const int64_t columns = kWidth / c.parts;
  const int lanes = c.lanes ? c.ranks : 1;
  std::vector<OwnedTensor> values, gradients;
  std::vector<Var> local;
  for (int p = 0; p < c.parts; ++p) {
    if (CoordinateOfPart(p, c.parts, c.ranks) != world.rank()) continue;
    out->parts.push_back(p);
    const Tensor value = *values.emplace_back(Shape{kVocabulary, columns}, DType::kF32);
    for (int64_t i = 0; i < value.elements(); ++i) {
      value.data<float>()[i] = static_cast<float>(NumberAt(1, i / columns, p * columns + i % columns));
    }
    const Tensor gradient = *gradients.emplace_back(Shape{lanes, value.elements()}, DType::kF32);
    local.push_back(tape.Parameter({p}, value, {gradient.Slice(0, 1).Reshape(value.shape()), lanes, value.bytes()}));
  }
  std::vector<int32_t> ids = TokensOf(world.rank(), c.empty);
  const int64_t n = static_cast<int64_t>(ids.size());
  int64_t before = 0;
  for (int r = 0; r < world.rank(); ++r) before += static_cast<int64_t>(TokensOf(r, c.empty).size());
  world.ledger()->Take();
  ASSIGN_OR_RETURN(const Var y, PartitionedEmbedding(tape, *mesh, {.local = local, .parts = c.parts, .width = kWidth},
                                                     Tensor(ids.data(), {n}, DType::kI32)));
  const Tensor value = tape.value(y);
  out->output.assign(value.data<float>(), value.data<float>() + value.elements());
  const Tensor weights = arena.New({n, kWidth}, DType::kF32);
  for (int64_t i = 0; i < n * kWidth; ++i) weights.data<float>()[i] = static_cast<float>(NumberAt(2, before + i / kWidth, i % kWidth));
  const Seed seed{SumAll(tape, Mul(tape, y, tape.Constant(weights))), 1};
  RETURN_IF_ERROR(tape.Backward({&seed, 1}, [](BlockId) { return absl::OkStatus(); }));
  for (const OwnedTensor& gradient : gradients) {
    out->gradient.insert(out->gradient.end(), gradient->data<float>(), gradient->data<float>() + gradient->elements());
  }
  for (const WireLine& line : world.ledger()->Take().lines) {
    for (const LinkClass link : {LinkClass::kIntraNode, LinkClass::kInterNode}) {
      out->sent[std::string(line.label)] += line.links[static_cast<int>(link)].sent_bytes;
    }
  }
  return absl::OkStatus();
}

// The whole table on one rank with all tokens in the order of ranks: output and gradient.
std::pair<std::vector<float>, std::vector<float>> OfTheWhole(const PartitionCase& c, const std::vector<std::vector<int32_t>>& ids) {
  std::vector<float> output, gradient(kVocabulary * kWidth, 0.0F);
  int64_t token = 0;
  for (int r = 0; r < c.ranks; ++r) {
    for (const int32_t id : ids[r]) {
      for (int64_t j = 0; j < kWidth; ++j) {
        output.push_back(static_cast<float>(NumberAt(1, id, j)));
        gradient[id * kWidth + j] += static_cast<float>(NumberAt(2, token, j));
      }
      ++token;
    }
  }
  return {output, gradient};
}

TEST(PartitionedEmbedding, HasTheBitsOfTheWholeTable) {
  for (const PartitionCase& c : {PartitionCase{1, 1}, {1, 3}, {2, 2}, {2, 4, true}, {3, 3, false, true}, {4, 12, true, true}, {4, 4}}) {
    SCOPED_TRACE(absl::StrFormat("%d parts on %d ranks, lanes %d, empty %d", c.parts, c.ranks, c.lanes, c.empty));
    std::vector<OneRank> ranks(c.ranks);
    const absl::Status status = RunRanks(c.ranks, [&](Communicator& world) { return RunPartition(c, world, &ranks[world.rank()]); });
    ASSERT_TRUE(status.ok()) << status;
    std::vector<std::vector<int32_t>> ids;
    for (int r = 0; r < c.ranks; ++r) ids.push_back(TokensOf(r, c.empty));
    const auto [output, gradient] = OfTheWhole(c, ids);
    std::vector<float> all;
    for (const OneRank& rank : ranks) all.insert(all.end(), rank.output.begin(), rank.output.end());
    EXPECT_EQ(all, output);
    const int64_t columns = kWidth / c.parts, size = kVocabulary * columns;
    for (const OneRank& rank : ranks) {
      for (size_t k = 0; k < rank.parts.size(); ++k) {
        for (int64_t i = 0; i < size; ++i) {
          const int64_t at = i / columns * kWidth + rank.parts[k] * columns + i % columns;
          if (!c.lanes) {
            ASSERT_EQ(rank.gradient[k * size + i], gradient[at]) << "part " << rank.parts[k];
            continue;
          }
          double sum = 0;  // each source rank's in a lane of its own
          for (int l = 0; l < c.ranks; ++l) sum += rank.gradient[(k * c.ranks + l) * size + i];
          ASSERT_NEAR(sum, gradient[at], 1e-5) << "part " << rank.parts[k];
        }
      }
    }
  }
}

TEST(PartitionedEmbedding, TheLedgerBooksThreeExchanges) {
  const PartitionCase c{.ranks = 4, .parts = 4};
  std::vector<OneRank> ranks(c.ranks);
  ASSERT_TRUE(RunRanks(c.ranks, [&](Communicator& world) { return RunPartition(c, world, &ranks[world.rank()]); }).ok());
  int64_t all = 0;
  for (int r = 0; r < c.ranks; ++r) all += static_cast<int64_t>(TokensOf(r, false).size());
  for (int r = 0; r < c.ranks; ++r) {
    const auto mine = static_cast<int64_t>(TokensOf(r, false).size());
    EXPECT_EQ(ranks[r].sent["embedding ids"], mine * 4 * 3);
    EXPECT_EQ(ranks[r].sent["embedding vectors"], (all - mine) * (kWidth / 4) * 4);
    EXPECT_EQ(ranks[r].sent["embedding gradients"], mine * (kWidth - kWidth / 4) * 4);
  }
}

}  // namespace
}  // namespace conclave
