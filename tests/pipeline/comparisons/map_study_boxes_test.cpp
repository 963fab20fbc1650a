// The map study on boxes whose name is no finding, and on slices.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/settings/stage_options.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

constexpr std::size_t kBoxes = 6;
constexpr const char* kOpacity = "boxes named Opacity";

bool in_box(std::size_t pixel) {
  const std::size_t x = pixel % 32, y = pixel / 32;
  return x >= 4 && x < 14 && y >= 6 && y < 18;
}

/// A cohort without reports, with boxes of the same place on the first images of two splits, a column that divides the
/// test split, and training images of which nothing is known.
Cohort cohort_with_boxes(const std::string& folder) {
  const Cohort cohort = read_cohort(small_cohort(folder));
  CsvTable labels = read_csv(folder + "/labels.csv");
  const auto train = cohort.split_indices("train"), tests = cohort.split_indices("test");
  const std::size_t id = labels.column("id");
  for (auto& row : labels.rows) row[labels.column("report")].clear();
  for (std::size_t i = 0; i < 5; ++i)
    for (auto& row : labels.rows)
      if (row[id] == cohort.studies[train[train.size() - 1 - i]].id)
        for (const auto& finding : cohort.findings) row[labels.column(finding)].clear();
  write_csv(folder + "/labels.csv", labels);
  std::string boxes = "id,finding,x,y,w,h\n", meta = "id,src_repo\n";
  for (const auto& rows : {train, tests})
    for (std::size_t i = 0; i < kBoxes; ++i) boxes += cohort.studies[rows[i]].id + ",Opacity,4,6,10,12\n";
  for (std::size_t i = 0; i < tests.size(); ++i) meta += cohort.studies[tests[i]].id + (i % 2 ? ",odd\n" : ",even\n");
  write_file_atomically(folder + "/boxes.csv", boxes);
  write_file_atomically(folder + "/meta.csv", meta);
  return read_cohort(folder);
}

/// How many of the first test images, from `first` in steps, differ most from the mean healthy training image inside
/// the box; images of which nothing is known are not healthy.
double pointing_of_distance(const Cohort& cohort, const RunConfig& config, std::size_t first, std::size_t step) {
  LoadOptions options;
  options.preprocess = preprocess_options(config);
  const auto count = [](const Study& study, LabelState state) {
    return std::count(study.labels.begin(), study.labels.end(), state);
  };
  std::vector<std::size_t> healthy;
  for (const std::size_t row : cohort.split_indices("train"))
    if (count(cohort.studies[row], LabelState::kPositive) == 0 && count(cohort.studies[row], LabelState::kNegative) > 0)
      healthy.push_back(row);
  REQUIRE(!healthy.empty());
  const ImageSet known = load_images(cohort, healthy, options).images;
  const ImageSet tests = load_images(cohort, cohort.split_indices("test"), options).images;
  double hits = 0, images = 0;
  for (std::size_t i = first; i < kBoxes; i += step, ++images) {
    double highest = -1;
    std::size_t place = 0;
    for (std::size_t p = 0; p < known.pixels_per_image(); ++p) {
      double mean = 0;
      for (std::size_t n = 0; n < known.count(); ++n) mean += known.image(n)[p];
      const double distance = std::abs(tests.image(i)[p] - mean / static_cast<double>(known.count()));
      if (distance > highest) highest = distance, place = p;
    }
    hits += in_box(place);
  }
  return hits / images;
}

}  // namespace

TEST_CASE("the map study measures every method on boxes and slices as the evaluation does", "[pipeline][map_study]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = scratch.path("cohort");
  const Cohort cohort = cohort_with_boxes(config.data);
  config.maps.level = 10;
  config.maps.evidence_levels = "10";
  config.study.steps = "2";
  config.study.student_steps = 2;
  config.evaluate.box_groups = "Opacity=Nodule|Consolidation, Nothing=Device";
  {
    Run run(config, {});
    for (Stage stage : all_stages())
      if (stage <= Stage::kEvaluate) CHECK(run.execute(stage));
    run.study_maps();
  }
  const auto study = nlohmann::json::parse(read_text_file(config.out + "/map_study.json"));
  REQUIRE(study.at("images") == 20);
  const auto place = [&](const std::string& method, const std::string& of, const std::string& split) {
    for (const auto& row : study.at("rows"))
      if (row.at("method") == method)
        for (const auto& one : row.at("regions"))
          if (one.at("of") == of && one.at("split") == split) return one;
    return nlohmann::json();
  };
  for (const auto& row : study.at("rows"))
    for (const auto& [split, images] : std::vector<std::pair<std::string, std::size_t>>{
             {"test", kBoxes}, {"test[src_repo=even]", kBoxes / 2}, {"test[src_repo=odd]", kBoxes / 2}}) {
      const auto method = row.at("method").get<std::string>();
      INFO(method << ", " << split);
      const auto on_boxes = place(method, kOpacity, split);
      REQUIRE(on_boxes.is_object());
      CHECK(on_boxes.at("images").get<std::size_t>() == images);
      CHECK(place(method, "findings", split).at("images").get<int>() > 0);
      CHECK(place(method, "boxes named Nothing", split).is_null());
    }

  // The same maps through the evaluation, whose figures on boxes are worked out by hand elsewhere. Evidence and
  // occlusion are computed in other batches there, which may move a pixel across a threshold.
  const auto figures = read_metrics(config.out + "/metrics.json");
  const std::vector<std::tuple<std::string, std::string, double>> same = {
      {"signed evidence", "evidence", 0.03},
      {"score difference", "score_difference", 0.03},
      {"occlusion of the classifier", "occlusion", 0.03},
      {"mean training mask", "mean_mask", 1e-9},
      {"distance to the mean healthy image", "mean_healthy_distance", 1e-9}};
  for (const auto& [method, arm, margin] : same)
    for (const char* split : {"test", "test[src_repo=even]", "test[src_repo=odd]"})
      for (const auto& [of, suffix] :
           std::vector<std::pair<std::string, std::string>>{{"findings", ""}, {kOpacity, "[Opacity]"}})
        for (const char* figure : {"pixel_auroc", "pixel_ap", "pointing", "best_dice", "iou"}) {
          INFO(method << ", " << split << ", " << of << ", " << figure);
          const Figure* expected = find_figure(figures, std::string("map.") + figure + suffix, arm, split);
          REQUIRE(expected);
          CHECK(place(method, of, split).at(figure).at(0).get<double>() == Approx(expected->value).margin(margin));
        }

  // The run's own walk, whose translations the evaluation judges as well.
  const auto own = [&](const char* figure) {
    for (const auto& row : study.at("rows"))
      if (row.at("method") == "difference, ddim, 2 steps, 2 evaluations") return row.at(figure);
    return nlohmann::json();
  };
  for (const char* figure : {"in_mask_ratio", "outside_change", "outside_distance", "flip_rate"}) {
    INFO(figure);
    const Figure* expected = find_figure(figures, std::string("map.") + figure, "difference", "test");
    REQUIRE(own(figure).is_null() == (expected == nullptr));
    if (expected) CHECK(own(figure).at(0).get<double>() == Approx(expected->value).margin(1e-3));
  }

  // What is known in advance: the mean training box is the very box, and the distance is worked out by hand.
  for (const char* figure : {"pixel_auroc", "pixel_ap", "pointing", "best_dice", "iou"})
    CHECK(place("mean training mask", kOpacity, "test").at(figure).at(0).get<double>() == Approx(1));
  for (const auto& [split, first, step] : std::vector<std::tuple<std::string, std::size_t, std::size_t>>{
           {"test", 0, 1}, {"test[src_repo=even]", 0, 2}, {"test[src_repo=odd]", 1, 2}})
    CHECK(place("distance to the mean healthy image", kOpacity, split).at("pointing").at(0).get<double>() ==
          Approx(pointing_of_distance(cohort, config, first, step)));
  const std::string tables = read_text_file(config.out + "/map_study.md");
  contains(tables, "| occlusion of the classifier | boxes named Opacity | test[");
  contains(tables, "| occlusion of the image-only encoder, label-derived | boxes named Opacity | test[");
  contains(tables, "| flip rate of the image-only encoder, label-derived |\n");
  const std::string encoders = Run(config, {}).fingerprint(Stage::kEncoders);
  contains(tables, ", encoders " + encoders + ".\n");
  CHECK(study.at("fingerprints").at("encoders").get<std::string>() == encoders);
  CHECK(mentions(study.at("flip_rate").get<std::string>(), "image-only encoder", "label-derived"));

  config.evaluate.box_groups = "Opacity=Fracture";
  CHECK(caught([&] { Run(config, {}).study_maps(); }).code() == ErrorCode::kNotFound);
}
