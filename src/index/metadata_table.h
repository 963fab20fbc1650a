#pragma once
// The metadata of an index by column, so that a filter is asked once a different value instead of once an item; and
// filters made ready for it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "daug/index/filter.h"
#include "filter_node.h"

namespace daug::detail {

/// Texts of one name: every different text once, and a number for each item.
struct MetadataColumn {
  std::unordered_map<std::string, std::uint32_t> code_of;
  std::vector<std::string> values = {{}};  ///< by code; code 0 stands for no value
  std::vector<std::uint32_t> codes;        ///< by item; those past the end have no value
};

class MetadataTable {
 public:
  /// Sets the item of a row to what `metadata` says. `row` may be any.
  void set(std::size_t row, const Metadata& metadata);
  /// Copies row `from` over row `to` < from.
  void move(std::size_t from, std::size_t to) noexcept;
  /// Drops the rows from `rows` on.
  void truncate(std::size_t rows) noexcept;

  /// Null when no item ever had such a name.
  const MetadataColumn* column(const std::string& key) const;

 private:
  std::unordered_map<std::string, MetadataColumn> columns_;
};

/// What a filter is asked about.
struct FilteredItems {
  const MetadataTable& table;
  const std::vector<std::int64_t>& ids;
  const std::unordered_map<std::int64_t, std::size_t>& row_of;
  const std::vector<Metadata>& metadata;
};

/// A filter with its texts looked up. Must not outlive the filter or the items, which must not change meanwhile.
class CompiledFilter {
 public:
  /// Throws kNotFound for a name that no item ever had, unless there are no items.
  CompiledFilter(const Filter& filter, const FilteredItems& items, const char* function);

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
  bool matches(const Node& node, std::size_t row) const;
  void evaluate(const Node* node, std::size_t first, std::size_t count, std::uint8_t* matches) const;

  FilteredItems items_;
  std::unique_ptr<Node> root_;
};

}  // namespace daug::detail
