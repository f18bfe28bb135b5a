#include "data/mixture.h"

#include <algorithm>

#include "tests/data/data_testing.h"

namespace conclave {
namespace {

TEST(Mixture, ProportionsAreExactOverBlocks) {
  const Mixture mixture = *Mixture::Create(3, {2, 1, 1});
  EXPECT_EQ(mixture.quota(0), Mixture::kBlock / 2);
  for (int64_t block = 0; block < 3; ++block) {
    std::vector<int64_t> counts(3);
    for (int64_t i = 0; i < Mixture::kBlock; ++i) ++counts[mixture.At(block * Mixture::kBlock + i, 0).source];
    EXPECT_EQ(counts, (std::vector<int64_t>{Mixture::kBlock / 2, Mixture::kBlock / 4, Mixture::kBlock / 4}));
  }
}

TEST(Mixture, BatchesFollowEachOther) {
  const Mixture mixture = Mixture::OfBatches({3, 2});
  for (int64_t block = 0; block < 4; ++block) {
    for (int64_t i = 0; i < 5; ++i) {
      const Mixture::Pick pick = mixture.At(5 * block + i, 2);
      EXPECT_EQ(pick.source, i < 3 ? 0 : 1);
      EXPECT_EQ(pick.number, i < 3 ? 3 * block + i : 2 * block + i - 3);
    }
  }
}

TEST(Mixture, QuotasAddUpByLargestRemainder) {
  const Mixture mixture = *Mixture::Create(3, {1, 1, 1});  // 1365 1/3 each
  EXPECT_EQ(mixture.quota(0), 1366);
  EXPECT_EQ(mixture.quota(1), 1365);
  EXPECT_EQ(mixture.quota(2), 1365);
}

TEST(Mixture, EachSourceIsNumberedWithoutGaps) {
  const Mixture mixture = *Mixture::Create(5, {0.7, 0.3});
  std::vector<std::vector<int64_t>> numbers(2);
  for (int64_t i = 0; i < 3 * Mixture::kBlock; ++i) {
    const Mixture::Pick pick = mixture.At(i, 1);
    numbers[pick.source].push_back(pick.number);
  }
  for (std::vector<int64_t>& seen : numbers) {
    std::ranges::sort(seen);
    for (size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], static_cast<int64_t>(i));
  }
}

// Half and half: the order inside a block must look drawn, not alternate or come in runs. Runs of n fair draws number n / 2 +- sqrt(n) / 2.
TEST(Mixture, OrderIsMixedAndDiffersByBlockDrawAndSeed) {
  const Mixture mixture = *Mixture::Create(7, {1, 1}), other = *Mixture::Create(8, {1, 1});
  int64_t runs = 1, same_block = 0, same_draw = 0, same_seed = 0;
  for (int64_t i = 0; i < Mixture::kBlock; ++i) {
    const int source = mixture.At(i, 0).source;
    runs += i > 0 && source != mixture.At(i - 1, 0).source;
    same_block += source == mixture.At(Mixture::kBlock + i, 0).source;
    same_draw += source == mixture.At(i, 1).source;
    same_seed += source == other.At(i, 0).source;
  }
  for (const int64_t count : {runs, same_block, same_draw, same_seed}) EXPECT_NEAR(count, Mixture::kBlock / 2, 5 * 32);  // 5 sigma
}

TEST(Mixture, OneSourceIsTheStream) {
  const Mixture mixture = *Mixture::Create(7, {0.2});
  for (const int64_t position : {int64_t{0}, int64_t{4095}, int64_t{4096}, int64_t{1} << 50})
    EXPECT_EQ(mixture.At(position, 0).number, position);
}

TEST(Mixture, BadWeightsAreRefused) {
  EXPECT_FALSE(Mixture::Create(1, {}).ok());
  EXPECT_FALSE(Mixture::Create(1, {1, 0}).ok());
  EXPECT_FALSE(Mixture::Create(1, {1, -2}).ok());
  EXPECT_NE(Mixture::Create(1, {1e6, 1}).status().message().find("less than one sample in 4096"), std::string::npos);
}

}  // namespace
}  // namespace conclave
