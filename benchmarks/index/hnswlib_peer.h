#pragma once
// hnswlib as its users build it: with its own arithmetic, for the processor it is compiled on.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace daug::bench {

class HnswlibPeer {
 public:
  /// A graph of unit vectors [items, dimension], by inner product. `links` is M, `breadth` efConstruction.
  HnswlibPeer(const float* vectors, std::size_t items, std::size_t dimension, std::size_t links, std::size_t breadth,
              std::size_t threads);
  ~HnswlibPeer();

  /// Items a search gathers (ef). Not while one runs.
  void set_breadth(std::size_t breadth);
  /// Numbers of about the `count` nearest, in no order; with `allowed` (by item, 0 or 1), of those alone. May run in
  /// parallel.
  std::vector<std::size_t> nearest(const float* query, std::size_t count,
                                   const std::vector<std::uint8_t>* allowed) const;

  /// Whether this version of hnswlib has filters (0.8 and later).
  static bool has_filters();
  /// The vectors it was compiled for.
  static std::string arithmetic();

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace daug::bench
