#include "tensor/kernels/split_product.h"

#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>

#include "tensor/products.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

constexpr ProductOptions kLibrary{.precision = ProductPrecision::kFullLibrary};

class SplitProducts : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::SplitProductsWork()) GTEST_SKIP() << "no AMX for bf16 on this CPU";
  }
};

// For terms of at most 1.
double Tolerance(int64_t terms) { return 3e-8 * static_cast<double>(terms + 8); }

struct ErrorOf {
  double mean_square = 0, most = 0;
};

// Of y beside the products of x: [n, k] and w: [m, k] in f64, relative to the sum of the terms' sizes.
ErrorOf RelativeError(const Tensor& x, const Tensor& w, const Tensor& y) {
  ErrorOf error;
  const int64_t n = x.dim(0), k = x.dim(1), m = w.dim(0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < k; ++p) {
        const double term = static_cast<double>(x.data<float>()[i * k + p]) * static_cast<double>(w.data<float>()[j * k + p]);
        sum += term;
        size += std::abs(term);
      }
      const double e = std::abs(static_cast<double>(y.data<float>()[i * m + j]) - sum) / size;
      error.mean_square += e * e / static_cast<double>(n * m);
      error.most = std::max(error.most, e);
    }
  }
  return error;
}

TEST_F(SplitProducts, AreAsExactAsTheLibrarys) {
  constexpr int64_t kRows = 64, kOut = 96;
  const auto scale = [](int64_t p, int64_t turn) { return std::pow(10.0, static_cast<double>((p * turn) % 13 - 6)); };  // 1e-6 to 1e6
  using Change = std::function<void(float* row, int64_t k)>;
  const std::vector<std::pair<const char*, std::pair<Change, Change>>> operands = {
      {"random", {[](float*, int64_t) {}, [](float*, int64_t) {}}},
      {"one operand badly scaled",
       {[&](float* x, int64_t k) {
          for (int64_t p = 0; p < k; ++p) x[p] *= static_cast<float>(scale(p, 5));
        },
        [](float*, int64_t) {}}},
      {"both badly scaled",
       {[&](float* x, int64_t k) {
          for (int64_t p = 0; p < k; ++p) x[p] *= static_cast<float>(scale(p, 5));
        },
        [&](float* w, int64_t k) {
          for (int64_t p = 0; p < k; ++p) w[p] *= static_cast<float>(scale(p, 7));
        }}},
      {"cancelling",
       {[](float* x, int64_t k) {
          for (int64_t p = 0; p < k / 2; ++p) x[p + k / 2] = -1.0001f * x[p];
        },
        [](float* w, int64_t k) {
          for (int64_t p = 0; p < k / 2; ++p) w[p + k / 2] = w[p];
        }}}};
  for (const auto& [what, change] : operands) {
    for (const int64_t k : {64, 256, 600}) {
      const OwnedTensor x = RandomTensor({kRows, k}, DType::kF32, 1), w = RandomTensor({kOut, k}, DType::kF32, 2);
      for (int64_t i = 0; i < kRows; ++i) change.first(x->data<float>() + i * k, k);
      for (int64_t j = 0; j < kOut; ++j) change.second(w->data<float>() + j * k, k);
      const OwnedTensor split({kRows, kOut}, DType::kF32), library({kRows, kOut}, DType::kF32);
      ASSERT_TRUE(ProductsAreSplit(k, kOut));
      ProductNT(*x, *w, {}, *split);
      ProductNT(*x, *w, {}, *library, kLibrary);
      const ErrorOf ours = RelativeError(*x, *w, *split), theirs = RelativeError(*x, *w, *library);
      EXPECT_LE(ours.mean_square, theirs.mean_square) << what << ", " << k << " terms";
      EXPECT_LE(ours.most, theirs.most) << what << ", " << k << " terms";
      EXPECT_LT(ours.most, 8 * 0x1p-24) << what << ", " << k << " terms";
    }
  }
}

// All three products at sizes that leave tails everywhere, longer than a slab and wider than what is packed at a time.
TEST_F(SplitProducts, AgreeWithDoublesAtAnySize) {
  struct Sizes {
    int64_t n, in, out;
  };
  for (const Sizes s :
       {Sizes{1, 1, 1}, {17, 33, 65}, {48, 300, 90}, {31, 40, 800}, {70, 800, 40}, {300, 65, 50}, {33, 520, 300}, {513, 32, 32}}) {
    const OwnedTensor x = RandomTensor({s.n, s.in}, DType::kF32, 1), w = RandomTensor({s.out, s.in}, DType::kF32, 2);
    const OwnedTensor bias = RandomTensor({s.out}, DType::kF32, 3), d = RandomTensor({s.n, s.out}, DType::kF32, 4);
    const std::vector<double> vx = Values(*x), vw = Values(*w), vd = Values(*d);
    const OwnedTensor y = RandomTensor({s.n, s.out}, DType::kF32, 5), dx = RandomTensor({s.n, s.in}, DType::kF32, 6),
                      dw = RandomTensor({s.out, s.in}, DType::kF32, 7);
    std::vector<double> nt = NaiveProduct(vx, vw, {s.n, s.out, s.in, false, true});
    for (int64_t i = 0; i < s.n * s.out; ++i) nt[i] += bias->data<float>()[i % s.out];
    const std::vector<double> nn = NaiveProduct(vd, vw, {s.n, s.in, s.out}), tn = NaiveProduct(vd, vx, {s.out, s.in, s.n, true, false});
    const auto run = [&](bool accumulate) {
      const float *a = x->data<float>(), *b = w->data<float>(), *g = d->data<float>();
      cpu::SplitProduct({a, s.in, 1, b, 1, s.in, y->data<float>(), s.out, s.n, s.out, s.in, accumulate}, {.bias = bias->data<float>()});
      cpu::SplitProduct({g, s.out, 1, b, s.in, 1, dx->data<float>(), s.in, s.n, s.in, s.out, accumulate});
      cpu::SplitProduct({g, 1, s.out, a, s.in, 1, dw->data<float>(), s.in, s.out, s.in, s.n, accumulate});
    };
    const std::vector<double> more_y = Plus(Values(*y), nt), more_dx = Plus(Values(*dx), nn), more_dw = Plus(Values(*dw), tn);
    run(true);
    EXPECT_TRUE(Near(*y, more_y, Tolerance(s.in)));
    EXPECT_TRUE(Near(*dx, more_dx, Tolerance(s.out)));
    EXPECT_TRUE(Near(*dw, more_dw, Tolerance(s.n)));
    for (const Tensor& output : {*y, *dx, *dw}) output.Fill(NAN);  // outputs arrive uninitialised
    run(false);
    EXPECT_TRUE(Near(*y, nt, Tolerance(s.in)));
    EXPECT_TRUE(Near(*dx, nn, Tolerance(s.out)));
    EXPECT_TRUE(Near(*dw, tn, Tolerance(s.n)));
  }
}

TEST_F(SplitProducts, RowsDoNotDependOnTheirNeighbours) {
  constexpr int64_t kRows = 300;
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{96, 64}, {300, 40}, {40, 800}, {600, 512}}) {
    const OwnedTensor x = RandomTensor({kRows, in}, DType::kF32, 1), w = RandomTensor({out, in}, DType::kF32, 2),
                      bias = RandomTensor({out}, DType::kF32, 3), d = RandomTensor({kRows, out}, DType::kF32, 4);
    const OwnedTensor y({kRows, out}, DType::kF32), dx = RandomTensor({kRows, in}, DType::kF32, 5);
    const auto forward = [&](int64_t first, int64_t n, float* to) {
      cpu::SplitProduct({x->data<float>() + first * in, in, 1, w->data<float>(), 1, in, to, out, n, out, in},
                        {.bias = bias->data<float>()});
    };
    const auto backward = [&](int64_t first, int64_t n, float* to) {
      cpu::SplitProduct({d->data<float>() + first * out, out, 1, w->data<float>(), in, 1, to, in, n, in, out, true});
    };
    forward(0, kRows, y->data<float>());
    const OwnedTensor before = RandomTensor({kRows, in}, DType::kF32, 5);
    backward(0, kRows, dx->data<float>());
    for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 48, 100, 257}) {
      const int64_t first = n * 37 % (kRows - n);
      const OwnedTensor part({n, out}, DType::kF32), part_dx({n, in}, DType::kF32);
      part_dx->CopyFrom(before->Slice(first, n));
      forward(first, n, part->data<float>());
      ASSERT_TRUE(SameBits(*part, y->Slice(first, n))) << n << " rows from " << first << ", in " << in << " out " << out;
      backward(first, n, part_dx->data<float>());
      ASSERT_TRUE(SameBits(*part_dx, dx->Slice(first, n))) << n << " rows from " << first << ", in " << in << " out " << out;
    }
  }
}

// Callers sum gradients in pieces of many rows; the cut is where the product cuts.
TEST_F(SplitProducts, SumsOverRowsDoNotShowTheirPieces) {
  for (const int64_t rest : {cpu::kSplitRest - 1, cpu::kSplitRest}) {
    const int64_t rows = 2 * cpu::kSplitSlab + rest, in = 64, out = 96;
    const OwnedTensor d = RandomTensor({rows, out}, DType::kF32, 1), x = RandomTensor({rows, in}, DType::kF32, 2);
    const OwnedTensor whole({out, in}, DType::kF32), pieces({out, in}, DType::kF32);
    ProductTN(*d, *x, *whole);
    ProductTN(d->Slice(0, cpu::kSplitSlab), x->Slice(0, cpu::kSplitSlab), *pieces);
    ProductTN(d->Slice(cpu::kSplitSlab, rows - cpu::kSplitSlab), x->Slice(cpu::kSplitSlab, rows - cpu::kSplitSlab), *pieces,
              {.accumulate = true});
    EXPECT_TRUE(SameBits(*whole, *pieces));
  }
}

TEST_F(SplitProducts, KeepWhatIsNotFiniteAndWhatIsLarge) {
  constexpr int64_t kRows = 8, kWidth = 64;
  const float huge[] = {
      INFINITY, -INFINITY, NAN, std::bit_cast<float>(0x7FFFFFFFu), std::bit_cast<float>(0xFFFFFFFFu), std::bit_cast<float>(0x7F800001u),
      FLT_MAX,  -FLT_MAX};
  const OwnedTensor x = RandomTensor({kRows, kWidth}, DType::kF32, 1), w = RandomTensor({kWidth, kWidth}, DType::kF32, 2);
  const OwnedTensor y({kRows, kWidth}, DType::kF32);
  for (int64_t i = 0; i < kRows; ++i) x->data<float>()[i * kWidth + 7 * i] = huge[i];
  for (int64_t j = 0; j < kWidth * kWidth; ++j) w->data<float>()[j] *= 1e-3f;  // so that what is finite stays so
  const auto expect = [&] {
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kWidth; ++j) {
        const float value = y->data<float>()[i * kWidth + j];
        if (i < 6) {
          EXPECT_FALSE(std::isfinite(value)) << "row " << i;
        } else {
          const float term = huge[i] * w->data<float>()[j * kWidth + 7 * i];
          EXPECT_NEAR(value / term, 1, 1e-6) << "row " << i;
        }
      }
    }
  };
  ProductNT(*x, *w, {}, *y);
  expect();
  // The same with the operands' parts exchanged: y^T = w x^T.
  const OwnedTensor turned({kWidth, kRows}, DType::kF32);
  cpu::SplitProduct({w->data<float>(), kWidth, 1, x->data<float>(), 1, kWidth, turned->data<float>(), kRows, kWidth, kRows, kWidth});
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) y->data<float>()[i * kWidth + j] = turned->data<float>()[j * kRows + i];
  }
  expect();
}

// The unit takes what is below 2^-126 for zero: the error of a term is bounded as the header says.
TEST_F(SplitProducts, SmallNumbersAreOffByLessThanTheSmallestNormalOne) {
  constexpr int64_t kWidth = 32;
  const OwnedTensor x({kWidth, kWidth}, DType::kF32), w({kWidth, kWidth}, DType::kF32), y({kWidth, kWidth}, DType::kF32);
  for (int64_t i = 0; i < kWidth * kWidth; ++i) {
    x->data<float>()[i] = std::ldexp(1.2345f, static_cast<int>(-149 + i % 60));
    w->data<float>()[i] = 0;
  }
  for (int64_t i = 0; i < kWidth; ++i) w->data<float>()[i * kWidth + i] = 1.7f;
  ProductNT(*x, *w, {}, *y);
  for (int64_t i = 0; i < kWidth * kWidth; ++i) {
    const double term = static_cast<double>(x->data<float>()[i]) * static_cast<double>(1.7f);
    EXPECT_LE(std::abs(y->data<float>()[i] - term), 4 * 0x1p-126 + 0x1p-23 * term) << i;
  }
}

TEST(ProductsAreSplitTest, LooksAtTheWeightsAlone) {
  const bool works = cpu::SplitProductsWork();
  EXPECT_EQ(ProductsAreSplit(256, 512), works);
  EXPECT_EQ(ProductsAreSplit(32, 32), works);
  EXPECT_FALSE(ProductsAreSplit(256, 8));  // a router
  EXPECT_FALSE(ProductsAreSplit(31, 4096));
  EXPECT_FALSE(ProductsAreSplit(33, 64));  // half of the registers would be zeros
}

}  // namespace
}  // namespace conclave
