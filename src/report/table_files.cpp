#include "daug/report/table_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "chart.h"
#include "daug/core/error.h"
#include "daug/core/utf8.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/report/figure_files.h"
#include "daug/report/html_parts.h"

namespace daug {

namespace {

std::string latex_text(const std::string& text) {
  std::string result;
  for (const char c : as_utf8(text)) {
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
      case '[':
      case '*':  // at the start of a row, arguments of the end of the row before
        result += '{';
        result += c;
        result += '}';
        break;
      case '-':  // two of them in a row would be a dash
        if (!result.empty() && result.back() == '-') result += "{}";
        result += c;
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
        // Two line ends would end the table's paragraph, and other control characters are none of LaTeX's.
        result += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
    }
  }
  return result;
}

/// A spreadsheet computes what begins like a formula, which a cohort's own texts may; behind an apostrophe it is a
/// text. Figures with their sign and interval stay as they are.
std::string as_text_or_number(const std::string& cell) {
  const bool computed = !cell.empty() && std::string_view("=@+-\t\r").find(cell[0]) != std::string_view::npos;
  return computed && cell.find_first_not_of("+-0123456789.eE%() to") != std::string::npos ? "'" + cell : cell;
}

/// Every text of a table in UTF-8, without which there is no JSON and what reads CSV may stop.
Table in_utf8(Table table) {
  const auto mend = [](std::vector<std::string>& cells) {
    for (auto& cell : cells) cell = as_utf8(cell);
  };
  table.caption = as_utf8(table.caption);
  mend(table.header);
  for (auto& row : table.rows) mend(row);
  return table;
}

std::string latex_row(const std::vector<std::string>& cells, bool bold) {
  std::string line;
  for (const auto& cell : cells) {
    if (!line.empty()) line += " & ";
    line += bold ? "\\textbf{" + latex_text(cell) + "}" : latex_text(cell);
  }
  return line + " \\\\\n";
}

void make_folder(const std::string& folder, const char* function) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, function, "folder", "a folder that can be written", folder);
}

/// "FOLDER/NN-title"
std::string file_stem(const std::string& folder, std::size_t number, const std::string& title) {
  constexpr std::size_t kNameLength = 48;
  return fmt::format("{}/{:02}-{}", folder, number, report::slug(title).substr(0, kNameLength));
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

std::string figure_svg(const LineChart& chart) { return report::line_chart_svg(chart); }
std::string figure_svg(const IntervalPlot& plot) { return report::interval_plot_svg(plot); }

void write_figures(const std::string& folder, const std::vector<LineChart>& charts,
                   const std::vector<IntervalPlot>& plots) {
  make_folder(folder, "daug::write_figures");
  std::size_t number = 0;
  for (const LineChart& chart : charts)
    write_file_atomically(file_stem(folder, ++number, chart.title) + ".svg", figure_svg(chart));
  for (const IntervalPlot& plot : plots)
    write_file_atomically(file_stem(folder, ++number, plot.title) + ".svg", figure_svg(plot));
}

void write_tables(const std::string& folder, const std::vector<Table>& tables) {
  make_folder(folder, "daug::write_tables");
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const Table table = in_utf8(tables[i]);
    const std::string stem = file_stem(folder, i + 1, table.caption);
    CsvTable csv;
    csv.columns = table.header;
    csv.rows = table.rows;
    for (auto& cell : csv.columns) cell = as_text_or_number(cell);
    for (auto& row : csv.rows)
      for (auto& cell : row) cell = as_text_or_number(cell);
    write_csv(stem + ".csv", csv);
    write_file_atomically(stem + ".tex", latex_table(table));
    const nlohmann::ordered_json json = {{"caption", table.caption}, {"header", table.header}, {"rows", table.rows}};
    write_file_atomically(stem + ".json", json.dump(1) + "\n");
  }
}

}  // namespace daug
