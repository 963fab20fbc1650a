// Ways of making maps side by side, and the settings their walks need.

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("the map study sets every method beside the controls that must fail", "[pipeline][map_study]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.maps.evidence_levels = "10", config.maps.evidence_samples = 2;
  config.diffusion.max_level = 150;
  config.maps.level = 5;
  config.study.level = 10;  // in place of maps.level
  config.study.steps = "3,2,1";
  config.study.evaluations = "2,1";
  config.study.student_steps = 2;
  std::map<std::string, std::int64_t> reported;  // what was done of each piece of work
  RunControl control;
  control.progress = [&](const Progress& progress) { reported[progress.stage] = progress.done; };
  {
    Run run(config, control);
    CHECK(run.execute(Stage::kTranslator));
    CHECK(run.execute(Stage::kGuide));
    run.study_maps();
  }
  const auto study = nlohmann::json::parse(read_text_file(config.out + "/map_study.json"));
  CHECK(study.at("images") == 20);
  const auto row = [&](const std::string& method) {
    for (const auto& one : study.at("rows"))
      if (one.at("method") == method) return one;
    return nlohmann::json();
  };
  for (const char* method :
       {"difference, ddim, 3 steps, 2 evaluations", "difference, ddim, 3 steps, 1 evaluations",
        "difference, ddim, 2 steps, 2 evaluations", "difference, ddim, 2 steps, 1 evaluations",
        "difference, ddim, 1 steps, 2 evaluations", "difference, ddim, 1 steps, 1 evaluations",
        "difference, dpm, 3 steps", "difference, dpm, 2 steps", "difference, dpm, 1 steps", "difference, bdia, 3 steps",
        "difference, bdia, 2 steps", "published loop (arXiv 2203.04306)", "score difference", "signed evidence",
        "student of signed evidence", "student of signed evidence, gated", "difference of another patient's image",
        "evidence of another patient's image", "mean training mask"}) {
    INFO(method);
    REQUIRE(row(method).is_object());
    for (const char* figure : {"pixel_auroc", "pixel_ap", "pointing", "best_dice", "iou"})
      CHECK(row(method).at(figure).size() == 3);
  }
  CHECK(row("difference, bdia, 1 steps").is_null());  // its first step asks no network
  // Six maps, contrast guidance: encode steps by their evaluations, decode steps by two for each map.
  CHECK(row("difference, ddim, 3 steps, 2 evaluations").at("denoiser_calls") == 3 * 2 + 6 * 3 * 2);
  CHECK(row("difference, ddim, 3 steps, 1 evaluations").at("denoiser_calls") == 3 + 6 * 3 * 2);
  CHECK(row("difference, dpm, 3 steps").at("denoiser_calls") == 3 + 6 * 3 * 2);
  CHECK(row("difference, bdia, 2 steps").at("denoiser_calls") == 2 + 6 * 1 * 2);
  CHECK(row("published loop (arXiv 2203.04306)").at("denoiser_calls") == 2 * 6 * (10 - 1));
  CHECK(row("published loop (arXiv 2203.04306)").at("classifier_gradients") == 6 * (10 - 1));
  // Two draws at one level: m (K + 1) with a shared null, and 2 m K.
  CHECK(row("score difference").at("denoiser_calls") == 2 * (6 + 1));
  CHECK(row("signed evidence").at("denoiser_calls") == 2 * 2 * 6);
  for (const char* method : {"difference, ddim, 1 steps, 1 evaluations", "difference, dpm, 3 steps",
                             "difference, bdia, 2 steps", "published loop (arXiv 2203.04306)"}) {
    INFO(method);
    REQUIRE(row(method).contains("residual"));
    CHECK(row(method).at("residual").get<double>() >= 0);
    // Made apart, after the time of the maps has ended: it is in neither the calls nor the seconds.
    REQUIRE(reported.count(method) == 1);
    REQUIRE(reported.count(method + std::string(", round trip")) == 1);
    CHECK(reported.at(method + std::string(", round trip")) == 20);
    const auto own = row(method + std::string(": its round trip"));
    REQUIRE(own.is_object());
    CHECK(own.at("denoiser_calls") == 0);
    CHECK(own.at("pointing").size() == 3);
    CHECK(own.at("pixel_ap") != row(method).at("pixel_ap"));  // no target is in it
  }
  CHECK(reported.count("signed evidence, round trip") == 0);
  // The loop skips two levels on its way down, and starts with noise that it does not take out again.
  CHECK(row("published loop (arXiv 2203.04306)").at("residual").get<double>() > 1e-4);
  // The gate's own calls count, and the teacher's for what it hands back: 2 draws at one level, twice for each map.
  const double handed_back = 1 - study.at("gate").at("test images").get<double>();
  CHECK(row("student of signed evidence").at("denoiser_calls") == 1);
  CHECK(row("student of signed evidence, gated").at("denoiser_calls").get<double>() ==
        Approx(1 + 2 + handed_back * 2 * 2 * 6));
  const std::string tables = read_text_file(config.out + "/map_study.md");
  CHECK_THAT(tables, contains_text("| upside down |"));
  CHECK_THAT(tables, contains_text("| distance outside | flip rate |\n"));  // without encoders nobody judges
  CHECK_FALSE(study.contains("flip_rate"));
  const auto student = read_safetensors(config.out + "/student.safetensors").metadata;
  CHECK(student.at("fingerprint") == Run(config, {}).fingerprint(Stage::kHeatmaps));
  // By default the gate asks at 250, which this denoiser was never shown.
  CHECK(nlohmann::json::parse(student.at("state")).at("levels").get<std::vector<std::int64_t>>() ==
        std::vector<std::int64_t>{100, 150});
  for (const Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps})
    CHECK(study.at("fingerprints").at(stage_name(stage)).get<std::string>() == Run(config, {}).fingerprint(stage));
  CHECK(study.at("fingerprints").size() == 3);
  for (const auto& [stage, fingerprint] : study.at("fingerprints").items())
    CHECK_THAT(tables, contains_text(stage + " " + fingerprint.get<std::string>()));
  CHECK(study.at("settings").get<std::vector<std::string>>() == command_line(config));
  // Translated images are audited, own and another patient's.
  for (const char* method : {"difference, ddim, 3 steps, 2 evaluations", "difference of another patient's image",
                             "difference, ddim, 3 steps, 2 evaluations: its round trip"})
    for (const char* figure : {"in_mask_ratio", "outside_change"}) CHECK(row(method).at(figure).size() == 3);
  CHECK_FALSE(row("signed evidence").contains("in_mask_ratio"));
  for (const char* kind : {"difference", "evidence"}) {
    const std::string own =
        std::string(kind) == "difference" ? "difference, ddim, 3 steps, 2 evaluations" : "signed evidence";
    CHECK(row(own).at("pixel_ap") != row(kind + std::string(" of another patient's image")).at("pixel_ap"));
  }
  CHECK_THAT(tables, contains_text("| difference of another patient's image |"));

  // What is not drawn does not spread: evidence has no scale, a DDIM walk no seed.
  const auto& spread = study.at("spread");
  CHECK(spread.at("signed evidence").at("seeds").get<double>() > 0);
  CHECK(spread.at("signed evidence").at("scales") == 0.0);
  CHECK(spread.at("difference, ddim").at("seeds") == 0.0);
  CHECK(spread.at("difference, ddim").at("levels").get<double>() > 0);
  CHECK(spread.at("difference, ddim").at("scales").get<double>() > 0);

  config.maps.level = 1;  // the published loop needs two
  config.study.level = 0;
  config.maps.steps = 1;
  config.study.steps = "1";
  Run run(config, {});
  CHECK_THROWS_WITH(run.study_maps(), contains_text("maps.level"));
}

TEST_CASE("walks that no noise schedule has are refused by the setting's name", "[pipeline]") {
  const auto refused = [](const std::vector<std::string>& parts, const std::function<void(RunConfig&)>& spoil) {
    RunConfig config;
    spoil(config);
    try {
      config.validate();
      FAIL("accepted; expected an error that names " << parts[0]);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kInvalidArgument);
      for (const auto& part : parts) CHECK_THAT(std::string(error.what()), contains_text(part));
    }
  };
  refused({"study.steps", "at most maps.level, 250", "got 251"}, [](RunConfig& c) { c.study.steps = "25,251"; });
  refused({"study.steps", "at most maps.level, 100", "got 250"}, [](RunConfig& c) { c.maps.level = 100; });
  refused({"maps.steps", "at most maps.level, 5", "got 6"},
          [](RunConfig& c) { c.maps.level = 5, c.study.steps = "5"; });
  refused({"study.steps", "at most study.level, 100", "got 250"}, [](RunConfig& c) { c.study.level = 100; });
  refused({"study.evaluations", "[1, 20]"}, [](RunConfig& c) { c.study.evaluations = "1,21"; });
  refused({"study.evaluations", "at least one"}, [](RunConfig& c) { c.study.evaluations = ""; });
  refused({"study.steps", "[1, 1000]"}, [](RunConfig& c) { c.study.steps = "0"; });
  refused({"study.steps", "at least one"}, [](RunConfig& c) { c.study.steps = ""; });
  refused({"maps.steps", "bdia"}, [](RunConfig& c) { c.maps.solver = "bdia", c.maps.steps = 1; });
  refused({"maps.level", "diffusion.schedule"},
          [](RunConfig& c) { c.diffusion.schedule = "zero_snr_linear", c.diffusion.max_level = c.maps.level = 1000; });
  refused({"maps.evidence_levels", "diffusion.schedule", "got 1000"}, [](RunConfig& c) {
    c.diffusion.schedule = "zero_snr_linear", c.diffusion.max_level = 1000, c.maps.evidence_levels = "40,1000";
  });
  RunConfig wider;
  wider.diffusion.max_level = wider.study.level = 500, wider.study.steps = "500,50,25,10";
  CHECK_NOTHROW(wider.validate());
  RunConfig fits;
  fits.study.steps = "250,1";
  fits.maps.steps = 250;
  CHECK_NOTHROW(fits.validate());
  fits.maps.solver = "bdia", fits.maps.steps = 2;
  CHECK_NOTHROW(fits.validate());
  fits.diffusion.schedule = "zero_snr_linear", fits.diffusion.max_level = fits.maps.level = 999;
  CHECK_NOTHROW(fits.validate());
}

TEST_CASE("noise levels that the denoiser is never shown are refused by both settings' names", "[pipeline]") {
  const auto set = [](RunConfig& config, const std::string& name, std::int64_t level) {
    if (name == "maps.level") config.maps.level = level;
    if (name == "study.level") config.study.level = level;
    if (name == "maps.evidence_levels") config.maps.evidence_levels = "40," + std::to_string(level) + ",100";
  };
  for (const char* name : {"maps.level", "study.level", "maps.evidence_levels"}) {
    INFO(name);
    RunConfig config;
    set(config, name, config.diffusion.max_level);
    CHECK_NOTHROW(config.validate());
    set(config, name, config.diffusion.max_level + 1);
    check_refused(ErrorCode::kInvalidArgument,
                  std::string(name) + ": expected at most diffusion.max_level, 400, the highest",
                  [&] { config.validate(); });
    config.diffusion.max_level += 1;
    CHECK_NOTHROW(config.validate());
  }
}
