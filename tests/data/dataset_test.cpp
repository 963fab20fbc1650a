#include "daug/data/dataset.h"

#include "daug/image/png.h"
#include "daug/io/csv.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using test::error_text;
using test::mentions;
using test::Scratch;

namespace {

/// `count` studies whose images are `size` squares of the gray level n / 255.
Cohort flat_cohort(const Scratch& scratch, int count, int size) {
  std::filesystem::create_directories(scratch.path("images"));
  Cohort cohort;
  cohort.folder = scratch.folder();
  cohort.findings = {"Mass", "Edema"};
  for (int n = 0; n < count; ++n) {
    Study study;
    study.id = "s" + std::to_string(n);
    study.path = scratch.path("images/" + study.id + ".png");
    write_png(study.path, GrayImage::filled(size, size, static_cast<float>(n) / 255));
    cohort.studies.push_back(study);
  }
  return cohort;
}

LoadOptions options_of(int size) {
  LoadOptions options;
  options.preprocess.size = size;
  return options;
}

}  // namespace

TEST_CASE("images load in the order asked for, whatever the thread count", "[data]") {
  Scratch scratch;
  const Cohort cohort = flat_cohort(scratch, 40, 8);
  LoadOptions options = options_of(4);
  for (int threads : {1, 2, 7}) {
    options.threads = threads;
    const ImageSet images = load_images(cohort, options).images;
    REQUIRE(images.count() == 40);
    REQUIRE(images.pixels.size() == 40 * 16);
    for (std::size_t n = 0; n < 40; ++n) {
      CHECK(images.image(n)[5] == Approx(2.0 * static_cast<double>(n) / 255 - 1).margin(1e-6));
      CHECK(images.original[n] == std::array<int, 2>{8, 8});
    }
  }
  const ImageSet two = load_images(cohort, {7, 3}, options).images;
  CHECK(two.study == std::vector<std::size_t>{7, 3});
  CHECK(two.image(1)[0] == Approx(6.0 / 255 - 1).margin(1e-6));
  CHECK_THROWS_AS(load_images(cohort, {40}, options), Error);
  options.threads = 0;
  CHECK_THROWS_AS(load_images(cohort, options), Error);
}

TEST_CASE("unreadable images are collected, shown, and skipped on request", "[data]") {
  Scratch scratch;
  const Cohort cohort = flat_cohort(scratch, 10, 4);
  for (int n : {0, 2, 3, 5, 6, 8}) scratch.put("images/s" + std::to_string(n) + ".png", "no picture");
  std::filesystem::remove(scratch.path("images/s9.png"));
  LoadOptions options = options_of(4);

  try {
    load_images(cohort, options);
    FAIL("no error");
  } catch (const LoadError& error) {
    CHECK(error.failures().size() == 7);
    const std::string text = error.what();
    CHECK(mentions(text, "10 readable", "got 7", "s0:", "s6:", "2 more"));
    CHECK_FALSE(mentions(text, "s8:"));
  }

  options.skip_bad = true;
  const LoadResult result = load_images(cohort, options);
  CHECK(result.images.study == std::vector<std::size_t>{1, 4, 7});
  for (std::size_t n = 0; n < 3; ++n)
    CHECK(result.images.image(n)[0] == Approx(2.0 * (1 + 3 * static_cast<double>(n)) / 255 - 1).margin(1e-6));
  REQUIRE(result.failures.size() == 7);
  CHECK(result.failures[6].study == "s9");

  write_failures_csv(scratch.path("bad.csv"), result.failures);
  const CsvTable table = read_csv(scratch.path("bad.csv"));
  REQUIRE(table.rows.size() == 7);
  CHECK(table.rows[0][table.column("id")] == "s0");
  CHECK(table.rows[6][table.column("path")] == cohort.studies[9].path);
  CHECK_FALSE(table.rows[6][table.column("message")].empty());

  CHECK_THROWS_AS(load_images(cohort, {0, 2}, options), LoadError);  // nothing is left
}

TEST_CASE("a failure names its line of labels.csv where there is one", "[data]") {
  Scratch scratch;
  Cohort cohort = flat_cohort(scratch, 3, 4);
  cohort.studies[1].line = 7;
  for (const char* name : {"images/s0.png", "images/s1.png"}) scratch.put(name, "no picture");
  LoadOptions options = options_of(4);
  CHECK(mentions(error_text(ErrorCode::kFormat, [&] { load_images(cohort, options); }),
                 "\n  s0: decode_image: ", "\n  s1 (labels.csv line 7): decode_image: "));
  options.skip_bad = true;
  write_failures_csv(scratch.path("bad.csv"), load_images(cohort, options).failures);
  const CsvTable table = read_csv(scratch.path("bad.csv"));
  REQUIRE(table.rows.size() == 2);
  CHECK(table.rows[0][table.column("line")].empty());
  CHECK(table.rows[1][table.column("line")] == "7");
}

TEST_CASE("loading reports progress and stops on request", "[data]") {
  Scratch scratch;
  const Cohort cohort = flat_cohort(scratch, 20, 4);
  StopSource source;
  RunControl control;
  control.stop = source.token();
  std::int64_t last = -1;
  bool rising = true;
  control.progress = [&](const Progress& progress) {
    rising = rising && progress.done >= last && progress.total == 20;
    last = progress.done;
  };
  load_images(cohort, options_of(4), control);
  CHECK(rising);
  CHECK(last == 20);
  control.progress = [&](const Progress&) { source.request_stop(); };
  LoadOptions alone = options_of(4);
  alone.threads = 1;  // others could load all images before the one that reports has its first
  CHECK(mentions(error_text(ErrorCode::kCancelled, [&] { load_images(cohort, alone, control); }), "load images"));
}

TEST_CASE("a finding's region comes from its mask, else from its boxes", "[data]") {
  Scratch scratch;
  Cohort cohort = flat_cohort(scratch, 1, 8);
  Study& study = cohort.studies[0];
  PreprocessOptions options;
  options.size = 4;
  CHECK_FALSE(finding_region(cohort, 0, 0, {8, 8}, options));

  study.boxes = {{"Mass", {0, 0, 4, 2}, ""}, {"Mass", {6, 6, 2, 2}, ""}, {"Edema", {0, 0, 8, 8}, ""}};
  const auto boxes = finding_region(cohort, 0, 0, {8, 8}, options);
  REQUIRE(boxes);
  CHECK(*boxes == std::vector<std::uint8_t>{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});

  GrayImage mask = GrayImage::filled(8, 8);
  for (int y = 2; y < 4; ++y)
    for (int x = 4; x < 8; ++x) mask.at(x, y) = 1;
  study.mask_paths[0] = scratch.path("mask.png");
  write_png(study.mask_paths[0], mask);
  const auto region = finding_region(cohort, 0, 0, {8, 8}, options);
  REQUIRE(region);
  CHECK(*region == std::vector<std::uint8_t>{0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0});
  CHECK(mentions(error_text(ErrorCode::kMismatch,
                            [&] {
                              finding_region(cohort, 0, 0, {9, 8}, options);
                            }),
                 "mask.png", "9 x 8"));
}

TEST_CASE("counterfactuals load with the image's preprocessing", "[data]") {
  Scratch scratch;
  Cohort cohort = flat_cohort(scratch, 2, 4);
  PreprocessOptions options;
  options.size = 4;
  CHECK_FALSE(load_healthy(cohort, 0, options));
  CHECK_FALSE(load_counterfactual(cohort, 0, 1, options));
  cohort.studies[0].counterfactual_path = cohort.studies[1].path;
  cohort.studies[0].counterfactual_paths[1] = cohort.studies[1].path;
  CHECK(load_healthy(cohort, 0, options)->at(3) == Approx(2.0 / 255 - 1).margin(1e-6));
  CHECK(load_counterfactual(cohort, 0, 1, options)->size() == 16);
  CHECK_FALSE(load_counterfactual(cohort, 0, 0, options));
}

TEST_CASE("a study or finding that the cohort does not have is refused by name", "[data]") {
  Scratch scratch;
  const Cohort cohort = flat_cohort(scratch, 2, 4);  // with two findings
  PreprocessOptions options;
  options.size = 4;
  const auto refused = [](const char* argument, const auto& call) {
    const std::string text = error_text(ErrorCode::kInvalidArgument, call);
    INFO(text);
    CHECK(mentions(text, argument, "of the cohort's 2", "got 2"));
  };
  refused("load_images: studies", [&] { load_images(cohort, {0, 2}, options_of(4)); });
  refused("finding_region: study", [&] { finding_region(cohort, 2, 0, {4, 4}, options); });
  refused("finding_region: finding", [&] { finding_region(cohort, 0, 2, {4, 4}, options); });
  refused("load_counterfactual: study", [&] { load_counterfactual(cohort, 2, 0, options); });
  refused("load_counterfactual: finding", [&] { load_counterfactual(cohort, 0, 2, options); });
  refused("load_healthy: study", [&] { load_healthy(cohort, 2, options); });
}
