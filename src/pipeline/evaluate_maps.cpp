// Measures maps against masks and true counterfactuals, always beside those that see little or nothing.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "daug/metrics/calibration.h"
#include "localisation.h"
#include "measurements.h"

namespace daug {

namespace {

class MapEvaluation {
 public:
  explicit MapEvaluation(Measurements& out)
      : out_(out),
        run_(out.run),
        data_(out.data),
        tests_(out.tests),
        maps_(out.data.maps()),
        truth_(map_truth(out.run, out.data.test)) {}

  void all() {
    const MapSet& set = run_.maps();
    const bool any = truth_.any();
    const std::vector<std::pair<std::string, std::string>> kinds = {{"difference", "difference"},
                                                                    {"evidence", "evidence"},
                                                                    {"score_difference", "score_difference"},
                                                                    {"no_target", "no_target"}};
    for (const auto& [arm, kind] : kinds) {
      at::Tensor maps = set.select(kind, data_.test);
      if (maps.size(1) == 1) maps = maps.expand({maps.size(0), static_cast<std::int64_t>(maps_), -1, -1});
      image_level(arm, maps);
      if (any) add_localisation(arm, maps);
      null_uniformity(arm, set);
    }
    if (any) {
      constant_maps();
      occlusion();
    }
    counterfactuals(set);
    if (set.residual.defined()) {
      const std::vector<double> residual = to_doubles(set.residual);
      out_.add(
          "map.round_trip", "no_target", "mean |x - decode(encode(x))| without a target, data in [-1, 1]",
          static_cast<std::int64_t>(tests_),
          [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
            double sum = 0;
            for (std::size_t i : rows) sum += residual[i];
            return sum / static_cast<double>(rows.size());
          },
          out_.slices[0]);
    }
  }

 private:
  /// Does the mean of a map tell images with the finding from those without?
  void image_level(const std::string& arm, const at::Tensor& maps) {
    const std::vector<double> scores = to_doubles(maps.mean({2, 3}));
    for (const auto& slice : out_.slices)
      out_.add_auroc("map.image_auroc", arm, "AUROC of the map's (signed) mean over the image, macro over maps", scores,
                     out_.of_maps, slice);
  }

  /// Are p-values of healthy images uniform, as the calibration promises?
  void null_uniformity(const std::string& arm, const MapSet& set) {
    const auto calibration = run_.calibration(arm);
    if (!calibration) return;
    const std::vector<double> p = to_doubles(calibration->image_p_values(set.select(arm, data_.test)));
    const std::vector<std::size_t> healthy = data_.healthy(data_.test);
    const std::set<std::size_t> healthy_rows(healthy.begin(), healthy.end());
    const auto is_healthy = [&](std::size_t i) { return healthy_rows.count(data_.test[i]) > 0; };
    const std::string definition = fmt::format(
        "Kolmogorov-Smirnov distance from uniform of healthy test images' p-values (MapCalibration on {} healthy "
        "images, the image's most unusual cell), mean over maps; about 0.87 sqrt(1/n + 1/{}) by chance",
        calibration->images(), calibration->images());
    for (const auto& slice : out_.slices)
      out_.add(
          "map.null_ks", arm, definition, std::count_if(slice.rows.begin(), slice.rows.end(), is_healthy),
          [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
            double sum = 0;
            for (std::size_t g = 0; g < maps_; ++g) {
              std::vector<double> values;
              for (const std::size_t i : rows)
                if (is_healthy(i)) values.push_back(p[i * maps_ + g]);
              if (values.empty()) return std::nullopt;
              sum += *uniform_distance(std::move(values));
            }
            return sum / static_cast<double>(maps_);
          },
          slice);
  }

  /// Calls put(name, definition, table) for every figure of maps against their regions.
  template <class Put>
  static void each_figure(const LocalisationTables& tables, const Put& put) {
    put("map.pixel_auroc", "AUROC of the pixels against the mask", tables.auroc);
    put("map.pixel_ap", "average precision of the pixels against the mask", tables.ap);
    put("map.pointing", "share of maps whose maximum lies in the mask", tables.pointing);
    put("map.best_dice", "Dice at each map's best threshold, an upper bound", tables.dice);
    put("map.iou", "IoU of the mask and the pixels of at least half of each map's own range, a fixed threshold",
        tables.iou);
  }

  /// Figures of maps against their regions; `suffix` follows the names of figures and `over` their definitions.
  void add_tables(const std::string& arm, const LocalisationTables& tables, const std::string& suffix,
                  const std::string& over) {
    each_figure(tables, [&](const std::string& name, const std::string& what, const RetrievalValues& table) {
      for (const auto& slice : out_.slices) out_.add_table(name + suffix, arm, what + over, table, slice);
    });
  }

  /// `of_boxes` as in localise.
  void add_localisation(const std::string& arm, const at::Tensor& maps, const std::vector<at::Tensor>& of_boxes = {}) {
    const LocalisedMaps found = localise(maps, truth_, of_boxes);
    for (const auto& [name, tables] : found.boxes)
      add_tables(arm, tables, "[" + name + "]",
                 ", over images with boxes of that name; the map is the highest of those of the group");
    if (!found.findings) return;
    const LocalisationTables& tables = *found.findings;
    add_tables(arm, tables, "", ", mean over images positive for a map's finding, then over maps");
    each_figure(tables, [&](const std::string& name, const std::string& what, const RetrievalValues& table) {
      for (std::size_t g = 0; g < maps_; ++g)
        for (const auto& slice : out_.slices)
          out_.add_column(name + "[" + data_.groups[g].name + "]", arm,
                          what + ", mean over images positive for the map's finding", table, g, slice);
    });
    if (arm == run_.config.encoder.maps) worst(tables.ap);
  }

  /// The images whose regions the maps miss by most, by map, worst first.
  void worst(const RetrievalValues& ap) {
    constexpr std::size_t kWorst = 6;
    for (std::size_t g = 0; g < maps_; ++g) {
      std::vector<std::pair<double, std::size_t>> images;
      for (std::size_t i = 0; i < tests_; ++i)
        if (const double value = ap.values[i * maps_ + g]; std::isfinite(value)) images.emplace_back(value, i);
      std::sort(images.begin(), images.end());
      auto& list = out_.details["worst_localisation"][data_.groups[g].name] = nlohmann::ordered_json::array();
      for (std::size_t n = 0; n < std::min(kWorst, images.size()); ++n)
        list.push_back({{"row", data_.test[images[n].second]}, {"pixel_ap", images[n].first}});
    }
  }

  /// Maps that are the same for every image, or know only how unusual it is.
  void constant_maps() {
    const MeanRegions mean = mean_regions(run_, truth_);
    image_level("mean_mask", mean.maps);
    add_localisation("mean_mask", mean.maps, mean.boxes);
    if (const at::Tensor distance = mean_healthy_distance(run_, data_.test); distance.defined())
      add_localisation("mean_healthy_distance", distance);
  }

  /// Where the noise-aware classifier looks on clean images: the plain way to ask a classifier.
  void occlusion() {
    const auto make = guide_occlusion(run_);
    constexpr std::int64_t kBlock = 32;
    const at::Tensor images = run_.images(data_.test);
    const at::Tensor maps =
        at::empty({images.size(0), static_cast<std::int64_t>(maps_), images.size(2), images.size(3)}, images.options());
    for_blocks(images.size(0), kBlock, run_.config.threads, run_.control, "occlusion maps", "images",
               [&](std::int64_t begin, std::int64_t count) {
                 maps.narrow(0, begin, count).copy_(make(images.narrow(0, begin, count)));
               });
    add_localisation("occlusion", maps);
  }

  void counterfactuals(const MapSet& set) {
    if (!set.translated.defined()) return;
    const std::size_t area = data_.images.pixels_per_image();
    const at::Tensor translated = set.translated.contiguous(), reconstruction = set.reconstruction.contiguous();
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    const auto place = [&](std::size_t i) { return position.at(data_.test[i]); };
    const auto audit = [&](const std::string& arm, const TranslatedImage& image) {
      const CounterfactualTables tables = audit_counterfactuals(run_, data_.test, truth_.regions, image);
      const std::string over = ", mean over images positive for a map's finding, then over maps";
      out_.add_table(
          "map.in_mask_ratio", arm,
          "inside the mask, mean |translated - true counterfactual| over mean |input - true counterfactual|" + over,
          tables.in_mask_ratio, out_.slices[0]);
      out_.add_table("map.outside_change", arm, "outside the mask, mean |translated - input|, data in [-1, 1]" + over,
                     tables.outside_change, out_.slices[0]);
    };
    audit("difference", [&](std::size_t i, std::size_t g) {
      return translated.const_data_ptr<float>() + (place(i) * maps_ + g) * area;
    });
    audit("no_target",
          [&](std::size_t i, std::size_t) { return reconstruction.const_data_ptr<float>() + place(i) * area; });
  }

  Measurements& out_;
  Run::Impl& run_;
  const RunData& data_;
  std::size_t tests_, maps_;
  MapTruth truth_;
};

}  // namespace

void evaluate_maps(Measurements& out) { MapEvaluation(out).all(); }

}  // namespace daug
