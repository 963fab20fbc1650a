#pragma once
// The vectors of an index in the precision that searches read first.

#include <cstddef>
#include <memory>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "scan_kernel.h"
#include "score_bounds.h"

namespace daug::detail {

/// Codes and bounds of rows, in blocks of 16. Rows are those of the index, in its order.
///
/// Under Storage::kFloat32 there are no codes: `BlockReader` packs the vectors themselves.
class ScanStore {
 public:
  ScanStore(std::size_t dimension, Metric metric, Storage storage);

  Storage storage() const { return storage_; }
  std::size_t dimension() const { return dimension_; }
  Metric metric() const { return metric_; }

  /// Sets memory aside for `rows` rows. Up to that number, nothing below allocates.
  void reserve(std::size_t rows);
  /// Codes a row, which may be the one past the last. `norm` is that of `values`.
  void set(std::size_t row, const float* values, double norm) noexcept;
  /// Copies row `from` over row `to`.
  void move(std::size_t from, std::size_t to) noexcept;
  /// Drops the rows from `rows` on.
  void truncate(std::size_t rows) noexcept;
  /// Gives memory back that is set aside for nothing.
  void shrink();

  /// The blocks from `first` on. Not under kFloat32.
  ScanRows blocks(std::size_t first, std::size_t count) const;

 private:
  double encode(std::size_t row, const float* values, double scale) noexcept;
  void grow(std::size_t rows) noexcept;

  std::size_t dimension_;
  Metric metric_;
  Storage storage_;
  std::size_t rows_ = 0;
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

/// Reads blocks of an index: those of its store, or at float32 the vectors packed. One a thread.
class BlockReader {
 public:
  /// `values` [rows, dimension] and their norms; `store` may be of another precision than `storage` when that is
  /// kFloat32. All must outlive the reader.
  BlockReader(const ScanStore& store, Storage storage, const float* values, const double* norms, std::size_t rows);

  /// Valid until the next call.
  ScanRows read(std::size_t first, std::size_t count);

 private:
  void pack(std::size_t block, std::size_t slot);

  const ScanStore& store_;
  bool packs_;
  const float* values_;
  const double* norms_;
  std::size_t rows_;
  LineVector<float> panel_;
  LineVector<float> scale_;
  LineVector<float> error_;
  LineVector<float> offset_;
};

}  // namespace daug::detail
