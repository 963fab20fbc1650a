#pragma once
/// @file
/// Counter-based random streams: a value depends on (seed, item, purpose, position) and on nothing else, so results
/// do not change with batch size, order or thread count.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace daug {

/// 64-bit FNV-1a of a text: turns a purpose ("noise", "crop") into a stream key at compile time.
constexpr std::uint64_t hash_text(std::string_view text) noexcept {
  std::uint64_t hash = 14695981039346656037ULL;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash;
}

namespace detail {

/// Finaliser of SplitMix64 (Steele et al., 2014): decorrelates neighbouring seeds.
constexpr std::uint64_t mix64(std::uint64_t z) noexcept {
  z += 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words from a 128-bit counter and a 64-bit key.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint32_t key0,
                                              std::uint32_t key1) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = 0xD2511F53ULL * counter[0];
    const std::uint64_t b = 0xCD9E8D57ULL * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(a)};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return counter;
}

}  // namespace detail

/// A reproducible stream of numbers for one (seed, item, purpose).
///
/// Satisfies UniformRandomBitGenerator. Copying it copies the position. Not shared between threads.
class RandomStream {
 public:
  using result_type = std::uint32_t;  ///< what a call returns

  /// The beginning of the stream. `purpose` keeps streams of one item apart; any values.
  RandomStream(std::uint64_t seed, std::uint64_t item, std::string_view purpose) noexcept
      : key_(detail::mix64(seed ^ detail::mix64(hash_text(purpose)))), item_(item) {}

  /// Smallest value of a call.
  static constexpr result_type min() { return 0; }
  /// Largest value of a call.
  static constexpr result_type max() { return 0xffffffffU; }

  /// Next 32 uniform bits.
  std::uint32_t operator()() noexcept {
    if (used_ == 4) {
      block_ = detail::philox({static_cast<std::uint32_t>(position_), static_cast<std::uint32_t>(position_ >> 32),
                               static_cast<std::uint32_t>(item_), static_cast<std::uint32_t>(item_ >> 32)},
                              static_cast<std::uint32_t>(key_), static_cast<std::uint32_t>(key_ >> 32));
      ++position_;
      used_ = 0;
    }
    return block_[used_++];
  }

  /// Uniform in [0, 1), 32-bit resolution.
  double uniform() noexcept { return (*this)() * 0x1p-32; }

  /// Uniform in [low, high).
  double uniform(double low, double high) noexcept { return low + (high - low) * uniform(); }

  /// Uniform integer in [0, count); count >= 1. Unbiased to 2^-32 * count.
  std::uint32_t below(std::uint32_t count) noexcept {
    return static_cast<std::uint32_t>((static_cast<std::uint64_t>((*this)()) * count) >> 32);
  }

  /// Standard normal by Box-Muller; two uniforms make two normals.
  double normal() noexcept {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    const double angle = 6.283185307179586476925 * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

  /// Fisher-Yates shuffle of [first, last); the same on every platform, unlike std::shuffle.
  template <class Iterator>
  void shuffle(Iterator first, Iterator last) {
    for (auto count = static_cast<std::uint32_t>(last - first); count > 1; --count) {
      using std::swap;
      swap(first[count - 1], first[below(count)]);
    }
  }

 private:
  std::uint64_t key_;
  std::uint64_t item_;
  std::uint64_t position_ = 0;
  std::array<std::uint32_t, 4> block_{};
  unsigned used_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace daug
