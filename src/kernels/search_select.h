#pragma once
// The best rows of every query among scores that come tile by tile.

#include <cstdint>

namespace daug::kernels {

/// A row's bound for a query is score + error - offset * inverse; the `wanted` largest bounds are kept, of equal ones
/// those of the smaller rows. Scores are given, or made of the sums of products of whole numbers:
/// (256 high + low) * scale * factor.
struct SearchTile {
  std::int64_t queries = 0;  ///< at most 65535
  std::int64_t rows = 0;
  std::int64_t first_row = 0;  ///< rows of the tiles before this one
  /// [queries, rows]; a device's NaN, which has no sign, is larger than all else; null: of the sums
  const float* scores = nullptr;
  const std::int32_t* high = nullptr;     ///< [queries, rows], without scores; 256 high + low stays in int32
  const std::int32_t* low = nullptr;      ///< [queries, rows], without scores
  const float* scale = nullptr;           ///< [rows], without scores
  const float* factor = nullptr;          ///< [queries], without scores
  const float* error = nullptr;           ///< [rows], may be infinite
  const float* offset = nullptr;          ///< [rows]; null: 0
  const float* inverse = nullptr;         ///< [queries], with offset
  const std::int32_t* allowed = nullptr;  ///< bit row % 32 of word row / 32 is set where a row counts; null: all do
  std::int64_t allowed_stride = 0;        ///< words from those of a query to the next one's; 0: the same for all
  int wanted = 1;                         ///< in [1, 1024]
  std::uint64_t* best = nullptr;          ///< [queries, wanted] keys (launch_plan.h), the largest first; 0: none
};

}  // namespace daug::kernels
