#pragma once
/// @file
/// One self-contained HTML file: text, tables, pictures with overlays, charts. No network, no dependency, no scripts
/// but one that moves the overlay's opacity.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "daug/image/colormap.h"

namespace daug {

/// A picture. With an overlay, the two are stacked and a slider fades the overlay in.
struct ReportImage {
  std::vector<std::uint8_t> png;          ///< PNG file bytes, see encode_png
  std::string caption;                    ///< shown below; may be empty
  std::string alt;                        ///< what a reader who cannot see it should know; the caption when empty
  std::vector<std::uint8_t> overlay_png;  ///< PNG of the same size, see overlay_map; empty: none
};

/// Legend of a colour map.
struct ColorScale {
  std::string title;                  ///< what the colours mean, with unit
  double low = 0;                     ///< value of the first colour
  double high = 1;                    ///< value of the last colour
  Colormap map = Colormap::kInferno;  ///< as used for the pictures
};

/// Pictures that belong together, e.g. original | map | true counterfactual | ours.
struct ImageRow {
  std::string label;  ///< shown above the row; may be empty
  std::vector<ReportImage> cells;
};

struct ImageGrid {
  std::string caption;  ///< shown below the grid
  std::vector<ImageRow> rows;
  std::vector<ColorScale> scales;  ///< legends, none to several
  double opacity = 0.7;            ///< of overlays, where the slider starts, in [0, 1]
};

/// One query and what was found for it.
struct RetrievalHit {
  ReportImage image;
  std::vector<std::string> findings;  ///< those the query has too are marked as shared
};

struct RetrievalRow {
  ReportImage query;
  std::vector<std::string> findings;
  std::vector<RetrievalHit> hits;  ///< best first
};

struct Table {
  std::string caption;
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  ///< each as long as the header
  std::vector<std::size_t> highlighted;        ///< indices of rows to stress
};

/// A figure to be read first.
struct KeyFigure {
  std::string value;   ///< "0.882"
  std::string label;   ///< "macro AUROC"
  std::string detail;  ///< "95 % 0.85 to 0.91, n = 400"; may be empty
};

/// An axis. Limits that are not-a-number follow from the data.
struct Axis {
  std::string label;                                      ///< with unit
  double low = std::numeric_limits<double>::quiet_NaN();  ///< value at the origin
  double high = std::numeric_limits<double>::quiet_NaN();
};

/// A line. Not-a-number or infinite points break it.
struct Series {
  std::string name;
  std::vector<double> x;
  std::vector<double> y;  ///< as long as x
};

struct LineChart {
  std::string title;
  Axis x, y;
  std::vector<Series> series;  ///< told apart by colour and dash pattern, from the ninth on also by marks (40 in all)
  bool diagonal = false;       ///< draw the line from the lower left to the upper right corner (chance in ROC curves)
};

/// A value with its interval.
struct IntervalRow {
  std::string label;
  double value = 0;
  double low = 0;
  double high = 0;
  bool highlighted = false;
};

struct IntervalPlot {
  std::string title;
  Axis axis;
  std::vector<IntervalRow> rows;
  double reference = std::numeric_limits<double>::quiet_NaN();  ///< a dashed line (chance); not-a-number: none
  int decimals = 3;                                             ///< of printed values, in [0, 9]
};

/// Builds the page piece by piece, in order. Text is escaped, never interpreted. Pieces added before the first section
/// stand under the title. Readable from 320 pixels to wide screens, light and dark, printed, and with a screen reader.
///
/// The same calls give the same bytes: no dates, no random ids. Throws Error (kFormat for bytes that are no PNG,
/// kInvalidArgument or kMismatch for contents that contradict themselves) naming the piece.
class HtmlReport {
 public:
  explicit HtmlReport(std::string title, std::string subtitle = "");

  /// Replaces the warning at the top, which says that this is no medical device.
  HtmlReport& notice(const std::string& text);

  /// Starts a section; it gets a link in the navigation.
  HtmlReport& section(const std::string& title);
  /// A heading inside a section.
  HtmlReport& subsection(const std::string& title);
  HtmlReport& paragraph(const std::string& text);
  HtmlReport& key_figures(const std::vector<KeyFigure>& figures);
  /// Names and values, e.g. settings. Long values wrap.
  HtmlReport& key_values(const std::string& caption, const std::vector<std::pair<std::string, std::string>>& entries);
  /// Text as it is, line by line, e.g. something to copy.
  HtmlReport& preformatted(const std::string& caption, const std::string& text);
  HtmlReport& table(const Table& table);
  HtmlReport& images(const ImageGrid& grid);
  /// One chart a cell, side by side where there is room.
  HtmlReport& charts(const std::vector<LineChart>& charts);
  HtmlReport& intervals(const IntervalPlot& plot);
  HtmlReport& retrieval(const std::string& caption, const std::vector<RetrievalRow>& rows);

  /// The tables and charts added so far, each in order.
  const std::vector<Table>& tables() const noexcept { return tables_; }
  const std::vector<LineChart>& line_charts() const noexcept { return line_charts_; }
  const std::vector<IntervalPlot>& interval_plots() const noexcept { return interval_plots_; }

  /// The whole page, UTF-8.
  std::string html() const;
  /// Writes it atomically; throws kIo.
  void write(const std::string& path) const;

 private:
  struct Section {
    std::string title, id, body;
  };

  std::string& body() { return sections_.back().body; }

  std::string title_, subtitle_, notice_;
  std::vector<Table> tables_;
  std::vector<LineChart> line_charts_;
  std::vector<IntervalPlot> interval_plots_;
  std::vector<Section> sections_;  // the first has no title: what stands before any section
};

}  // namespace daug
