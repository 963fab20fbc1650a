#include "daug/report/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "chart.h"
#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/report/html_parts.h"
#include "page.h"

namespace daug {
namespace {

using report::escape;

struct PixelSize {
  std::uint32_t width, height;
};

// Width and height from the IHDR chunk; throws unless the bytes begin like a PNG file.
PixelSize png_size(const std::vector<std::uint8_t>& png, const std::string& what) {
  constexpr std::uint8_t kSignature[16] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n',
                                           0,    0,   0,   13,  'I',  'H',  'D',  'R'};
  if (png.size() < 33 || std::memcmp(png.data(), kSignature, sizeof kSignature) != 0)
    fail(ErrorCode::kFormat, "HtmlReport", what, "PNG file bytes", detail::concat(png.size(), " other bytes"));
  const auto big_endian = [&](std::size_t at) {
    return std::uint32_t{png[at]} << 24 | std::uint32_t{png[at + 1]} << 16 | std::uint32_t{png[at + 2]} << 8 |
           png[at + 3];
  };
  return {big_endian(16), big_endian(20)};
}

// Small pictures are enlarged with hard pixel edges: a 32-pixel radiograph must not look like a soft 200-pixel one.
constexpr std::uint32_t kSmall = 128;

std::string img_html(const std::vector<std::uint8_t>& png, PixelSize size, const std::string& alt, bool overlay) {
  std::string classes = overlay ? "overlay" : "";
  if (size.width <= kSmall) classes += classes.empty() ? "small" : " small";
  return fmt::format("<img{} width=\"{}\" height=\"{}\" alt=\"{}\" src=\"data:image/png;base64,{}\">",
                     classes.empty() ? "" : " class=\"" + classes + "\"", size.width, size.height, escape(alt),
                     report::base64(png));
}

// A picture with its overlay; `caption` is markup.
std::string cell_html(const ReportImage& image, const std::string& classes, const std::string& caption) {
  const std::string name = "picture '" + image.caption + "'";
  const PixelSize size = png_size(image.png, name);
  std::string html = fmt::format("<figure class=\"{}\"><div class=\"stack\">", classes);
  html += img_html(image.png, size, image.alt.empty() ? image.caption : image.alt, false);
  if (!image.overlay_png.empty()) {
    const PixelSize over = png_size(image.overlay_png, "overlay of " + name);
    if (over.width != size.width || over.height != size.height)
      fail(ErrorCode::kMismatch, "HtmlReport", "overlay of " + name, detail::concat(size.width, " x ", size.height),
           detail::concat(over.width, " x ", over.height));
    html += img_html(image.overlay_png, over, "", true);
  }
  html += "</div>";
  if (!caption.empty()) html += "<figcaption>" + caption + "</figcaption>";
  return html + "</figure>\n";
}

std::string scale_html(const ColorScale& scale) {
  constexpr int kStops = 8;
  std::string colours;
  for (int i = 0; i <= kStops; ++i) {
    const Rgb c = colormap_at(scale.map, static_cast<double>(i) / kStops);
    colours += fmt::format(",rgb({} {} {})", c[0], c[1], c[2]);
  }
  return fmt::format(
      "<div class=\"scale-legend\"><b>{}</b><span>{:.4g}</span><i style=\"background:linear-gradient(to right{})\"></i>"
      "<span>{:.4g}</span></div>\n",
      escape(scale.title), scale.low, colours, scale.high);
}

bool has_overlay(const ImageGrid& grid) {
  return std::any_of(grid.rows.begin(), grid.rows.end(), [](const ImageRow& row) {
    return std::any_of(row.cells.begin(), row.cells.end(),
                       [](const ReportImage& cell) { return !cell.overlay_png.empty(); });
  });
}

// Whether a table cell is aligned as a number: "0.88", "+0.04 (0.01 to 0.07)", "93 %", "-", "".
bool looks_numeric(const std::string& text) {
  const std::size_t digit = text.find_first_not_of("+-<>~ ");
  return digit == std::string::npos || std::isdigit(static_cast<unsigned char>(text[digit])) != 0;
}

// The text of a cell. An interval behind a value stays in one piece, which moves below the value where there is no room
// beside it.
std::string cell_text(const std::string& text) {
  const std::size_t open = text.find(" ("), close = text.find(')', std::min(open, text.size()));
  if (close == std::string::npos || !looks_numeric(text)) return escape(text);
  return fmt::format("{} <span class=\"interval\">{}</span>{}", escape(text.substr(0, open)),
                     escape(text.substr(open + 1, close - open)), escape(text.substr(close + 1)));
}

// A name that may be broken where its words are joined.
std::string breakable(const std::string& name) {
  std::string html;
  for (const char c : escape(name)) {
    html += c;
    if (c == '_') html += "<wbr>";
  }
  return html;
}

std::string badges_html(const std::vector<std::string>& findings, const std::vector<std::string>& query) {
  std::string html = "<span class=\"badges\">";
  for (const std::string& finding : findings) {
    const bool shared = std::find(query.begin(), query.end(), finding) != query.end();
    html += fmt::format("<span class=\"badge{}\">{}{}</span> ", shared ? " shared" : "", shared ? "shared: " : "",
                        escape(finding));
  }
  if (findings.empty()) html += "<span class=\"badge\">no finding</span>";
  return html + "</span>";
}

}  // namespace

HtmlReport::HtmlReport(std::string title, std::string subtitle)
    : title_(std::move(title)),
      subtitle_(std::move(subtitle)),
      notice_("Research software. Not a medical device: not for diagnosis or treatment."),
      sections_(1) {}

HtmlReport& HtmlReport::notice(const std::string& text) {
  notice_ = text;
  return *this;
}

HtmlReport& HtmlReport::section(const std::string& title) {
  const std::string base = report::slug(title);  // lower case; the page's own ids have capitals
  const auto taken = [&](const std::string& id) {
    return std::any_of(sections_.begin(), sections_.end(), [&](const Section& section) { return section.id == id; });
  };
  std::string id = base;
  for (int number = 2; taken(id); ++number) id = fmt::format("{}-{}", base, number);
  sections_.push_back({title, id, ""});
  return *this;
}

HtmlReport& HtmlReport::subsection(const std::string& title) {
  body() += fmt::format("<h3>{}</h3>\n", escape(title));
  return *this;
}

HtmlReport& HtmlReport::paragraph(const std::string& text) {
  body() += fmt::format("<p>{}</p>\n", escape(text));
  return *this;
}

HtmlReport& HtmlReport::key_figures(const std::vector<KeyFigure>& figures) {
  body() += "<dl class=\"key-figures\">\n";
  for (const KeyFigure& figure : figures) {
    body() += fmt::format("<div class=\"panel\"><dt>{}</dt><dd class=\"big\">{}</dd>", escape(figure.label),
                          escape(figure.value));
    if (!figure.detail.empty()) body() += fmt::format("<dd class=\"detail\">{}</dd>", escape(figure.detail));
    body() += "</div>\n";
  }
  body() += "</dl>\n";
  return *this;
}

HtmlReport& HtmlReport::key_values(const std::string& caption,
                                   const std::vector<std::pair<std::string, std::string>>& entries) {
  body() += fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{0}\"><table "
      "class=\"key-values\"><caption>{0}</caption><tbody>\n",
      escape(caption));
  Table table{caption, {"name", "value"}, {}, {}};
  for (const auto& [name, value] : entries) {
    body() += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(name), escape(value));
    table.rows.push_back({name, value});
  }
  body() += "</tbody></table></div>\n";
  tables_.push_back(std::move(table));
  return *this;
}

HtmlReport& HtmlReport::preformatted(const std::string& caption, const std::string& text) {
  body() += fmt::format(
      "<figure class=\"panel\"><figcaption class=\"lead\">{0}</figcaption>\n<pre role=\"region\" tabindex=\"0\" "
      "aria-label=\"{0}\">{1}</pre></figure>\n",
      escape(caption), escape(text));
  return *this;
}

HtmlReport& HtmlReport::table(const Table& table) {
  const std::size_t columns = table.header.size();
  std::vector<bool> numeric(columns, true);
  for (const auto& row : table.rows) {
    if (row.size() != columns)
      fail(ErrorCode::kMismatch, "HtmlReport::table", "row of '" + table.caption + "'",
           detail::concat(columns, " cells"), row.size());
    for (std::size_t c = 0; c < columns; ++c) numeric[c] = numeric[c] && looks_numeric(row[c]);
  }
  for (std::size_t row : table.highlighted)
    require(row < table.rows.size(), "HtmlReport::table", "highlighted",
            detail::concat("rows below ", table.rows.size()), row);

  const auto aligned = [&](std::size_t c) { return c > 0 && numeric[c] ? " class=\"number\"" : ""; };
  std::string html = fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" "
      "aria-label=\"{0}\"><table><caption>{0}</caption>\n<thead><tr>",
      escape(table.caption));
  for (std::size_t c = 0; c < columns; ++c)
    html += fmt::format("<th scope=\"col\"{}>{}</th>", aligned(c), breakable(table.header[c]));
  html += "</tr></thead>\n<tbody>\n";
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const bool best = std::find(table.highlighted.begin(), table.highlighted.end(), r) != table.highlighted.end();
    html += best ? "<tr class=\"best\">" : "<tr>";
    for (std::size_t c = 0; c < columns; ++c)
      html += c == 0 ? fmt::format("<th scope=\"row\">{}</th>", breakable(table.rows[r][c]))
                     : fmt::format("<td{}>{}</td>", aligned(c), cell_text(table.rows[r][c]));
    html += "</tr>\n";
  }
  body() += html + "</tbody></table></div>\n";
  tables_.push_back(table);
  return *this;
}

HtmlReport& HtmlReport::images(const ImageGrid& grid) {
  require_range(grid.opacity, 0.0, 1.0, "HtmlReport::images", "opacity");
  std::string html = fmt::format("<figure class=\"panel grid\" style=\"--opacity:{:.2f}\">\n", grid.opacity);
  const bool slider = has_overlay(grid);
  if (slider || !grid.scales.empty()) {
    html += "<div class=\"controls\">";
    if (slider)
      html += fmt::format(
          "<label hidden>Overlay <input type=\"range\" min=\"0\" max=\"1\" step=\"0.05\" value=\"{:.2f}\" "
          "data-opacity aria-label=\"Overlay opacity\"><output></output></label>\n",
          grid.opacity);
    for (const ColorScale& scale : grid.scales) html += scale_html(scale);
    html += "</div>\n";
  }
  for (const ImageRow& row : grid.rows) {
    html += "<div class=\"image-row\">";
    if (!row.label.empty()) html += fmt::format("<p>{}</p>", escape(row.label));
    html += "<div class=\"cells\">\n";
    for (const ReportImage& cell : row.cells) html += cell_html(cell, "cell", escape(cell.caption));
    html += "</div></div>\n";
  }
  body() += html + fmt::format("<figcaption>{}</figcaption></figure>\n", escape(grid.caption));
  return *this;
}

HtmlReport& HtmlReport::charts(const std::vector<LineChart>& charts) {
  std::string html = "<div class=\"charts\">\n";
  for (const LineChart& chart : charts) html += report::line_chart_html(chart);
  body() += html + "</div>\n";
  line_charts_.insert(line_charts_.end(), charts.begin(), charts.end());
  return *this;
}

HtmlReport& HtmlReport::intervals(const IntervalPlot& plot) {
  body() += report::interval_plot_html(plot);
  interval_plots_.push_back(plot);
  return *this;
}

HtmlReport& HtmlReport::retrieval(const std::string& caption, const std::vector<RetrievalRow>& rows) {
  const auto captioned = [](const std::string& place, const ReportImage& image) {
    return fmt::format("<b>{}</b> {}", place, escape(image.caption));
  };
  std::string html =
      fmt::format("<figure class=\"panel\"><figcaption class=\"lead\">{}</figcaption>\n", escape(caption));
  for (const RetrievalRow& row : rows) {
    html += fmt::format(
        "<div class=\"image-row\"><div class=\"hits\" role=\"region\" tabindex=\"0\" aria-label=\"Query {}\">\n",
        escape(row.query.caption));
    html += cell_html(row.query, "cell query", captioned("query", row.query) + badges_html(row.findings, {}));
    for (std::size_t k = 0; k < row.hits.size(); ++k)
      html += cell_html(row.hits[k].image, "cell",
                        captioned(fmt::format("rank {}", k + 1), row.hits[k].image) +
                            badges_html(row.hits[k].findings, row.findings));
    html += "</div></div>\n";
  }
  body() += html + "</figure>\n";
  return *this;
}

std::string HtmlReport::html() const {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
      "'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n"
      "<style>{1}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#Content\">Skip to content</a>\n"
      "<header>\n<h1>{0}</h1>\n",
      escape(title_), report::kStyle);
  if (!subtitle_.empty()) page += fmt::format("<p class=\"subtitle\">{}</p>\n", escape(subtitle_));
  page += fmt::format("<p class=\"notice\" role=\"note\">{}</p>\n{}</header>\n<div class=\"layout\">\n",
                      escape(notice_), sections_.front().body);
  page += "<nav aria-label=\"Sections\"><ul>\n";
  for (std::size_t s = 1; s < sections_.size(); ++s)
    page += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", sections_[s].id, escape(sections_[s].title));
  page += "</ul></nav>\n<main id=\"Content\">\n";
  for (std::size_t s = 1; s < sections_.size(); ++s)
    page += fmt::format("<section id=\"{0}\" aria-labelledby=\"T-{0}\">\n<h2 id=\"T-{0}\">{1}</h2>\n{2}</section>\n",
                        sections_[s].id, escape(sections_[s].title), sections_[s].body);
  page += fmt::format("</main>\n</div>\n<script>{}</script>\n</body>\n</html>\n", report::kScript);
  return page;
}

void HtmlReport::write(const std::string& path) const { write_file_atomically(path, html()); }

}  // namespace daug
