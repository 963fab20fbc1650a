#include "daug/report/table_files.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "daug/core/error.h"
#include "daug/core/utf8.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/report/figure_files.h"
#include "support/catch.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;

TEST_CASE("a table in LaTeX, by hand", "[report]") {
  Table table;
  table.caption = "Arms & intervals, 95 %";
  table.header = {"arm", "macro_AUROC"};
  table.rows = {{"image", "0.76 (0.70 to 0.81)"}, {"image+evidence", "{~^\\<>|$#}"}, {"[1]", "a-b ---"}, {"*", "-0.5"}};
  table.highlighted = {1};
  CHECK(latex_table(table) ==
        "\\begin{table}\n\\caption{Arms \\& intervals, 95 \\%}\n\\begin{tabular}{lr}\n\\toprule\n"
        "arm & macro\\_AUROC \\\\\n\\midrule\n"
        "image & 0.76 (0.70 to 0.81) \\\\\n"
        "\\textbf{image+evidence} & \\textbf{\\{\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\textless{}"
        "\\textgreater{}\\textbar{}\\$\\#\\}} \\\\\n"
        "{[}1] & a-b -{}-{}- \\\\\n"
        "{*} & -0.5 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n");
  table.highlighted = {};
  table.rows = {{"two\n\nparagraphs", std::string("a\0b\x7F", 4)}};
  CHECK(latex_table(table).find("two  paragraphs & a b  \\\\\n") != std::string::npos);
  table.rows.push_back({"short"});
  CHECK_THROWS_AS(latex_table(table), Error);
}

TEST_CASE("a spreadsheet that opens a table computes nothing", "[report]") {
  const test::Scratch scratch;
  Table table;
  table.caption = "Sites";
  table.header = {"site", "@difference"};
  table.rows = {{"=HYPERLINK(\"http://evil.example\")", "-0.04 (-0.08 to +0.01)"},
                {"@SUM(1)", "+1.5e-05"},
                {"-2+3+cmd|' /C calc'!A0", "-"},
                {"+A1", "- 3 %"},
                {"\t=1", "'already"},
                {"a=b", ""}};
  write_tables(scratch.folder(), {table});
  auto expected = table.rows;
  for (std::size_t row = 0; row < 5; ++row) expected[row][0].insert(0, "'");
  const CsvTable read = read_csv(scratch.path("01-sites.csv"));
  CHECK(read.columns == std::vector<std::string>{"site", "'@difference"});
  CHECK(read.rows == expected);
  CHECK(nlohmann::json::parse(read_text_file(scratch.path("01-sites.json"))).at("rows") == nlohmann::json(table.rows));
}

TEST_CASE("the tables of a report are files that can be read back", "[report]") {
  const test::Scratch scratch;
  const std::string folder = scratch.path("tables");
  Table first, second;
  first.caption = "Do the maps help? \"Yes\", or not";
  first.header = {"arm", "value"};
  first.rows = {{"image, alone", "0.5"}, {"two\nlines", "\"quoted\""}};
  second.caption = std::string(200, 'x');
  second.header = {"only"};
  HtmlReport report("Title");
  report.table(first).table(second);
  REQUIRE(report.tables().size() == 2);
  write_tables(folder, report.tables());
  const CsvTable read = read_csv(folder + "/01-do-the-maps-help-yes-or-not.csv");
  CHECK(read.columns == first.header);
  CHECK(read.rows == first.rows);
  CHECK(read_text_file(folder + "/01-do-the-maps-help-yes-or-not.tex") == latex_table(first));
  CHECK(nlohmann::json::parse(read_text_file(folder + "/01-do-the-maps-help-yes-or-not.json")) ==
        nlohmann::json({{"caption", first.caption}, {"header", first.header}, {"rows", first.rows}}));
  CHECK(fs::exists(folder + "/02-" + std::string(48, 'x') + ".csv"));
  CHECK_THROWS_AS(write_tables("/proc/nowhere/tables", report.tables()), Error);
}

TEST_CASE("bytes that are no UTF-8 stop no file and reach none", "[report]") {
  const std::string folder = (fs::temp_directory_path() / ("daug_latin_" + std::to_string(::getpid()))).string();
  fs::remove_all(folder);
  const std::string latin = "f\xFCr", mended = "f\xEF\xBF\xBDr";
  HtmlReport report(latin, latin);
  report.section(latin).table({latin, {latin, "b"}, {{latin, "1"}}, {}});
  report.charts({{latin, {latin}, {latin}, {{latin, {0, 1}, {0, 1}}}, false}});
  write_tables(folder, report.tables());
  write_figures(folder, report.line_charts(), report.interval_plots());
  CHECK(read_csv(folder + "/01-f-r.csv").columns == std::vector<std::string>{mended, "b"});
  CHECK(nlohmann::json::parse(read_text_file(folder + "/01-f-r.json")).at("caption") == mended);
  for (const std::string& text : {report.html(), read_text_file(folder + "/01-f-r.tex"),
                                  read_text_file(folder + "/01-f-r.json"), read_text_file(folder + "/01-f-r.svg")}) {
    CHECK(utf8_error(text) == std::string::npos);
    CHECK(text.find(mended) != std::string::npos);
  }
  fs::remove_all(folder);
}
