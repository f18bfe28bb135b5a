#include "tensor/products_tile.h"

#include <array>
#include <map>
#include <memory>
#include <string_view>

#include <oneapi/dnnl/dnnl.hpp>

#include "base/check.h"
#include "tensor/products.h"

namespace conclave {
namespace {

// A primitive with its memory objects: a run sets four addresses. What the library allocates in a run is small and its own.
class TilePrimitive {
 public:
  TilePrimitive(const TileShape& shape, const dnnl::engine& engine) {
    using Memory = dnnl::memory;
    const auto [rows, in, out] = std::array{shape.rows, shape.in, shape.out};
    const auto plain = [](Memory::dims dims, Memory::dims strides) { return Memory::desc(dims, Memory::data_type::f32, strides); };
    Memory::desc x, w, y;
    switch (shape.kind) {
      case ProductKind::kNT:  // [rows, in] [in, out]
        x = plain({rows, in}, {in, 1}), w = plain({in, out}, {1, in}), y = plain({rows, out}, {out, 1});
        break;
      case ProductKind::kNN:  // [rows, out] [out, in]
        x = plain({rows, out}, {out, 1}), w = plain({out, in}, {in, 1}), y = plain({rows, in}, {in, 1});
        break;
      case ProductKind::kTN:  // [out, rows] [rows, in]
        x = plain({out, rows}, {1, out}), w = plain({rows, in}, {in, 1}), y = plain({out, in}, {in, 1});
        break;
    }
    const Memory::desc bias = shape.bias ? plain({1, out}, {out, 1}) : Memory::desc();
    dnnl::primitive_attr attributes;
    if (shape.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::desc description = shape.bias ? dnnl::matmul::desc(x, w, bias, y) : dnnl::matmul::desc(x, w, y);
    const dnnl::matmul::primitive_desc choice(description, attributes, engine);
    name_ = choice.impl_info_str();
    primitive_ = dnnl::matmul(choice);
    memories_ = {Memory(x, engine, nullptr), Memory(w, engine, nullptr), Memory(y, engine, nullptr)};
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
    const std::array<const float*, 4> addresses = {data.x, data.w, data.y, data.bias};
    for (int i = 0; i < count_; ++i) {
      const dnnl_status_t status = dnnl_memory_set_data_handle(memories_[i].get(), const_cast<float*>(addresses[i]));
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
    if (it == primitives_.end()) it = primitives_.emplace(shape, std::make_unique<TilePrimitive>(shape, engine_)).first;
    last_ = &*it;
    return *it->second;
  }

  const dnnl::stream& stream() const { return stream_; }

  static TileCache& OfThread() {
    thread_local TileCache cache;
    return cache;
  }

 private:
  using Map = std::map<TileShape, std::unique_ptr<TilePrimitive>>;
  dnnl::engine engine_;
  dnnl::stream stream_;
  Map primitives_;
  Map::value_type* last_ = nullptr;
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

bool TilesAreRowIndependent() {
  static const bool independent = WithoutExceptions([] {
    const TileShape probe{.kind = ProductKind::kNT, .rows = 64, .in = 64, .out = 64};
    return TileCache::OfThread().Get(probe).name().starts_with("brg");
  });
  return independent;
}

}  // namespace conclave
