#pragma once
/// @file
/// Charts of a report as SVG files, for papers and slides.

#include <string>
#include <vector>

#include "daug/report/html_report.h"

namespace daug {

/// A chart as the contents of an SVG file: title and legend drawn in, no other file or script needed, UTF-8. Throws
/// what HtmlReport does for the same chart.
std::string figure_svg(const LineChart& chart);
/// The same of an interval plot.
std::string figure_svg(const IntervalPlot& plot);

/// Writes charts, then interval plots, into a folder (made if need be) as `NN-title.svg`, named as write_tables names
/// files. Throws kIo, and what figure_svg throws.
void write_figures(const std::string& folder, const std::vector<LineChart>& charts,
                   const std::vector<IntervalPlot>& plots);

}  // namespace daug
