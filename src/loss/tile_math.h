#pragma once
// What is done to one tile of scores: one interface, and a file for each way of doing it.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <memory>

#include "daug/core/execution.h"
#include "kernels/cuda/launch_plan.h"

namespace daug::kernels {
struct ScoreTile;
}

namespace daug::detail {

/// Items [begin, begin + count) of one side of the scores; see ScoreSide.
struct Slab {
  std::int64_t begin = 0, count = 0;
  at::Tensor rows, transposed;  ///< [count, D], [D, count]
  at::Tensor index, factor, positive, ignored, states, weight;
};

/// Running softmax sums of the items of one side; see kernels::SoftmaxSums.
struct SideSums {
  at::Tensor max, sum, attraction;  ///< [n]

  SideSums(std::int64_t count, const at::Tensor& like);
  SideSums(at::Tensor max_, at::Tensor sum_, at::Tensor attraction_);
};

/// A tile with the slabs it comes from.
struct Tile {
  const Slab& text;
  const Slab& image;
  std::int64_t own;     ///< column of row 0's own pair
  std::int64_t number;  ///< counts tiles
  at::Tensor buffer;    ///< [rows, columns] that may be written over
  at::Tensor narrow;    ///< [rows, columns] in the buffer, of the slabs' type: of bfloat16 each row lies in the first
                        ///< half of one of float32
  at::Tensor soft;      ///< [rows, columns] by how much pairs attract, apart from weights; undefined: by groups
  at::Tensor products;  ///< [rows, columns] of the slabs' rows, in the buffer or beside it
  bool scaled;          ///< the products are scores already, those left out included, and must stay what they are
};

/// A tile of float32 as the kernels take it, on the CPU or on a device.
kernels::ScoreTile kernel_tile(const Tile& tile);

/// The lowest number of the type of `like`, float32 or float64.
inline double lowest_number(const at::Tensor& like) {
  return like.scalar_type() == at::kDouble ? std::numeric_limits<double>::lowest()
                                           : double{std::numeric_limits<float>::lowest()};
}

/// The sums are those of the tile's items. Nothing records gradients; all is deterministic.
class TileMath {
 public:
  /// For tiles of so many rows and columns at most; `held`: numbers that they take at a time, at most, in what the
  /// bound on memory allows beside 4 B D. `bfloat16`: slabs may have such rows, beside which all is float32.
  TileMath(std::int64_t max_rows, std::int64_t max_columns, std::int64_t held, bool bfloat16)
      : max_rows_(max_rows), max_columns_(max_columns), held_(held), bfloat16_(bfloat16) {}
  virtual ~TileMath() = default;
  TileMath(const TileMath&) = delete;
  TileMath& operator=(const TileMath&) = delete;

  std::int64_t max_rows() const { return max_rows_; }
  std::int64_t max_columns() const { return max_columns_; }
  std::int64_t held() const { return held_; }
  bool takes_bfloat16() const { return bfloat16_; }

  /// Makes scores of the products and takes them into the sums, in place. Products beside the buffer become scores, in
  /// place; those in the buffer may become anything.
  virtual void add_softmax_sums(const Tile& tile, const SideSums& rows, const SideSums& columns) const = 0;
  /// [rows, columns] scale times both factors times (row softmax / 2 + column softmax / 2 - attraction), 0 where left
  /// out; may lie in the buffer, and may have been rounded to the slabs' bfloat16 and have gaps between its rows.
  virtual at::Tensor softmax_gradient(const Tile& tile, const SideSums& rows, const SideSums& columns,
                                      double scale) const = 0;
  /// Adds the sum of the sigmoid losses to `total`, one float64 number where the tile is. The bias [], of the scores'
  /// type, lies there too: no device is waited for to read it.
  virtual void add_sigmoid_loss(const Tile& tile, const at::Tensor& bias, const at::Tensor& total) const = 0;
  /// Their gradient the same way, and its sum, not scaled, to `total`.
  virtual at::Tensor sigmoid_gradient(const Tile& tile, const at::Tensor& bias, double scale,
                                      const at::Tensor& total) const = 0;

 private:
  std::int64_t max_rows_, max_columns_, held_;
  bool bfloat16_;
};

/// Numbers that the tiles of kernels hold: 16 MB of float32. What larger tiles of a device take beyond them is taken
/// from the scores that are kept.
inline constexpr std::int64_t kKernelTileNumbers = std::int64_t{1} << 22;

/// src/kernels: float32 on the CPU.
std::unique_ptr<const TileMath> kernel_tile_math(std::int64_t max_rows, std::int64_t max_columns);
/// ATen operations: float32 and float64, rows of bfloat16, any device.
std::unique_ptr<const TileMath> aten_tile_math(std::int64_t max_rows, std::int64_t max_columns);

/// src/kernels/cuda: float32 on a CUDA device, rows of bfloat16, at most cuda::kMostTileColumns columns. Throws
/// kUnsupported where they are not compiled in.
std::unique_ptr<const TileMath> device_tile_math(std::int64_t max_rows, std::int64_t max_columns);

/// The one for embeddings like `rows`, those of 16 bits as float32: kernels where they can, else ATen operations.
/// Kernels of a device are for kFused alone until a device has run them (backend::ran_on_a_device), and never for
/// kReference; how large their tiles are depends on the number and width of the rows and on `needs`.
const TileMath& tile_math(const at::Tensor& rows, Execution execution, const kernels::cuda::TileNeeds& needs = {});

/// For tests: while it lives, losses that begin on this thread take tiles of this kind, which must outlive their
/// backward passes.
class TileMathGuard {
 public:
  explicit TileMathGuard(const TileMath& math);
  ~TileMathGuard();
  TileMathGuard(const TileMathGuard&) = delete;
  TileMathGuard& operator=(const TileMathGuard&) = delete;

 private:
  const TileMath* before_;
};

}  // namespace daug::detail
