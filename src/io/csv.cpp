#include "daug/io/csv.h"

#include <algorithm>
#include <set>

#include "daug/core/error.h"
#include "daug/core/utf8.h"
#include "daug/io/file.h"

namespace daug {
namespace {

/// One pass over the text; knows the line it is on.
class CsvParser {
 public:
  CsvParser(std::string_view text, const std::string& name) : text_(text), name_(name) {
    if (text_.substr(0, 3) == "\xEF\xBB\xBF") position_ = 3;
  }

  /// Reads the next row that is not an empty line; false at the end of the text.
  bool next_row(std::vector<std::string>& fields, std::size_t& line) {
    while (!at_end() && end_of_row()) {
    }
    if (at_end()) return false;
    line = line_;
    fields.clear();
    for (;;) {
      fields.push_back(peek() == '"' ? quoted_field() : plain_field());
      if (at_end() || end_of_row()) return true;
      if (peek() != ',') fail_format("a comma or the end of the line after a closing quote", peek());
      ++position_;
      if (at_end()) {
        fields.emplace_back();
        return true;
      }
    }
  }

  template <class Actual>
  [[noreturn]] void fail_format(const std::string& expected, const Actual& actual, std::size_t line = 0) const {
    fail(ErrorCode::kFormat, "read_csv", detail::concat(name_, " line ", line ? line : line_), expected, actual);
  }

 private:
  bool at_end() const { return position_ == text_.size(); }
  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

  /// Steps over a line end (LF or CRLF) if one is here.
  bool end_of_row() {
    const std::size_t length = text_.substr(position_, 2) == "\r\n" ? 2 : peek() == '\n' ? 1 : 0;
    position_ += length;
    line_ += length ? 1 : 0;
    return length != 0;
  }

  std::string plain_field() {
    const std::size_t start = position_;
    position_ = std::min(text_.find_first_of(",\n\r\"", start), text_.size());
    if (peek() == '"') fail_format("quotes around a whole field, doubled inside it", "a quote inside a plain field");
    if (peek() == '\r' && text_.substr(position_, 2) != "\r\n")
      fail_format("lines that end in LF or CRLF", "a carriage return alone");
    return std::string(text_.substr(start, position_ - start));
  }

  std::string quoted_field() {
    const std::size_t first_line = line_;
    std::string field;
    for (++position_;;) {
      const std::size_t quote = text_.find('"', position_);
      if (quote == text_.npos) fail_format("a closing quote", "the end of the file", first_line);
      const auto part = text_.substr(position_, quote - position_);
      field += part;
      line_ += static_cast<std::size_t>(std::count(part.begin(), part.end(), '\n'));
      position_ = quote + 1;
      if (peek() != '"') return field;
      field += '"';
      ++position_;
    }
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::size_t line_ = 1;
};

/// The first name that occurs twice, or null.
const std::string* repeated(const std::vector<std::string>& names) {
  std::set<std::string_view> seen;
  for (const auto& name : names)
    if (!seen.insert(name).second) return &name;
  return nullptr;
}

/// An empty field that is a whole row is quoted too, because empty lines are skipped.
void append_field(std::string& text, const std::string& field, bool whole_row) {
  if (field.find_first_of(",\"\r\n") == field.npos && !(whole_row && field.empty())) {
    text += field;
    return;
  }
  text += '"';
  for (const char c : field) text.append(c == '"' ? 2 : 1, c);
  text += '"';
}

void append_row(std::string& text, const std::vector<std::string>& fields) {
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (i) text += ',';
    append_field(text, fields[i], fields.size() == 1);
  }
  text += '\n';
}

}  // namespace

std::size_t CsvTable::column(std::string_view column_name) const {
  const auto found = std::find(columns.begin(), columns.end(), column_name);
  if (found != columns.end()) return static_cast<std::size_t>(found - columns.begin());
  std::string present;
  for (const auto& each : columns) present += (present.empty() ? "" : ", ") + each;
  fail(ErrorCode::kNotFound, "CsvTable::column", name, detail::concat("a column '", column_name, "'"),
       "columns " + present);
}

bool CsvTable::has_column(std::string_view column_name) const {
  return std::find(columns.begin(), columns.end(), column_name) != columns.end();
}

CsvTable parse_csv(std::string_view text, const std::string& name) {
  CsvParser parser(text, name);
  if (const std::size_t at = utf8_error(text); at != text.npos)
    parser.fail_format(
        "UTF-8", detail::concat("the byte ", static_cast<int>(static_cast<unsigned char>(text[at]))),
        1 + static_cast<std::size_t>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n')));
  CsvTable table;
  table.name = name;
  std::size_t line = 1;
  if (!parser.next_row(table.columns, line)) parser.fail_format("a header row", "an empty file");
  if (const auto* column = repeated(table.columns))
    parser.fail_format("distinct column names", "'" + *column + "' twice", line);
  std::vector<std::string> fields;
  while (parser.next_row(fields, line)) {
    if (fields.size() != table.columns.size())
      parser.fail_format(detail::concat(table.columns.size(), " fields"), fields.size(), line);
    table.rows.push_back(std::move(fields));
    table.lines.push_back(line);
    fields = {};
  }
  return table;
}

CsvTable read_csv(const std::string& path) { return parse_csv(read_text_file(path), path); }

void write_csv(const std::string& path, const CsvTable& table) {
  require(!table.columns.empty(), "write_csv", "columns", "at least one", 0);
  if (const auto* column = repeated(table.columns))
    fail(ErrorCode::kInvalidArgument, "write_csv", "columns", "distinct names", "'" + *column + "' twice");
  std::string text;
  append_row(text, table.columns);
  for (std::size_t row = 0; row < table.rows.size(); ++row) {
    if (table.rows[row].size() != table.columns.size())
      fail(ErrorCode::kInvalidArgument, "write_csv", detail::concat("rows[", row, "]"),
           detail::concat(table.columns.size(), " fields"), table.rows[row].size());
    append_row(text, table.rows[row]);
  }
  if (utf8_error(text) != text.npos)
    fail(ErrorCode::kInvalidArgument, "write_csv", path, "texts in UTF-8", "other bytes");
  write_file_atomically(path, text);
}

}  // namespace daug
