// What maps point at, and the lesions they find: by hand, and as figures of a run.

#include "pipeline/evaluation/localisation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/scratch.h"

using namespace daug;

TEST_CASE("maps point at the peaks above half of their own range", "[pipeline]") {
  // Three images of 3 x 4, two maps each.
  const at::Tensor maps = at::zeros({3, 2, 3, 4});
  const auto set = [&](int image, int map, int row, int column, float value) {
    maps[image][map][row][column].fill_(value);
  };
  set(0, 0, 0, 0, 1.0F);  // with its neighbour one region: in the lesion
  set(0, 0, 0, 1, 0.6F);
  set(0, 0, 2, 3, 0.8F);  // a false alarm
  set(0, 0, 2, 0, 0.4F);  // below half of the map's range
  set(1, 0, 1, 1, 0.4F);  // an image without lesions: what is highest is a false alarm
  set(1, 1, 2, 3, 2.0F);  // one of two lesions
  set(2, 0, 1, 1, 9.0F);  // nobody knows about this image
  MapRegions regions{3, 2, std::vector<std::optional<std::vector<std::uint8_t>>>(6)};
  regions.masks[0] = std::vector<std::uint8_t>{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  regions.masks[1] = std::vector<std::uint8_t>(12, 0);  // positive, but too small to see
  regions.masks[3] = std::vector<std::uint8_t>{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  const auto normal = [](std::size_t image, std::size_t map) { return image == (map == 0 ? 1U : 2U); };
  const std::vector<FrocFinding> found = map_detections(maps, regions, normal);
  REQUIRE(found.size() == 2);
  CHECK(found[0].rows == std::vector<std::size_t>{0, 1});
  REQUIRE(found[0].images.size() == 2);
  CHECK(found[0].images[0].lesions == 1);
  REQUIRE(found[0].images[0].detections.size() == 2);
  CHECK(found[0].images[0].detections[0].score == 1);
  CHECK(found[0].images[0].detections[0].lesion == 0);
  CHECK(found[0].images[0].detections[1].score == Approx(0.8));
  CHECK(found[0].images[0].detections[1].lesion == -1);
  CHECK(found[0].images[1].lesions == 0);
  REQUIRE(found[0].images[1].detections.size() == 1);
  CHECK(found[0].images[1].detections[0].score == Approx(0.4));
  CHECK(found[1].rows == std::vector<std::size_t>{1, 2});
  CHECK(found[1].images[0].lesions == 2);
  REQUIRE(found[1].images[0].detections.size() == 1);
  CHECK(found[1].images[0].detections[0].lesion == 1);
  REQUIRE(found[1].images[1].detections.size() == 1);  // a map without a peak is one region
  CHECK(found[1].images[1].detections[0].score == 0);

  const std::vector<FrocFinding> some = detections_of(found, {2, 1});
  CHECK(some[0].rows == std::vector<std::size_t>{1});
  CHECK(some[0].images[0].detections[0].score == Approx(0.4));
  CHECK(some[1].rows == std::vector<std::size_t>{1, 0});

  // The first map finds its lesion before any false alarm, the second one of two; alarms end at one an image.
  const auto curve = mean_froc(found);
  REQUIRE(curve.size() == 17);
  CHECK(curve.front()[0] == 0);
  CHECK(curve.back()[0] == 1);
  for (const auto& point : curve) CHECK(point[1] == Approx(0.75));
  CHECK(mean_froc(detections_of(found, {2})).empty());
}

TEST_CASE("a run counts the lesions that its maps find at a number of false positives an image", "[pipeline]") {
  const test::Scratch scratch;
  const RunConfig config = test::finished_run(scratch);
  const auto figures = read_metrics(config.out + "/metrics.json");
  for (const char* kind : {"difference", "evidence", "score_difference", "no_target", "mean_mask", "occlusion"}) {
    INFO(kind);
    double last = 0, sum = 0;
    for (const double rate : froc_rates()) {
      const Figure* found = find_figure(figures, fmt::format("map.froc_at_{:g}", rate), kind);
      REQUIRE(found);
      CHECK((found->value >= last && found->value <= 1));
      REQUIRE((found->low && found->high));
      CHECK(*found->low <= *found->high);
      CHECK(found->n > 0);
      last = found->value;
      sum += found->value;
    }
    const Figure* score = find_figure(figures, "map.froc_score", kind);
    REQUIRE(score);
    CHECK(score->value == Approx(sum / 7));
    // As many lesions as there are, whoever looks for them; over maps their mean.
    CHECK(score->n == find_figure(figures, "map.froc_score", "difference")->n);
    double of_maps = 0, maps = 0;
    for (const Figure& figure : figures)
      if (figure.name.rfind("map.froc_score[", 0) == 0 && figure.arm == kind && figure.split == "test") {
        of_maps += figure.value;
        ++maps;
      }
    REQUIRE(maps > 0);
    CHECK(score->value == Approx(of_maps / maps));
  }
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.find("Share of lesions found") != std::string::npos);
  CHECK(html.find("Lesions found (FROC), test: share of lesions found against false positives an image") !=
        std::string::npos);
}
