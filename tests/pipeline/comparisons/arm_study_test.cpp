// The study of the arms at its smallest: two seeds, half of the labels.

#include "daug/pipeline/arm_study.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::Scratch;
using daug::test::smallest;

namespace {

/// Precision among the five nearest, mean over the images of a finding and then over findings, from the stored table.
double mean_precision(const std::string& run, const std::string& arm) {
  const Array array = read_safetensors(run + "/predictions.safetensors").at("table/" + arm + "/p_at_5");
  const auto values = array.to_double();
  const auto findings = static_cast<std::size_t>(array.shape.at(1));
  double sum = 0;
  int defined = 0;
  for (std::size_t f = 0; f < findings; ++f) {
    double total = 0;
    int count = 0;
    for (std::size_t k = f; k < values.size(); k += findings)
      if (!std::isnan(values[k])) total += values[k], ++count;
    if (count > 0) sum += total / count, ++defined;
  }
  return sum / defined;
}

bool cancelled(const ArmStudyOptions& options, const RunControl& control) {
  try {
    run_arm_study(options, control);
  } catch (const Error& error) {
    return error.code() == ErrorCode::kCancelled;
  }
  return false;
}

}  // namespace

TEST_CASE("arms are compared over seeds and labels on the same test images, and a stopped study goes on",
          "[pipeline][arm_study]") {
  const Scratch scratch;
  ArmStudyOptions options;
  options.base = smallest(scratch.path("study"));
  options.base.encoder.epochs = 1;
  options.seeds = {0, 3};
  options.labelled = {50};
  const std::string& out = options.base.out;

  StopSource stop;
  int translators = 0;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "train translator" && progress.done == 2 && ++translators == 2) stop.request_stop();
  };
  CHECK(cancelled(options, control));
  CHECK(fs::exists(out + "/seed0_labels50/metrics.json"));
  CHECK_FALSE(fs::exists(out + "/seed3_labels50/metrics.json"));
  CHECK_FALSE(fs::exists(out + "/arm_study.json"));

  std::vector<std::string> said;
  const ArmStudyResult result = run_arm_study(options, {}, [&](const std::string& line) { said.push_back(line); });
  CHECK(std::count(said.begin(), said.end(), "seed0_labels50: evaluate: up to date") == 1);
  CHECK(std::count(said.begin(), said.end(), "seed3_labels50: evaluate: up to date") == 0);
  CHECK(result.images == 20);

  // Values by seed are those the runs' own evaluations report.
  std::map<std::string, double> mean;
  REQUIRE(result.means.size() == 2 * 8);
  for (const auto& one : result.means) {
    INFO(one.figure << " " << one.arm);
    REQUIRE(one.by_seed.size() == 2);
    for (std::size_t s = 0; s < 2; ++s) {
      const std::string run = out + "/seed" + std::to_string(options.seeds[s]) + "_labels50";
      const auto figures = read_metrics(run + "/metrics.json");
      const Figure* figure = find_figure(figures, one.figure, one.arm);
      REQUIRE(figure);
      CHECK(one.by_seed[s] == Approx(figure->value).epsilon(1e-12));
      if (one.figure == "retrieval.p_at_5")
        CHECK(one.by_seed[s] == Approx(mean_precision(run, one.arm)).epsilon(1e-12));
      CHECK(find_figure(figures, "data.labelled", "data", "train")->value == 18);
      CHECK(find_figure(figures, "data.encoder_images", "data", "train")->value == 18);
    }
    CHECK(one.mean == Approx((one.by_seed[0] + one.by_seed[1]) / 2));
    mean[one.figure + "/" + one.arm] = one.mean;
  }
  REQUIRE(result.differences.size() == 2 * 9);
  for (const auto& one : result.differences) {
    INFO(one.figure << " " << one.first << " against " << one.second);
    CHECK(one.value ==
          Approx(mean.at(one.figure + "/" + one.first) - mean.at(one.figure + "/" + one.second)).margin(1e-12));
    CHECK(one.low <= one.high);
    CHECK(one.low > -1);
    CHECK(one.high < 1);
    REQUIRE(one.p);
    CHECK(*one.p > 0);
    CHECK(*one.p <= 1);
    CHECK(*one.p_holm >= *one.p);
  }
  const auto json = nlohmann::json::parse(read_text_file(out + "/arm_study.json"));
  CHECK(json.at("cohort") == "phantoms");
  CHECK(json.at("texts") == "reports");
  CHECK(json.at("preset") == "tiny");
  CHECK(json.at("map_labels") == "encoders");
  CHECK(fs::is_empty(out + "/figures"));  // one share makes no curve
  const std::string last_run = out + "/seed3_labels50";
  std::string evaluated;
  read_metrics(last_run + "/metrics.json", &evaluated);
  REQUIRE(json.at("evaluations").size() == 2);
  CHECK(json.at("evaluations").at(1).get<std::string>() == evaluated);
  CHECK(json.at("evaluations").at(0).get<std::string>() != evaluated);
  CHECK(json.at("means").size() == 16);
  CHECK(json.at("differences").at(0).at("by_seed").size() == 2);
  const std::string table = read_text_file(out + "/arm_study.md");
  CHECK(table == arm_study_markdown(result));
  CHECK(table.find("| 50 % | image+evidence | image+noise |") != std::string::npos);

  // Once more: nothing is redone, and the tables are the same.
  const auto before = read_file(out + "/arm_study.json");
  said.clear();
  run_arm_study(options, {}, [&](const std::string& line) { said.push_back(line); });
  for (const auto& line : said) CHECK(line.find(": up to date") != std::string::npos);
  CHECK(read_file(out + "/arm_study.json") == before);

  // Nor does it take another run's predictions of the same images.
  const std::string predictions = last_run + "/predictions.safetensors";
  const auto own = read_file(predictions);
  fs::copy_file(out + "/seed0_labels50/predictions.safetensors", predictions, fs::copy_options::overwrite_existing);
  const std::string told = daug::test::error_text(ErrorCode::kMismatch, [&] { run_arm_study(options); });
  CHECK(daug::test::mentions(told, predictions, "fingerprint " + evaluated));
  write_file_atomically(predictions, own.data(), own.size());

  // With all labels for the maps, the share is of the encoders' images alone.
  options.base.out = scratch.path("all");
  options.map_labels = MapLabels::kAll;
  StopSource at_once;
  at_once.request_stop();
  CHECK(cancelled(options, {{}, at_once.token()}));
  const RunConfig config = read_config(options.base.out + "/seed0_labels50/config.json");
  CHECK(config.labelled == 0);
  CHECK(config.maps.train_images == 18);

  // As many steps at every share: six passes over 24 images are 12 batches.
  options.base.out = scratch.path("steps");
  options.base.encoder.epochs = 6;
  for (const bool same : {false, true})
    for (const auto& [percent, epochs] : {std::pair{50.0, 8}, {100.0, 4}}) {
      fs::remove_all(options.base.out);
      options.same_steps = same;
      options.labelled = {percent};
      CHECK(cancelled(options, {{}, at_once.token()}));
      const std::string run = options.base.out + (percent == 50 ? "/seed0_labels50" : "/seed0_labels100");
      CHECK(read_config(run + "/config.json").encoder.epochs == (same ? epochs : 6));
    }
  options.base.encoder.epochs = 1;
  options.same_steps = false;

  // Then networks of diffusion are those of any share.
  options.base.out = scratch.path("all");
  options.seeds = {0};
  options.labelled = {50, 100};
  StopSource known;
  said.clear();
  try {
    run_arm_study(options, {{}, known.token()}, [&](const std::string& line) {
      said.push_back(line);
      if (line == "seed0_labels100: guide: up to date") known.request_stop();
    });
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kCancelled);
  }
  CHECK(std::count(said.begin(), said.end(), "seed0_labels50: translator: started") == 1);
  CHECK(std::count(said.begin(), said.end(), "seed0_labels100: translator: up to date") == 1);
  CHECK(std::count(said.begin(), said.end(), "seed0_labels100: guide: up to date") == 1);
  CHECK(std::count(said.begin(), said.end(), "seed0_labels100: heatmaps: started") == 0);
}

TEST_CASE("the arm study's command line is checked", "[pipeline][arm_study]") {
  const auto status = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "compare_arms");
    return arm_study_program(static_cast<int>(arguments.size()), arguments.data());
  };
  CHECK(status({"--help"}) == 0);
  CHECK(status({"--seeds", "0,0"}) == 2);
  CHECK(status({"--seeds", "-1"}) == 2);
  CHECK(status({"--seeds=one"}) == 2);
  CHECK(status({"--labelled", "0"}) == 2);
  CHECK(status({"--labelled=101"}) == 2);
  CHECK(status({"--map-labels", "some"}) == 2);
  CHECK(status({"--size", "8"}) == 2);
}
