// CRC32C (Castagnoli polynomial, reflected, as in RFC 3720): the checksum of everything we store.
#ifndef CONCLAVE_BASE_CRC32C_H_
#define CONCLAVE_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace conclave {

// The checksum of A + B from crc = that of A (0 for nothing) and the bytes of B. The CPU's instruction where it has one (about 25 GB/s a
// core).
uint32_t ExtendCrc32c(uint32_t crc, std::span<const std::byte> data);

inline uint32_t Crc32c(std::span<const std::byte> data) { return ExtendCrc32c(0, data); }
inline uint32_t Crc32c(std::string_view text) { return ExtendCrc32c(0, std::as_bytes(std::span(text.data(), text.size()))); }

// The two ways to compute ExtendCrc32c; equal results. The first may only be called where HasCrc32cInstruction().
bool HasCrc32cInstruction();
uint32_t ExtendCrc32cByInstruction(uint32_t crc, std::span<const std::byte> data);
uint32_t ExtendCrc32cByTable(uint32_t crc, std::span<const std::byte> data);

}  // namespace conclave

#endif  // CONCLAVE_BASE_CRC32C_H_
