#include "chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "daug/core/error.h"
#include "daug/report/html_parts.h"
#include "page.h"

namespace daug::report {
namespace {

constexpr std::size_t kStyles = 8;  // classes s0 .. s7
constexpr std::size_t kMarks = 4;   // shapes of marks

// The drawing area inside the chart's view box.
constexpr double kWidth = 360, kHeight = 260;
constexpr double kLeft = 44, kRight = 348, kTop = 28, kBottom = 216;

struct Range {
  double low, high;

  double at(double fraction) const { return low + fraction * (high - low); }
  double fraction(double value) const { return (value - low) / (high - low); }
};

// The axis' own limits where they are finite, those of the values elsewhere; never empty.
template <class Values>
Range axis_range(const Axis& axis, const Values& values, const char* function) {
  Range range{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (double value : values) {
    if (!std::isfinite(value)) continue;
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  }
  if (range.low > range.high) range = {0, 1};
  if (std::isfinite(axis.low)) range.low = axis.low;
  if (std::isfinite(axis.high)) range.high = axis.high;
  if (std::isfinite(axis.low) && std::isfinite(axis.high))
    require(axis.low < axis.high, function, "axis", "low < high", detail::concat(axis.low, ", ", axis.high));
  // Too narrow for tick labels to differ: widen.
  if (!(range.high - range.low > 1e-9 * std::max(std::abs(range.low), std::abs(range.high)))) {
    const double margin = std::max(0.5, 0.5 * std::abs(range.low));
    if (!std::isfinite(axis.low)) range.low = std::min(range.low, range.high) - margin;
    if (!std::isfinite(axis.high)) range.high = range.low + 2 * margin;
  }
  return range;
}

/// What tells a series from one with the same colour and dashes: nothing for the first ones, then a mark of its own for
/// each round of styles. Centred on (x, y).
std::string mark_svg(std::size_t series, double x, double y) {
  if (series < kStyles) return "";
  const char* shapes[kMarks] = {"m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z", "m-3 -3h6v6h-6z", "m0 -4l4 7h-8z",
                                "m0 -4l4 4l-4 4l-4 -4z"};
  return fmt::format("<path class=\"mark s{}\" d=\"M{:.2f} {:.2f}{}\"/>", series % kStyles, x, y,
                     shapes[(series / kStyles - 1) % kMarks]);
}

std::string legend_html(const std::vector<Series>& series) {
  std::string html = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < series.size(); ++i)
    html += fmt::format(
        "<li><svg class=\"swatch\" viewBox=\"0 0 34 8\" aria-hidden=\"true\"><line class=\"line s{}\" x1=\"1\" "
        "y1=\"4\" "
        "x2=\"33\" y2=\"4\"/>{}</svg>{}</li>",
        i % kStyles, mark_svg(i, 17, 4), escape(series[i].name));
  return html + "</ul>\n";
}

}  // namespace

std::string Ticks::label(double value) const {
  constexpr double kLongest = 1e6;
  const bool plain = decimals <= 6 && std::abs(value) < kLongest;
  const std::string text = plain ? fmt::format("{:.{}f}", value, decimals) : fmt::format("{:.4g}", value);
  return text.find_first_not_of("-0.") == std::string::npos && text[0] == '-' ? text.substr(1) : text;  // no "-0"
}

Ticks round_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough / power <= 1.5 ? 1 : rough / power <= 3.5 ? 2 : rough / power <= 7.5 ? 5 : 10);
  Ticks ticks;
  ticks.decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  // A little slack, so that limits that are ticks themselves are not lost to rounding.
  const double first = std::ceil(low / step - 1e-6);
  for (int k = 0; k <= 2 * count && (first + k) * step <= high + 1e-6 * step; ++k)
    ticks.values.push_back((first + k) * step);
  return ticks;
}

namespace {

/// Axes and lines, in the drawing area.
std::string line_chart_body(const LineChart& chart) {
  std::vector<double> all_x, all_y;
  for (const Series& series : chart.series) {
    if (series.x.size() != series.y.size())
      fail(ErrorCode::kMismatch, "HtmlReport::charts", "series '" + series.name + "'",
           detail::concat(series.x.size(), " y values"), series.y.size());
    all_x.insert(all_x.end(), series.x.begin(), series.x.end());
    all_y.insert(all_y.end(), series.y.begin(), series.y.end());
  }
  const Range x_range = axis_range(chart.x, all_x, "HtmlReport::charts");
  const Range y_range = axis_range(chart.y, all_y, "HtmlReport::charts");
  const Range across{kLeft, kRight}, up{kBottom, kTop};
  const auto x_at = [&](double x) { return across.at(x_range.fraction(x)); };
  const auto y_at = [&](double y) { return up.at(y_range.fraction(y)); };

  std::string svg;
  const Ticks x_ticks = round_ticks(x_range.low, x_range.high, 5), y_ticks = round_ticks(y_range.low, y_range.high, 5);
  for (double tick : x_ticks.values)
    svg += fmt::format(
        "<line class=\"tick\" x1=\"{0:.2f}\" y1=\"{1}\" x2=\"{0:.2f}\" y2=\"{2}\"/><text class=\"x\" x=\"{0:.2f}\" "
        "y=\"{3}\">{4}</text>\n",
        x_at(tick), kTop, kBottom, kBottom + 16, x_ticks.label(tick));
  for (double tick : y_ticks.values)
    svg += fmt::format(
        "<line class=\"tick\" x1=\"{0}\" y1=\"{2:.2f}\" x2=\"{1}\" y2=\"{2:.2f}\"/><text class=\"y\" x=\"{3}\" "
        "y=\"{4:.2f}\">{5}</text>\n",
        kLeft, kRight, y_at(tick), kLeft - 6, y_at(tick) + 4, y_ticks.label(tick));
  svg += fmt::format("<path class=\"axis\" d=\"M{0} {1}V{2}H{3}\"/>\n", kLeft, kTop, kBottom, kRight);
  svg += fmt::format("<text class=\"x label\" x=\"{}\" y=\"{}\">{}</text>\n", (kLeft + kRight) / 2, kBottom + 36,
                     escape(chart.x.label));
  svg += fmt::format("<text class=\"label\" x=\"{}\" y=\"{}\">{}</text>\n", 4, kTop - 12, escape(chart.y.label));
  if (chart.diagonal)
    svg +=
        fmt::format("<line class=\"chance\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>\n", kLeft, kBottom, kRight, kTop);

  // A nested svg clips what explicit limits leave outside; its margin keeps strokes on the border whole.
  constexpr double kMargin = 2;
  svg += fmt::format("<svg x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{3}\" viewBox=\"{0} {1} {2} {3}\">\n",
                     kLeft - kMargin, kTop - kMargin, kRight - kLeft + 2 * kMargin, kBottom - kTop + 2 * kMargin);
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    std::string path;
    std::vector<std::array<double, 2>> drawn;
    bool pen_down = false;
    double last_x = 0, last_y = 0;
    for (std::size_t k = 0; k < series.x.size(); ++k) {
      const double x = x_at(series.x[k]), y = y_at(series.y[k]);
      if (!std::isfinite(x) || !std::isfinite(y)) {
        pen_down = false;
        continue;
      }
      // Points closer than the eye resolves only make the file longer; the last one always counts.
      const bool near = pen_down && std::hypot(x - last_x, y - last_y) < 0.25 && k + 1 < series.x.size();
      if (near) continue;
      path += fmt::format("{}{:.2f} {:.2f}", pen_down ? "L" : "M", x, y);
      drawn.push_back({x, y});
      pen_down = true;
      last_x = x;
      last_y = y;
    }
    if (!path.empty()) svg += fmt::format("<path class=\"line s{}\" d=\"{}\"/>\n", i % kStyles, path);
    constexpr std::size_t kMarked = 6;  // points of a line, about
    for (std::size_t k = 0; k < drawn.size(); k += drawn.size() / kMarked + 1)
      svg += mark_svg(i, drawn[k][0], drawn[k][1]);
  }
  return svg + "</svg>\n";
}

/// What a chart shows, for those who cannot see it.
std::string line_chart_label(const LineChart& chart) {
  std::string names;
  for (const Series& series : chart.series) names += (names.empty() ? "" : ", ") + series.name;
  return fmt::format("{}: {} against {}; {}{}{}", escape(chart.title), escape(chart.y.label), escape(chart.x.label),
                     escape(names), chart.alt.empty() ? "" : ". ", escape(chart.alt));
}

Range interval_range(const IntervalPlot& plot) {
  require_range(plot.decimals, 0, 9, "HtmlReport::intervals", "decimals");
  std::vector<double> values{plot.reference};
  for (const IntervalRow& row : plot.rows) {
    // A percentile bootstrap of a skewed statistic may leave the value itself outside.
    if (!(row.low <= row.high) && std::isfinite(row.value))
      fail(ErrorCode::kInvalidArgument, "HtmlReport::intervals", "row '" + row.label + "'", "low <= high",
           detail::concat(row.low, ", ", row.high));
    values.insert(values.end(), {row.low, row.value, row.high});
  }
  return axis_range(plot.axis, values, "HtmlReport::intervals");
}

std::string interval_text(const IntervalRow& row, int decimals) {
  return std::isfinite(row.value)
             ? fmt::format("{0:.{3}f} ({1:.{3}f} to {2:.{3}f})", row.value, row.low, row.high, decimals)
             : "not available";
}

/// What a plot shows, for those who cannot see it.
std::string interval_plot_label(const IntervalPlot& plot) {
  std::string rows;
  for (const IntervalRow& row : plot.rows)
    rows += (rows.empty() ? "" : ", ") + row.label + " " + interval_text(row, plot.decimals);
  return fmt::format("{}: {}; {}", escape(plot.title), escape(plot.axis.label), escape(rows));
}

/// A file of its own: what the page's style sheet says of a chart, in colours that print.
std::string svg_file(double width, double height, const std::string& label, const std::string& content) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "role=\"img\" aria-label=\"{2}\">\n<style>{3}</style>\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#ffffff\"/>\n{4}</svg>\n",
      width, height, label, kSvgStyle, content);
}

}  // namespace

std::string line_chart_html(const LineChart& chart) {
  const std::string body = line_chart_body(chart);
  return fmt::format(
      "<figure class=\"panel\"><figcaption class=\"title\">{}</figcaption>\n<svg class=\"chart\" viewBox=\"0 0 {} {}\" "
      "role=\"img\" aria-label=\"{}\">\n{}</svg>\n{}</figure>\n",
      escape(chart.title), kWidth, kHeight, line_chart_label(chart), body,
      chart.series.empty() ? "" : legend_html(chart.series));
}

std::string line_chart_svg(const LineChart& chart) {
  constexpr double kTitle = 24, kLegendRow = 18, kLetter = 6.8, kRoom = kWidth - 8;  // of a bold 12 pixel font
  // A title that would leave the drawing is set narrower.
  const auto continues = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; };  // UTF-8
  const auto letters = chart.title.size() - std::count_if(chart.title.begin(), chart.title.end(), continues);
  const bool wide = kLetter * static_cast<double>(letters) > kRoom;
  std::string content =
      fmt::format("<text class=\"title\" x=\"4\" y=\"16\"{}>{}</text>\n<g transform=\"translate(0 {})\">\n{}",
                  wide ? fmt::format(" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\"", kRoom) : "",
                  escape(chart.title), kTitle, line_chart_body(chart));
  double y = kHeight + kLegendRow / 2;
  for (std::size_t i = 0; i < chart.series.size(); ++i, y += kLegendRow)
    content += fmt::format(
        "<line class=\"line s{}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>{}<text x=\"{}\" y=\"{}\">{}</text>\n",
        i % kStyles, kLeft, y, kLeft + 34, y, mark_svg(i, kLeft + 17, y), kLeft + 42, y + 4,
        escape(chart.series[i].name));
  return svg_file(kWidth, kTitle + y, line_chart_label(chart), content + "</g>\n");
}

std::string interval_plot_svg(const IntervalPlot& plot) {
  constexpr double kFirst = 40, kRow = 22, kTrack = 240, kText = 170, kGap = 12, kLetter = 6.5;  // of a 12 pixel font
  const Range range = interval_range(plot);
  std::size_t longest = 0;
  for (const IntervalRow& row : plot.rows) longest = std::max(longest, row.label.size());
  const double left = kGap + kLetter * static_cast<double>(longest) + kGap, right = left + kTrack;
  const double bottom = kFirst + kRow * static_cast<double>(plot.rows.size());
  const auto at = [&](double value) { return left + kTrack * std::clamp(range.fraction(value), 0.0, 1.0); };
  std::string content = fmt::format("<text class=\"title\" x=\"4\" y=\"16\">{}</text>\n", escape(plot.title));
  if (std::isfinite(plot.reference))
    content += fmt::format("<line class=\"chance\" x1=\"{0:.2f}\" y1=\"{1}\" x2=\"{0:.2f}\" y2=\"{2}\"/>\n",
                           at(plot.reference), kFirst - kRow / 2, bottom - kRow / 2);
  double y = kFirst;
  for (const IntervalRow& row : plot.rows) {
    content += fmt::format(
        "<text x=\"{0}\" y=\"{2}\"{1}>{3}</text><line class=\"tick\" x1=\"{4}\" y1=\"{6}\" x2=\"{5}\" y2=\"{6}\"/>",
        kGap, row.highlighted ? " class=\"best\"" : "", y + 4, escape(row.label), left, right, y);
    if (std::isfinite(row.value))
      content += fmt::format(
          "<path class=\"whisker\" d=\"M{0:.2f} {2}V{3}M{0:.2f} {4}H{1:.2f}M{1:.2f} {2}V{3}\"/><circle class=\"value\" "
          "cx=\"{5:.2f}\" cy=\"{4}\" r=\"4\"/>",
          at(row.low), at(row.high), y - 5, y + 5, y, at(row.value));
    content +=
        fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", right + kGap, y + 4, interval_text(row, plot.decimals));
    y += kRow;
  }
  const Ticks ticks = round_ticks(range.low, range.high, 4);
  content += fmt::format("<path class=\"axis\" d=\"M{} {}H{}\"/>\n", left, bottom - kRow / 2, right);
  for (double tick : ticks.values)
    content +=
        fmt::format("<text class=\"x\" x=\"{:.2f}\" y=\"{}\">{}</text>\n", at(tick), bottom + 6, ticks.label(tick));
  content += fmt::format("<text class=\"x\" x=\"{}\" y=\"{}\">{}</text>\n", (left + right) / 2, bottom + 24,
                         escape(plot.axis.label));
  return svg_file(right + kText, bottom + 34, interval_plot_label(plot), content);
}

std::string interval_plot_html(const IntervalPlot& plot) {
  const Range range = interval_range(plot);
  constexpr double kTrack = 1000;  // units of a track's view box; positions are per mille of the axis
  const auto at = [&](double value) { return kTrack * std::clamp(range.fraction(value), 0.0, 1.0); };

  std::string rows;
  for (const IntervalRow& row : plot.rows) {
    std::string track = "<line class=\"rail\" x1=\"0\" y1=\"10\" x2=\"1000\" y2=\"10\"/>";
    if (std::isfinite(plot.reference))
      track +=
          fmt::format("<line class=\"chance\" x1=\"{0:.1f}\" y1=\"0\" x2=\"{0:.1f}\" y2=\"20\"/>", at(plot.reference));
    if (std::isfinite(row.value))
      track += fmt::format(
          "<path class=\"whisker\" d=\"M{0:.1f} 5V15M{0:.1f} 10H{1:.1f}M{1:.1f} 5V15\"/><line class=\"value\" "
          "x1=\"{2:.1f}\" y1=\"2\" x2=\"{2:.1f}\" y2=\"18\"/>",
          at(row.low), at(row.high), at(row.value));
    rows += fmt::format(
        "<li{}><span class=\"name\">{}</span><span class=\"number\">{}</span><svg viewBox=\"0 0 1000 20\" "
        "preserveAspectRatio=\"none\" aria-hidden=\"true\">{}</svg></li>\n",
        row.highlighted ? " class=\"best\"" : "", escape(row.label), interval_text(row, plot.decimals), track);
  }
  std::string scale;
  const Ticks ticks = round_ticks(range.low, range.high, 4);
  for (double tick : ticks.values)
    scale += fmt::format("<span style=\"left:{:.2f}%\">{}</span>", at(tick) / 10, ticks.label(tick));
  return fmt::format(
      "<figure class=\"panel intervals\"><figcaption class=\"title\">{}</figcaption>\n<ul>\n{}</ul>\n<div "
      "class=\"scale\" "
      "aria-hidden=\"true\">{}</div>\n<p class=\"axis-label\">{}</p></figure>\n",
      escape(plot.title), rows, scale, escape(plot.axis.label));
}

}  // namespace daug::report
