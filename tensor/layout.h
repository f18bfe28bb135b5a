// Layout: for each block of a ParameterSet its owners and its place in this rank's flat storage. Planned by parallel/layout_planner.
#ifndef CONCLAVE_TENSOR_LAYOUT_H_
#define CONCLAVE_TENSOR_LAYOUT_H_

#include <memory>
#include <span>
#include <vector>

#include "tensor/parameter_set.h"

namespace conclave {

// Where one block lives.
struct BlockHome {
  std::vector<int> owners;  // global ranks that hold the block, ascending
  int canonical = 0;        // the owner that counts it and writes it
  int64_t offset = -1;      // element offset in this rank's flat storage; -1: not here
};

// One rank's view of all blocks. Blocks start at multiples of 64 bytes; gaps hold zeros and stay zero.
class Layout {
 public:
  // homes[i] is the home of block i; local offsets are filled in by the constructor, in logical-id order.
  Layout(const ParameterSet* parameters, int rank, std::vector<BlockHome> homes);

  const ParameterSet& parameters() const { return *parameters_; }
  int rank() const { return rank_; }
  const BlockHome& home(BlockId id) const { return homes_[id.value]; }
  bool is_local(BlockId id) const { return homes_[id.value].offset >= 0; }
  bool is_canonical(BlockId id) const { return homes_[id.value].canonical == rank_; }
  std::span<const BlockId> local_blocks() const { return local_; }  // ascending ids
  int64_t flat_elements() const { return flat_elements_; }          // gaps included

 private:
  const ParameterSet* parameters_;
  int rank_;
  std::vector<BlockHome> homes_;
  std::vector<BlockId> local_;
  int64_t flat_elements_ = 0;
};

// A layout with every block on every one of `ranks` ranks.
Layout ReplicatedLayout(const ParameterSet* parameters, int rank, int ranks);

// A vector of the parameter space, as far as this rank holds it: one flat buffer cut into blocks. dtype f32 or f64. The layout must outlive
// it.
class FlatVector {
 public:
  FlatVector() = default;
  FlatVector(const Layout* layout, DType dtype);

  bool defined() const { return layout_ != nullptr; }
  const Layout& layout() const { return *layout_; }
  DType dtype() const { return dtype_; }
  Tensor block(BlockId id) const;  // [spec.shape]; the block must be local
  Tensor flat() const { return flat_; }

  void Zero() { flat_.Zero(); }
  void CopyFrom(const FlatVector& x) { flat_.CopyFrom(x.flat_); }
  void Axpy(double a, const FlatVector& x);                                    // this += a * x
  void Combine(double a, const FlatVector& x, double b, const FlatVector& y);  // this = a * x + b * y; aliases allowed
  friend void Swap(FlatVector& a, FlatVector& b) { std::swap(a, b); }

 private:
  const Layout* layout_ = nullptr;
  DType dtype_ = DType::kF32;
  Buffer buffer_;
  Tensor flat_;
};

}  // namespace conclave

#endif  // CONCLAVE_TENSOR_LAYOUT_H_
