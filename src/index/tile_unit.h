#pragma once
// Products of int8 matrices in tiles of 16 x 64 bytes: those of AMX, and the same in plain C++ for tests on other
// processors. Tiles are numbered 0 to 7; sums are exact modulo 2^32 (Intel 64 and IA-32 Architectures Software
// Developer's Manual, volume 1, chapter 18).

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace daug::detail {

constexpr std::size_t kTileRows = 16;
constexpr std::size_t kTileRowBytes = 64;
constexpr std::size_t kTileBytes = kTileRows * kTileRowBytes;

/// Who multiplies tiles for `scan`. Nobody: int8 codes are multiplied as all others.
enum class TileUnit { kNone, kPlain, kAmx };

/// AMX where it is compiled in (DAUG_AVX512), the processor has it for int8, the system keeps its registers and lets
/// this process use them, and its products are the plain ones (asked once).
TileUnit best_tile_unit();

/// The best one, unless a test sets another.
TileUnit tile_unit();
void set_tile_unit(TileUnit unit);

#if defined(__x86_64__)

/// The calling thread's tile registers, from construction to destruction.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) Layout {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } layout;
    for (int tile = 0; tile < 8; ++tile) {
      layout.row_bytes[tile] = kTileRowBytes;
      layout.rows[tile] = kTileRows;
    }
    asm volatile("ldtilecfg %0" ::"m"(layout));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  void load(const void* memory) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(memory), "r"(kTileRowBytes), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* memory) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(memory), "r"(kTileRowBytes), "i"(kTile) : "memory");
  }
  /// sum[m][n] += the four products a[m][4 k + i] b[k][4 n + i], over all k: bytes of a without, of b with a sign.
  template <int kSum, int kA, int kB>
  void add_unsigned() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
  /// The same with signs on both sides.
  template <int kSum, int kA, int kB>
  void add_signed() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
};

#endif

class PlainTiles {
 public:
  template <int kTile>
  void zero() {
    std::memset(tiles_[kTile], 0, kTileBytes);
  }
  template <int kTile>
  void load(const void* memory) {
    std::memcpy(tiles_[kTile], memory, kTileBytes);
  }
  template <int kTile>
  void store(void* memory) const {
    std::memcpy(memory, tiles_[kTile], kTileBytes);
  }
  template <int kSum, int kA, int kB>
  void add_unsigned() {
    add<std::uint8_t>(tiles_[kSum], tiles_[kA], tiles_[kB]);
  }
  template <int kSum, int kA, int kB>
  void add_signed() {
    add<std::int8_t>(tiles_[kSum], tiles_[kA], tiles_[kB]);
  }

 private:
  template <class T>
  static void add(std::byte* sums, const std::byte* a, const std::byte* b) {
    for (std::size_t m = 0; m < kTileRows; ++m)
      for (std::size_t n = 0; n < kTileRowBytes / 4; ++n) {
        std::int32_t products = 0;  // of one tile they fit
        for (std::size_t i = 0; i < kTileRowBytes; ++i)
          products += static_cast<T>(a[m * kTileRowBytes + i]) *
                      static_cast<std::int8_t>(b[i / 4 * kTileRowBytes + 4 * n + i % 4]);
        std::uint32_t sum;
        std::byte* at = sums + m * kTileRowBytes + 4 * n;
        std::memcpy(&sum, at, sizeof sum);
        sum += static_cast<std::uint32_t>(products);
        std::memcpy(at, &sum, sizeof sum);
      }
  }

  alignas(64) std::byte tiles_[8][kTileBytes];
};

}  // namespace daug::detail
