#pragma once
// The metadata of items by column, so that a filter is asked once a different value instead of once an item.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "daug/index/filter.h"

namespace daug::detail {

/// Texts of one name: every different text once, and a number for each item.
struct MetadataColumn {
  std::unordered_map<std::string, std::uint32_t> code_of;
  std::vector<std::string> values = {{}};  ///< by code; code 0 stands for no value
  std::vector<std::uint32_t> codes;        ///< by item; those past the end have no value
};

class MetadataTable {
 public:
  using Columns = std::map<std::string, MetadataColumn>;

  /// Sets the item of a row that has none yet. `row` may be any.
  void set(std::size_t row, const Metadata& metadata);
  /// The texts of a row.
  Metadata get(std::size_t row) const;

  /// Null when no item has such a name.
  const MetadataColumn* column(const std::string& key) const;
  /// All columns, for files.
  const Columns& columns() const { return columns_; }
  Columns& columns() { return columns_; }

 private:
  Columns columns_;
};

}  // namespace daug::detail
