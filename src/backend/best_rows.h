#pragma once
// The best rows of every query among scores that come tile by tile: the selection of a search.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace daug::backend {

/// Scores of rows one after another, or what makes them, (256 high + low) * scale * factor, and what makes bounds of
/// them: score + error - offset * inverse.
struct ScoredRows {
  at::Tensor scores;     ///< [Q, T] float32 without gaps, no NaN; given up. Undefined: of the sums
  at::Tensor high, low;  ///< [Q, T] int32 without gaps, without scores; given up
  at::Tensor scale;      ///< [T] float32, without scores
  at::Tensor error;      ///< [T] float32, may be infinite
  at::Tensor offset;     ///< [T] float32, or undefined: 0
  /// [1 or Q, ceil(T / 32)] int32 without gaps, of all queries or of each: bit i % 32 of word i / 32 is set where row i
  /// counts. Undefined: all do.
  at::Tensor allowed;
  std::int64_t first_row = 0;  ///< number of the first
};

/// What was found, on the CPU: the largest bounds first.
struct FoundRows {
  at::Tensor bounds;  ///< [Q, M] float32, M <= wanted; -infinity where no row is left
  at::Tensor rows;    ///< [Q, M] int64
};

/// Keeps the `wanted` rows of largest bounds of each query. One call of add a tile, rows ascending; nothing waits for a
/// device before `found`. With the kernel, of rows with equal bounds the first are kept; with LibTorch's operators any
/// of them. Deterministic.
class BestRows {
 public:
  /// Whether the kernel (kernels/search_select.h) can be taken for tensors of this kind; only where one was compiled.
  static bool has_kernel(const c10::Device& device, std::int64_t wanted);

  /// inverse, and factor where scores are made of sums: [Q] float32, on the device of the scores. `fused`: with the
  /// kernel, which `has_kernel`.
  BestRows(at::Tensor inverse, at::Tensor factor, std::int64_t wanted, bool fused);
  void add(const ScoredRows& tile);
  FoundRows found() const;

 private:
  at::Tensor inverse_, factor_;
  std::int64_t wanted_;
  at::Tensor keys_;           ///< [Q, wanted] of the kernel; undefined without
  at::Tensor bounds_, rows_;  ///< [Q, M], without the kernel
};

}  // namespace daug::backend
