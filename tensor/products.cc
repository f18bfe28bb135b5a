#include "tensor/products.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <cblas.h>
#include <omp.h>

#include "base/clock.h"
#include "base/trace.h"
#include "tensor/kernels/bf16.h"
#include "tensor/kernels/chain_product.h"
#include "tensor/kernels/linear_blocks.h"
#include "tensor/kernels/linear_rows.h"
#include "tensor/kernels/split_product.h"
#include "tensor/product_tally.h"
#include "tensor/products_tile.h"

namespace conclave {
namespace {

// Tile heights: multiples of kTile up to kTall; the last rows go into a tile of the next height of a short list, filled up with zero rows,
// so that row counts that change every step need few primitives.
constexpr int64_t kTall = 256, kTile = 64;

int64_t TailHeight(int64_t rows) {
  if (rows > 8) return (rows + 7) / 8 * 8;
  int64_t height = 1;
  while (height < rows) height *= 2;
  return height;
}

// The next tile of `left` rows: how many real rows it takes and its height.
struct Cut {
  int64_t rows, height;
};
Cut NextTile(int64_t left, ProductPrecision precision, int64_t tallest = kTall) {
  // For lower tiles of bf16 the library takes vectors instead of AMX, whose sums are rounded in another order.
  if (left < kTile) return {left, precision == ProductPrecision::kBf16 ? kTile : TailHeight(left)};
  const int64_t rows = std::min(tallest, left / kTile * kTile);
  return {rows, rows};
}

// For few columns of bf16 the library's choice hangs on the height: then all tiles have one.
int64_t Tallest(ProductPrecision precision, int64_t columns, const ProductOptions& options) {
  constexpr int64_t kFewColumns = 16;
  if (precision == ProductPrecision::kBf16 && columns < kFewColumns) return kTile;
  return options.done == nullptr ? kTall : ProductOptions::kRowsAtOnce;
}

// How operands become bf16: as floats, for kernels of f32, or in two bytes, for kernels of bf16.
enum class Rounding : uint8_t { kNone, kFloats, kBf16 };

// Floats where the library has no kernels of bf16, or slower ones.
Rounding RoundingOf(ProductPrecision precision) {
  if (precision != ProductPrecision::kBf16) return Rounding::kNone;
  static const bool floats = !cpu::SplitProductsWork() && (!TilesAreRowIndependent(ProductPrecision::kBf16) || cpu::Bf16VectorsAreSlow());
  return floats ? Rounding::kFloats : Rounding::kBf16;
}

// Space for rows of a tile, filled up with zeros or rounded. A product has at most two sides that are cut, and weights.
constexpr int kWeightsSide = 2;
float* TailSpace(int side, int64_t elements) {
  thread_local std::array<std::vector<float>, 3> space;
  if (static_cast<int64_t>(space[side].size()) < elements) space[side].resize(elements);
  return space[side].data();
}

// `rows` rows of `width` followed by zero rows up to `height`.
float* FilledUp(int side, const float* x, const Cut& cut, int64_t width) {
  float* space = TailSpace(side, cut.height * width);
  std::memcpy(space, x, cut.rows * width * sizeof(float));
  std::memset(space + cut.rows * width, 0, (cut.height - cut.rows) * width * sizeof(float));
  return space;
}

// `cut.rows` rows in T, rounded to bf16, followed by zero rows.
template <typename T>
T* RoundedRows(int side, const float* x, const Cut& cut, int64_t width) {
  const int64_t real = cut.rows * width, all = cut.height * width;
  auto* const rounded = reinterpret_cast<T*>(TailSpace(side, all * static_cast<int64_t>(sizeof(T)) / 4 + 1));
  cpu::RoundToBf16(x, rounded, real);
  std::memset(rounded + real, 0, (all - real) * sizeof(T));
  return rounded;
}

// The operand of a tile: the rows as they lie where they fill the tile, filled up otherwise, rounded if asked for.
const void* TileOperand(Rounding rounding, int side, const float* x, const Cut& cut, int64_t width) {
  if (rounding == Rounding::kFloats) return RoundedRows<float>(side, x, cut, width);
  if (rounding == Rounding::kBf16) return RoundedRows<uint16_t>(side, x, cut, width);
  return cut.rows == cut.height ? x : FilledUp(side, x, cut, width);
}

struct ProductShape {
  ProductKind kind;
  int64_t n, in, out;
};

// Reports its lifetime to the thread's tally, if there is one.
class TalliedProduct {
 public:
  explicit TalliedProduct(const ProductShape& shape)
      : tally_(ProductTally::OfThread()), shape_(shape), began_(tally_ == nullptr ? 0 : ThreadCpuSeconds()) {}
  ~TalliedProduct() {
    if (tally_ != nullptr) tally_->Add({shape_.kind, shape_.in, shape_.out}, {1, shape_.n, ThreadCpuSeconds() - began_});
  }
  int64_t rows() const { return shape_.n; }
  // Calls options.done, if there is one; what it takes is no part of the product.
  void Done(const ProductOptions& options, int64_t begin, int64_t rows) {
    if (options.done == nullptr) return;
    const double left = tally_ == nullptr ? 0 : ThreadCpuSeconds();
    options.done(options.context, begin, rows);
    if (tally_ != nullptr) began_ += ThreadCpuSeconds() - left;
  }
  TalliedProduct(const TalliedProduct&) = delete;
  TalliedProduct& operator=(const TalliedProduct&) = delete;

 private:
  ProductTally* const tally_;
  const ProductShape shape_;
  double began_;
};

struct RowOperands {
  const float* x;
  const float* w;
  const float* bias;
  float* y;
  Rounding rounding;
};

// kNT or kNN: x: [n, wide_x], y: [n, wide_y]. Weights are packed once a call.
void TiledRows(TileShape shape, const RowOperands& data, const ProductOptions& options, TalliedProduct& product) {
  const int64_t n = product.rows();
  const float* const w =
      data.rounding == Rounding::kFloats ? RoundedRows<float>(kWeightsSide, data.w, {shape.out, shape.out}, shape.in) : data.w;
  const void* const packed = PackWeights(shape, w);
  const int64_t wide_x = shape.kind == ProductKind::kNT ? shape.in : shape.out;
  const int64_t wide_y = shape.kind == ProductKind::kNT ? shape.out : shape.in;
  const int64_t tallest = Tallest(shape.precision, wide_y, options);
  for (int64_t r = 0; r < n;) {
    const Cut cut = NextTile(n - r, shape.precision, tallest);
    shape.rows = cut.height;
    const void* const x = TileOperand(data.rounding, 0, data.x + r * wide_x, cut, wide_x);
    float* y = data.y + r * wide_y;
    if (cut.rows == cut.height) {
      RunTile(shape, {x, packed, data.bias, y});
    } else {
      float* out = shape.accumulate ? FilledUp(1, y, cut, wide_y) : TailSpace(1, cut.height * wide_y);
      RunTile(shape, {x, packed, data.bias, out});
      std::memcpy(y, out, cut.rows * wide_y * sizeof(float));
    }
    product.Done(options, r, cut.rows);
    r += cut.rows;
  }
}

// kTN: x: [n, out], w: [n, in], y: [out, in]; tiles are added in order.
void TiledSum(TileShape shape, const RowOperands& data, int64_t n) {
  for (int64_t r = 0; r < n;) {
    const Cut cut = NextTile(n - r, shape.precision);
    shape.rows = cut.height;
    const void* const d = TileOperand(data.rounding, 0, data.x + r * shape.out, cut, shape.out);
    const void* const x = TileOperand(data.rounding, 1, data.w + r * shape.in, cut, shape.in);
    RunTile(shape, {d, x, nullptr, data.y});
    shape.accumulate = true;
    r += cut.rows;
  }
}

// The same three products as kernels of our own take them.
template <typename T>
cpu::BlockOperands<T> BlocksOf(const ProductShape& s, const T* a, const T* b, T* c, bool accumulate) {
  switch (s.kind) {
    case ProductKind::kNT:
      return {a, s.in, 1, b, 1, s.in, c, s.out, s.n, s.out, s.in, accumulate};
    case ProductKind::kNN:
      return {a, s.out, 1, b, s.in, 1, c, s.in, s.n, s.in, s.out, accumulate};
    case ProductKind::kTN:
      return {a, 1, s.out, b, s.in, 1, c, s.in, s.out, s.in, s.n, accumulate};
  }
  return {};
}

// Of rounded operands, by the kernels of f32 that the library does without: kTall rows at a time.
void RoundedBlocks(const ProductShape& s, const RowOperands& data, bool accumulate) {
  const bool sums = s.kind == ProductKind::kTN;
  const float* const w = sums ? nullptr : RoundedRows<float>(kWeightsSide, data.w, {s.out, s.out}, s.in);
  const int64_t wide_x = s.kind == ProductKind::kNT ? s.in : s.out, wide_y = s.kind == ProductKind::kNT ? s.out : s.in;
  for (int64_t r = 0; r < s.n; r += kTall) {
    const int64_t rows = std::min(kTall, s.n - r);
    const float* const x = RoundedRows<float>(0, data.x + r * wide_x, {rows, rows}, wide_x);
    const float* const b = sums ? RoundedRows<float>(1, data.w + r * s.in, {rows, rows}, s.in) : w;
    cpu::BlockProduct(BlocksOf({s.kind, rows, s.in, s.out}, x, b, sums ? data.y : data.y + r * wide_y, accumulate || (sums && r > 0)));
  }
}

// Options of products that tell of final rows themselves; what options.done takes is no part of the product.
template <typename RowOptions, typename Done>
RowOptions RowOptionsOf(const float* bias, const ProductOptions& options, Done& done) {
  RowOptions rows{};
  rows.bias = bias;
  if (options.done == nullptr) return rows;
  rows.done = [](void* f, int64_t begin, int64_t count) { (*static_cast<Done*>(f))(begin, count); };
  rows.context = &done;
  return rows;
}

// Narrower weights are left to the library.
constexpr int64_t kWide = 32;
bool AreChained(const ProductShape& s, const ProductOptions& options, Rounding rounding) {
  if (options.precision == ProductPrecision::kFullLibrary || rounding == Rounding::kBf16) return false;
  return s.in >= kWide && s.out >= kWide && cpu::ChainProductsWork();
}

void MultiplyFloats(const ProductShape& s, const RowOperands& data, const ProductOptions& options, TalliedProduct& tallied) {
  auto done = [&](int64_t begin, int64_t rows) { tallied.Done(options, begin, rows); };
  const cpu::BlockOperands<float> blocks = BlocksOf(s, data.x, data.w, data.y, options.accumulate);
  if (options.precision != ProductPrecision::kFullLibrary && ProductsAreSplit(s.in, s.out)) {
    auto rows = RowOptionsOf<cpu::SplitRowsOptions>(data.bias, options, done);
    rows.parts = options.precision == ProductPrecision::kBf16 ? 1 : 3;
    return cpu::SplitProduct(blocks, rows);
  }
  if (AreChained(s, options, data.rounding)) {
    auto rows = RowOptionsOf<cpu::ChainOptions>(data.bias, options, done);
    rows.round = data.rounding == Rounding::kFloats;
    return cpu::ChainProduct(blocks, rows);
  }
  const ProductPrecision library = data.rounding == Rounding::kBf16 ? ProductPrecision::kBf16 : ProductPrecision::kFull;
  if (TilesAreRowIndependent(library)) {
    const TileShape shape{
        .kind = s.kind, .accumulate = options.accumulate, .bias = data.bias != nullptr, .in = s.in, .out = s.out, .precision = library};
    return s.kind == ProductKind::kTN ? TiledSum(shape, data, s.n) : TiledRows(shape, data, options, tallied);
  }
  if (data.rounding == Rounding::kNone) {
    cpu::BlockProduct(blocks);
  } else {
    RoundedBlocks(s, data, options.accumulate);
  }
  if (data.bias != nullptr) cpu::AddRow(data.bias, data.y, s.n, s.out);
  tallied.Done(options, 0, s.n);
}

void Multiply(const ProductShape& s, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y, const ProductOptions& options) {
  const TraceSpan span("products", s.n);
  TalliedProduct tallied(s);
  CHECK(x.dtype() == w.dtype() && y.dtype() == w.dtype()) << NameOf(x.dtype()) << ' ' << NameOf(w.dtype()) << ' ' << NameOf(y.dtype());
  if (w.dtype() == DType::kF32 && s.n > 0 && s.in > 0 && s.out > 0) {
    const float* const added = bias.defined() ? bias.data<float>() : nullptr;
    return MultiplyFloats(s, {x.data<float>(), w.data<float>(), added, y.data<float>(), RoundingOf(options.precision)}, options, tallied);
  }
  DispatchFloat(w.dtype(), [&](auto t) {
    using T = decltype(t);
    cpu::BlockProduct(BlocksOf<T>(s, x.data<T>(), w.data<T>(), y.data<T>(), options.accumulate));
    if (bias.defined()) cpu::AddRow(bias.data<T>(), y.data<T>(), s.n, s.out);
  });
  tallied.Done(options, 0, s.n);
}

}  // namespace

void UseOneComputeThread() {
  omp_set_num_threads(1);
  openblas_set_num_threads(1);
}

bool ProductsAreSplit(int64_t in, int64_t out) {
  // Registers hold 32 rows or columns; what does not fill them is multiplied all the same. Narrow weights are left to the library.
  const auto filled = [](int64_t n) { return (n + kWide - 1) / kWide * kWide; };
  return in >= kWide && out >= kWide && filled(in) * filled(out) * 3 <= 4 * in * out && cpu::SplitProductsWork();
}

bool Bf16ProductsAreNarrow() { return RoundingOf(ProductPrecision::kBf16) == Rounding::kBf16; }

void ProductNT(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y, const ProductOptions& options) {
  const int64_t n = x.dim(0), in = w.dim(1), out = w.dim(0);
  CHECK(x.elements() == n * in && y.elements() == n * out)
      << x.shape().ToString() << ' ' << w.shape().ToString() << ' ' << y.shape().ToString();
  CHECK(!bias.defined() || (bias.elements() == out && bias.dtype() == w.dtype())) << bias.shape().ToString();
  Multiply({ProductKind::kNT, n, in, out}, x, w, bias, y, options);
}

void ProductNN(const Tensor& x, const Tensor& w, const Tensor& y, const ProductOptions& options) {
  const int64_t n = x.dim(0), in = w.dim(1), out = w.dim(0);
  CHECK(x.elements() == n * out && y.elements() == n * in)
      << x.shape().ToString() << ' ' << w.shape().ToString() << ' ' << y.shape().ToString();
  Multiply({ProductKind::kNN, n, in, out}, x, w, {}, y, options);
}

void ProductTN(const Tensor& d, const Tensor& x, const Tensor& w, const ProductOptions& options) {
  const int64_t n = x.dim(0), in = w.dim(1), out = w.dim(0);
  CHECK(d.elements() == n * out && x.elements() == n * in)
      << d.shape().ToString() << ' ' << x.shape().ToString() << ' ' << w.shape().ToString();
  CHECK(options.done == nullptr);
  Multiply({ProductKind::kTN, n, in, out}, d, x, {}, w, options);
}

}  // namespace conclave
