#include "metadata_table.h"

namespace daug::detail {

void MetadataTable::set(std::size_t row, const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    auto& column = columns_[key];
    const auto [found, added] = column.code_of.emplace(value, static_cast<std::uint32_t>(column.values.size()));
    if (added) column.values.push_back(value);
    if (row >= column.codes.size()) column.codes.resize(row + 1);
    column.codes[row] = found->second;
  }
}

Metadata MetadataTable::get(std::size_t row) const {
  Metadata metadata;
  for (const auto& [key, column] : columns_)
    if (row < column.codes.size() && column.codes[row] != 0)
      metadata.emplace_hint(metadata.end(), key, column.values[column.codes[row]]);
  return metadata;
}

const MetadataColumn* MetadataTable::column(const std::string& key) const {
  const auto found = columns_.find(key);
  return found == columns_.end() ? nullptr : &found->second;
}

}  // namespace daug::detail
