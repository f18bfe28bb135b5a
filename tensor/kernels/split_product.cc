#include "tensor/kernels/split_product.h"

#include <algorithm>
#include <array>
#include <atomic>

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "tensor/kernels/split_pack.h"
#include "tensor/tensor.h"

#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq")

namespace conclave::cpu {
namespace {

// So many steps of a's 32 rows stay in the first-level cache (24 KiB) while those of b stream past.
template <int kPlanes>
constexpr int64_t kNearSteps = 12 / kPlanes;
// Packed b, kSplitSlab terms of so many columns: 1.1 (0.8 in one plane) MiB of the second-level cache.
template <int kPlanes>
constexpr int64_t kMostColumns = kPlanes == 1 ? 1536 : 768;
// Rows of a that are packed at a time; where a is transposed they are columns in memory, and each row of those is read as far as that.
constexpr int64_t kRowsAtOnce = kPair, kTurnedRowsAtOnce = 256;

// The unit as this thread sets it up, for as long as the object lives. In between, a change of threads has nothing of it to save.
class TileUnit {
 public:
  TileUnit() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } registers;
    std::fill_n(registers.row_bytes, 8, uint16_t{64});
    std::fill_n(registers.rows, 8, uint8_t{16});
    _tile_loadconfig(&registers);
  }
  ~TileUnit() { _tile_release(); }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
};

// The unit's registers: c in 0 to 3, a in 4 and 5, b in 6 and 7. With one row of registers of a, those of the second are left alone.
template <int kRows>
CONCLAVE_INLINE void LoadPlaneOfA(const std::byte* a, int plane) {
  _tile_loadd(4, a + plane * kPlaneBytes, 64);
  if constexpr (kRows == 2) _tile_loadd(5, a + plane * kPlaneBytes + kTileBytes, 64);
}

CONCLAVE_INLINE void LoadPlaneOfB(const std::byte* b, int plane) {
  _tile_loadd(6, b + plane * kPlaneBytes, 64);
  _tile_loadd(7, b + plane * kPlaneBytes + kTileBytes, 64);
}

template <int kRows>
CONCLAVE_INLINE void MultiplyPlanes() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (kRows == 2) {
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// to = from + a b over so many steps; from: nothing where it is null.
struct SplitBlock {
  const std::byte *a, *b;
  int64_t steps;
  const float* from;  // rows of kPair
  float* to;
  int64_t to_row;
};

// One step, all parts of a product that count, the small ones first.
template <int kPlanes, int kRows>
CONCLAVE_INLINE void MultiplyStep(const std::byte* a, const std::byte* b) {
  LoadPlaneOfA<kRows>(a, 0);
  if constexpr (kPlanes == 3) {
    LoadPlaneOfB(b, 2);
    MultiplyPlanes<kRows>();
    LoadPlaneOfB(b, 1);
    MultiplyPlanes<kRows>();
    LoadPlaneOfA<kRows>(a, 1);
    MultiplyPlanes<kRows>();
    LoadPlaneOfB(b, 0);
    MultiplyPlanes<kRows>();
    LoadPlaneOfA<kRows>(a, 2);
    MultiplyPlanes<kRows>();
    LoadPlaneOfA<kRows>(a, 0);
  } else {
    LoadPlaneOfB(b, 0);
  }
  MultiplyPlanes<kRows>();
}

template <int kPlanes, int kRows>
void MultiplyBlock(const SplitBlock& block, RowsAhead& ahead) {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // loads of the unit's registers are not known to read memory
  constexpr int64_t kFromRow = kPair * sizeof(float);
  if (block.from == nullptr) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, block.from, kFromRow);
    _tile_loadd(1, block.from + kSquare, kFromRow);
    if constexpr (kRows == 2) {
      _tile_loadd(2, block.from + kSquare * kPair, kFromRow);
      _tile_loadd(3, block.from + kSquare * kPair + kSquare, kFromRow);
    }
  }
  for (int64_t s = 0; s < block.steps; ++s) {
    ahead.Ask();
    MultiplyStep<kPlanes, kRows>(block.a + s * kStepBytes<kPlanes>, block.b + s * kStepBytes<kPlanes>);
  }
  const int64_t row = block.to_row * static_cast<int64_t>(sizeof(float));
  _tile_stored(0, block.to, row);
  _tile_stored(1, block.to + kSquare, row);
  if constexpr (kRows == 2) {
    _tile_stored(2, block.to + kSquare * block.to_row, row);
    _tile_stored(3, block.to + kSquare * block.to_row + kSquare, row);
  }
}

// A finished block: 32 x 32 sums, of which c has `rows` x `columns`.
struct FinishedBlock {
  const float* sums;
  float* c;
  int64_t row, rows, columns;
  const float* bias;  // null: none
  bool add;
};

void Finish(const FinishedBlock& f) {
  for (int64_t r = 0; r < f.rows; ++r) {
    for (int64_t j = 0; j < f.columns; j += kSquare) {
      const __mmask16 there = static_cast<__mmask16>(f.columns - j < kSquare ? (1u << (f.columns - j)) - 1 : 0xFFFF);
      __m512 sum = _mm512_load_ps(f.sums + r * kPair + j);
      if (f.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, f.bias + j));
      if (f.add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(there, f.c + r * f.row + j));
      _mm512_mask_storeu_ps(f.c + r * f.row + j, there, sum);
    }
  }
}

// Scratch that grows to what the thread's largest product needs.
std::byte* SplitSpace(int which, int64_t bytes) {
  thread_local std::array<Buffer, 3> space;
  if (space[which].bytes() < bytes) space[which] = Buffer(bytes);
  return space[which].data();
}

// Some columns of c, one slab of terms.
struct Slab {
  int64_t column, columns, term, terms;
  bool final;    // no more terms follow
  std::byte* b;  // packed
};

template <int kPlanes>
class SplitRun {
 public:
  SplitRun(const BlockOperands<float>& operands, const SplitRowsOptions& options) : o_(operands), options_(options) {}

  void Columns(int64_t column, int64_t columns) {
    // Sums over rows are cut where callers may cut them, others where packed b would leave the cache.
    const int64_t slabs = std::clamp<int64_t>(kMostColumns<kPlanes> / (PairsOf(columns) * kPair), 1, kPlanes == 1 ? 4 : 2);
    const int64_t slab_terms = turned() ? kSplitSlab : slabs * kSplitSlab;
    for (int64_t term = 0, terms = 0; term < o_.k; term += terms) {
      terms = std::min(slab_terms, o_.k - term);
      if (turned() && o_.k - term - terms < kSplitRest) terms = o_.k - term;
      Slab slab{column, columns, term, terms, term + terms == o_.k, SplitSpace(0, PairsOf(columns) * RoomOf(terms))};
      const SplitPart b{o_.b + term * o_.b_row + column * o_.b_column, o_.b_column, o_.b_row, columns, terms};
      o_.b_row != 1 ? PackPart<kPlanes, false>(b, !turned(), slab.b) : PackPart<kPlanes, true>(b, !turned(), slab.b);
      Rows(slab);
    }
  }

 private:
  bool turned() const { return o_.a_column != 1; }
  // Bytes for a pair of strips, by the weights alone: where rows are terms, the next call may have more of them.
  int64_t RoomOf(int64_t terms) const { return StepsOf(turned() ? kSplitSlab + kSplitRest : terms) * kStepBytes<kPlanes>; }

  // What the slab's blocks ask for along the way: the rows of a that follow. Where rows are terms, asking would push out what is packed.
  RowsAhead AheadOf(const Slab& slab) const {
    if (turned() || o_.m <= kRowsAtOnce) return {};
    const int64_t steps = PairsOf(slab.columns) * StepsOf(slab.terms);  // of 32 rows
    return RowsAhead({o_.a + kRowsAtOnce * o_.a_row + slab.term, o_.a_row, o_.m - kRowsAtOnce, slab.terms}, kRowsAtOnce, steps);
  }

  void Rows(const Slab& slab) {
    const int64_t at_once = turned() ? kTurnedRowsAtOnce : kRowsAtOnce;
    int64_t told = 0;
    RowsAhead ahead = AheadOf(slab);
    for (int64_t row = 0; row < o_.m; row += at_once) {
      const int64_t rows = std::min(at_once, o_.m - row), pair_bytes = StepsOf(slab.terms) * kStepBytes<kPlanes>;
      std::byte* const a = SplitSpace(1, PairsOf(rows) * RoomOf(slab.terms));
      const SplitPart part{o_.a + row * o_.a_row + slab.term * o_.a_column, o_.a_row, o_.a_column, rows, slab.terms};
      turned() ? PackPart<kPlanes, true>(part, false, a) : PackPart<kPlanes, false>(part, false, a);
      {
        const TileUnit unit;
        for (int64_t i = 0; i < rows; i += kPair) RowPair(slab, a + i / kPair * pair_bytes, {row + i, std::min(kPair, rows - i)}, ahead);
      }
      const int64_t end = row + rows;
      if (options_.done == nullptr || !slab.final || slab.column + slab.columns < o_.n) continue;
      if (end - told < SplitRowsOptions::kRows && end < o_.m) continue;
      options_.done(options_.context, told, end - told);
      told = end;
    }
  }

  struct PairOfRows {
    int64_t row, rows;
  };
  // Up to 32 rows of c. Sums over the first of several parts of the slab wait in scratch, in rows of 32.
  void RowPair(const Slab& slab, const std::byte* a, const PairOfRows& r, RowsAhead& ahead) {
    const int64_t steps = StepsOf(slab.terms), block_floats = kPair * kPair;
    float* const waiting = reinterpret_cast<float*>(SplitSpace(2, (PairsOf(slab.columns) + 1) * block_floats * 4));
    float* const finished = waiting + PairsOf(slab.columns) * block_floats;
    const bool add = o_.accumulate || slab.term > 0, with_bias = options_.bias != nullptr && slab.final;
    for (int64_t step = 0; step < steps; step += kNearSteps<kPlanes>) {
      const bool last = step + kNearSteps<kPlanes> >= steps;
      for (int64_t j = 0; j < slab.columns; j += kPair) {
        const int64_t columns = std::min(kPair, slab.columns - j);
        const bool whole = columns == kPair && (r.rows == kPair || r.rows == kSquare) && !add && !with_bias;
        float* const c = o_.c + r.row * o_.c_row + slab.column + j;
        float* const waits = waiting + j * kPair;
        SplitBlock block{a + step * kStepBytes<kPlanes>, slab.b + (j / kPair * steps + step) * kStepBytes<kPlanes>,
                         std::min(kNearSteps<kPlanes>, steps - step)};
        block.from = step == 0 ? nullptr : waits;
        block.to = !last ? waits : whole ? c : finished;
        block.to_row = last && whole ? o_.c_row : kPair;
        r.rows > kSquare ? MultiplyBlock<kPlanes, 2>(block, ahead) : MultiplyBlock<kPlanes, 1>(block, ahead);
        if (!last || whole) continue;
        Finish({finished, c, o_.c_row, r.rows, columns, with_bias ? options_.bias + slab.column + j : nullptr, add});
      }
    }
  }

  const BlockOperands<float>& o_;
  const SplitRowsOptions& options_;
};

template <int kPlanes>
void MultiplyColumns(const BlockOperands<float>& o, const SplitRowsOptions& options) {
  const int64_t most = o.a_column == 1 ? kMostColumns<kPlanes> : kMostColumns<kPlanes> * kSplitSlab / (kSplitSlab + kSplitRest);
  const int64_t parts = (o.n + most - 1) / most, columns = PairsOf((o.n + parts - 1) / parts) * kPair;
  for (int64_t column = 0; column < o.n; column += columns) SplitRun<kPlanes>(o, options).Columns(column, std::min(columns, o.n - column));
}

bool AskForUnit() {
  constexpr int64_t kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kBf16) == 0 || (d & kTiles) == 0) return false;
  return __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

bool SplitProductsWork() {
  static const bool work = AskForUnit();
  return work;
}

bool Bf16VectorsAreSlow() { return __builtin_cpu_is("intel") && __builtin_cpu_supports("avx512fp16"); }

void SplitProduct(const BlockOperands<float>& operands, const SplitRowsOptions& options) {
  const BlockOperands<float>& o = operands;
  CHECK((o.a_column == 1 || o.a_row == 1) && (o.b_column == 1 || o.b_row == 1))
      << o.a_row << ' ' << o.a_column << ' ' << o.b_row << ' ' << o.b_column;
  options.parts == 1 ? MultiplyColumns<1>(operands, options) : MultiplyColumns<3>(operands, options);
}

}  // namespace conclave::cpu
