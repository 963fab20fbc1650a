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
  std::string label;               ///< shown above the row; may be empty
  std::vector<ReportImage> cells;  ///< from left to right
};

/// Rows of pictures with their legends.
struct ImageGrid {
  std::string caption;             ///< shown below the grid
  std::vector<ImageRow> rows;      ///< from top to bottom
  std::vector<ColorScale> scales;  ///< legends, none to several
  double opacity = 0.7;            ///< of overlays, where the slider starts, in [0, 1]
};

/// One found item.
struct RetrievalHit {
  ReportImage image;                  ///< the item's picture
  std::vector<std::string> findings;  ///< those the query has too are marked as shared
};

/// One query and what was found for it.
struct RetrievalRow {
  ReportImage query;                  ///< the query's picture
  std::vector<std::string> findings;  ///< of the query
  std::vector<RetrievalHit> hits;     ///< best first
};

/// A table of texts.
struct Table {
  std::string caption;                         ///< shown above; names the files of write_tables
  std::vector<std::string> header;             ///< a text for each column
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
  std::string label;                                       ///< with unit
  double low = std::numeric_limits<double>::quiet_NaN();   ///< value at the origin
  double high = std::numeric_limits<double>::quiet_NaN();  ///< value at the other end
};

/// A line. Not-a-number or infinite points break it.
struct Series {
  std::string name;       ///< shown in the legend
  std::vector<double> x;  ///< positions on the x axis
  std::vector<double> y;  ///< as long as x
};

/// Lines over two axes.
struct LineChart {
  std::string title;           ///< shown above
  Axis x,                      ///< from left to right
      y;                       ///< from bottom to top
  std::vector<Series> series;  ///< told apart by colour and dash pattern, from the ninth on by marks (40 in all)
  bool diagonal = false;       ///< draw the line from the lower left to the upper right corner (chance in ROC curves)
  std::string alt = {};        ///< what a reader who cannot see it should know beyond title, axes and names
};

/// A value with its interval.
struct IntervalRow {
  std::string label;         ///< shown beside the value
  double value = 0;          ///< drawn as a point
  double low = 0;            ///< lower end of the interval
  double high = 0;           ///< upper end of the interval
  bool highlighted = false;  ///< stressed
};

/// Values with their intervals, one below the other.
struct IntervalPlot {
  std::string title;                                            ///< shown above
  Axis axis;                                                    ///< of the values
  std::vector<IntervalRow> rows;                                ///< from top to bottom
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
  /// A page without pieces; an empty subtitle is left out.
  explicit HtmlReport(std::string title, std::string subtitle = "");

  /// Replaces the warning at the top, which says that this is no medical device.
  HtmlReport& notice(const std::string& text);

  /// Starts a section; it gets a link in the navigation.
  HtmlReport& section(const std::string& title);
  /// A heading inside a section.
  HtmlReport& subsection(const std::string& title);
  /// A paragraph of text.
  HtmlReport& paragraph(const std::string& text);
  /// Figures to be read first, side by side.
  HtmlReport& key_figures(const std::vector<KeyFigure>& figures);
  /// Names and values, e.g. settings. Long values wrap.
  HtmlReport& key_values(const std::string& caption, const std::vector<std::pair<std::string, std::string>>& entries);
  /// Text as it is, line by line, e.g. something to copy.
  HtmlReport& preformatted(const std::string& caption, const std::string& text);
  /// A table; columns of numbers are aligned to the right, and an interval behind a value ("0.88 (0.86 to 0.90)")
  /// stands below it where there is no room beside it. Throws kMismatch for a row of another width, kInvalidArgument
  /// for a highlighted row that is not there.
  HtmlReport& table(const Table& table);
  /// A grid of pictures.
  HtmlReport& images(const ImageGrid& grid);
  /// One chart a cell, side by side where there is room.
  HtmlReport& charts(const std::vector<LineChart>& charts);
  /// An interval plot.
  HtmlReport& intervals(const IntervalPlot& plot);
  /// Queries with what was found for each, a row a query.
  HtmlReport& retrieval(const std::string& caption, const std::vector<RetrievalRow>& rows);

  /// The tables added so far, names and values among them, in order.
  const std::vector<Table>& tables() const noexcept { return tables_; }
  /// The line charts added so far, in order.
  const std::vector<LineChart>& line_charts() const noexcept { return line_charts_; }
  /// The interval plots added so far, in order.
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
