#pragma once
/// @file
/// RFC 4180 comma-separated tables, small enough to hold in memory.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace daug {

/// A table with a header row. Row numbers in messages are 1-based line numbers of the file.
struct CsvTable {
  std::string name;                            ///< file path, for messages
  std::vector<std::string> columns;            ///< names of the header row, each once
  std::vector<std::vector<std::string>> rows;  ///< each as long as columns
  std::vector<std::size_t> lines;              ///< line of the file at which each row starts

  /// Index of a column; throws kNotFound listing the columns there are.
  std::size_t column(std::string_view column_name) const;
  /// Whether there is a column of this name.
  bool has_column(std::string_view column_name) const;
};

/// Reads quoted fields, embedded newlines, CRLF, and a UTF-8 byte-order mark; skips empty lines. Throws kNotFound, kIo,
/// or kFormat (bytes that are not UTF-8, no header, unterminated or misplaced quote, row of another width, duplicate
/// column) with file and line.
CsvTable read_csv(const std::string& path);
/// The same from memory; `name` stands for the path in messages.
CsvTable parse_csv(std::string_view text, const std::string& name);

/// Quotes where needed; rows end in "\n". Written atomically. Throws kInvalidArgument for a table that could not be
/// read back (no columns, a name twice, a row of another width, bytes that are not UTF-8) and kIo.
void write_csv(const std::string& path, const CsvTable& table);

}  // namespace daug
