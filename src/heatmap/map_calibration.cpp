#include "daug/heatmap/map_calibration.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "daug/core/error.h"
#include "daug/io/weights.h"
#include "io/json.h"

namespace daug {

namespace {

constexpr const char* kFormatName = "daug-map-calibration-1";

/// The cell [H * W] of every pixel.
at::Tensor cells_of(std::int64_t height, std::int64_t width, std::int64_t regions) {
  const auto cell = [&](std::int64_t size) { return at::floor_divide(at::arange(size, at::kLong) * regions, size); };
  return (cell(height).unsqueeze(1) * regions + cell(width).unsqueeze(0)).flatten();
}

/// (1 + #{null >= v}) / (1 + n) for values of any shape; null [n] rising.
at::Tensor exceedance(const at::Tensor& null, const at::Tensor& values) {
  const auto n = static_cast<double>(null.size(0));
  const at::Tensor below = at::searchsorted(null, values.contiguous());
  return (1 + n - below.to(at::kDouble)) / (1 + n);
}

/// [B, K], the largest cell of each map by how far it is from the healthy mean, `difference` [B, K, cells], in healthy
/// `spread`s, of that shape or [K, cells].
at::Tensor largest_scores(const at::Tensor& difference, const at::Tensor& spread) {
  // A cell whose healthy maps never change says nothing by its size; any change there is a full score.
  return at::where(spread > 0, difference / spread, difference.sign() * 1e6).amax(2);
}

}  // namespace

void MapCalibrationOptions::validate() const {
  require_range(regions, 1, 64, "daug::MapCalibrationOptions", "regions");
  require_range(quantiles, 19, 65535, "daug::MapCalibrationOptions", "quantiles");
}

at::Tensor MapCalibration::means_of_cells(const at::Tensor& maps) const {
  const at::Tensor cells = cells_of(height_, width_, regions_);
  const std::int64_t count = regions_ * regions_;
  const at::Tensor flat = maps.to(at::kDouble).flatten(2);
  const at::Tensor sums = at::zeros({maps.size(0), maps.size(1), count}, at::kDouble).index_add_(2, cells, flat);
  const at::Tensor sizes = at::zeros({count}, at::kDouble).index_add_(0, cells, at::ones({flat.size(2)}, at::kDouble));
  return sums / sizes;
}

MapCalibration MapCalibration::fit(const at::Tensor& maps, std::vector<std::string> targets,
                                   const MapCalibrationOptions& options) {
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
  result.require_maps(maps, kFunction);
  const at::Tensor cells = cells_of(result.height_, result.width_, options.regions);
  const at::Tensor levels = (at::arange(options.quantiles, at::kDouble) + 0.5) / static_cast<double>(options.quantiles);
  const std::int64_t count = options.regions * options.regions;
  result.pixels_ = at::empty({maps.size(1), count, options.quantiles}, at::kDouble);
  for (std::int64_t cell = 0; cell < count; ++cell) {
    const at::Tensor members = maps.to(at::kDouble).flatten(2).index_select(2, cells.eq(cell).nonzero().squeeze(1));
    const at::Tensor sorted = std::get<0>(members.transpose(0, 1).flatten(1).sort(1));
    const at::Tensor places = (levels * static_cast<double>(sorted.size(1))).floor().to(at::kLong);
    result.pixels_.select(1, cell).copy_(sorted.index_select(1, places));
  }
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
}

void MapCalibration::require_maps(const at::Tensor& maps, const char* function) const {
  const auto k = static_cast<std::int64_t>(targets_.size());
  require(maps.dim() == 4 && maps.size(1) == k && maps.size(2) == height_ && maps.size(3) == width_, function, "maps",
          detail::concat("shape [B, ", k, ", ", height_, ", ", width_, "], one map a target"), maps.sizes());
  require(maps.isfinite().all().item<bool>(), function, "maps", "finite values", "others");
}

at::Tensor MapCalibration::pixel_p_values(const at::Tensor& maps) const {
  require_maps(maps, "daug::MapCalibration::pixel_p_values");
  const at::Tensor cells = cells_of(height_, width_, regions_);
  const at::Tensor flat = maps.to(at::kDouble).flatten(2);
  at::Tensor result = at::empty_like(flat);
  for (std::int64_t cell = 0; cell < regions_ * regions_; ++cell) {
    const at::Tensor members = cells.eq(cell).nonzero().squeeze(1);
    for (std::int64_t k = 0; k < maps.size(1); ++k)
      result.select(1, k).index_copy_(1, members,
                                      exceedance(pixels_[k][cell], flat.select(1, k).index_select(1, members)));
  }
  return result.view(maps.sizes());
}

at::Tensor MapCalibration::region_p_values(const at::Tensor& maps) const {
  require_maps(maps, "daug::MapCalibration::region_p_values");
  const at::Tensor means = means_of_cells(maps);
  at::Tensor result = at::empty_like(means);
  for (std::int64_t k = 0; k < means.size(1); ++k)
    for (std::int64_t cell = 0; cell < means.size(2); ++cell)
      result.select(1, k).select(1, cell).copy_(exceedance(cell_means_[k][cell], means.select(1, k).select(1, cell)));
  return result.view({maps.size(0), maps.size(1), regions_, regions_});
}

at::Tensor MapCalibration::image_p_values(const at::Tensor& maps) const {
  require_maps(maps, "daug::MapCalibration::image_p_values");
  const at::Tensor scores = largest_scores(means_of_cells(maps) - centre_, spread_);
  at::Tensor result = at::empty_like(scores);
  for (std::int64_t k = 0; k < scores.size(1); ++k)
    result.select(1, k).copy_(exceedance(image_scores_[k], scores.select(1, k)));
  return result;
}

at::Tensor MapCalibration::calibrated(const at::Tensor& maps) const {
  return pixel_p_values(maps).log10().neg().to(maps.scalar_type());
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
  result.pixels_ = table("pixels", {k, cells, -1});
  result.cell_means_ = table("cell_means", {k, cells, -1});
  result.centre_ = table("centre", {k, cells});
  result.spread_ = table("spread", {k, cells});
  result.image_scores_ = table("image_scores", {k, result.cell_means_.size(2)});
  for (const at::Tensor& rising : {result.pixels_, result.cell_means_, result.image_scores_})
    if (!rising.isfinite().all().item<bool>() || rising.diff().lt(0).any().item<bool>())
      fail(ErrorCode::kFormat, kFunction, "file", "finite tables in rising order", "others");
  if (!result.centre_.isfinite().all().item<bool>() || !result.spread_.isfinite().all().item<bool>() ||
      result.spread_.lt(0).any().item<bool>())
    fail(ErrorCode::kFormat, kFunction, "file", "finite centres and spreads of at least 0", "others");
  return result;
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
