#include "tensor/layout.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/rng.h"
#include "tensor/state_dict.h"

namespace conclave {
namespace {

ParameterSet ThreeBlocks() {
  ParameterSet set;
  set.Add({.name = "a", .shape = {3, 5}});
  set.Add({.name = "b.experts.0", .shape = {7}, .kind = BlockKind::kExpert, .expert = 0, .moe_layer = 0});
  set.Add({.name = "c", .shape = {33}});
  return set;
}

void FillWithCount(const FlatVector& v, double first) {
  for (const BlockId id : v.layout().local_blocks()) {
    for (double& x : v.block(id).span<double>()) x = first++;
  }
}

}  // namespace

TEST(ParameterSet, FindsByName) {
  const ParameterSet set = ThreeBlocks();
  EXPECT_EQ(set.size(), 3);
  EXPECT_EQ(set.elements(), 55);
  EXPECT_EQ(set.Find("c"), BlockId{2});
  EXPECT_EQ(set.Find("nothing"), BlockId{-1});
  EXPECT_EQ(set[BlockId{1}].kind, BlockKind::kExpert);
}

TEST(ParameterSetDeathTest, RefusesADuplicateName) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ParameterSet set = ThreeBlocks();
  EXPECT_DEATH(set.Add({.name = "a", .shape = {1}}), "a");
}

TEST(Initialize, KindsAndRounding) {
  BlockSpec spec{.name = "w", .shape = {100, 100}, .init = {.kind = Init::Kind::kNormal, .value = 0.02}};
  OwnedTensor f64(spec.shape, DType::kF64), f32(spec.shape, DType::kF32), other(spec.shape, DType::kF64);
  Initialize(spec, {4}, 1, *f64);
  Initialize(spec, {4}, 1, *f32);
  Initialize(spec, {5}, 1, *other);
  double sum = 0, squares = 0;
  int equal = 0;
  for (int i = 0; i < 10000; ++i) {
    const double v = f64->data<double>()[i];
    ASSERT_EQ(f32->data<float>()[i], static_cast<float>(v));
    sum += v, squares += v * v, equal += v == other->data<double>()[i];
  }
  EXPECT_NEAR(sum / 10000, 0, 4 * 0.02 / 100);                                 // 4 standard errors of the mean
  EXPECT_NEAR(std::sqrt(squares / 10000), 0.02, 4 * 0.02 / std::sqrt(20000));  // and of the deviation
  EXPECT_EQ(equal, 0);
  spec.init = {.kind = Init::Kind::kConstant, .value = 1};
  Initialize(spec, {4}, 1, *f32);
  EXPECT_EQ(f32->data<float>()[9999], 1.0f);
  spec.init = {};
  Initialize(spec, {4}, 1, *f32);
  EXPECT_EQ(f32->data<float>()[9999], 0.0f);
}

TEST(Layout, PlacesLocalBlocksOnly) {
  const ParameterSet set = ThreeBlocks();
  const std::vector<BlockHome> homes{
      {.owners = {0, 1}, .canonical = 0}, {.owners = {1}, .canonical = 1}, {.owners = {0, 1}, .canonical = 1}};
  const Layout zero(&set, 0, homes), one(&set, 1, homes);
  EXPECT_FALSE(zero.is_local({1}));
  EXPECT_TRUE(one.is_local({1}));
  EXPECT_EQ(zero.home({2}).offset, 16);
  EXPECT_EQ(one.home({2}).offset, 32);
  EXPECT_EQ(zero.flat_elements(), 16 + 48);
  EXPECT_TRUE(zero.is_canonical({0}));
  EXPECT_FALSE(zero.is_canonical({2}));
  EXPECT_EQ(std::vector<BlockId>(zero.local_blocks().begin(), zero.local_blocks().end()), (std::vector<BlockId>{{0}, {2}}));
}

TEST(FlatVector, ArithmeticAllowsAliases) {
  const ParameterSet set = ThreeBlocks();
  const Layout layout = ReplicatedLayout(&set, 0, 1);
  FlatVector x(&layout, DType::kF64), y(&layout, DType::kF64);
  FillWithCount(x, 1);
  FillWithCount(y, 100);
  y.Axpy(2, x);            // 100 + i + 2 (1 + i)
  x.Combine(3, x, -1, y);  // 3 (1 + i) - y
  double i = 0;
  for (const BlockId id : layout.local_blocks()) {
    for (int64_t j = 0; j < set[id].shape.elements(); ++j, ++i) {
      EXPECT_EQ(y.block(id).data<double>()[j], 102 + 3 * i);
      EXPECT_EQ(x.block(id).data<double>()[j], 3 * (1 + i) - (102 + 3 * i));
    }
  }
  for (int64_t gap = 15; gap < 16; ++gap) EXPECT_EQ(x.flat().data<double>()[gap], 0);
  x.Axpy(1, x);
  EXPECT_EQ(x.block({0}).data<double>()[0], -198);
  Swap(x, y);
  EXPECT_EQ(x.block({0}).data<double>()[0], 102);
}

// The same element has the same bits wherever its block lies: cut layouts compute what whole ones do.
TEST(FlatVector, BitsDoNotDependOnTheOffset) {
  ParameterSet set;
  for (int i = 0; i < 4; ++i) set.Add({.name = std::to_string(i), .shape = {37 + i}});
  std::vector<BlockHome> homes(4, {.owners = {0}});
  const Layout whole(&set, 0, homes);
  homes[0].owners = homes[2].owners = {1};
  const Layout cut(&set, 0, homes);
  const RngKey key{.seed = 1};
  const auto result = [&](const Layout& layout) {
    FlatVector x(&layout, DType::kF32), y(&layout, DType::kF32);
    for (const BlockId id : layout.local_blocks()) {
      for (int64_t j = 0; j < set[id].shape.elements(); ++j) {
        x.block(id).data<float>()[j] = key.Uniform(100 * id.value + j);
        y.block(id).data<float>()[j] = key.Uniform(1000 + 100 * id.value + j);
      }
    }
    x.Combine(0.3, x, -0.7, y);
    x.Axpy(1.1, y);
    const Tensor block = x.block({3});
    return std::vector<float>(block.data<float>(), block.data<float>() + block.elements());
  };
  EXPECT_EQ(result(whole), result(cut));
}

TEST(StateDict, NamesLocalBlocksAndBindsScalars) {
  const ParameterSet set = ThreeBlocks();
  const Layout layout(&set, 0, {{.owners = {0, 1}, .canonical = 0}, {.owners = {1}, .canonical = 1}, {.owners = {0, 1}, .canonical = 1}});
  FlatVector m(&layout, DType::kF32);
  StateDict state;
  state.Add("optim/m", m);
  ASSERT_EQ(state.entries().size(), 2u);
  EXPECT_EQ(state.entries()[0].name, "optim/m/a");
  EXPECT_TRUE(state.entries()[0].canonical);
  EXPECT_EQ(state.entries()[1].name, "optim/m/c");
  EXPECT_FALSE(state.entries()[1].canonical);
  EXPECT_EQ(state.entries()[1].data.raw(), m.block({2}).raw());

  int64_t step = (int64_t{1} << 53) - 1;
  double rate = 0.1;
  state.AddScalar("step", &step);
  state.AddScalar("rate", &rate);
  EXPECT_EQ(state.scalars()[0].get(), 9007199254740991.0);
  state.scalars()[0].set(41);
  state.scalars()[1].set(0.25);
  EXPECT_EQ(step, 41);
  EXPECT_EQ(rate, 0.25);
}

}  // namespace conclave
