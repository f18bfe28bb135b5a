#include "tensor/kernels/chain_product.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/float16.h"
#include "tensor/products.h"
#include "tests/tensor/naive_oracle.h"

namespace conclave {
namespace {

class ChainProducts : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cpu::ChainProductsWork()) GTEST_SKIP() << "no AVX-512 on this CPU";
  }
};

struct Case {
  int64_t m, n, k;
  bool accumulate, bias, round;
};

float Taken(float x, bool round) { return round ? Bf16ToFloat(FloatToBf16(x)) : x; }

// What the header promises, with std::fma.
void NaiveChains(const cpu::BlockOperands<float>& o, const cpu::ChainOptions& options) {
  const int64_t length = o.a_column == 1 ? cpu::kChainTerms : cpu::kChainRows;
  for (int64_t i = 0; i < o.m; ++i) {
    for (int64_t j = 0; j < o.n; ++j) {
      float& c = o.c[i * o.c_row + j];
      for (int64_t first = 0; first < o.k; first += length) {
        float chain = 0;
        for (int64_t p = first; p < std::min(first + length, o.k); ++p) {
          const float a = o.a[i * o.a_row + p * o.a_column], b = o.b[p * o.b_row + j * o.b_column];
          chain = std::fma(Taken(a, options.round), Taken(b, options.round), chain);
        }
        c = first > 0 || o.accumulate ? c + chain : chain;
      }
      if (options.bias != nullptr) c += options.bias[j];
    }
  }
}

// All three products at sizes that leave rests of rows, columns and terms everywhere: to the bit, and nothing beside c is written.
TEST_F(ChainProducts, AreTheChainsOfMultiplyAddsThatTheyPromise) {
  for (const Case c : {Case{1, 1, 1, false, true, false},
                       {6, 64, 16, true, false, false},
                       {17, 33, 65, false, true, true},
                       {130, 70, 400, true, true, false},
                       {31, 800, 40, false, false, true},
                       {520, 48, 520, true, false, true},
                       {253, 90, 1100, false, true, false},
                       {5, 15, 7, true, true, true}}) {
    const int64_t wide = c.n + 3;  // c lies in wider rows
    const OwnedTensor a = RandomTensor({c.m, c.k}, DType::kF32, 1), at = RandomTensor({c.k, c.m}, DType::kF32, 1);
    const OwnedTensor b = RandomTensor({c.k, c.n}, DType::kF32, 2), bt = RandomTensor({c.n, c.k}, DType::kF32, 2);
    const OwnedTensor bias = RandomTensor({c.n}, DType::kF32, 3);
    struct Layout {
      const char* what;
      const float* a;
      int64_t a_row, a_column;
      const float* b;
      int64_t b_row, b_column;
    };
    for (const Layout& l : {Layout{"NT", a->data<float>(), c.k, 1, bt->data<float>(), 1, c.k},
                            {"NN", a->data<float>(), c.k, 1, b->data<float>(), c.n, 1},
                            {"TN", at->data<float>(), 1, c.m, b->data<float>(), c.n, 1}}) {
      const bool sums = l.a_column != 1 || c.m == 1;
      const cpu::ChainOptions options{.round = c.round, .bias = c.bias && !sums ? bias->data<float>() : nullptr};
      const OwnedTensor got = RandomTensor({c.m, wide}, DType::kF32, 4), want = RandomTensor({c.m, wide}, DType::kF32, 4);
      cpu::BlockOperands<float> o{l.a,  l.a_row, l.a_column, l.b, l.b_row,     l.b_column, got->data<float>(),
                                  wide, c.m,     c.n,        c.k, c.accumulate};
      cpu::ChainProduct(o, options);
      o.c = want->data<float>();
      NaiveChains(o, options);
      EXPECT_TRUE(SameBits(*got, *want)) << l.what << ' ' << c.m << " x " << c.k << " x " << c.n;
    }
  }
}

TEST_F(ChainProducts, SayWhenRowsAreFinal) {
  constexpr int64_t kRows = 300, kIn = 600, kOut = 1000;  // weights in three parts
  const OwnedTensor x = RandomTensor({kRows, kIn}, DType::kF32, 1), w = RandomTensor({kOut, kIn}, DType::kF32, 2);
  const OwnedTensor y({kRows, kOut}, DType::kF32), seen({kRows, kOut}, DType::kF32);
  int64_t next = 0;
  auto copy = [&](int64_t begin, int64_t rows) {
    EXPECT_EQ(begin, next);
    EXPECT_LE(rows, cpu::ChainOptions::kRows);
    seen->Slice(begin, rows).CopyFrom(y->Slice(begin, rows));
    next = begin + rows;
  };
  const auto call = [](void* f, int64_t begin, int64_t rows) { (*static_cast<decltype(copy)*>(f))(begin, rows); };
  cpu::ChainProduct({x->data<float>(), kIn, 1, w->data<float>(), 1, kIn, y->data<float>(), kOut, kRows, kOut, kIn},
                    {.done = call, .context = &copy});
  EXPECT_EQ(next, kRows);
  EXPECT_TRUE(SameBits(*seen, *y));
}

// Errors grow with the length of a chain, not with the number of rows: as in the library's sums.
TEST_F(ChainProducts, LongSumsAreAsExactAsTheLibrarys) {
  constexpr int64_t kRows = 8192, kWide = 40;
  const OwnedTensor d = RandomTensor({kRows, kWide}, DType::kF32, 1), x = RandomTensor({kRows, kWide}, DType::kF32, 2);
  const std::vector<double> exact = NaiveProduct(Values(*d), Values(*x), {kWide, kWide, kRows, true, false});
  const auto error = [&](const Tensor& w) {
    double sum = 0;
    for (int64_t i = 0; i < kWide * kWide; ++i) sum += std::pow(static_cast<double>(w.data<float>()[i]) - exact[i], 2);
    return std::sqrt(sum);
  };
  const OwnedTensor ours({kWide, kWide}, DType::kF32), library({kWide, kWide}, DType::kF32);
  cpu::ChainProduct({d->data<float>(), 1, kWide, x->data<float>(), kWide, 1, ours->data<float>(), kWide, kWide, kWide, kRows});
  ProductTN(*d, *x, *library, {.precision = ProductPrecision::kFullLibrary});
  EXPECT_LE(error(*ours), 1.25 * error(*library));
}

TEST_F(ChainProducts, KeepWhatIsNotFinite) {
  constexpr int64_t kRows = 7, kWidth = 48;
  const OwnedTensor x = RandomTensor({kRows, kWidth}, DType::kF32, 1), w = RandomTensor({kWidth, kWidth}, DType::kF32, 2);
  const OwnedTensor y({kRows, kWidth}, DType::kF32);
  x->data<float>()[3] = std::numeric_limits<float>::infinity();
  x->data<float>()[5 * kWidth + 47] = std::numeric_limits<float>::quiet_NaN();
  cpu::ChainProduct({x->data<float>(), kWidth, 1, w->data<float>(), 1, kWidth, y->data<float>(), kWidth, kRows, kWidth, kWidth});
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kWidth; ++j) EXPECT_EQ(std::isfinite(y->data<float>()[i * kWidth + j]), i != 0 && i != 5) << i << ' ' << j;
  }
}

// One chain an element, for every band; what is not wanted is not written beyond the tiles that hold something.
TEST_F(ChainProducts, OfPanelsAreOneChainAnElement) {
  constexpr int64_t kRows = 24, kColumns = 64, kTerms = 33;
  const OwnedTensor a = RandomTensor({kTerms, kRows}, DType::kF32, 1), b = RandomTensor({kTerms, kColumns}, DType::kF32, 2);
  for (const bool accumulate : {false, true}) {
    for (const cpu::Band band : {cpu::Band::kAll, cpu::Band::kLowerA, cpu::Band::kUpperA, cpu::Band::kLowerC, cpu::Band::kUpperC}) {
      const OwnedTensor got = RandomTensor({kRows, kColumns}, DType::kF32, 3), before = RandomTensor({kRows, kColumns}, DType::kF32, 3);
      cpu::PanelProduct512({.a = a->data<float>(),
                            .a_row = 1,
                            .a_column = kRows,
                            .b = b->data<float>(),
                            .b_row = kColumns,
                            .c = got->data<float>(),
                            .c_row = kColumns,
                            .m = kRows,
                            .n = kColumns,
                            .k = kTerms,
                            .accumulate = accumulate,
                            .band = band});
      for (int64_t i = 0; i < kRows; ++i) {
        const int64_t tile = i / 8 * 8, first = band == cpu::Band::kUpperA ? tile : 0,
                      last = band == cpu::Band::kLowerA ? tile + 8 : kTerms;
        for (int64_t j = 0; j < kColumns; ++j) {
          const int64_t panel = j / 32 * 32;
          const bool left_out = (band == cpu::Band::kLowerC && panel >= tile + 8) || (band == cpu::Band::kUpperC && panel + 32 <= tile);
          const float old = before->data<float>()[i * kColumns + j];
          float chain = 0;
          for (int64_t p = first; p < std::min(last, kTerms); ++p) {
            chain = std::fma(a->data<float>()[p * kRows + i], b->data<float>()[p * kColumns + j], chain);
          }
          EXPECT_EQ(got->data<float>()[i * kColumns + j], left_out ? old : accumulate ? old + chain : chain) << i << ' ' << j;
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave
