#pragma once
// Charts as inline SVG and HTML. Colours and dashes come from the page's style sheet (classes s0 to s7).

#include <string>
#include <vector>

#include "daug/report/html_report.h"

namespace daug::report {

/// Round tick values (1, 2 or 5 times a power of ten) and the decimals that tell them apart.
struct Ticks {
  std::vector<double> values;
  int decimals = 0;
  std::string label(double value) const;
};

/// Ticks inside [low, high], low < high; about `count` of them.
Ticks round_ticks(double low, double high, int count);

std::string line_chart_html(const LineChart& chart);
std::string interval_plot_html(const IntervalPlot& plot);

/// The same as files of their own, title and legend drawn in.
std::string line_chart_svg(const LineChart& chart);
std::string interval_plot_svg(const IntervalPlot& plot);

}  // namespace daug::report
