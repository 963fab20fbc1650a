// Temperatures that validation images give, and why some do not.

#include "pipeline/evaluation/temperature.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/data/cohort.h"
#include "daug/data/labels.h"
#include "daug/encoder/tokenizer.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/metrics/calibration.h"
#include "daug/pipeline/figures.h"
#include "daug/report/html_parts.h"
#include "daug/train/encoder_file.h"
#include "daug/train/encoder_trainer.h"
#include "pipeline/evaluation/evaluate_classification.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stages/encoder_texts.h"
#include "pipeline/stages/index_stage.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;

namespace {

/// Negative log-likelihood of labels at a temperature, from its definition.
double likelihood(const std::vector<double>& probabilities, const std::vector<std::uint8_t>& positive,
                  double temperature) {
  double sum = 0;
  for (std::size_t k = 0; k < probabilities.size(); ++k) {
    const double z = std::log(probabilities[k] / (1 - probabilities[k])) / temperature;
    sum += std::log1p(std::exp(positive[k] ? -z : z));
  }
  return sum;
}

}  // namespace

TEST_CASE("a temperature undoes the factor by which logits were too large", "[pipeline]") {
  RandomStream random(5, 0, "temperature");
  std::vector<double> probabilities;
  std::vector<std::uint8_t> positive, known;
  for (int i = 0; i < 4000; ++i) {
    const double logit = 2 * random.normal();
    positive.push_back(random.uniform() < 1 / (1 + std::exp(-logit)) ? 1 : 0);
    probabilities.push_back(1 / (1 + std::exp(-3 * logit)));
    known.push_back(1);
  }
  const FittedTemperature fitted = temperature_of(probabilities, positive, known);
  REQUIRE(fitted.value);
  CHECK(fitted.reason.empty());
  CHECK(fitted.labels == 4000);
  CHECK(*fitted.value == Approx(3).epsilon(0.1));
  const double best = likelihood(probabilities, positive, *fitted.value);
  for (const double factor : {0.5, 0.99, 1.01, 2.0})
    CHECK(likelihood(probabilities, positive, factor * *fitted.value) > best);
  CHECK(*calibration_error(at_temperature(probabilities, *fitted.value), positive) <
        0.5 * *calibration_error(probabilities, positive));
  CHECK(at_temperature({0.25, 0.5}, 1)[0] == Approx(0.25));
  CHECK(at_temperature({0.9}, 2)[0] == Approx(0.75));  // odds of 9, whose root is 3

  SECTION("unknown labels do not count") {
    for (int i = 0; i < 500; ++i) {
      probabilities.push_back(0.999);
      positive.push_back(0);
      known.push_back(0);
    }
    CHECK(*temperature_of(probabilities, positive, known).value == *fitted.value);
  }
  SECTION("certainty has a finite logit") {
    probabilities[0] = 1;
    probabilities[1] = 0;
    positive[0] = 0;
    const auto with = temperature_of(probabilities, positive, known);
    REQUIRE(with.value);
    CHECK(*with.value > *fitted.value);
    for (const double one : at_temperature({0, 1}, 0.01)) CHECK((one >= 0 && one <= 1));
  }
}

TEST_CASE("validation images that allow no temperature are told from those that do", "[pipeline]") {
  const std::vector<double> probabilities = {0.1, 0.4, 0.6, 0.9};
  const std::vector<std::uint8_t> all(4, 1);
  const auto reason = [&](const std::vector<std::uint8_t>& positive, const std::vector<std::uint8_t>& known) {
    const FittedTemperature fitted = temperature_of(probabilities, positive, known);
    CHECK_FALSE(fitted.value);
    return fitted.reason;
  };
  CHECK_THAT(reason({1, 1, 1, 1}, all), test::contains_text("one class"));
  CHECK_THAT(reason({1, 0, 0, 0}, {0, 1, 1, 1}), test::contains_text("one class"));
  CHECK_THAT(reason({1, 0, 0, 1}, {0, 0, 0, 0}), test::contains_text("no validation image"));
  CHECK_THAT(reason({0, 0, 1, 1}, all), test::contains_text("separate"));
  CHECK_THAT(reason({1, 1, 0, 0}, all), test::contains_text("wrong way round"));
  CHECK(temperature_of({}, {}, {}).labels == 0);
  CHECK(test::caught([&] { temperature_of(probabilities, all, {1}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(test::caught([&] { temperature_of({0.5, 1.5}, {0, 1}, {1, 1}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(test::caught([&] { at_temperature({0.5}, 0); }).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("a run's temperatures are those of its validation images, and test images are measured at them",
          "[pipeline]") {
  const test::Scratch scratch;
  const RunConfig config = test::finished_run(scratch);
  const auto figures = read_metrics(config.out + "/metrics.json");
  const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
  const Predictions predictions = read_predictions(config.out + "/" + kPredictionsFile);
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.find("<section id=\"calibration\"") != std::string::npos);
  constexpr double kLeast = 1.0 / (1 << 24);
  int tempered = 0;
  for (const Figure& figure : figures) {
    if (figure.name != "classification.ece") continue;
    const std::string& arm = figure.arm;
    INFO(arm);
    const Figure* temperature = find_figure(figures, "classification.temperature", arm, "val");
    const bool reason = details.contains("untempered") && details["untempered"].contains(arm);
    CHECK((temperature != nullptr) != reason);
    for (const char* name : {"classification.ece_tempered", "classification.brier_tempered"})
      CHECK((find_figure(figures, name, arm) != nullptr) == (temperature != nullptr));
    if (reason) {
      const auto why = details["untempered"][arm].get<std::string>();
      CHECK(html.find(report::escape(arm + ", because " + why)) != std::string::npos);
    }
    if (!temperature) continue;
    ++tempered;
    CHECK(temperature->value > 0);
    CHECK_FALSE(temperature->low);
    if (!predictions.has(arm, kProbabilities)) continue;
    std::vector<double> before, after;
    std::vector<std::uint8_t> labels;
    const auto& stored = predictions.table(arm, kProbabilities);
    for (std::size_t k = 0; k < stored.size(); ++k) {
      if (!predictions.known[k]) continue;
      const double inside = std::clamp(stored[k], kLeast, 1 - kLeast);
      before.push_back(stored[k]);
      after.push_back(1 / (1 + std::exp(-std::log(inside / (1 - inside)) / temperature->value)));
      labels.push_back(predictions.positive[k]);
    }
    CHECK(figure.value == Approx(*calibration_error(before, labels, kCalibrationBins)));
    CHECK(find_figure(figures, "classification.ece_tempered", arm)->value ==
          Approx(*calibration_error(after, labels, kCalibrationBins)));
    CHECK(find_figure(figures, "classification.brier", arm)->value == Approx(*brier_score(before, labels)));
    CHECK(find_figure(figures, "classification.brier_tempered", arm)->value == Approx(*brier_score(after, labels)));
  }
  CHECK(tempered > 0);
  CHECK_FALSE(find_figure(figures, "classification.temperature", "chance", "val"));

  // What the encoders say of the validation images, from the run's files.
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  const LabelPolicy policy = {parse_policy(config.labels.uncertain), parse_policy(config.labels.not_mentioned)};
  const Tokenizer tokenizer = Tokenizer::load(config.out + "/tokenizer");
  HybridLossOptions loss;
  loss.logit_scale = config.encoder.logit_scale;
  int checked = 0;
  for (const char* arm : {"image", "image+evidence", "image+noise"}) {
    const Figure* temperature = find_figure(figures, "classification.temperature", arm, "val");
    const std::string file = Arm{arm, "", 0}.file();
    if (!temperature || !std::filesystem::exists(config.out + "/" + file)) continue;
    INFO(arm);
    const RetrievalIndex index = RetrievalIndex::load(config.out + "/" + index_file({arm, "", 0}));
    std::vector<double> probabilities;
    std::vector<std::uint8_t> positive;
    const EncoderPair pair = load_encoders(config.out + "/" + file);
    const at::Tensor prompts = embed_texts(
        pair, to_text_batch(tokenizer, training_prompts(cohort.findings, ClassForm::kBce), config.encoder.context));
    for (const std::int64_t id : index.ids()) {
      const Metadata item = index.metadata(id);
      if (item.at("split") != "val") continue;
      const auto place = static_cast<std::size_t>(id);
      const at::Tensor row =
          class_probabilities(pair, stored_embeddings(index, place, place + 1), prompts, loss).to(at::kDouble);
      const auto study = std::find_if(cohort.studies.begin(), cohort.studies.end(),
                                      [&](const Study& one) { return one.id == item.at("study"); });
      REQUIRE(study != cohort.studies.end());
      for (std::size_t f = 0; f < cohort.findings.size(); ++f) {
        const LabelTarget label = policy.apply(study->labels[f]);
        if (label.mask == 0) continue;
        probabilities.push_back(std::clamp(row[0][static_cast<std::int64_t>(f)].item<double>(), kLeast, 1 - kLeast));
        positive.push_back(label.target > 0 ? 1 : 0);
      }
    }
    CHECK(temperature->n == static_cast<std::int64_t>(positive.size()));
    const double best = likelihood(probabilities, positive, temperature->value);
    for (const double factor : {0.97, 1.03})
      CHECK(likelihood(probabilities, positive, factor * temperature->value) >= best);
    ++checked;
  }
  if (checked == 0) WARN("no encoder of this run has a temperature");
}
