// Measures maps against masks and true counterfactuals, always beside those that see little or nothing.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "daug/metrics/calibration.h"
#include "localisation.h"
#include "measurements.h"
#include "pipeline/settings/stage_options.h"

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
    std::vector<std::function<void(Measurements&)>> parts;
    for (const char* kind : {"difference", "evidence", "score_difference", "no_target"})
      parts.emplace_back([&, kind](Measurements& out) {
        at::Tensor maps = set.select(kind, data_.test);
        if (maps.size(1) == 1) maps = maps.expand({maps.size(0), static_cast<std::int64_t>(maps_), -1, -1});
        image_level(out, kind, maps);
        if (any) add_localisation(out, kind, maps);
        null_uniformity(out, kind, set);
      });
    if (any) parts.emplace_back([&](Measurements& out) { constant_maps(out); });
    parts.emplace_back([&](Measurements& out) { counterfactuals(out, set); });
    out_.side_by_side(parts.size(), [&](std::size_t i, Measurements& out) { parts[i](out); });
    if (any) occlusion();
  }

 private:
  /// Does the mean of a map tell images with the finding from those without?
  void image_level(Measurements& out, const std::string& arm, const at::Tensor& maps) const {
    const std::vector<double> scores = to_doubles(maps.mean({2, 3}));
    for (const auto& slice : out.slices)
      out.add_auroc("map.image_auroc", arm, "AUROC of the map's (signed) mean over the image, macro over maps", scores,
                    out.of_maps, slice);
  }

  /// Are p-values of healthy images uniform, as the calibration promises?
  void null_uniformity(Measurements& out, const std::string& arm, const MapSet& set) const {
    const auto calibration = run_.calibration(arm);
    if (!calibration) return;
    const std::int64_t m = calibration->images();
    const std::vector<double> p = to_doubles(calibration->image_p_values(set.select(arm, data_.test)));
    const std::vector<std::size_t> healthy = data_.healthy(data_.test);
    const std::set<std::size_t> healthy_rows(healthy.begin(), healthy.end());
    const auto is_healthy = [&](std::size_t i) { return healthy_rows.count(data_.test[i]) > 0; };
    const std::string definition = fmt::format(
        "Kolmogorov-Smirnov distance from uniform of healthy test images' p-values (MapCalibration on {} healthy "
        "images, the image's most unusual cell), mean over maps; by chance, with many images, about "
        "0.87 sqrt(1/n + 1/{}) for a map, and above 1.36 times that root in 5 % of all cases",
        m, m);
    // Of every map; empty without healthy images.
    const auto distances = [&](const std::vector<std::size_t>& rows) {
      std::vector<double> of_maps;
      for (std::size_t g = 0; g < maps_; ++g) {
        std::vector<double> values;
        for (const std::size_t i : rows)
          if (is_healthy(i)) values.push_back(p[i * maps_ + g]);
        if (const auto distance = uniform_distance(std::move(values))) of_maps.push_back(*distance);
      }
      return of_maps;
    };
    const auto mean = [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
      const std::vector<double> of_maps = distances(rows);
      if (of_maps.empty()) return std::nullopt;
      return std::accumulate(of_maps.begin(), of_maps.end(), 0.0) / static_cast<double>(maps_);
    };
    const std::string p_definition = fmt::format(
        "p-value of the farthest map's Kolmogorov-Smirnov distance from uniform among healthy test images, times the "
        "number of maps (Bonferroni), at most 1; computed as for n m / (n + m) uniform values, because a calibration "
        "on m = {} images strays by itself",
        m);
    for (const auto& slice : out.slices) {
      const std::int64_t n = std::count_if(slice.rows.begin(), slice.rows.end(), is_healthy);
      out.add("map.null_ks", arm, definition, n, mean, slice);
      const std::vector<double> of_maps = distances(slice.rows);
      if (of_maps.empty()) continue;
      const auto alike = static_cast<std::size_t>(std::max<std::int64_t>(n * m / (n + m), 1));
      const double least = uniform_distance_p(*std::max_element(of_maps.begin(), of_maps.end()), alike);
      const double corrected = std::min(1.0, least * static_cast<double>(maps_));
      out.figures.push_back({"map.null_ks_p", arm, slice.name, corrected, {}, {}, n, p_definition});
    }
  }

  /// Figures of maps against their regions; `suffix` follows the names of figures and `over` their definitions. With
  /// `of_maps` also those of every map.
  void add_tables(Measurements& out, const std::string& arm, const LocalisationTables& tables,
                  const std::string& suffix, const std::string& over, bool of_maps) const {
    tables.each([&](const char* figure, const std::string& what, const RetrievalValues& table) {
      const std::string name = std::string("map.") + figure;
      for (const auto& slice : out.slices) {
        const FindingIntervals means = out.means(table, slice);
        out.put(name + suffix, arm, slice.name, means.macro, count_values(table, slice), what + over);
        for (std::size_t g = 0; of_maps && g < maps_; ++g)
          out.put(name + "[" + data_.groups[g].name + "]", arm, slice.name, means.finding[g],
                  count_values(table, slice, g), what + ", mean over images positive for the map's finding");
      }
    });
  }

  /// Lesions found at a number of false positives an image; names as in add_tables.
  void add_froc(Measurements& out, const std::string& arm, const std::vector<FrocFinding>& findings,
                const std::string& suffix, const std::string& normal, bool of_maps) const {
    const std::string candidates =
        "; candidates: the 8-connected regions of the map's pixels of at least (lowest + highest value) / 2, each at "
        "its highest pixel (the first in reading order) and with that value as score; lesions: the 8-connected regions "
        "of the masks or boxes, hit by candidates that lie in them; images: those with lesions, and " +
        normal + "; n: lesions; no interpolation";
    const std::string over = of_maps ? ", mean over maps" : "";
    const std::vector<double> rates = froc_rates();
    for (const auto& slice : out.slices) {
      std::vector<std::int64_t> patients;
      for (const std::size_t row : slice.rows) patients.push_back(out.patients[row]);
      const std::vector<FrocFinding> found = detections_of(findings, slice.rows);
      const FrocIntervals intervals = bootstrap_froc(found, patients, rates, out.bootstrap_options());
      const auto lesions = [](const FrocFinding& finding) {
        std::int64_t n = 0;
        for (const FrocImage& image : finding.images) n += static_cast<std::int64_t>(image.lesions);
        return n;
      };
      std::int64_t all = 0;
      for (const FrocFinding& finding : found) all += lesions(finding);
      for (std::size_t r = 0; r < rates.size(); ++r)
        out.put(fmt::format("map.froc_at_{:g}{}", rates[r], suffix), arm, slice.name, intervals.macro[r], all,
                fmt::format("share of lesions found at no more than {:g} false positives an image{}{}", rates[r], over,
                            candidates));
      const std::string score =
          "mean of the shares of lesions found at no more than 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives an image";
      out.put("map.froc_score" + suffix, arm, slice.name, intervals.score, all, score + over + candidates);
      for (std::size_t g = 0; of_maps && g < found.size(); ++g)
        out.put("map.froc_score[" + data_.groups[g].name + "]", arm, slice.name, intervals.finding[g],
                lesions(found[g]), score + candidates);
    }
    for (const auto& point : mean_froc(findings)) out.details["froc" + suffix][arm].push_back({point[0], point[1]});
  }

  void add_localisation(Measurements& out, const std::string& arm, const at::Tensor& maps) const {
    add_localisation(out, arm, maps, maps_of_boxes(maps, truth_));
  }
  /// `of_boxes` as in localise.
  void add_localisation(Measurements& out, const std::string& arm, const at::Tensor& maps,
                        const std::vector<at::Tensor>& of_boxes) const {
    const LocalisedMaps found = localise(maps, truth_, of_boxes);
    for (const auto& [name, tables] : found.boxes)
      add_tables(out, arm, tables, "[" + name + "]",
                 ", over images with boxes of that name; the map is the highest of those of the group", false);
    const auto is_negative = [&](std::size_t image, std::size_t map) {
      return data_.group_state(data_.test[image], map) < 0;
    };
    for (std::size_t b = 0; b < truth_.boxes.size(); ++b) {
      if (!of_boxes[b].defined()) continue;
      const auto& [group, regions] = truth_.boxes[b];
      const auto normal = [&, &members = group.maps](std::size_t image, std::size_t) {
        return std::all_of(members.begin(), members.end(),
                           [&](std::int64_t map) { return is_negative(image, static_cast<std::size_t>(map)); });
      };
      add_froc(out, arm, map_detections(of_boxes[b].contiguous(), regions, normal), "[" + group.name + "]",
               "those without boxes that are negative for all maps of the group; the map is the highest of these",
               false);
    }
    if (!found.findings) return;
    add_tables(out, arm, *found.findings, "", ", mean over images positive for a map's finding, then over maps", true);
    add_froc(out, arm, map_detections(maps.contiguous(), truth_.regions, is_negative), "",
             "those negative for the map's findings", true);
    if (arm == run_.config.encoder.maps) worst(out, found.findings->ap);
  }

  /// The images whose regions the maps miss by most, by map, worst first.
  void worst(Measurements& out, const RetrievalValues& ap) const {
    constexpr std::size_t kWorst = 6;
    for (std::size_t g = 0; g < maps_; ++g) {
      std::vector<std::pair<double, std::size_t>> images;
      for (std::size_t i = 0; i < tests_; ++i)
        if (const double value = ap.values[i * maps_ + g]; std::isfinite(value)) images.emplace_back(value, i);
      std::sort(images.begin(), images.end());
      auto& list = out.details["worst_localisation"][data_.groups[g].name] = nlohmann::ordered_json::array();
      for (std::size_t n = 0; n < std::min(kWorst, images.size()); ++n)
        list.push_back({{"row", data_.test[images[n].second]}, {"pixel_ap", images[n].first}});
    }
  }

  /// Maps that are the same for every image, or know only how unusual it is.
  void constant_maps(Measurements& out) const {
    const MeanRegions mean = mean_regions(run_, truth_);
    image_level(out, "mean_mask", mean.maps);
    add_localisation(out, "mean_mask", mean.maps, mean.boxes);
    if (const at::Tensor distance = mean_healthy_distance(run_, data_.test); distance.defined())
      add_localisation(out, "mean_healthy_distance", distance);
  }

  /// Where the noise-aware classifier looks on clean images: the plain way to ask a classifier.
  void occlusion() {
    const auto make = guide_occlusion(run_);
    constexpr std::int64_t kBlock = 32;
    const at::Tensor images = run_.images(data_.test);
    const at::Tensor maps =
        at::empty({images.size(0), static_cast<std::int64_t>(maps_), images.size(2), images.size(3)}, images.options());
    for_blocks(images.size(0), kBlock, network_threads(run_.config), run_.control, "occlusion maps", "images",
               [&](std::int64_t begin, std::int64_t count) {
                 maps.narrow(0, begin, count).copy_(make(images.narrow(0, begin, count)));
               });
    add_localisation(out_, "occlusion", maps);
  }

  /// Translated and round-tripped images against what they should be.
  void counterfactuals(Measurements& out, const MapSet& set) const {
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    const auto place = [&](std::size_t i) { return position.at(data_.test[i]); };
    if (set.residual.defined()) {
      const std::vector<double> residual = to_doubles(set.residual);
      RetrievalValues table = out.empty_table(1);
      for (std::size_t i = 0; i < tests_; ++i) table.values[i] = residual[place(i)];
      out.add_table("map.round_trip", "no_target", "mean |x - decode(encode(x))| without a target, data in [-1, 1]",
                    table, out.slices[0]);
    }
    if (!set.translated.defined()) return;
    const std::size_t area = data_.images.pixels_per_image();
    const at::Tensor translated = set.translated.contiguous(), reconstruction = set.reconstruction.contiguous();
    const auto audit = [&](const std::string& arm, const TranslatedImage& image) {
      const CounterfactualTables tables = audit_counterfactuals(run_, data_.test, truth_.regions, image);
      const std::string over = ", mean over images positive for a map's finding, then over maps";
      out.add_table(
          "map.in_mask_ratio", arm,
          "inside the mask, mean |translated - true counterfactual| over mean |input - true counterfactual|" + over,
          tables.in_mask_ratio, out.slices[0]);
      out.add_table("map.outside_change", arm, "outside the mask, mean |translated - input|, data in [-1, 1]" + over,
                    tables.outside_change, out.slices[0]);
      out.add_table("map.outside_distance", arm,
                    "outside the mask, mean |translated - true counterfactual|, data in [-1, 1]" + over,
                    tables.outside_distance, out.slices[0]);
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
