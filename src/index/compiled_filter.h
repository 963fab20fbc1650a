#pragma once
// Filters made ready for the items of one chunk.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "chunk.h"
#include "filter_node.h"

namespace daug::detail {

/// A filter with its texts looked up. Must not outlive the filter or the chunk.
class CompiledFilter {
 public:
  CompiledFilter(const Filter& filter, const Chunk& chunk);

  /// Whether it lets everything through by construction.
  bool everything() const { return !root_; }
  bool matches(std::size_t row) const { return !root_ || matches(*root_, row); }
  /// 1 for every row of [first, first + count) that matches, else 0.
  void evaluate(std::size_t first, std::size_t count, std::uint8_t* matches) const;

 private:
  struct Node {
    const FilterNode* source;
    const MetadataColumn* column = nullptr;
    std::uint32_t only = 0;                 ///< kValue with one text: its code, 0 when no item has it
    std::vector<std::uint8_t> passes = {};  ///< other kValue and kHas: by code
    std::vector<std::size_t> rows = {};     ///< kIds: ascending
    std::unique_ptr<Node> a = {};
    std::unique_ptr<Node> b = {};
  };

  std::unique_ptr<Node> compile(const FilterNode* filter) const;
  std::vector<std::size_t> rows_of(const FilterNode& filter) const;
  bool matches(const Node& node, std::size_t row) const;
  void evaluate(const Node* node, std::size_t first, std::size_t count, std::uint8_t* matches) const;

  const Chunk* chunk_;
  std::unique_ptr<Node> root_;
};

}  // namespace daug::detail
