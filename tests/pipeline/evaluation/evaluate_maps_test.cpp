// How maps are measured: against chance on healthy images, and against boxes; and what a run without reports says.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/metrics/calibration.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stored_maps.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::mentions;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;
using daug::test::stored_maps;

namespace {

/// Whether a figure is of something that learnt from texts.
bool is_of_texts(const Figure& figure) {
  return figure.arm.rfind("image", 0) == 0 || figure.name.rfind("retrieval.", 0) == 0 || figure.name == "map.flip_rate";
}

/// A run without reports says of all that learnt from texts, and of nothing else, that these are label-derived.
void check_label_derived(const std::vector<Figure>& figures, const std::string& html) {
  std::set<std::string> marked;
  for (const Figure& figure : figures) {
    INFO(figure.name << " " << figure.arm << " " << figure.split << ": " << figure.definition);
    CHECK(mentions(figure.definition, "label-derived") == is_of_texts(figure));
    CHECK_FALSE(mentions(figure.name, "report_to_image"));
    if (is_of_texts(figure)) marked.insert(figure.name);
  }
  for (const char* name :
       {"classification.auroc_macro", "classification.auroc_macro_difference", "classification.ece",
        "classification.linear_probe_auroc_macro", "map.flip_rate", "retrieval.p_at_5", "retrieval.map_at_10"}) {
    INFO(name);
    CHECK(marked.count(name) == 1);
  }
  for (const char* end :
       {"95 % patient bootstrap", "ROC, all findings pooled", "Nodule in numbers", "ROC, Nodule",
        "Reliability before temperature scaling", "makes probabilities less sure", "correction for the whole table",
        "at most 4 of one finding", "gets wrong most confidently", "Translation against the true counterfactual, test",
        "{image, image + maps} x {image-text, hybrid loss}"}) {
    INFO(end);
    CHECK(mentions(html, std::string(end) + ". Text is label-derived."));
  }
  CHECK_FALSE(mentions(html, "report to image P@5"));
}

}  // namespace

TEST_CASE("maps are calibrated on healthy validation images and tested on healthy test images", "[pipeline]") {
  const Scratch scratch;
  RunConfig own = smallest(scratch.path("calibrated"));
  own.phantom.val = 30;  // some of them healthy
  {
    Run run(own, {});
    for (Stage stage : all_stages())
      if (stage <= Stage::kEvaluate) run.execute(stage);
  }
  const Cohort cohort = read_cohort(own.out + "/phantoms");
  const auto healthy = [&](const char* split) {
    std::set<std::size_t> rows;
    for (const std::size_t i : cohort.split_indices(split)) {
      const auto& labels = cohort.studies[i].labels;
      const auto has = [&](LabelState state) { return std::count(labels.begin(), labels.end(), state) > 0; };
      if (has(LabelState::kNegative) && !has(LabelState::kPositive)) rows.insert(i);
    }
    return rows;
  };
  const auto tests = healthy("test");
  REQUIRE(!tests.empty());
  REQUIRE(static_cast<std::int64_t>(healthy("val").size()) >= MapCalibration::kLeastImages);
  const auto figures = read_metrics(own.out + "/metrics.json");
  for (const char* kind : {"difference", "evidence"}) {
    INFO(kind);
    const auto file = read_safetensors(own.out + "/calibration_" + kind + ".safetensors");
    const auto calibration = MapCalibration::from_file(file);
    CHECK(calibration.images() == static_cast<std::int64_t>(healthy("val").size()));
    std::map<std::size_t, at::Tensor> p;
    const SafetensorsFile stored = stored_maps(own.out);
    const auto rows = stored.at("rows").to_int64();
    const at::Tensor values = calibration.image_p_values(
        at::tensor(stored.at(kind).to_float()).reshape(at::IntArrayRef(stored.at(kind).shape)));
    for (std::size_t i = 0; i < rows.size(); ++i)
      p[static_cast<std::size_t>(rows[i])] = values[static_cast<std::int64_t>(i)];
    double mean = 0, farthest = 0;
    const auto maps = static_cast<std::int64_t>(calibration.targets().size());
    for (std::int64_t k = 0; k < maps; ++k) {
      std::vector<double> sorted;
      for (const std::size_t row : tests) sorted.push_back(p.at(row)[k].item<double>());
      std::sort(sorted.begin(), sorted.end());
      double largest = 0;
      for (std::size_t i = 0; i < sorted.size(); ++i)
        for (const std::size_t step : {i, i + 1})
          largest =
              std::max(largest, std::abs(sorted[i] - static_cast<double>(step) / static_cast<double>(sorted.size())));
      mean += largest / static_cast<double>(maps);
      farthest = std::max(farthest, largest);
    }
    const Figure* figure = find_figure(figures, "map.null_ks", kind);
    REQUIRE(figure);
    CHECK(figure->value == Approx(mean).epsilon(1e-9));
    CHECK(figure->n == static_cast<std::int64_t>(tests.size()));
    const std::size_t n = tests.size(), m = healthy("val").size();
    const Figure* p_value = find_figure(figures, "map.null_ks_p", kind);
    REQUIRE(p_value);
    CHECK(p_value->n == figure->n);
    CHECK_FALSE(p_value->low);
    const double one = uniform_distance_p(farthest, std::max<std::size_t>(n * m / (n + m), 1));
    CHECK(p_value->value == Approx(std::min(1.0, one * static_cast<double>(maps))).epsilon(1e-6));
  }
  // One of another stage, or of maps that were made otherwise, is refused.
  const std::string path = own.out + "/calibration_evidence.safetensors";
  const SafetensorsFile kept = read_safetensors(path);
  RunConfig forced = own;
  forced.force = {"evaluate"};
  for (const char* key : {"fingerprint", "maps"}) {
    INFO(key);
    SafetensorsFile foreign = kept;
    foreign.metadata.at(key) = "another";
    write_safetensors(path, foreign);
    const Error error = caught([&] { Run(forced, {}).execute(Stage::kEvaluate); });
    CHECK(error.code() == ErrorCode::kMismatch);
    CHECK(mentions(error, path + ": expected", "got another"));
  }
}

TEST_CASE("boxes whose name is no finding are compared with the highest of some maps, in a cohort without reports",
          "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  CsvTable labels = read_csv(config.data + "/labels.csv");
  for (auto& row : labels.rows) row[labels.column("report")].clear();
  write_csv(config.data + "/labels.csv", labels);
  config.encoder.class_bias_value = 9;  // the encoder sees every finding at first, so that there is a flip rate
  const Cohort cohort = read_cohort(config.data);
  std::string boxes = "id,finding,x,y,w,h\n";
  for (const char* split : {"train", "test"}) {
    const auto rows = cohort.split_indices(split);
    for (std::size_t i = 0; i < 4; ++i) boxes += cohort.studies[rows[i]].id + ",Opacity,4,6,10,12\n";
  }
  write_file_atomically(config.data + "/boxes.csv", boxes);
  config.evaluate.box_groups = "Opacity=Nodule|Consolidation, Nothing=Device";
  {
    Run run(config, {});
    for (Stage stage : all_stages()) run.execute(stage);
  }
  // The pointing game by hand, from the stored maps.
  const SafetensorsFile stored = stored_maps(config.out, config.data);
  const auto rows = stored.at("rows").to_int64();
  const std::vector<float> maps = stored.at("evidence").to_float();
  const std::size_t area = 32 * 32, nodule = cohort.finding_index("Nodule"),
                    consolidation = cohort.finding_index("Consolidation");
  double hits = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    REQUIRE(static_cast<std::size_t>(rows[i]) == cohort.split_indices("test")[i]);
    std::size_t best = 0;
    float highest = -1e30F;
    for (std::size_t p = 0; p < area; ++p) {
      const float value = std::max(maps[(i * 6 + nodule) * area + p], maps[(i * 6 + consolidation) * area + p]);
      if (value > highest) highest = value, best = p;
    }
    const std::size_t x = best % 32, y = best / 32;
    hits += x >= 4 && x < 14 && y >= 6 && y < 18 ? 1 : 0;
  }
  const auto figures = read_metrics(config.out + "/metrics.json");
  const Figure* pointing = find_figure(figures, "map.pointing[Opacity]", "evidence");
  REQUIRE(pointing);
  CHECK(pointing->value == Approx(hits / 4));
  CHECK(pointing->n == 4);
  // The mean training box is the very box here.
  CHECK(find_figure(figures, "map.pixel_ap[Opacity]", "mean_mask")->value == Approx(1));
  CHECK_FALSE(find_figure(figures, "map.pointing[Nothing]", "evidence"));
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.find("boxes named Opacity") != std::string::npos);
  check_label_derived(figures, html);
  config.evaluate.box_groups = "Opacity=Fracture";
  CHECK(caught([&] { Run(config, {}).execute(Stage::kEvaluate); }).code() == ErrorCode::kNotFound);
  config.evaluate.box_groups = "Opacity";
  CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kInvalidArgument);
}
