#include "report_page.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "daug/image/colormap.h"
#include "daug/image/png.h"
#include "io/json.h"
#include "pipeline/evaluation/localisation.h"
#include "report_charts.h"
#include "shown_pixels.h"

namespace daug {

namespace {

/// At the size of the report.
GrayImage gray(const float* pixels, int size) {
  return gray_image(shown_pixels(pixels, size).data(), shown_size(size));
}

}  // namespace

std::vector<std::string> ReportPage::arm_names() const {
  std::vector<std::string> names;
  for (const auto& arm : run.arms()) names.push_back(arm.name);
  return names;
}

std::vector<std::string> ReportPage::splits() const {
  std::vector<std::string> names;
  for (const auto& f : figures)
    if (f.name == "classification.auprc_macro" && std::find(names.begin(), names.end(), f.split) == names.end())
      names.push_back(f.split);
  return names;
}

std::size_t ReportPage::row_of(const nlohmann::json& number) const {
  const auto row = detail::value_of<std::int64_t>(number, "daug::Run", run.path("stages/details.json"));
  if (row < 0 || static_cast<std::size_t>(row) >= data.images.count())
    fail(ErrorCode::kFormat, "daug::Run", run.path("stages/details.json"),
         detail::concat("a number below ", data.images.count()), row);
  return static_cast<std::size_t>(row);
}

ReportImage ReportPage::plain(const float* pixels, const std::string& caption) const {
  return {encode_png(gray(pixels, data.images.size)), caption, caption, {}};
}

ReportImage ReportPage::overlay(std::size_t row, std::size_t g, const float* map, float high,
                                const std::string& caption) const {
  const GrayImage base = gray(data.images.image(row), data.images.size);
  RgbImage picture = overlay_map(base, shown_pixels(map, data.images.size), 0, high, Colormap::kInferno, 1.0);
  if (const auto region = map_region(run, row, g))
    draw_outline(picture, shown_pixels(region->data(), data.images.size));
  return {encode_png(base), caption, caption + " for " + data.groups[g].name, encode_png(picture)};
}

void ReportPage::table(const std::string& caption, const std::vector<std::string>& arms,
                       const std::vector<std::pair<std::string, std::string>>& columns, const std::string& split,
                       const std::vector<std::string>& stressed, int decimals) {
  Table result;
  result.caption = caption;
  result.header = {"arm"};
  for (const auto& column : columns) result.header.push_back(column.second);
  for (const auto& arm : arms) {
    std::vector<std::string> cells = {arm};
    bool any = false;
    for (const auto& column : columns) {
      const Figure* f = figure(column.first, arm, split);
      any = any || f;
      cells.push_back(f ? with_interval(f, decimals) : "-");
    }
    if (!any) continue;
    if (std::find(stressed.begin(), stressed.end(), arm) != stressed.end())
      result.highlighted.push_back(result.rows.size());
    result.rows.push_back(cells);
  }
  if (!result.rows.empty()) page.table(result);
}

double colour_limit(const at::Tensor& maps) {
  // The 99.5th percentile of at most a million values: enough for a colour scale.
  const at::Tensor flat = maps.flatten();
  const std::int64_t step = std::max<std::int64_t>(1, flat.numel() / 1000000);
  const at::Tensor sample = std::get<0>(flat.slice(0, 0, flat.numel(), step).sort());
  return std::max(sample[static_cast<std::int64_t>(0.995 * static_cast<double>(sample.numel() - 1))].item<double>(),
                  1e-9);
}

}  // namespace daug
