#pragma once
// Items of an index that never change once they are together: what snapshots share.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "metadata_table.h"
#include "scan_store.h"

namespace daug::detail {

constexpr std::int64_t kLargestDimension = std::int64_t{1} << 20;

/// What all items of an index have in common.
struct IndexSettings {
  std::int64_t dimension;
  Metric metric;
  std::string fingerprint;
  IndexOptions options;

  std::size_t components() const { return static_cast<std::size_t>(dimension); }
  /// Rows of the largest chunk: small enough to be copied in a moment, large enough that there are few.
  std::size_t chunk_rows() const;
};

/// The arrays of a chunk, wherever they lie.
struct ChunkArrays {
  const std::int64_t* ids = nullptr;
  const std::uint32_t* order = nullptr;  ///< rows by ascending id
  const double* norms = nullptr;
  const float* values = nullptr;  ///< [rows, dimension]
  ScanArrays scan;                ///< not under Storage::kFloat32
};

/// Keeps the arrays of a chunk alive and, where they come from a file, checks what is about to be read.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  /// Throw kFormat when the bytes are not what was written: ids; vectors and norms; codes, bounds and norms.
  virtual void check_ids() const {}
  virtual void check_rows(std::size_t first, std::size_t count) const { (void)first, (void)count; }
  virtual void check_blocks(std::size_t first, std::size_t count) const { (void)first, (void)count; }
  /// Reads the metadata of all rows.
  virtual const MetadataTable& table() const = 0;
};

/// Items by row, from 0. Every member may throw kFormat when the items come from a damaged file.
class Chunk {
 public:
  Chunk(std::shared_ptr<const IndexSettings> settings, std::size_t rows, const ChunkArrays& arrays,
        std::unique_ptr<const ChunkSource> source);

  const IndexSettings& settings() const { return *settings_; }
  std::size_t rows() const { return rows_; }
  /// A number that no other chunk of this process has.
  std::uint64_t serial() const { return serial_; }
  const std::int64_t* ids() const {
    source_->check_ids();
    return arrays_.ids;
  }
  /// Rows by ascending id.
  const std::uint32_t* order() const {
    source_->check_ids();
    return arrays_.order;
  }
  /// The row of an id.
  std::optional<std::size_t> find(std::int64_t id) const;
  const float* values(std::size_t row) const {
    source_->check_rows(row, 1);
    return arrays_.values + row * settings_->components();
  }
  /// Valid for rows whose values or blocks have been asked for.
  const double* norms() const { return arrays_.norms; }
  const MetadataTable& table() const { return source_->table(); }
  /// Codes for a scan. Not under Storage::kFloat32.
  ScanRows blocks(std::size_t first, std::size_t count) const {
    source_->check_blocks(first, count);
    return scan_rows(arrays_.scan, settings_->options.storage, settings_->components(), first, count);
  }

  /// All arrays, checked.
  const ChunkArrays& all() const;

 private:
  std::shared_ptr<const IndexSettings> settings_;
  std::size_t rows_;
  std::uint64_t serial_;
  ChunkArrays arrays_;
  std::unique_ptr<const ChunkSource> source_;
};

/// Puts a chunk together in memory.
class ChunkBuilder {
 public:
  /// Sets memory aside for `rows` rows.
  ChunkBuilder(std::shared_ptr<const IndexSettings> settings, std::size_t rows);
  ~ChunkBuilder();

  /// Adds a row. At most as many as memory was set aside for.
  void add(std::int64_t id, const float* values, double norm, const Metadata& metadata);
  /// Adds a row of a chunk of the same settings.
  void copy(const Chunk& from, std::size_t row);

  std::shared_ptr<const Chunk> finish();

 private:
  class Memory;
  std::shared_ptr<const IndexSettings> settings_;
  std::unique_ptr<Memory> memory_;
};

}  // namespace daug::detail
