#pragma once
// The state of an index at one moment.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chunk.h"

namespace daug::detail {

/// A chunk, and which of its rows are no longer there.
struct Part {
  std::shared_ptr<const Chunk> chunk;
  std::shared_ptr<const std::vector<bool>> removed = {};  ///< by row; null when none is
  std::size_t size = 0;                                   ///< rows that are there
  std::size_t in_graph = 0;                               ///< the rows before this one are in the snapshot's graph

  bool has(std::size_t row) const { return !removed || !(*removed)[row]; }
};

/// Where an item is: the part of a snapshot, and its row there.
struct Place {
  std::uint32_t part;
  std::uint32_t row;
};

class Graph;

/// Items to be put into an index, checked: vectors of the right length and finite, ids that differ.
struct CheckedItems {
  const std::vector<std::int64_t>& ids;
  const RowMatrixRef& vectors;
  std::vector<double> norms;
  const std::vector<Metadata>& metadata;  ///< one an item, or empty
};

/// Immutable once published; copies share all chunks. The members that change it are for a copy that nobody else sees.
///
/// Chunks stay few because small ones are merged: a row is copied log2(chunk rows) times while an index grows item by
/// item, and one that is added in a batch hardly ever.
class Snapshot {
 public:
  explicit Snapshot(std::shared_ptr<const IndexSettings> settings) : settings_(std::move(settings)) {}

  const IndexSettings& settings() const { return *settings_; }
  const std::shared_ptr<const IndexSettings>& shared_settings() const { return settings_; }
  const std::vector<Part>& parts() const { return parts_; }
  /// Number of items.
  std::size_t size() const { return size_; }
  /// Names of metadata that some item had at some time.
  const std::set<std::string>& fields() const { return *fields_; }

  std::optional<Place> find(std::int64_t id) const;
  /// The same. Throws kNotFound.
  Place require_id(std::int64_t id, const char* function) const;

  /// Norms of vectors, after checks of their number of components and their values.
  std::vector<double> checked_norms(const RowMatrixRef& vectors, const char* function, const char* argument) const;
  /// Throws kInvalidArgument for an id that is there, or that occurs twice.
  void require_new(const std::vector<std::int64_t>& ids, const char* function) const;
  /// Throws kMismatch unless this encoder made the items.
  void require_encoder(const std::string& fingerprint, const char* function) const;
  /// Throws kNotFound for a filter on a name that no item ever had.
  void require_fields(const Filter& filter, const char* function) const;

  /// Null when none has been built.
  const Graph* graph() const { return graph_.get(); }
  /// Takes over the graph that was built of `of`, an earlier state of the same index.
  void set_graph(std::shared_ptr<const Graph> graph, const Snapshot& of);
  /// The items that the graph does not know of.
  Snapshot outside_graph() const;

  /// Adds items behind all others.
  void append(const CheckedItems& items);
  /// Adds a chunk as it is.
  void append(std::shared_ptr<const Chunk> chunk);
  void add_fields(const std::set<std::string>& names);
  /// Removes items that are there.
  void remove(const std::vector<Place>& items);
  /// Merges small chunks and rewrites those of which more than half is gone; with `all`, every one that is not full or
  /// has a gap.
  void tidy(bool all = false);

 private:
  void rewrite(std::size_t first, std::size_t count);

  std::shared_ptr<const IndexSettings> settings_;
  std::vector<Part> parts_;
  std::size_t size_ = 0;
  std::shared_ptr<const Graph> graph_;  ///< of the rows that parts say
  std::shared_ptr<const std::set<std::string>> fields_ = std::make_shared<const std::set<std::string>>();
};

}  // namespace daug::detail
