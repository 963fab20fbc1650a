// Measures everything a run made: maps against masks and true counterfactuals, classification and retrieval of every
// arm, always beside the baselines that see little or nothing.

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "duplicates.h"
#include "measurements.h"
#include "paired_tests.h"
#include "predictions.h"

namespace daug {

namespace {

/// What the arms say about every test image.
Predictions predictions_of(const Measurements& out) {
  Predictions predictions;
  predictions.rows.assign(out.data.test.begin(), out.data.test.end());
  predictions.patients = out.patients;
  predictions.positive = out.of_findings.positive;
  predictions.known = out.of_findings.known;
  predictions.findings = out.data.findings();
  predictions.names = out.data.cohort.findings;
  predictions.fingerprint = out.run.fingerprint(Stage::kEvaluate);
  Fingerprint studies;
  for (const std::size_t row : out.data.test) studies.add("id", out.data.study(row).id);
  predictions.studies = studies.hex();
  predictions.tables = out.tables;
  return predictions;
}

/// The arms against each other on the same images: every comparison in its family, and the run's own arm against the
/// image alone by finding.
void compare_arms(Measurements& out, const Predictions& predictions, const std::string& own) {
  const auto add = [&](const PairedTest& test) {
    for (auto& figure : test_figures(test, static_cast<std::int64_t>(out.tests), out.text_note()))
      out.figures.push_back(std::move(figure));
  };
  const auto tables = [&](const std::string& first, const std::string& second, const char* table) {
    return TablePair{&predictions.table(first, table), &predictions.table(second, table)};
  };
  const BootstrapOptions draws = out.bootstrap_options();
  struct Question {
    const TableFigure* figure;
    std::string first, second;
  };
  std::vector<Question> questions;
  for (const TableFigure& figure : kTableFigures)
    for (const auto& [first, second] : arm_comparisons())
      if (predictions.has(first, figure.table) && predictions.has(second, figure.table))
        questions.push_back({&figure, first, second});
  std::vector<std::optional<PairedTest>> answers(questions.size());
  for_each_parallel(questions.size(), out.run.config.threads, [&](std::size_t i) {
    const auto& [figure, first, second] = questions[i];
    out.run.control.stop.throw_if_stopped("daug::Run: evaluate");
    answers[i] = paired_test(*figure, predictions, std::vector<TablePair>{tables(first, second, figure->table)},
                             draws.resamples, draws.seed);
    if (!answers[i]) return;
    answers[i]->figure = figure->name;
    answers[i]->arms = first + " less " + second;
  });
  for (const TableFigure& figure : kTableFigures) {
    std::vector<PairedTest> family;
    for (const auto& test : answers)
      if (test && test->figure == figure.name) family.push_back(*test);
    correct_by_holm(family.begin(), family.end());
    for (const PairedTest& test : family) add(test);
  }
  if (own == "image" || !predictions.has("image", kProbabilities)) return;
  for (const PairedTest& test : delong_tests(predictions, tables(own, "image", kProbabilities), own + " less image"))
    add(test);
}

/// Images that are there more than once, in whatever splits.
void audit(Measurements& out) {
  const Duplicates found = find_duplicates(out.data.images, static_cast<int>(out.run.config.threads));
  const auto splits = [&](const std::vector<std::size_t>& rows) {
    std::set<std::string> names;
    for (const std::size_t row : rows) names.insert(out.data.study(row).split);
    return names.size();
  };
  std::size_t copies = 0, across = 0, alike_across = 0;
  for (const auto& rows : found.identical) {
    copies += rows.size() - 1;
    across += splits(rows) > 1 ? 1 : 0;
  }
  out.details["duplicates"] = {
      {"identical", found.identical}, {"alike", nlohmann::ordered_json::array()}, {"searched", found.searched}};
  for (const AlikePair& pair : found.alike) {
    alike_across += splits({pair.first, pair.second}) > 1 ? 1 : 0;
    out.details["duplicates"]["alike"].push_back({pair.first, pair.second, pair.correlation});
  }
  const auto put = [&](const std::string& name, std::size_t value, const std::string& definition) {
    out.figures.push_back({name,
                           "data",
                           "all",
                           static_cast<double>(value),
                           {},
                           {},
                           static_cast<std::int64_t>(out.data.images.count()),
                           definition});
  };
  put("data.identical_images", copies, "images whose pixels, as the networks see them, are those of an earlier one");
  put("data.identical_across_splits", across, "pictures of which identical images lie in several splits");
  if (!found.searched) return;
  const std::string alike = fmt::format("pairs of images that are not identical but correlate by {} or more", kAlike);
  put("data.alike_pairs", found.alike.size(), alike);
  put("data.alike_across_splits", alike_across, alike + ", in different splits");
}

/// How much data there was, and how long the stages took.
void counts(Measurements& out) {
  const auto put = [&](const std::string& name, const std::string& split, std::size_t n,
                       const std::string& definition) {
    out.figures.push_back(
        {name, "data", split, static_cast<double>(n), {}, {}, static_cast<std::int64_t>(n), definition});
  };
  put("data.images", "train", out.data.train.size(), "readable images");
  put("data.images", "val", out.data.val.size(), "readable images");
  put("data.images", "test", out.data.test.size(), "readable images");
  put("data.labelled", "train", out.data.labelled.size(), "training images whose labels were used");
  put("data.encoder_images", "train", out.data.encoder_train.size(),
      "labelled training images that trained the encoders");
  put("data.unreadable", "all", out.data.failures.size(), "images left out because they could not be read");
  for (const auto& [stage, seconds] : out.run.seconds_)
    out.figures.push_back({"time." + stage, "run", "all", seconds, {}, {}, 1, "wall-clock seconds of the stage"});
}

}  // namespace

void Run::Impl::evaluate() {
  const std::string made_by = fingerprint(Stage::kEvaluate);
  for (Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps, Stage::kEncoders, Stage::kIndex})
    require_done(stage);
  Measurements measured(*this);
  evaluate_maps(measured);
  evaluate_encoders(measured);
  const Predictions predictions = predictions_of(measured);
  compare_arms(measured, predictions, paper_arms().back().name);
  audit(measured);
  counts(measured);
  measured.details["fingerprint"] = made_by;
  write_file_atomically(path("stages/details.json"), measured.details.dump(1) + "\n");
  write_predictions(path(kPredictionsFile), predictions);
  write_metrics(path("metrics.json"), measured.figures, made_by);
}

}  // namespace daug
