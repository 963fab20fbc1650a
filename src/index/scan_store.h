#pragma once
// The vectors of an index in the precision that searches read first.

#include <cstddef>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "scan_kernel.h"
#include "score_bounds.h"

namespace daug::detail {

class Chunk;

/// Codes and bounds of rows in blocks of 16, wherever they lie.
struct ScanArrays {
  const std::byte* codes = nullptr;
  const float* scale = nullptr;
  const float* error = nullptr;
  const float* offset = nullptr;
};

/// Blocks from `first` on.
ScanRows scan_rows(const ScanArrays& arrays, Storage storage, std::size_t dimension, std::size_t first,
                   std::size_t count);

/// Makes such arrays in memory. Under Storage::kFloat32 there are none: `BlockReader` packs the vectors themselves.
class ScanStore {
 public:
  /// For at most `rows` rows.
  ScanStore(std::size_t dimension, Metric metric, Storage storage, std::size_t rows);

  /// Codes a row. `norm` is that of `values`.
  void set(std::size_t row, const float* values, double norm) noexcept;
  /// Takes over the row in `lane` of a block.
  void copy(const ScanRows& block, std::size_t lane, std::size_t row) noexcept;
  ScanArrays arrays() const { return {codes_.data(), scale_.data(), error_.data(), offset_.data()}; }

 private:
  double encode(std::size_t row, const float* values, double scale) noexcept;

  std::size_t dimension_;
  Metric metric_;
  Storage storage_;
  LineVector<std::byte> codes_;
  LineVector<float> scale_;
  LineVector<float> error_;
  LineVector<float> offset_;
};

/// Codes of queries, one after another, as `scan` reads them.
class CodedQueries {
 public:
  CodedQueries(Storage storage, std::size_t dimension) : storage_(storage), dimension_(dimension) {}

  /// Adds a query divided by `rank.unit()`.
  void add(const float* values, const QueryRank& rank);

  /// Queries from `first` on with thresholds, one a query of this object.
  ScanQueries queries(std::size_t first, std::size_t count, const float* thresholds) const;

 private:
  Storage storage_;
  std::size_t dimension_;
  LineVector<std::byte> codes_;
  std::vector<float> factor_;
  std::vector<float> inverse_;
};

/// Reads blocks of chunks: their codes, or at float32 the vectors packed. One a thread.
class BlockReader {
 public:
  BlockReader(Storage storage, std::size_t dimension, Metric metric)
      : storage_(storage), dimension_(dimension), metric_(metric) {}

  /// Valid until the next call.
  ScanRows read(const Chunk& chunk, std::size_t first, std::size_t count);

 private:
  void pack(const Chunk& chunk, std::size_t block, std::size_t slot);

  Storage storage_;
  std::size_t dimension_;
  Metric metric_;
  LineVector<float> panel_;
  LineVector<float> scale_;
  LineVector<float> error_;
  LineVector<float> offset_;
};

}  // namespace daug::detail
