#include "bench/library_rates.h"

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>

#include <cblas.h>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/check.h"
#include "tensor/products.h"
#include "tensor/tensor.h"

namespace conclave {

// c [m, n] = op(a) op(b), summed over k.
struct PlainProduct {
  int64_t m, n, k;
  bool a_transposed, b_transposed;
};

PlainProduct PlainOf(const LibraryProduct& p) {
  switch (p.kind) {
    case ProductKind::kNT:
      return {p.rows, p.out, p.in, false, true};
    case ProductKind::kNN:
      return {p.rows, p.in, p.out, false, false};
    case ProductKind::kTN:
      return {p.out, p.in, p.rows, true, false};
  }
  return {};
}

namespace {

constexpr int kLibraries = 3;

OwnedTensor Ones(int64_t rows, int64_t columns) {
  OwnedTensor x({rows, columns}, DType::kF32);
  x->Fill(1);
  return x;
}

}  // namespace

// One product in each library, with its own operands.
class LibraryRates::Candidates {
 public:
  explicit Candidates(const LibraryProduct& product)
      : plain_(PlainOf(product)), a_(Ones(plain_.m, plain_.k)), b_(Ones(plain_.k, plain_.n)), c_(Ones(plain_.m, plain_.n)) {
    UseOneComputeThread();
    try {
      engine_ = dnnl::engine(dnnl::engine::kind::cpu, 0);
      stream_ = dnnl::stream(engine_);
      MakePrimitive(false, &as_stored_);
      MakePrimitive(true, &packed_);
    } catch (const dnnl::error& error) {
      CHECK(false) << "oneDNN: " << error.what();
    }
  }

  void Sample(double sample_seconds) {
    for (int library = 0; library < kLibraries; ++library) {
      const double once = std::max(TimeOf(library, 1).wall, 1e-7);
      const int calls = std::max(1, static_cast<int>(sample_seconds / once));
      spent_[library] += TimeOf(library, calls);
      calls_[library] += calls;
    }
  }

  Moment Best() const {
    Moment best{.wall = std::numeric_limits<double>::infinity(), .cpu = std::numeric_limits<double>::infinity()};
    for (int library = 0; library < kLibraries; ++library) {
      best = {std::min(best.wall, spent_[library].wall / calls_[library]), std::min(best.cpu, spent_[library].cpu / calls_[library])};
    }
    return best;
  }

 private:
  struct Primitive {
    dnnl::matmul product;
    std::unordered_map<int, dnnl::memory> arguments;
  };

  void MakePrimitive(bool packed, Primitive* primitive) {
    using Memory = dnnl::memory;
    const auto [m, n, k, a_transposed, b_transposed] = plain_;
    const auto matrix = [](int64_t rows, int64_t columns, bool transposed) {
      const Memory::dims strides = transposed ? Memory::dims{1, rows} : Memory::dims{columns, 1};
      return Memory::desc({rows, columns}, Memory::data_type::f32, strides);
    };
    const Memory::desc a = matrix(m, k, a_transposed), b = matrix(k, n, b_transposed), c = matrix(m, n, false);
    const Memory::desc any({k, n}, Memory::data_type::f32, Memory::format_tag::any);
    const dnnl::matmul::primitive_desc choice(dnnl::matmul::desc(a, packed ? any : b, c), engine_);
    primitive->product = dnnl::matmul(choice);
    Memory weights(b, engine_, b_->raw());
    if (choice.weights_desc() != b) {
      Memory blocked(choice.weights_desc(), engine_);
      dnnl::reorder(weights, blocked).execute(stream_, weights, blocked);
      stream_.wait();
      weights = blocked;
    }
    primitive->arguments = {
        {DNNL_ARG_SRC, Memory(a, engine_, a_->raw())}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, Memory(c, engine_, c_->raw())}};
  }

  void Run(int library) {
    const PlainProduct& p = plain_;
    switch (library) {
      case 0:
        return as_stored_.product.execute(stream_, as_stored_.arguments);
      case 1:
        return packed_.product.execute(stream_, packed_.arguments);
      default:
        return cblas_sgemm(CblasRowMajor, p.a_transposed ? CblasTrans : CblasNoTrans, p.b_transposed ? CblasTrans : CblasNoTrans,
                           static_cast<blasint>(p.m), static_cast<blasint>(p.n), static_cast<blasint>(p.k), 1, a_->data<float>(),
                           static_cast<blasint>(p.a_transposed ? p.m : p.k), b_->data<float>(),
                           static_cast<blasint>(p.b_transposed ? p.k : p.n), 0, c_->data<float>(), static_cast<blasint>(p.n));
    }
  }

  Moment TimeOf(int library, int calls) {
    const Moment began = Moment::Now();
    for (int i = 0; i < calls; ++i) Run(library);
    return Moment::Now() - began;
  }

  const PlainProduct plain_;
  const OwnedTensor a_, b_, c_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  Primitive as_stored_, packed_;
  std::array<Moment, kLibraries> spent_;
  std::array<double, kLibraries> calls_{};
};

LibraryRates::LibraryRates(const std::vector<LibraryProduct>& products) {
  for (const LibraryProduct& product : products) candidates_.push_back(std::make_unique<Candidates>(product));
}

LibraryRates::~LibraryRates() = default;

void LibraryRates::Sample(double sample_seconds) {
  for (const auto& candidates : candidates_) candidates->Sample(sample_seconds);
}

Moment LibraryRates::Best(size_t i) const { return candidates_[i]->Best(); }

}  // namespace conclave
