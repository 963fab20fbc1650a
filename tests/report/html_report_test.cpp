#include "daug/report/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "chart.h"
#include "daug/core/error.h"
#include "daug/image/png.h"
#include "daug/io/file.h"
#include "daug/report/figure_files.h"
#include "daug/report/html_parts.h"
#include "support/catch.h"
#include "support/html.h"
#include "support/scratch.h"

namespace {

using daug::HtmlReport;
using daug::test::count;
using daug::test::matches;
using daug::test::structure_error;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::vector<std::uint8_t> picture(int width = 4, int height = 3, float level = 0.5F) {
  return daug::encode_png(daug::GrayImage::filled(width, height, level));
}

// A page with every kind of piece, every text of it `text`.
HtmlReport everything(const std::string& text) {
  HtmlReport report(text, text);
  report.notice(text).paragraph(text).section(text).subsection(text).section(text);
  report.key_figures({{text, text, text}, {"1", "2", ""}}).key_values(text, {{text, text}});
  report.preformatted(text, text + "\n  two");
  report.table({text, {text, "b"}, {{text, "1.5"}, {"x", "2"}}, {1}});
  report.images({text, {{text, {{picture(), text, text, picture()}, {picture(), "", "", {}}}}}, {{text, -1, 1}}, 0.5});
  report.charts({{text, {text}, {text}, {{text, {0, 1}, {0, 1}}}, true}, {"", {}, {}, {}, false}});
  report.intervals({text, {text}, {{text, 0.5, 0.25, 0.75, true}, {"none", kNan, kNan, kNan}}, 0.5});
  report.retrieval(text, {{{picture(), text, text, {}}, {text}, {{{picture(), text, "", {}}, {text, "other"}}}}});
  return report;
}

std::string chart_html(const daug::LineChart& chart) { return daug::report::line_chart_html(chart); }

}  // namespace

TEST_CASE("base64 follows RFC 4648", "[report]") {
  const auto encoded = [](const std::string& text) {
    return daug::report::base64(std::vector<std::uint8_t>(text.begin(), text.end()));
  };
  CHECK(encoded("").empty());
  CHECK(encoded("f") == "Zg==");
  CHECK(encoded("fo") == "Zm8=");
  CHECK(encoded("foo") == "Zm9v");
  CHECK(encoded("foobar") == "Zm9vYmFy");
  CHECK(daug::report::base64({0xFF, 0xEF, 0xBE}) == "/+++");
}

TEST_CASE("text is escaped everywhere", "[report]") {
  CHECK(daug::report::escape("<a href=\"x\">&'") == "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  CHECK(daug::report::escape(std::string("a\0b\x1B\tc", 6)) ==
        "a\xEF\xBF\xBD"
        "b\xEF\xBF\xBD\tc");
  const std::string hostile = "\"'><script>alert(1)</script><img src=x onerror=y>&amp; ]]>-->";
  const std::string html = everything(hostile).html();
  CHECK(structure_error(html).empty());
  CHECK(count(html, "<script>") == 1);
  CHECK(html.find("alert(1)</script>") == std::string::npos);
  CHECK(html.find("onerror=y>") == std::string::npos);
  CHECK(count(html, daug::report::escape(hostile)) > 20);
}

TEST_CASE("a page is well formed and complete", "[report]") {
  const std::string html = everything("Effusion & more").html();
  CHECK(structure_error(html) == "");
  for (const char* landmark : {"<header>", "<nav aria-label=", "<main id=", "<html lang=\"en\">", "name=\"viewport\""})
    CHECK(count(html, landmark) == 1);
  CHECK(count(html, "<h1>") == 1);

  const auto ids = matches(html, " id=\"([^\"]*)\"");
  const std::set<std::string> known(ids.begin(), ids.end());
  CHECK(known.size() == ids.size());  // two sections have the same title
  for (const auto& target : matches(html, "href=\"#([^\"]*)\"")) CHECK(known.count(target) == 1);
  for (const auto& target : matches(html, "aria-labelledby=\"([^\"]*)\"")) CHECK(known.count(target) == 1);
  CHECK(matches(html, "<section id=\"([^\"]*)\"") == std::vector<std::string>{"effusion-more", "effusion-more-2"});
  CHECK(count(html, "<img") == count(html, " alt=\""));
  // Whatever scrolls can be reached by keyboard and has a name.
  CHECK(count(html, "class=\"scroll\"") == 2);
  CHECK(count(html, "class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Effusion &amp; more\"") == 2);
  CHECK(HtmlReport("t").html().find("Not a medical device") != std::string::npos);
}

TEST_CASE("a page needs no network", "[report]") {
  const std::string html = everything("see https://example.org").html();
  for (const auto& source : matches(html, " src=\"([^\"]{0,22})")) CHECK(source == "data:image/png;base64,");
  for (const auto& target : matches(html, " href=\"([^\"]*)\"")) CHECK(target[0] == '#');
  for (const char* reference : {"@import", "url(", "<link", "srcset", "xlink", "fetch("})
    CHECK(count(html, reference) == 0);
  CHECK(count(everything("plain").html(), "://") == 0);
  CHECK(count(html, "default-src 'none'") == 1);
}

TEST_CASE("the same calls give the same bytes", "[report]") {
  CHECK(everything("x").html() == everything("x").html());
  const daug::test::Scratch scratch;
  const std::string path = scratch.path("report.html");
  everything("x").write(path);
  CHECK(daug::read_text_file(path) == everything("x").html());
  REQUIRE_THROWS_AS(HtmlReport("t").write("/nonexistent/folder/report.html"), daug::Error);
}

TEST_CASE("the structure checker sees errors", "[report]") {
  CHECK(structure_error("<p>a</p><br><svg><line x=\"1\"/></svg>").empty());
  for (const char* bad : {"<p>", "</p>", "<p><b></p></b>", "<p class=\"a<b\"></p>", "a < b", "<p"})
    CHECK_FALSE(structure_error(bad).empty());
}

TEST_CASE("points lie where the ticks say", "[report]") {
  // The axes are 0..10 and -1..1, so (0, -1), (10, 1) and (4, 0.5) lie on ticks of both.
  const std::string svg = chart_html({"t", {"x", 0, 10}, {"y", -1, 1}, {{"s", {0, 4, 10}, {-1, 0.5, 1}}}, false});
  const auto tick = [&](const char* kind, const std::string& label) {
    const std::string text = std::string("<text class=\"") + kind + "\" x=\"([0-9.]+)\" y=\"[0-9.]+\">" + label + "<";
    if (kind[0] == 'x') return std::stod(matches(svg, text).at(0));
    // Labels of the y axis are set 4 below their line.
    return std::stod(
               matches(svg, std::string("<text class=\"y\" x=\"[0-9.]+\" y=\"([0-9.]+)\">") + label + "<").at(0)) -
           4;
  };
  const std::string path = matches(svg, "<path class=\"line s0\" d=\"([^\"]*)\"").at(0);
  const auto numbers = matches(path, "([0-9.]+)");
  REQUIRE(numbers.size() == 6);
  CHECK(std::stod(numbers[0]) == Approx(tick("x", "0")).margin(0.011));
  CHECK(std::stod(numbers[1]) == Approx(tick("y", "-1.0")).margin(0.011));
  CHECK(std::stod(numbers[2]) == Approx(tick("x", "4")).margin(0.011));
  CHECK(std::stod(numbers[3]) == Approx(tick("y", "0.5")).margin(0.011));
  CHECK(std::stod(numbers[4]) == Approx(tick("x", "10")).margin(0.011));
  CHECK(std::stod(numbers[5]) == Approx(tick("y", "1.0")).margin(0.011));
  CHECK(tick("x", "10") > tick("x", "0"));
  CHECK(tick("y", "1.0") < tick("y", "0.0"));  // up is up
  CHECK(tick("y", "0.5") == Approx((tick("y", "0.0") + tick("y", "1.0")) / 2).margin(0.011));
}

TEST_CASE("lines break at gaps, and dense ones stay short", "[report]") {
  const auto path = [](const daug::Series& series) {
    return matches(chart_html({"t", {"x"}, {"y"}, {series}, false}), "<path class=\"line s0\" d=\"([^\"]*)\"").at(0);
  };
  CHECK(count(path({"s", {0, 1, 2, 3, 4}, {0, 1, kNan, 1, 0}}), "M") == 2);
  CHECK(count(path({"s", {0, 1}, {0, 1}}), "M") == 1);
  daug::Series dense{"s", {}, {}};
  for (int i = 0; i <= 100'000; ++i) {
    dense.x.push_back(i);
    dense.y.push_back(i * 1e-5);
  }
  const std::string thin = path(dense);
  CHECK(thin.size() < 40'000);
  CHECK(thin.substr(thin.rfind('L')) == "L348.00 28.00");  // the last point stays
}

TEST_CASE("several series differ in more than colour", "[report]") {
  daug::LineChart chart{"t", {"x"}, {"y"}, {}, false};
  for (int i = 0; i < 8; ++i) chart.series.push_back({fmt::format("s{}", i), {0, 1}, {0, 1}});
  const std::string html = HtmlReport("t").charts({chart}).html();
  std::set<std::string> dashes;
  for (int i = 1; i < 8; ++i)
    dashes.insert(
        matches(html, fmt::format("\\.s{} \\{{ stroke: var\\(--s{}\\); stroke-dasharray: ([0-9 ]+);", i, i)).at(0));
  CHECK(dashes.size() == 7);
}

TEST_CASE("more series than styles differ in their marks, on the line and in the legend", "[report]") {
  daug::LineChart chart{"t", {"x"}, {"y"}, {}, false};
  for (int i = 0; i < 40; ++i) {
    daug::Series series{fmt::format("s{}", i), {}, {}};
    for (int k = 0; k <= 20; ++k) series.x.push_back(k), series.y.push_back(i + k);
    chart.series.push_back(series);
  }
  for (const std::string& svg : {chart_html(chart), daug::figure_svg(chart)}) {
    CHECK(structure_error(svg).empty());
    // A style and the shape of its mark, drawn relative to where it stands.
    std::map<std::string, std::set<std::string>> shapes;
    std::map<std::string, int> marks;
    for (int style = 0; style < 8; ++style)
      for (const auto& mark :
           matches(svg, fmt::format("<path class=\"mark s{}\" d=\"M[0-9.]+ [0-9.]+(m[^\"]*)\"", style))) {
        shapes[std::to_string(style)].insert(mark);
        ++marks[std::to_string(style) + mark];
      }
    CHECK(shapes.size() == 8);
    for (const auto& [style, of_style] : shapes) CHECK(of_style.size() == 4);
    for (const auto& [key, number] : marks) CHECK(number >= 4);  // some on the line, one in the legend
  }
  chart.series.resize(8);
  CHECK(count(chart_html(chart), "class=\"mark") == 0);
}

TEST_CASE("ticks are round and inside the axis", "[report]") {
  const auto check = [](double low, double high, std::vector<std::string> expected) {
    const auto ticks = daug::report::round_ticks(low, high, 5);
    std::vector<std::string> labels;
    for (double value : ticks.values) labels.push_back(ticks.label(value));
    CHECK(labels == expected);
  };
  check(0, 1, {"0.0", "0.2", "0.4", "0.6", "0.8", "1.0"});
  check(-1, 1, {"-1.0", "-0.5", "0.0", "0.5", "1.0"});
  check(0, 1100, {"0", "200", "400", "600", "800", "1000"});
  check(0.45, 0.95, {"0.5", "0.6", "0.7", "0.8", "0.9"});
  check(0, 3e7, {"0", "5e+06", "1e+07", "1.5e+07", "2e+07", "2.5e+07", "3e+07"});
}

TEST_CASE("charts stay finite whatever the data", "[report]") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const std::vector<double>& values : std::vector<std::vector<double>>{
           {}, {kNan}, {5, 5}, {0, 0}, {-1e308, 1e308}, {1e20, 1e20 + 1e5}, {infinity, 1}, {5e-324, 0}}) {
    const std::string html = chart_html({"t", {"x"}, {"y"}, {{"s", values, values}}, true});
    CHECK(structure_error(html).empty());
    CHECK(html.size() < 10'000);
    for (const char* bad : {"nan", "inf"}) CHECK(count(html, bad) == 0);
  }
  // An axis that ends before the data begin, or begins where they end, goes the right way all the same.
  const auto ticks = [](const daug::Axis& axis) {
    const std::string html = chart_html({"t", axis, {"y"}, {{"s", {5, 6}, {0, 1}}}, false});
    std::vector<double> labels;
    for (const auto& label : matches(html, "<text class=\"x\" x=\"[0-9.]+\" y=\"[0-9.]+\">([^<]*)<"))
      labels.push_back(std::stod(label));
    return labels;
  };
  for (const daug::Axis& axis : {daug::Axis{"x", kNan, 1}, daug::Axis{"x", 8, kNan}}) {
    const auto labels = ticks(axis);
    CHECK(labels.size() >= 2);
    CHECK(std::is_sorted(labels.begin(), labels.end()));
    for (const double label : labels) CHECK((axis.low == 8 ? label >= 8 : label <= 1));
  }
}

TEST_CASE("intervals stand at their place on the axis", "[report]") {
  daug::IntervalPlot plot{"t", {"AUROC", 0.5, 1.0}, {{"row", 0.75, 0.6, 0.8}, {"none", kNan, 0, 0}}, 0.5, 2};
  const std::string html = daug::report::interval_plot_html(plot);
  CHECK(html.find("M200.0 5V15M200.0 10H600.0M600.0 5V15") != std::string::npos);  // per mille of 0.5..1
  CHECK(html.find("x1=\"500.0\" y1=\"2\" x2=\"500.0\"") != std::string::npos);
  CHECK(html.find("class=\"chance\" x1=\"0.0\"") != std::string::npos);
  CHECK(html.find("0.75 (0.60 to 0.80)") != std::string::npos);
  CHECK(html.find("not available") != std::string::npos);
  CHECK(html.find("left:20.00%\">0.6<") != std::string::npos);
  plot.rows[0].low = 0.76;
  CHECK_NOTHROW(daug::report::interval_plot_html(plot));
  plot.rows[0].low = 0.81;
  REQUIRE_THROWS_AS(daug::report::interval_plot_html(plot), daug::Error);
}

TEST_CASE("charts are files that need no page", "[report]") {
  const std::string hostile = "a <b> & \"c\"";
  const daug::LineChart chart{
      hostile, {"x", 0, 10}, {"y", -1, 1}, {{hostile, {0, 10}, {-1, 1}}, {"s", {0}, {0}}}, true};
  const daug::IntervalPlot plot{
      hostile, {"AUROC", 0.5, 1.0}, {{hostile, 0.75, 0.6, 0.8}, {"b", kNan, kNan, kNan}}, 0.5, 2};
  for (const std::string& svg : {daug::figure_svg(chart), daug::figure_svg(plot)}) {
    CHECK(structure_error(svg) == "");
    CHECK(svg.rfind("<svg xmlns=\"http://www.w3.org/2000/svg\" width=", 0) == 0);
    CHECK(count(svg, "://") == 1);
    CHECK(count(svg, "var(") == 0);
    CHECK(count(svg, daug::report::escape(hostile)) >= 3);  // label, title and legend or row
  }
  // The drawing is that of the page.
  const std::string pattern = "<path class=\"line s0\" d=\"([^\"]*)\"";
  CHECK(matches(daug::figure_svg(chart), pattern) == matches(chart_html(chart), pattern));
  // Of 240 units, 0.75 lies halfway between 0.5 and 1, 0.6 a fifth along.
  const std::string svg = daug::figure_svg(plot);
  const double left = std::stod(matches(svg, "<line class=\"tick\" x1=\"([0-9.]+)\"").at(0));
  CHECK(std::stod(matches(svg, "cx=\"([0-9.]+)\"").at(0)) == Approx(left + 120).margin(0.011));
  CHECK(std::stod(matches(svg, "class=\"whisker\" d=\"M([0-9.]+) ").at(0)) == Approx(left + 48).margin(0.011));
  CHECK(count(svg, "class=\"whisker\"") == 1);
  CHECK(count(svg, "0.75 (0.60 to 0.80)") == 2);  // drawn, and in the label
  CHECK(count(svg, ", b not available\"") == 1);

  HtmlReport report("t");
  report.charts({chart, chart}).intervals(plot);
  const daug::test::Scratch scratch;
  daug::write_figures(scratch.folder(), report.line_charts(), report.interval_plots());
  CHECK(daug::read_text_file(scratch.path("01-a-b-c.svg")) == daug::figure_svg(chart));
  CHECK(daug::read_text_file(scratch.path("03-a-b-c.svg")) == daug::figure_svg(plot));
}

TEST_CASE("a title too long for a chart's file is set narrower, not cut off", "[report]") {
  daug::LineChart chart{"ROC, all findings pooled", {"x"}, {"y"}, {{"s", {0, 1}, {0, 1}}}};
  CHECK(daug::figure_svg(chart).find("textLength") == std::string::npos);
  chart.title = "Precision-recall, all findings pooled. Text is label-derived.";
  const std::string svg = daug::figure_svg(chart);
  CHECK(structure_error(svg) == "");
  const auto widths = matches(svg, "textLength=\"([0-9]+)\" lengthAdjust=\"spacingAndGlyphs\">Precision-recall");
  REQUIRE(widths.size() == 1);
  CHECK(std::stoi(widths[0]) < 360);
}

TEST_CASE("pictures carry their size, overlay and slider", "[report]") {
  const auto base = picture(40, 30), over = picture(40, 30, 1);
  daug::ImageGrid grid{"caption", {{"row", {{base, "map", "what it shows", over}}}}, {}, 0.25};
  const std::string html = HtmlReport("t").images(grid).html();
  CHECK(html.find("width=\"40\" height=\"30\" alt=\"what it shows\" src=\"data:image/png;base64," +
                  daug::report::base64(base)) != std::string::npos);
  CHECK(html.find("class=\"overlay small\" width=\"40\" height=\"30\" alt=\"\"") != std::string::npos);
  CHECK(html.find("--opacity:0.25") != std::string::npos);
  CHECK(count(html, "type=\"range\"") == 1);
  grid.rows[0].cells[0].overlay_png.clear();
  CHECK(count(HtmlReport("t").images(grid).html(), "type=\"range\"") == 0);
  grid.scales = {{"scale", -2, 0.5, daug::Colormap::kGray}};
  CHECK(HtmlReport("t").images(grid).html().find("<span>-2</span>") != std::string::npos);
}

TEST_CASE("shared findings are marked by a word", "[report]") {
  const daug::RetrievalRow row{{picture(), "q", "", {}},
                               {"Effusion", "Nodule"},
                               {{{picture(), "h", "", {}}, {"Nodule", "Device"}}, {{picture(), "i", "", {}}, {}}}};
  const std::string html = HtmlReport("t").retrieval("c", {row}).html();
  CHECK(count(html, "shared: Nodule") == 1);
  CHECK(count(html, "shared: ") == 1);
  CHECK(count(html, ">Device<") == 1);
  CHECK(count(html, "no finding") == 1);
  CHECK(html.find("<b>rank 2</b>") != std::string::npos);
}

TEST_CASE("numbers are aligned, texts are not", "[report]") {
  const std::string html =
      HtmlReport("t")
          .table({"c", {"arm", "value", "note"}, {{"1", "+0.5 (0.1 to 0.9)", "good"}, {"2", "-", "2"}}, {0}})
          .html();
  CHECK(count(html, "<td class=\"number\">") == 2);
  CHECK(count(html, "<tr class=\"best\">") == 1);
  CHECK(html.find("<th scope=\"row\">1</th>") != std::string::npos);
}

TEST_CASE("contents that contradict themselves are refused", "[report]") {
  const auto code = [](const std::function<void(HtmlReport&)>& build) {
    HtmlReport report("t");
    try {
      build(report);
    } catch (const daug::Error& error) {
      return error.code();
    }
    return daug::ErrorCode::kCancelled;
  };
  using daug::ErrorCode;
  CHECK(code([](HtmlReport& r) { r.table({"c", {"a", "b"}, {{"1"}}, {}}); }) == ErrorCode::kMismatch);
  CHECK(code([](HtmlReport& r) { r.table({"c", {"a"}, {{"1"}}, {1}}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([](HtmlReport& r) { r.charts({{"t", {}, {}, {{"s", {1}, {}}}, false}}); }) == ErrorCode::kMismatch);
  CHECK(code([](HtmlReport& r) { r.charts({{"t", {"x", 1, 0}, {}, {}, false}}); }) == ErrorCode::kInvalidArgument);
  CHECK(code([](HtmlReport& r) { r.images({"", {{"", {{{1, 2, 3}, "x", "", {}}}}}, {}}); }) == ErrorCode::kFormat);
  CHECK(code([](HtmlReport& r) {
          r.images({"", {{"", {{picture(), "x", "", picture(5, 5)}}}}, {}});
        }) == ErrorCode::kMismatch);
  CHECK(code([](HtmlReport& r) { r.images({"", {}, {}, 2}); }) == ErrorCode::kInvalidArgument);
}
