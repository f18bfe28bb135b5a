// PermK (Szlendak, Tyurin, Richtarik, arXiv 2110.03300): every coordinate is kept by exactly one of the M workers, by each with probability
// 1 / M, scaled by M. So E Q_m(x) = x, E |Q_m(x)|^2 = M |x|^2, and of the mean g of Q_m(x_m): E |g|^2 = (1/M) sum |x_m|^2, with no error at
// all where the x_m are equal.
// The permutation is stratified: in coordinates g M .. g M + M - 1 worker m keeps number (m + s_g) mod M, with one shared draw s_g a
// stratum. The marginal is exactly 1 / M also where M does not divide d, and a draw serves M coordinates.
// Wire: the worker's ceil(d / M) values, stratum by stratum, by their codec; +0 where its number of the last, shorter stratum does not
// exist. The mask costs no bytes.
#include <algorithm>
#include <array>

#include "comm/codec_draws.h"
#include "comm/compressors.h"
#include "comm/kept_values.h"

namespace conclave {
namespace {

class PermKCodec final : public Compressor {
 public:
  PermKCodec(KeptValues kept, const CompressorContext& context)
      : d_(context.shape.elements()), workers_(context.workers), dtype_(context.dtype), kept_(std::move(kept)) {}

  CodecContract Contract() const override {
    CodecContract contract = kept_.contract();
    contract.q *= static_cast<double>(workers_);
    contract.correlated = workers_ > 1;
    contract.lossless = contract.lossless && workers_ == 1;
    contract.linear = false;
    return contract;
  }
  int64_t MaxWireBytes() const override { return kept_.MaxWireBytes(); }

  int64_t Encode(const Tensor& x, const CodecKey& key, std::span<std::byte> wire) const override {
    CHECK_EQ(x.elements(), d_);
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      const T* const values = x.data<T>();
      T* const out = kept_.values().data<T>();
      const T scale = static_cast<T>(workers_);
      ForOwn(
          key, [](int64_t, int64_t) {}, [&](int64_t stratum, int64_t i) { out[stratum] = i < d_ ? values[i] * scale : T{0}; });
    });
    return kept_.Encode(key, wire);
  }

  absl::Status Decode(std::span<const std::byte> wire, const CodecKey& key, const Tensor& x) const override {
    RETURN_IF_ERROR(kept_.Decode(wire, key));
    DispatchFloat(dtype_, [&](auto t) {
      using T = decltype(t);
      T* const values = x.data<T>();
      const T* const in = kept_.values().data<T>();
      ForOwn(
          key, [&](int64_t first, int64_t end) { std::fill(values + first, values + end, T{0}); },
          [&](int64_t stratum, int64_t i) {
            if (i < d_) values[i] = in[stratum];
          });
    });
    return absl::OkStatus();
  }

 private:
  // Calls f(stratum, coordinate) for the worker's coordinate of every stratum; in the last one it may be d or more. Before those of a
  // stretch of coordinates it calls begin(first, end).
  template <typename B, typename F>
  void ForOwn(const CodecKey& key, B&& begin, F&& f) const {
    CHECK(key.worker.value >= 0 && key.worker.value < workers_) << key.worker.value;
    const RngKey draws = SharedMaskDraws(key);
    const int64_t strata = (d_ + workers_ - 1) / workers_;
    std::array<uint32_t, 1024> words;
    for (int64_t first = 0; first < strata; first += static_cast<int64_t>(words.size())) {
      const int64_t n = std::min<int64_t>(static_cast<int64_t>(words.size()), strata - first);
      begin(first * workers_, std::min(d_, (first + n) * workers_));
      FillDraws(draws, static_cast<uint64_t>(key.first + first), std::span(words).first(static_cast<size_t>(n)));
      for (int64_t s = 0; s < n; ++s) {
        const int64_t shift = static_cast<int64_t>((uint64_t{words[s]} * static_cast<uint64_t>(workers_)) >> 32);
        int64_t place = key.worker.value + shift;
        if (place >= workers_) place -= workers_;
        f(first + s, (first + s) * workers_ + place);
      }
    }
  }

  const int64_t d_;
  const int64_t workers_;
  const DType dtype_;
  const KeptValues kept_;
};

}  // namespace

CompressorOr MakePermKCodec(const PermKConfig& config, const CompressorContext& context) {
  const int64_t d = context.shape.elements();
  if (context.workers > d) {
    return InvalidArgument(
        "perm_k: a block of shape %s has fewer coordinates than there are workers (%d); send such blocks exactly with blockwise { "
        "exact_below: "
        "%d otherwise { perm_k {} } }",
        context.shape.ToString(), context.workers, context.workers);
  }
  const int64_t count = (d + context.workers - 1) / context.workers;
  ASSIGN_OR_RETURN(
      KeptValues kept,
      KeptValues::Make({.owner = "perm_k", .codec = config.has_values() ? &config.values() : nullptr, .count = count}, context));
  return std::make_unique<PermKCodec>(std::move(kept), context);
}

}  // namespace conclave
