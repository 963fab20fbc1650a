#include "tile_unit.h"

#include <array>
#include <atomic>

#if defined(DAUG_AVX512) && defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace daug::detail {
namespace {

#if defined(DAUG_AVX512) && defined(__x86_64__) && defined(__linux__)

/// Products of all bytes with one another, more or less.
template <class Tiles>
auto sample_products() {
  std::array<std::array<std::uint8_t, kTileBytes>, 2> codes;
  std::uint32_t state = 1;
  for (auto& tile : codes)
    for (auto& code : tile) {
      state = 1664525 * state + 1013904223;
      code = static_cast<std::uint8_t>(state >> 24U);
    }
  std::array<std::array<std::uint32_t, kTileBytes / 4>, 2> sums;
  Tiles tiles;
  tiles.template load<4>(codes[0].data());
  tiles.template load<6>(codes[1].data());
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template add_unsigned<1, 4, 6>();
  tiles.template add_signed<2, 4, 6>();
  tiles.template store<1>(sums[0].data());
  tiles.template store<2>(sums[1].data());
  return sums;
}

#endif

bool has_amx() {
#if defined(DAUG_AVX512) && defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kSystemSavesRegisters = 1U << 27U;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSystemSavesRegisters)) return false;
  constexpr unsigned kTilesOfInt8 = 3U << 24U;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTilesOfInt8) != kTilesOfInt8) return false;
  unsigned saved = 0, high = 0;
  asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned kTileRegisters = 3U << 17U;
  if ((saved & kTileRegisters) != kTileRegisters) return false;
  // Linux gives a process the room for the registers' contents when it asks (arch_prctl, ARCH_REQ_XCOMP_PERM).
  constexpr long kRequest = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) return false;
  // The tests have run on few machines that have it, if any: it is used where it does what they check.
  return sample_products<AmxTiles>() == sample_products<PlainTiles>();
#else
  return false;
#endif
}

std::atomic<TileUnit>& chosen() {
  static std::atomic<TileUnit> unit{best_tile_unit()};
  return unit;
}

}  // namespace

TileUnit best_tile_unit() {
  static const TileUnit unit = has_amx() ? TileUnit::kAmx : TileUnit::kNone;
  return unit;
}

TileUnit tile_unit() { return chosen(); }
void set_tile_unit(TileUnit unit) { chosen() = unit; }

}  // namespace daug::detail
