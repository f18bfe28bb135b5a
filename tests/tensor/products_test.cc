#include "tensor/products.h"

#include <bit>
#include <cmath>
#include <thread>

#include "base/float16.h"
#include "tensor/kernels/linear_blocks.h"
#include "tensor/product_tally.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

struct Sizes {
  int64_t n, in, out;
};

double Tolerance(DType dtype, int64_t k) { return (dtype == DType::kF32 ? 6e-8 : 1.2e-16) * static_cast<double>(k + 8); }

struct Kind {
  DType dtype;
  ProductPrecision precision;
};

class Products : public ::testing::TestWithParam<Kind> {
 protected:
  static DType type() { return GetParam().dtype; }
  static ProductOptions Written() { return {.precision = GetParam().precision}; }
  static ProductOptions Added() { return {.accumulate = true, .precision = GetParam().precision}; }
};
INSTANTIATE_TEST_SUITE_P(Floats, Products,
                         ::testing::Values(Kind{DType::kF32, ProductPrecision::kFull}, Kind{DType::kF32, ProductPrecision::kFullLibrary},
                                           Kind{DType::kF64, ProductPrecision::kFull}),
                         [](const auto& info) {
                           const bool library = info.param.precision == ProductPrecision::kFullLibrary;
                           return std::string(NameOf(info.param.dtype)) + (library ? "_library" : "");
                         });

TEST_P(Products, AgreeWithNaiveLoops) {
  for (const Sizes s : {Sizes{1, 1, 1}, {7, 3, 5}, {64, 128, 65}, {65, 33, 100}, {130, 17, 1}, {300, 270, 40}, {5, 300, 7}}) {
    const OwnedTensor x = RandomTensor({s.n, s.in}, type(), 1), w = RandomTensor({s.out, s.in}, type(), 2);
    const OwnedTensor bias = RandomTensor({s.out}, type(), 3), d = RandomTensor({s.n, s.out}, type(), 4);
    const std::vector<double> vx = Values(*x), vw = Values(*w), vb = Values(*bias), vd = Values(*d);
    const std::vector<double> nt = NaiveProduct(vx, vw, {s.n, s.out, s.in, false, true});
    const std::vector<double> nn = NaiveProduct(vd, vw, {s.n, s.in, s.out});
    const std::vector<double> tn = NaiveProduct(vd, vx, {s.out, s.in, s.n, true, false});
    std::vector<double> biased = nt;
    for (int64_t i = 0; i < s.n * s.out; ++i) biased[i] += vb[i % s.out];

    const OwnedTensor y = RandomTensor({s.n, s.out}, type(), 5), dx = RandomTensor({s.n, s.in}, type(), 6);
    const OwnedTensor dw = RandomTensor({s.out, s.in}, type(), 7);
    const std::vector<double> before_y = Values(*y), before_dx = Values(*dx), before_dw = Values(*dw);
    ProductNT(*x, *w, *bias, *y, Added());
    EXPECT_TRUE(Near(*y, Plus(before_y, biased), Tolerance(type(), s.in)));
    ProductNN(*d, *w, *dx, Added());
    EXPECT_TRUE(Near(*dx, Plus(before_dx, nn), Tolerance(type(), s.out)));
    ProductTN(*d, *x, *dw, Added());
    EXPECT_TRUE(Near(*dw, Plus(before_dw, tn), Tolerance(type(), s.n)));
    for (const Tensor& output : {*y, *dx, *dw}) output.Fill(NAN);  // outputs arrive uninitialised
    ProductNT(*x, *w, *bias, *y, Written());
    EXPECT_TRUE(Near(*y, biased, Tolerance(type(), s.in)));
    ProductNT(*x, *w, {}, *y, Written());
    EXPECT_TRUE(Near(*y, nt, Tolerance(type(), s.in)));
    ProductNN(*d, *w, *dx, Written());
    EXPECT_TRUE(Near(*dx, nn, Tolerance(type(), s.out)));
    ProductTN(*d, *x, *dw, Written());
    EXPECT_TRUE(Near(*dw, tn, Tolerance(type(), s.n)));
  }
}

TEST_P(Products, NoRowsAndNoWidth) {
  const OwnedTensor w = RandomTensor({5, 3}, type(), 1), none({0, 3}, type()), none_out({0, 5}, type());
  ProductNT(*none, *w, {}, *none_out, Written());
  ProductNN(*none_out, *w, *none, Written());
  const OwnedTensor dw = RandomTensor({5, 3}, type(), 2), kept = RandomTensor({5, 3}, type(), 2);
  ProductTN(*none_out, *none, *dw, Added());
  EXPECT_TRUE(SameBits(*dw, *kept));
  ProductTN(*none_out, *none, *dw, Written());
  EXPECT_TRUE(Near(*dw, std::vector<double>(15, 0.0), 0));

  const OwnedTensor x({4, 0}, type()), empty_w({5, 0}, type()), bias = RandomTensor({5}, type(), 3), y({4, 5}, type());
  y->Fill(NAN);
  ProductNT(*x, *empty_w, *bias, *y, Written());
  for (int64_t r = 0; r < 4; ++r) EXPECT_TRUE(SameBits(y->Slice(r, 1), *bias));
}

// The law every parallel layout rests on: row bits do not depend on n or on the row's place, with a bias and without, written or
// accumulated.
TEST_P(Products, RowsDoNotDependOnTheirNeighbours) {
  constexpr int64_t kRows = 320;
  for (const Sizes s : {Sizes{0, 128, 96}, {0, 33, 65}, {0, 300, 3}, {0, 1, 1}}) {
    const OwnedTensor x = RandomTensor({kRows, s.in}, type(), 1), w = RandomTensor({s.out, s.in}, type(), 2);
    const OwnedTensor d = RandomTensor({kRows, s.out}, type(), 3), bias = RandomTensor({s.out}, type(), 4);
    const OwnedTensor y({kRows, s.out}, type()), biased({kRows, s.out}, type()), dx = RandomTensor({kRows, s.in}, type(), 5);
    ProductNT(*x, *w, {}, *y, Written());
    ProductNT(*x, *w, *bias, *biased, Written());
    ProductNN(*d, *w, *dx, Added());
    for (int64_t n = 1; n <= 130; ++n) {
      const int64_t first = n * 37 % (kRows - n);
      const OwnedTensor part({n, s.out}, type()), biased_part({n, s.out}, type());
      const OwnedTensor whole_dx = RandomTensor({kRows, s.in}, type(), 5);
      ProductNT(x->Slice(first, n), *w, {}, *part, Written());
      ASSERT_TRUE(SameBits(*part, y->Slice(first, n))) << "n " << n << " from row " << first << " in " << s.in << " out " << s.out;
      ProductNT(x->Slice(first, n), *w, *bias, *biased_part, Written());
      ASSERT_TRUE(SameBits(*biased_part, biased->Slice(first, n)))
          << "n " << n << " from row " << first << " in " << s.in << " out " << s.out;
      ProductNN(d->Slice(first, n), *w, whole_dx->Slice(first, n), Added());
      ASSERT_TRUE(SameBits(whole_dx->Slice(first, n), dx->Slice(first, n)))
          << "n " << n << " from row " << first << " in " << s.in << " out " << s.out;
    }
  }
}

TEST_P(Products, SayWhenRowsAreFinal) {
  constexpr int64_t kRows = 300;
  const OwnedTensor x = RandomTensor({kRows, 40}, type(), 1), w = RandomTensor({24, 40}, type(), 2);
  const OwnedTensor y({kRows, 24}, type()), seen({kRows, 24}, type());
  int64_t next = 0;
  const auto copy = [&](int64_t begin, int64_t rows) {
    EXPECT_EQ(begin, next);
    seen->Slice(begin, rows).CopyFrom(y->Slice(begin, rows));
    next = begin + rows;
  };
  ProductNT(*x, *w, {}, *y, AfterRows(copy, GetParam().precision));
  EXPECT_EQ(next, kRows);
  EXPECT_TRUE(SameBits(*seen, *y));
  const OwnedTensor plain({kRows, 24}, type());
  ProductNT(*x, *w, {}, *plain, Written());
  EXPECT_TRUE(SameBits(*plain, *y));
}

// Bits are a function of the data alone: not of the thread, earlier calls or alignment.
TEST_P(Products, SameBitsInAnyThreadAndAlignment) {
  const Sizes s{77, 40, 24};
  const OwnedTensor x = RandomTensor({s.n, s.in}, type(), 1), d = RandomTensor({s.n, s.out}, type(), 2), w({s.out, s.in}, type());
  ProductTN(*d, *x, *w, Written());
  const OwnedTensor shifted_x({1 + s.n * s.in}, type()), shifted_d({3 + s.n * s.out}, type()), other({1 + s.out * s.in}, type());
  const auto tail = [](const OwnedTensor& t, int64_t skip, const Shape& shape) { return t->Slice(skip, shape.elements()).Reshape(shape); };
  const Tensor x2 = tail(shifted_x, 1, {s.n, s.in}), d2 = tail(shifted_d, 3, {s.n, s.out}), w2 = tail(other, 1, {s.out, s.in});
  x2.CopyFrom(*x);
  d2.CopyFrom(*d);
  for (int repeat = 0; repeat < 2; ++repeat) {
    w2.Fill(NAN);
    std::thread([&] { ProductTN(d2, x2, w2, Written()); }).join();
    EXPECT_TRUE(SameBits(w2, *w));
  }
}

class Bf16Products : public ::testing::Test {
 protected:
  static OwnedTensor Rounded(const Tensor& x) {
    OwnedTensor y(x.shape(), DType::kF32);
    for (int64_t i = 0; i < x.elements(); ++i) y->data<float>()[i] = Bf16ToFloat(FloatToBf16(x.data<float>()[i]));
    return y;
  }
  static constexpr ProductOptions kBf16{.precision = ProductPrecision::kBf16},
      kMore{.accumulate = true, .precision = ProductPrecision::kBf16};
};

// Operands are rounded to nearest, and the exact products of what is left are summed in f32.
TEST_F(Bf16Products, AreThoseOfRoundedOperands) {
  for (const Sizes s : {Sizes{1, 1, 1}, {7, 3, 5}, {64, 128, 65}, {65, 33, 100}, {130, 17, 1}, {300, 270, 40}, {5, 300, 7}}) {
    const OwnedTensor x = RandomTensor({s.n, s.in}, DType::kF32, 1), w = RandomTensor({s.out, s.in}, DType::kF32, 2);
    const OwnedTensor bias = RandomTensor({s.out}, DType::kF32, 3), d = RandomTensor({s.n, s.out}, DType::kF32, 4);
    const OwnedTensor y({s.n, s.out}, DType::kF32), dx({s.n, s.in}, DType::kF32), dw = RandomTensor({s.out, s.in}, DType::kF32, 5);
    const std::vector<double> vx = Values(*Rounded(*x)), vw = Values(*Rounded(*w)), vd = Values(*Rounded(*d)), before = Values(*dw);
    std::vector<double> biased = NaiveProduct(vx, vw, {s.n, s.out, s.in, false, true});
    for (int64_t i = 0; i < s.n * s.out; ++i) biased[i] += bias->data<float>()[i % s.out];
    ProductNT(*x, *w, *bias, *y, kBf16);
    EXPECT_TRUE(Near(*y, biased, Tolerance(DType::kF32, s.in)));
    ProductNN(*d, *w, *dx, kBf16);
    EXPECT_TRUE(Near(*dx, NaiveProduct(vd, vw, {s.n, s.in, s.out}), Tolerance(DType::kF32, s.out)));
    ProductTN(*d, *x, *dw, kMore);
    EXPECT_TRUE(Near(*dw, Plus(before, NaiveProduct(vd, vx, {s.out, s.in, s.n, true, false})), Tolerance(DType::kF32, s.n)));
  }
}

// What is rounded beforehand is multiplied by the kernels of f32: there is no other sum.
TEST_F(Bf16Products, WithoutNarrowOperandsHaveTheBitsOfF32) {
  if (Bf16ProductsAreNarrow()) GTEST_SKIP() << "this CPU multiplies operands of two bytes";
  for (const Sizes s : {Sizes{1, 3, 5}, {300, 270, 40}, {130, 17, 1}}) {
    const OwnedTensor x = RandomTensor({s.n, s.in}, DType::kF32, 1), w = RandomTensor({s.out, s.in}, DType::kF32, 2);
    const OwnedTensor d = RandomTensor({s.n, s.out}, DType::kF32, 3), y({s.n, s.out}, DType::kF32), same({s.n, s.out}, DType::kF32);
    const OwnedTensor dw({s.out, s.in}, DType::kF32), same_dw({s.out, s.in}, DType::kF32);
    ProductNT(*x, *w, {}, *y, kBf16);
    ProductNT(*Rounded(*x), *Rounded(*w), {}, *same);
    EXPECT_TRUE(SameBits(*same, *y));
    ProductTN(*d, *x, *dw, kBf16);
    ProductTN(*Rounded(*d), *Rounded(*x), *same_dw);
    EXPECT_TRUE(SameBits(*same_dw, *dw));
  }
}

TEST_F(Bf16Products, RowsDoNotDependOnTheirNeighbours) {
  constexpr int64_t kRows = 320;
  for (const Sizes s : {Sizes{0, 128, 96}, {0, 33, 65}, {0, 300, 3}, {0, 512, 256}, {0, 300, 1}}) {
    const OwnedTensor x = RandomTensor({kRows, s.in}, DType::kF32, 1), w = RandomTensor({s.out, s.in}, DType::kF32, 2);
    const OwnedTensor d = RandomTensor({kRows, s.out}, DType::kF32, 3), bias = RandomTensor({s.out}, DType::kF32, 4);
    const OwnedTensor y({kRows, s.out}, DType::kF32), dx = RandomTensor({kRows, s.in}, DType::kF32, 5);
    ProductNT(*x, *w, *bias, *y, kBf16);
    ProductNN(*d, *w, *dx, kMore);
    for (int64_t n = 1; n <= 300; n += n < 10 ? 1 : 17) {
      const int64_t first = n * 37 % (kRows - n);
      const OwnedTensor part({n, s.out}, DType::kF32), part_dx = RandomTensor({kRows, s.in}, DType::kF32, 5);
      ProductNT(x->Slice(first, n), *w, *bias, *part, kBf16);
      ASSERT_TRUE(SameBits(*part, y->Slice(first, n))) << "n " << n << " from row " << first << " in " << s.in << " out " << s.out;
      ProductNN(d->Slice(first, n), *w, part_dx->Slice(first, n), kMore);
      ASSERT_TRUE(SameBits(part_dx->Slice(first, n), dx->Slice(first, n)))
          << "n " << n << " from row " << first << " in " << s.in << " out " << s.out;
    }
  }
}

TEST_F(Bf16Products, KeepNaN) {
  const OwnedTensor x = RandomTensor({3, 40}, DType::kF32, 1), w = RandomTensor({8, 40}, DType::kF32, 2), y({3, 8}, DType::kF32);
  x->data<float>()[40] = std::bit_cast<float>(0x7FFFFFFFu);  // the payload that would round to -0
  ProductNT(*x, *w, {}, *y, kBf16);
  for (int64_t i = 0; i < 24; ++i) EXPECT_EQ(std::isnan(y->data<float>()[i]), i / 8 == 1) << i;
}

TEST_P(Products, PanelsAgreeWithBlocksWithinTheirBand) {
  DispatchFloat(type(), [&](auto t) {
    using T = decltype(t);
    constexpr int64_t kSize = 64;
    for (const cpu::Band band : {cpu::Band::kAll, cpu::Band::kLowerA, cpu::Band::kUpperA, cpu::Band::kLowerC, cpu::Band::kUpperC}) {
      const OwnedTensor a = RandomTensor({kSize, kSize}, type(), 1), b = RandomTensor({kSize, kSize}, type(), 2);
      for (int64_t i = 0; i < kSize; ++i) {
        for (int64_t p = 0; p < kSize; ++p) {
          if ((band == cpu::Band::kLowerA && p > i) || (band == cpu::Band::kUpperA && p < i)) a->data<T>()[i * kSize + p] = 0;
        }
      }
      const OwnedTensor c({kSize, kSize}, type());
      std::vector<double> want = NaiveProduct(Values(*a), Values(*b), {kSize, kSize, kSize});
      cpu::PanelProduct(cpu::PanelOperands<T>{.a = a->data<T>(),
                                              .a_row = kSize,
                                              .a_column = 1,
                                              .b = b->data<T>(),
                                              .b_row = kSize,
                                              .c = c->data<T>(),
                                              .c_row = kSize,
                                              .m = kSize,
                                              .n = kSize,
                                              .k = kSize,
                                              .band = band});
      for (int64_t i = 0; i < kSize; ++i) {
        for (int64_t j = 0; j < kSize; ++j) {
          const bool unwanted = (band == cpu::Band::kLowerC && j > i) || (band == cpu::Band::kUpperC && j < i);
          if (unwanted) want[i * kSize + j] = c->data<T>()[i * kSize + j];
        }
      }
      EXPECT_TRUE(Near(*c, want, Tolerance(type(), kSize))) << "band " << static_cast<int>(band);
    }
  });
}

TEST(ProductTallyTest, CountsWhatTheThreadMultiplies) {
  const OwnedTensor x = RandomTensor({5, 3}, DType::kF32, 1), w = RandomTensor({4, 3}, DType::kF32, 2), y({5, 4}, DType::kF32);
  ProductNT(*x, *w, {}, *y);  // nobody counts
  ProductTally outer;
  {
    ProductTally inner;
    ProductNT(*x, *w, {}, *y);
    ProductNT(x->Slice(0, 2), *w, {}, y->Slice(0, 2));
    ProductTN(*y, *x, *w);
    EXPECT_EQ(inner.totals().size(), 2u);
    const ProductTally::Total& forward = inner.totals().at({ProductKind::kNT, 3, 4});
    EXPECT_EQ(forward.calls, 2);
    EXPECT_EQ(forward.rows, 7);
    EXPECT_GT(forward.seconds, 0);
    EXPECT_EQ(inner.totals().at({ProductKind::kTN, 3, 4}).rows, 5);
    inner.Clear();
    EXPECT_TRUE(inner.totals().empty());
  }
  EXPECT_TRUE(outer.totals().empty());
  std::thread([&] { ProductNT(*x, *w, {}, *y); }).join();  // another thread's
  EXPECT_TRUE(outer.totals().empty());
}

}  // namespace
}  // namespace conclave
