#pragma once
// What a RetrievalIndex holds.

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "daug/index/retrieval_index.h"
#include "metadata_table.h"
#include "scan_store.h"

namespace daug::detail {

/// Items by row, in order of insertion. A search reads it and nothing else.
struct IndexState {
  IndexState(std::int64_t dimension_, Metric metric_, std::string fingerprint_, const IndexOptions& options_)
      : dimension(dimension_),
        metric(metric_),
        fingerprint(std::move(fingerprint_)),
        options(options_),
        scans(static_cast<std::size_t>(dimension_), metric_, options_.storage) {}

  std::size_t size() const { return ids.size(); }
  const float* row(std::size_t row) const { return values.data() + row * static_cast<std::size_t>(dimension); }
  FilteredItems items() const { return {table, ids, row_of, metadata}; }
  /// The row of an id. Throws kNotFound.
  std::size_t row_of_id(std::int64_t id, const char* function) const;
  /// Norms of vectors, after checks of their number of components and their values.
  std::vector<double> checked_norms(const RowMatrixRef& vectors, const char* function, const char* argument) const;
  /// Drops the rows from `count` on, which may be there in part only.
  void truncate(std::size_t count) noexcept;

  std::int64_t dimension;
  Metric metric;
  std::string fingerprint;
  IndexOptions options;
  std::vector<float> values;  ///< [size, dimension] row-major
  std::vector<double> norms;
  std::vector<std::int64_t> ids;
  std::vector<Metadata> metadata;
  std::unordered_map<std::int64_t, std::size_t> row_of;
  MetadataTable table;
  ScanStore scans;
};

}  // namespace daug::detail
