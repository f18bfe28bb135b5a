// A stable 64-bit hash: XXH64 with seed 0 (Collet's specification of xxHash), so that `xxhsum -H64` gives the same value for the same
// bytes. For configs and for comparing parameter bits; not for security.
#ifndef CONCLAVE_BASE_DIGEST_H_
#define CONCLAVE_BASE_DIGEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace conclave {

// Takes bytes in any pieces: the value depends on the bytes alone. Copyable; Value may be called at any time.
class Digest64 {
 public:
  Digest64();
  void Update(std::span<const std::byte> data);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text.data(), text.size()))); }
  template <typename T>
  void Update(std::span<const T> values) {
    Update(std::as_bytes(values));
  }
  uint64_t Value() const;

 private:
  std::array<uint64_t, 4> lanes_;
  std::array<std::byte, 32> tail_;
  size_t tail_size_ = 0;
  uint64_t total_ = 0;
};

uint64_t DigestOf(std::span<const std::byte> data);
uint64_t DigestOf(std::string_view text);

}  // namespace conclave

#endif  // CONCLAVE_BASE_DIGEST_H_
