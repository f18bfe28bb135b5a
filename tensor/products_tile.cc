#include "tensor/products_tile.h"

#include <array>
#include <map>
#include <memory>
#include <string_view>

#include <oneapi/dnnl/dnnl.hpp>

#include "base/check.h"
#include "tensor/kernels/bf16.h"
#include "tensor/products.h"
#include "tensor/tensor.h"

namespace conclave {
namespace {

using Memory = dnnl::memory;

Memory::data_type TypeOf(ProductPrecision precision) {
  return precision == ProductPrecision::kBf16 ? Memory::data_type::bf16 : Memory::data_type::f32;
}

Memory::desc Plain(const Memory::dims& dims, const Memory::dims& strides) { return Memory::desc(dims, Memory::data_type::f32, strides); }

// x, w and y of a shape as they lie in memory; y = x w in each.
struct TileOperands {
  Memory::desc x, w, y;
};

TileOperands OperandsOf(const TileShape& s) {
  const Memory::data_type type = TypeOf(s.precision);
  const auto operand = [type](const Memory::dims& dims, const Memory::dims& strides) { return Memory::desc(dims, type, strides); };
  switch (s.kind) {
    case ProductKind::kNT:  // [rows, in] [in, out]
      return {operand({s.rows, s.in}, {s.in, 1}), operand({s.in, s.out}, {1, s.in}), Plain({s.rows, s.out}, {s.out, 1})};
    case ProductKind::kNN:  // [rows, out] [out, in]
      return {operand({s.rows, s.out}, {s.out, 1}), operand({s.out, s.in}, {s.in, 1}), Plain({s.rows, s.in}, {s.in, 1})};
    case ProductKind::kTN:  // [out, rows] [rows, in]
      return {operand({s.out, s.rows}, {1, s.out}), operand({s.rows, s.in}, {s.in, 1}), Plain({s.out, s.in}, {s.in, 1})};
  }
  return {};
}

// A primitive with its memory objects: a run sets four addresses. What the library allocates in a run is small and its own.
class TilePrimitive {
 public:
  // weights: how w lies in memory.
  TilePrimitive(const TileShape& shape, const Memory::desc& weights, const dnnl::engine& engine) {
    const auto [x, unpacked, y] = OperandsOf(shape);
    const Memory::desc bias = shape.bias ? Plain({1, shape.out}, {shape.out, 1}) : Memory::desc();
    dnnl::primitive_attr attributes;
    if (shape.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::desc description = shape.bias ? dnnl::matmul::desc(x, weights, bias, y) : dnnl::matmul::desc(x, weights, y);
    const dnnl::matmul::primitive_desc choice(description, attributes, engine);
    name_ = choice.impl_info_str();
    primitive_ = dnnl::matmul(choice);
    memories_ = {Memory(x, engine, nullptr), Memory(weights, engine, nullptr), Memory(y, engine, nullptr)};
    arguments_[0] = {DNNL_ARG_SRC, memories_[0].get()};
    arguments_[1] = {DNNL_ARG_WEIGHTS, memories_[1].get()};
    arguments_[2] = {DNNL_ARG_DST, memories_[2].get()};
    if (shape.bias) {
      memories_[3] = Memory(bias, engine, nullptr);
      arguments_[3] = {DNNL_ARG_BIAS, memories_[3].get()};
      count_ = 4;
    }
  }

  dnnl_status_t Run(const TileData& data, const dnnl::stream& stream) {
    const std::array<const void*, 4> addresses = {data.x, data.w, data.y, data.bias};
    for (int i = 0; i < count_; ++i) {
      const dnnl_status_t status = dnnl_memory_set_data_handle(memories_[i].get(), const_cast<void*>(addresses[i]));
      if (status != dnnl_success) return status;
    }
    return dnnl_primitive_execute(primitive_.get(), stream.get(), count_, arguments_.data());
  }

  std::string_view name() const { return name_; }

 private:
  dnnl::matmul primitive_;
  std::string name_;
  std::array<dnnl::memory, 4> memories_;
  std::array<dnnl_exec_arg_t, 4> arguments_{};
  int count_ = 3;
};

// How the weights of one kind and size are packed: as the library likes them for a tile of kPackedRows rows.
class Packing {
 public:
  Packing(TileShape shape, const dnnl::engine& engine) {
    shape.rows = kPackedRows;
    const auto [x, w, y] = OperandsOf(shape);
    const Memory::desc any(w.dims(), TypeOf(shape.precision), Memory::format_tag::any);
    packed_ = dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, any, y), engine).weights_desc();
    memories_ = {Memory(w, engine, nullptr), Memory(packed_, engine, nullptr)};
    reorder_ = dnnl::reorder(memories_[0], memories_[1]);
  }

  const Memory::desc& packed() const { return packed_; }
  int64_t bytes() const { return static_cast<int64_t>(packed_.get_size()); }

  void Run(const void* w, std::byte* to, dnnl::stream& stream) {
    memories_[0].set_data_handle(const_cast<void*>(w));
    memories_[1].set_data_handle(to);
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, memories_[0].get()}, {DNNL_ARG_TO, memories_[1].get()}};
    const dnnl_status_t status = dnnl_primitive_execute(reorder_.get(), stream.get(), 2, arguments);
    CHECK(status == dnnl_success) << "oneDNN: packing: status " << status;
  }

 private:
  static constexpr int64_t kPackedRows = 64;
  Memory::desc packed_;
  std::array<Memory, 2> memories_;
  dnnl::reorder reorder_;
};

// One thread's primitives. The library's scratch memory belongs to the thread that made a primitive, so nothing is shared.
class TileCache {
 public:
  TileCache() {
    UseOneComputeThread();  // the thread count is fixed when a primitive is made
    engine_ = dnnl::engine(dnnl::engine::kind::cpu, 0);
    stream_ = dnnl::stream(engine_);
  }

  TilePrimitive& Get(const TileShape& shape) {
    if (last_ != nullptr && last_->first == shape) return *last_->second;
    auto it = primitives_.find(shape);
    if (it == primitives_.end()) {
      const Memory::desc weights = shape.kind == ProductKind::kTN ? OperandsOf(shape).w : PackingOf(shape).packed();
      it = primitives_.emplace(shape, std::make_unique<TilePrimitive>(shape, weights, engine_)).first;
    }
    last_ = &*it;
    return *it->second;
  }

  const void* Pack(const TileShape& shape, const float* w) {
    Packing& packing = PackingOf(shape);
    if (packed_.bytes() < packing.bytes()) packed_ = Buffer(packing.bytes());
    const void* from = w;
    if (shape.precision == ProductPrecision::kBf16) {
      const int64_t elements = shape.in * shape.out, bytes = elements * static_cast<int64_t>(sizeof(uint16_t));
      if (rounded_.bytes() < bytes) rounded_ = Buffer(bytes);
      cpu::RoundToBf16(w, reinterpret_cast<uint16_t*>(rounded_.data()), elements);
      from = rounded_.data();
    }
    packing.Run(from, packed_.data(), stream_);
    return packed_.data();
  }

  const dnnl::stream& stream() const { return stream_; }

  static TileCache& OfThread() {
    thread_local TileCache cache;
    return cache;
  }

 private:
  Packing& PackingOf(const TileShape& shape) {
    const TileShape key{.kind = shape.kind, .in = shape.in, .out = shape.out, .precision = shape.precision};
    auto it = packings_.find(key);
    if (it == packings_.end()) it = packings_.emplace(key, std::make_unique<Packing>(key, engine_)).first;
    return *it->second;
  }

  using Map = std::map<TileShape, std::unique_ptr<TilePrimitive>>;
  dnnl::engine engine_;
  dnnl::stream stream_;
  Map primitives_;
  Map::value_type* last_ = nullptr;
  std::map<TileShape, std::unique_ptr<Packing>> packings_;  // by kind and size
  Buffer packed_, rounded_;
};

// The library's C++ layer throws; with valid shapes only lack of memory makes it do so.
template <typename F>
auto WithoutExceptions(F&& f) {
  try {
    return f();
  } catch (const dnnl::error& error) {
    CHECK(false) << "oneDNN: " << error.what() << ", status " << error.status;
    __builtin_unreachable();
  }
}

}  // namespace

void RunTile(const TileShape& shape, const TileData& data) {
  WithoutExceptions([&] {
    TileCache& cache = TileCache::OfThread();
    const dnnl_status_t status = cache.Get(shape).Run(data, cache.stream());
    CHECK(status == dnnl_success) << "oneDNN: status " << status << " for rows " << shape.rows << ", in " << shape.in << ", out "
                                  << shape.out;
  });
}

const void* PackWeights(const TileShape& shape, const float* w) {
  return WithoutExceptions([&] { return TileCache::OfThread().Pack(shape, w); });
}

bool TilesAreRowIndependent(ProductPrecision precision) {
  const auto batch_reduce = [](ProductPrecision of) {
    try {
      const TileShape probe{.kind = ProductKind::kNT, .rows = 64, .in = 64, .out = 64, .precision = of};
      return TileCache::OfThread().Get(probe).name().starts_with("brg");
    } catch (const dnnl::error&) {
      return false;  // no kernel at all
    }
  };
  static const bool full = batch_reduce(ProductPrecision::kFull), bf16 = batch_reduce(ProductPrecision::kBf16);
  return precision == ProductPrecision::kBf16 ? bf16 : full;
}

}  // namespace conclave
