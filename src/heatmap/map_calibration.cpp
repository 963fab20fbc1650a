#include "daug/heatmap/map_calibration.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backend/fitting_rows.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "io/json.h"

namespace daug {

namespace {

constexpr const char* kFormatName = "daug-map-calibration-1";
constexpr std::int64_t kMostQuantiles = 65535;

/// The pixels of a cell; bottom and right are not included.
struct MapCell {
  std::int64_t top, bottom, left, right;

  /// [..., h, w] of maps [..., H, W].
  at::Tensor of(const at::Tensor& maps) const { return maps.slice(-2, top, bottom).slice(-1, left, right); }
};

/// All cells, row by row: pixel (y, x) lies in row y * regions / height and column x * regions / width, rounded down.
std::vector<MapCell> cells_of(std::int64_t height, std::int64_t width, std::int64_t regions) {
  const auto first = [&](std::int64_t cell, std::int64_t size) { return (cell * size + regions - 1) / regions; };
  std::vector<MapCell> cells;
  for (std::int64_t row = 0; row < regions; ++row)
    for (std::int64_t column = 0; column < regions; ++column)
      cells.push_back({first(row, height), first(row + 1, height), first(column, width), first(column + 1, width)});
  return cells;
}

/// (1 + #{null >= v}) / (1 + n) for values [..., m], each row among its own null [..., n], rising. NaN stays NaN.
at::Tensor exceedance(const at::Tensor& null, const at::Tensor& values) {
  const auto n = static_cast<double>(null.size(-1));
  const at::Tensor rows = values.contiguous(), below = at::searchsorted(null.contiguous(), rows);
  return ((1 + n - below.to(at::kDouble)) / (1 + n)).masked_fill_(rows.isnan(), std::nan(""));
}

/// -log10 of exceedance of a value that so many of n are less than, from 0 on: float32 [n + 1], rounded once.
at::Tensor minus_log_exceedance(std::int64_t n) {
  const double values = 1 + static_cast<double>(n);
  std::vector<float> result;
  for (std::int64_t below = 0; below <= n; ++below)
    result.push_back(static_cast<float>(-std::log10((values - static_cast<double>(below)) / values)));
  return at::tensor(result, at::kFloat);
}

/// [B, K], the largest cell of each map by how far it is from the healthy mean, `difference` [B, K, cells], in healthy
/// `spread`s, of that shape or [K, cells].
at::Tensor largest_scores(const at::Tensor& difference, const at::Tensor& spread) {
  // A cell whose healthy maps never change says nothing by its size; any change there is a full score. (NaN has a sign
  // of 0.)
  const at::Tensor divided = (spread > 0).logical_or(difference.isnan());
  return at::where(divided, difference / spread, difference.sign() * 1e6).amax(2);
}

}  // namespace

void MapCalibrationOptions::validate() const {
  require_range(regions, 1, 64, "daug::MapCalibrationOptions", "regions");
  require_range(quantiles, 19, kMostQuantiles, "daug::MapCalibrationOptions", "quantiles");
}

at::Tensor MapCalibration::means_of_cells(const at::Tensor& maps) const {
  const at::Tensor wide = maps.to(at::kDouble).contiguous();
  std::vector<at::Tensor> means;
  for (const MapCell& cell : cells_of(height_, width_, regions_)) {
    const at::Tensor pixels = cell.of(wide);
    // A row at a time: a single long sum, of a batch of one, would be divided among threads.
    means.push_back(pixels.sum(-1).sum(-1) / static_cast<double>(pixels.size(-2) * pixels.size(-1)));
  }
  return at::stack(means, 2);
}

MapCalibration MapCalibration::fit(const at::Tensor& maps, std::vector<std::string> targets,
                                   const MapCalibrationOptions& options) try {
  constexpr const char* kFunction = "daug::MapCalibration::fit";
  options.validate();
  require(maps.dim() == 4 && maps.size(0) >= kLeastImages, kFunction, "maps",
          detail::concat("shape [N, K, H, W] with N >= ", kLeastImages), maps.sizes());
  require(maps.size(2) >= options.regions && maps.size(3) >= options.regions, kFunction, "maps",
          detail::concat("at least ", options.regions, " pixels a side"), maps.sizes());
  MapCalibration result;
  result.targets_ = std::move(targets);
  result.regions_ = options.regions;
  result.height_ = maps.size(2);
  result.width_ = maps.size(3);
  result.require_maps(maps, kFunction, /*read=*/true);
  const at::TensorOptions doubles = at::TensorOptions(at::kDouble).device(maps.device());
  const at::Tensor levels = (at::arange(options.quantiles, doubles) + 0.5) / static_cast<double>(options.quantiles);
  std::vector<at::Tensor> tables;
  for (const MapCell& cell : cells_of(result.height_, result.width_, options.regions)) {
    const at::Tensor sorted = std::get<0>(cell.of(maps).to(at::kDouble).transpose(0, 1).flatten(1).sort(1));
    const at::Tensor places = (levels * static_cast<double>(sorted.size(1))).floor().to(at::kLong);
    tables.push_back(sorted.index_select(1, places));
  }
  result.set_pixels(at::stack(tables, 1));
  const at::Tensor means = result.means_of_cells(maps);
  result.centre_ = means.mean(0);
  const at::Tensor difference = means - result.centre_, squares = difference.square();
  result.spread_ = squares.mean(0).sqrt();
  result.cell_means_ = std::get<0>(means.permute({1, 2, 0}).contiguous().sort(2));
  // Each image against mean and spread of the others, as images that were not there are judged: with its own share in
  // them no score is above sqrt(n - 1), and others' are. Its difference d from the mean of all is (n - 1) / n of that
  // from the others', and d^2 n / (n - 1) of the sum of squares are its own.
  const auto n = static_cast<double>(maps.size(0));
  const at::Tensor others = (squares.sum(0) - squares * (n / (n - 1))).clamp_min(0) / (n - 1);
  const at::Tensor scores = largest_scores(difference * (n / (n - 1)), others.sqrt());
  result.image_scores_ = std::get<0>(scores.transpose(0, 1).contiguous().sort(1));
  return result;
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::MapCalibration::fit");
}

void MapCalibration::set_pixels(at::Tensor pixels) {
  pixel_tables_ = {rounded_down(pixels), backend::upload(minus_log_exceedance(pixels.size(2)), pixels.device())};
  pixels_ = std::move(pixels);
}

void MapCalibration::require_maps(const at::Tensor& maps, const char* function, bool read) const {
  const auto k = static_cast<std::int64_t>(targets_.size());
  require(maps.dim() == 4 && maps.size(1) == k && maps.size(2) == height_ && maps.size(3) == width_, function, "maps",
          detail::concat("shape [B, ", k, ", ", height_, ", ", width_, "], one map a target"), maps.sizes());
  require(!read || maps.isfinite().all().item<bool>(), function, "maps", "finite values", "others");
}

MapCalibration MapCalibration::to(c10::Device device) const {
  MapCalibration result = *this;
  for (at::Tensor* table : {&result.pixels_, &result.pixel_tables_.healthy, &result.pixel_tables_.minus_log_p,
                            &result.cell_means_, &result.centre_, &result.spread_, &result.image_scores_})
    *table = table->to(device);
  return result;
}

at::Tensor MapCalibration::pixel_p_values(const at::Tensor& maps) const try {
  require_maps(maps, "daug::MapCalibration::pixel_p_values", maps.is_cpu());
  const at::Tensor wide = maps.to(at::kDouble), null = pixels_.to(maps.device());
  const at::Tensor result = at::empty(maps.sizes(), wide.options());
  std::int64_t index = 0;
  for (const MapCell& cell : cells_of(height_, width_, regions_)) {
    const at::Tensor pixels = cell.of(wide).transpose(0, 1);  // [K, B, h, w]: each target has a null distribution
    const at::Tensor p = exceedance(null.select(1, index++), pixels.flatten(1));
    cell.of(result).transpose(0, 1).copy_(p.view(pixels.sizes()));
  }
  return result;
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::MapCalibration::pixel_p_values");
}

at::Tensor MapCalibration::region_p_values(const at::Tensor& maps) const try {
  require_maps(maps, "daug::MapCalibration::region_p_values", maps.is_cpu());
  const at::Tensor means = means_of_cells(maps).permute({1, 2, 0});
  const at::Tensor p = exceedance(cell_means_.to(maps.device()), means).permute({2, 0, 1});
  return p.reshape({maps.size(0), maps.size(1), regions_, regions_});
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::MapCalibration::region_p_values");
}

at::Tensor MapCalibration::image_p_values(const at::Tensor& maps) const try {
  require_maps(maps, "daug::MapCalibration::image_p_values", maps.is_cpu());
  const c10::Device device = maps.device();
  const at::Tensor scores = largest_scores(means_of_cells(maps) - centre_.to(device), spread_.to(device));
  return exceedance(image_scores_.to(device), scores.transpose(0, 1)).transpose(0, 1).contiguous();
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::MapCalibration::image_p_values");
}

at::Tensor MapCalibration::calibrated(const at::Tensor& maps) const try {
  return pixel_p_values(maps).log10().neg().to(maps.scalar_type());
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::MapCalibration::calibrated");
}

SafetensorsFile MapCalibration::to_file() const {
  SafetensorsFile file;
  file.metadata = {{"format", kFormatName},
                   {"targets", nlohmann::json(targets_).dump()},
                   {"regions", std::to_string(regions_)},
                   {"height", std::to_string(height_)},
                   {"width", std::to_string(width_)}};
  file.tensors = {{"pixels", array_from(pixels_)},
                  {"cell_means", array_from(cell_means_)},
                  {"centre", array_from(centre_)},
                  {"spread", array_from(spread_)},
                  {"image_scores", array_from(image_scores_)}};
  return file;
}

MapCalibration MapCalibration::from_file(const SafetensorsFile& file) {
  constexpr const char* kFunction = "daug::MapCalibration::from_file";
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  const auto size = [&](const char* key, std::int64_t most) {
    const std::string text = entry(key);
    const bool digits = !text.empty() && text.size() < 8 && text.find_first_not_of("0123456789") == std::string::npos;
    const std::int64_t value = digits ? std::stoll(text) : 0;
    if (value < 1 || value > most)
      fail(ErrorCode::kFormat, kFunction, key, detail::concat("a count up to ", most), "'" + text + "'");
    return value;
  };
  if (entry("format") != kFormatName) fail(ErrorCode::kFormat, kFunction, "format", kFormatName, entry("format"));
  MapCalibration result;
  const auto names = detail::parse_json(entry("targets"), kFunction, "targets");
  if (!names.is_array()) fail(ErrorCode::kFormat, kFunction, "targets", "a list of names", names.type_name());
  for (const auto& name : names) result.targets_.push_back(detail::value_of<std::string>(name, kFunction, "targets"));
  result.regions_ = size("regions", 64);
  result.height_ = size("height", 1 << 16);
  result.width_ = size("width", 1 << 16);
  if (std::min(result.height_, result.width_) < result.regions_)
    fail(ErrorCode::kFormat, kFunction, "regions", "at most one a pixel of height and width", result.regions_);
  const auto k = static_cast<std::int64_t>(result.targets_.size()), cells = result.regions_ * result.regions_;
  const auto table = [&](const char* name, std::vector<std::int64_t> shape) {
    if (!file.contains(name)) fail(ErrorCode::kMismatch, kFunction, name, "a table", "none");
    const at::Tensor tensor = tensor_from(file.at(name));
    bool fits = tensor.scalar_type() == at::kDouble && tensor.dim() == static_cast<std::int64_t>(shape.size());
    for (std::size_t i = 0; fits && i < shape.size(); ++i)
      fits = shape[i] == -1 ? tensor.size(static_cast<std::int64_t>(i)) >= 1
                            : tensor.size(static_cast<std::int64_t>(i)) == shape[i];
    if (!fits) fail(ErrorCode::kMismatch, kFunction, name, at::IntArrayRef(shape), tensor.sizes());
    return tensor;
  };
  const at::Tensor pixels = table("pixels", {k, cells, -1});
  if (pixels.size(2) > kMostQuantiles)
    fail(ErrorCode::kFormat, kFunction, "pixels", detail::concat("at most ", kMostQuantiles, " quantiles"),
         pixels.size(2));
  result.cell_means_ = table("cell_means", {k, cells, -1});
  result.centre_ = table("centre", {k, cells});
  result.spread_ = table("spread", {k, cells});
  result.image_scores_ = table("image_scores", {k, result.cell_means_.size(2)});
  for (const at::Tensor& rising : {pixels, result.cell_means_, result.image_scores_})
    if (!rising.isfinite().all().item<bool>() || rising.diff().lt(0).any().item<bool>())
      fail(ErrorCode::kFormat, kFunction, "file", "finite tables in rising order", "others");
  if (!result.centre_.isfinite().all().item<bool>() || !result.spread_.isfinite().all().item<bool>() ||
      result.spread_.lt(0).any().item<bool>())
    fail(ErrorCode::kFormat, kFunction, "file", "finite centres and spreads of at least 0", "others");
  result.set_pixels(pixels);
  return result;
}

at::Tensor rounded_down(const at::Tensor& numbers) {
  const at::Tensor nearest = numbers.to(at::kFloat);
  const at::Tensor below = at::nextafter(nearest, at::full_like(nearest, -INFINITY));
  return at::where(nearest.to(at::kDouble) > numbers, below, nearest);
}

void MapSpread::add(const at::Tensor& maps) {
  const at::Tensor wide = maps.to(at::kDouble);
  if (count_ == 0) {
    mean_ = wide.clone();
    squares_ = at::zeros_like(wide);
    count_ = 1;
    return;
  }
  require(wide.sizes() == mean_.sizes(), "daug::MapSpread::add", "maps", mean_.sizes(), maps.sizes());
  ++count_;
  const at::Tensor difference = wide - mean_;
  mean_ = mean_ + difference / static_cast<double>(count_);
  squares_ = squares_ + difference * (wide - mean_);
}

at::Tensor MapSpread::mean() const {
  require(count_ > 0, "daug::MapSpread::mean", "*this", "at least one map", 0);
  return mean_;
}

at::Tensor MapSpread::deviation() const {
  require(count_ > 0, "daug::MapSpread::deviation", "*this", "at least one map", 0);
  return (squares_ / static_cast<double>(count_)).clamp_min(0).sqrt();
}

void MapVariation::validate() const {
  constexpr const char* kName = "daug::MapVariation";
  require(!seeds.empty(), kName, "seeds", "at least one", 0);
  require(!levels.empty(), kName, "levels", "at least one", 0);
  require(!scales.empty(), kName, "scales", "at least one", 0);
}

MapSpreads map_spreads(const MapVariation& over, const MakeVariedMaps& make) {
  over.validate();
  MapSpreads spreads;
  for (std::size_t c = 0; c < over.scales.size(); ++c)
    for (std::size_t l = 0; l < over.levels.size(); ++l)
      for (std::size_t s = 0; s < over.seeds.size(); ++s) {
        const at::Tensor maps = make(over.seeds[s], over.levels[l], over.scales[c]);
        spreads.all.add(maps);
        if (l == 0 && c == 0) spreads.seeds.add(maps);
        if (s == 0 && c == 0) spreads.levels.add(maps);
        if (s == 0 && l == 0) spreads.scales.add(maps);
      }
  return spreads;
}

}  // namespace daug
