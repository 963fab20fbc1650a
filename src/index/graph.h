#pragma once
// A navigable graph of items (Malkov & Yashunin, 2018), by hnswlib. Immutable once it is built. It is built of, and
// searched by, distances of vectors coded in int8: a quarter of the memory, and of what a search waits for.

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "daug/io/file.h"
#include "snapshot.h"

namespace daug::detail {

class Graph {
 public:
  /// Of all items of a snapshot that is not empty.
  Graph(const Snapshot& snapshot, const GraphOptions& options);
  ~Graph();

  /// Number of items it was built of.
  std::size_t size() const { return items_.size(); }
  /// About `count` numbers of items that are near, in no order. May run in parallel.
  std::vector<std::size_t> nearest(const float* query, std::size_t count) const;
  /// An item by its number: what it was when the graph was built.
  struct Item {
    std::int64_t id;
    std::uint64_t chunk;  ///< its serial number
    std::uint32_t row;
  };
  const Item& item(std::size_t number) const { return items_[number]; }
  /// hnswlib's file, with the vectors themselves: under cosine those of length 1.
  void write(const ByteSink& sink) const;

 private:
  struct Implementation;
  std::vector<Item> items_;
  std::unordered_map<std::uint64_t, std::shared_ptr<const Chunk>> chunks_;  ///< by serial number: the items' vectors
  std::unique_ptr<const Implementation> implementation_;
};

}  // namespace daug::detail
