#include "base/digest.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                   kPrime5 = 0x27D4EB2F165667C5;

template <typename Word>
uint64_t Load(const std::byte* p) {
  Word word;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

uint64_t Round(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

void Stripe(std::array<uint64_t, 4>& lanes, const std::byte* p) {
  for (size_t i = 0; i < 4; ++i) lanes[i] = Round(lanes[i], Load<uint64_t>(p + 8 * i));
}

}  // namespace

Digest64::Digest64() : lanes_{kPrime1 + kPrime2, kPrime2, 0, uint64_t{0} - kPrime1}, tail_{} {}

void Digest64::Update(std::span<const std::byte> data) {
  total_ += data.size();
  if (tail_size_ > 0) {
    const size_t n = std::min(data.size(), tail_.size() - tail_size_);
    std::copy_n(data.begin(), n, tail_.begin() + static_cast<std::ptrdiff_t>(tail_size_));
    tail_size_ += n;
    data = data.subspan(n);
    if (tail_size_ < tail_.size()) return;
    Stripe(lanes_, tail_.data());
    tail_size_ = 0;
  }
  for (; data.size() >= tail_.size(); data = data.subspan(tail_.size())) Stripe(lanes_, data.data());
  std::copy(data.begin(), data.end(), tail_.begin());
  tail_size_ = data.size();
}

uint64_t Digest64::Value() const {
  uint64_t h = kPrime5;
  if (total_ >= 32) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) h = (h ^ Round(0, lane)) * kPrime1 + kPrime4;
  }
  h += total_;
  const std::byte* p = tail_.data();
  size_t left = tail_size_;
  for (; left >= 8; p += 8, left -= 8) h = std::rotl(h ^ Round(0, Load<uint64_t>(p)), 27) * kPrime1 + kPrime4;
  if (left >= 4) {
    h = std::rotl(h ^ (Load<uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
    p += 4;
    left -= 4;
  }
  for (; left > 0; ++p, --left) h = std::rotl(h ^ (static_cast<uint64_t>(*p) * kPrime5), 11) * kPrime1;
  h = (h ^ (h >> 33)) * kPrime2;
  h = (h ^ (h >> 29)) * kPrime3;
  return h ^ (h >> 32);
}

uint64_t DigestOf(std::span<const std::byte> data) {
  Digest64 digest;
  digest.Update(data);
  return digest.Value();
}

uint64_t DigestOf(std::string_view text) {
  return DigestOf(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace conclave
