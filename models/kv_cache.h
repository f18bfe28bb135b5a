// KvCache: what attention layers keep of sequences that are continued a few tokens at a time.
#ifndef CONCLAVE_MODELS_KV_CACHE_H_
#define CONCLAVE_MODELS_KV_CACHE_H_

#include <cstddef>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace conclave {

struct CacheShape {
  int layers = 0;   // 0: the model's sequences cannot be continued
  int64_t row = 0;  // elements a layer keeps of a token
};

// `slots` sequences of up to `capacity` tokens. Memory: layers * slots * capacity * row elements, allocated at once. Not thread-safe.
class KvCache {
 public:
  struct Options {
    CacheShape shape;
    int slots = 1;
    int64_t capacity = 0;
    DType dtype = DType::kF32;
  };
  explicit KvCache(const Options& options);

  // The slots that the next recording continues, one a sequence of its batch; valid until the next call.
  void Begin(std::span<const int> slots);
  // The recording is done: each of these slots holds `added` more tokens.
  void Commit(int64_t added);
  void Clear(int slot) { length_[slot] = 0; }

  // Tokens [begin, begin + count) of a slot, in a layer: to and from bytes, count * row_bytes() of them.
  struct Part {
    int layer = 0, slot = 0;
    int64_t begin = 0, count = 0;
  };
  int64_t row_bytes() const { return options_.shape.row * SizeOf(options_.dtype); }
  void Pack(const Part& part, std::byte* to) const;
  void Unpack(const Part& part, const std::byte* from);
  // The slot's next `added` tokens came from elsewhere.
  void Extend(int slot, int64_t added) { length_[slot] += added; }

  int64_t length(int slot) const { return length_[slot]; }
  std::span<const int64_t> first() const { return first_; }  // of the begun slots: tokens they hold
  std::span<const Tensor> rows(int layer) const;             // of the begun slots: [capacity, row]
  int layers() const { return options_.shape.layers; }
  int slots() const { return options_.slots; }
  static int64_t BytesOf(const Options& options);

 private:
  std::byte* FirstRow(const Part& part) const;

  Options options_;
  OwnedTensor memory_;  // [layers, slots, capacity, row]
  std::vector<int64_t> length_, first_;
  std::vector<int> begun_;
  std::vector<Tensor> views_;  // [layers, begun]
};

}  // namespace conclave

#endif  // CONCLAVE_MODELS_KV_CACHE_H_
