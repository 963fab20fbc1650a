#include "tile_unit.h"

#include <atomic>

#if defined(DAUG_AVX512) && defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace daug::detail {
namespace {

// As AVX-512: off until a machine that has it has run the tests.
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
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
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
