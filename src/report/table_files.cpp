#include "daug/report/table_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "daug/core/error.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "html_text.h"

namespace daug {

namespace {

std::string latex_text(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '\\':
        result += "\\textbackslash{}";
        break;
      case '~':
        result += "\\textasciitilde{}";
        break;
      case '^':
        result += "\\textasciicircum{}";
        break;
      case '<':
        result += "\\textless{}";
        break;
      case '>':
        result += "\\textgreater{}";
        break;
      case '|':
        result += "\\textbar{}";
        break;
      case '&':
      case '%':
      case '$':
      case '#':
      case '_':
      case '{':
      case '}':
        result += '\\';
        [[fallthrough]];
      default:
        result += c;
    }
  }
  return result;
}

std::string latex_row(const std::vector<std::string>& cells, bool bold) {
  std::string line;
  for (const auto& cell : cells) {
    if (!line.empty()) line += " & ";
    line += bold ? "\\textbf{" + latex_text(cell) + "}" : latex_text(cell);
  }
  return line + " \\\\\n";
}

}  // namespace

std::string latex_table(const Table& table) {
  std::string text =
      fmt::format("\\begin{{table}}\n\\caption{{{}}}\n\\begin{{tabular}}{{l{}}}\n\\toprule\n",
                  latex_text(table.caption), std::string(std::max<std::size_t>(table.header.size(), 1) - 1, 'r'));
  text += latex_row(table.header, false) + "\\midrule\n";
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    if (table.rows[r].size() != table.header.size())
      fail(ErrorCode::kMismatch, "daug::latex_table", "row of '" + table.caption + "'",
           detail::concat(table.header.size(), " cells"), table.rows[r].size());
    const bool bold = std::find(table.highlighted.begin(), table.highlighted.end(), r) != table.highlighted.end();
    text += latex_row(table.rows[r], bold);
  }
  return text + "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
}

void write_tables(const std::string& folder, const std::vector<Table>& tables) {
  constexpr std::size_t kNameLength = 48;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "daug::write_tables", "folder", "a folder that can be written", folder);
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const std::string stem =
        fmt::format("{}/{:02}-{}", folder, i + 1, report::slug(tables[i].caption).substr(0, kNameLength));
    CsvTable csv;
    csv.columns = tables[i].header;
    csv.rows = tables[i].rows;
    write_csv(stem + ".csv", csv);
    write_file_atomically(stem + ".tex", latex_table(tables[i]));
  }
}

}  // namespace daug
