// What a run's settings make of the encoders' loss, training and classification.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/encoder/prompts.h"
#include "daug/encoder/tokenizer.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run.h"
#include "daug/train/encoder_file.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/smallest_run.h"
#include "pipeline/stages/encoder_texts.h"
#include "pipeline/stages/trained_encoders.h"
#include "support/catch.h"
#include "support/golden.h"
#include "support/scratch.h"
#include "support/tensor.h"

using namespace daug;
using daug::test::finished_run;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

namespace {

const Arm kImage{"image", "", 0};
const Arm kImageText{"image, image-text loss", "", 1};

void train(const RunConfig& config) {
  Run run(config, {});
  for (Stage stage : {Stage::kTranslator, Stage::kGuide, Stage::kHeatmaps, Stage::kEncoders}) run.execute(stage);
}

std::vector<double> losses(const RunConfig& config, const Arm& arm) {
  return read_safetensors(config.out + "/" + arm.file() + ".history").at("loss").to_double();
}

/// The loss of an arm over all images, before anything is learnt.
double first_loss(RunConfig config, const Arm& arm) {
  config.maps.train_images = 0;
  config.encoder.batch = config.phantom.train;
  config.encoder.epochs = 1;
  train(config);
  return losses(config, arm).at(0);
}

}  // namespace

TEST_CASE("a smoothed uncertain label is a target between absent and present", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.phantom.train = 60;
  config.phantom.labels = "report";
  config.encoder.clip_weight = 0;
  const auto smoothed = [&](double target) {
    RunConfig changed = config;
    changed.encoder.uncertain = "smoothed";
    changed.encoder.uncertain_target = target;
    return first_loss(changed, kImage);
  };
  const auto counted_as = [&](const char* policy) {
    RunConfig changed = config;
    changed.labels.uncertain = policy;
    return first_loss(changed, kImage);
  };
  const double zero = smoothed(0), half = smoothed(0.5), one = smoothed(1);
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  std::int64_t uncertain = 0;
  for (const std::size_t row : cohort.split_indices("train"))
    uncertain +=
        std::count(cohort.studies[row].labels.begin(), cohort.studies[row].labels.end(), LabelState::kUncertain);
  REQUIRE(uncertain > 0);
  // The ends are the two policies, and cross-entropy is linear in its target.
  CHECK(zero == Approx(counted_as("zeros")).epsilon(1e-6));
  CHECK(one == Approx(counted_as("ones")).epsilon(1e-6));
  CHECK(std::abs(one - zero) > 1e-3);
  CHECK(half == Approx((zero + one) / 2).epsilon(1e-5));
  const double unweighted = counted_as("ignore");
  CHECK(std::abs(half - unweighted) > 1e-4);

  // Masked for the encoders alone is ignored, in what positive labels weigh, too.
  config.encoder.positive_weights = 8;
  const double ignored = counted_as("ignore");
  CHECK(std::abs(ignored - unweighted) > 1e-3);
  config.encoder.uncertain = "masked";
  CHECK(counted_as("ones") == Approx(ignored).epsilon(1e-6));
}

TEST_CASE("texts of a run are cleaned as its setting says, for the vocabulary as for the towers", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  const std::string curly = "\xE2\x80\x9CSeen\xE2\x80\x9D &amp; compared. ", plain = "\"Seen\" & compared. ";
  struct Trained {
    double loss;
    std::string merges;
  };
  const auto trained = [&](const std::string& first_words, const char* cleaning) {
    std::filesystem::remove_all(scratch.path("cohort"));
    config.data = small_cohort(scratch.path("cohort"));
    CsvTable table = read_csv(config.data + "/labels.csv");
    for (auto& row : table.rows) row[table.column("report")].insert(0, first_words);
    write_csv(config.data + "/labels.csv", table);
    config.encoder.text_cleaning = cleaning;
    const double loss = first_loss(config, kImageText);
    return Trained{loss, read_text_file(config.out + "/tokenizer/merges.txt")};
  };
  const Trained expected = trained(plain, "transformers");
  const Trained kept = trained(curly, "transformers"), cleaned = trained(curly, "open_clip");
  CHECK(kept.merges != expected.merges);
  CHECK(kept.loss != Approx(expected.loss).epsilon(1e-6));
  CHECK(cleaned.merges == expected.merges);
  CHECK(cleaned.loss == Approx(expected.loss).epsilon(1e-6));

  Run::Impl inside;
  inside.config = config;
  CHECK(load_tokenizer(inside).tokenize(curly) == load_tokenizer(inside).tokenize(plain));
  inside.config.encoder.text_cleaning = "transformers";
  CHECK(load_tokenizer(inside).tokenize(curly) != load_tokenizer(inside).tokenize(plain));
}

TEST_CASE("a run's vocabulary has as many tokens as its setting says", "[pipeline]") {
  const Scratch scratch;
  Run::Impl inside;
  inside.config.out = scratch.folder();
  for (const std::int64_t tokens : {520, 530}) {
    inside.config.encoder.vocabulary = tokens;
    make_tokenizer(inside, {"effusion and effusion", "pneumothorax or pneumothorax"}, {"consolidation, consolidation"},
                   "made by a test");
    CHECK(load_tokenizer(inside).size() == tokens);
  }
}

TEST_CASE("images with the same labels attract each other's texts, sharply or softly", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  const auto with = [&](const char* negatives, double softness) {
    RunConfig changed = config;
    changed.encoder.negatives = negatives;
    changed.encoder.label_softness = softness;
    return first_loss(changed, kImageText);
  };
  const double positives = with("positives", 0.1);
  CHECK(with("soft", 0.01) == Approx(positives).epsilon(1e-4));
  CHECK(std::abs(with("soft", 1) - positives) > 1e-4);
  CHECK(std::abs(with("all", 0.1) - positives) > 1e-4);
}

TEST_CASE("the temperature's bounds and the bias of a run's encoders hold", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.encoder.learn_temperature = true;
  config.encoder.logit_scale = config.encoder.min_logit_scale = config.encoder.max_logit_scale = 1;
  config.encoder.learning_rate = 0.01;
  train(config);
  CHECK(load_encoders(config.out + "/" + kImage.file()).logit_scale.item<double>() == Approx(1).margin(1e-6));
  config.encoder.class_bias = true;
  config.encoder.class_bias_value = -3;
  config.encoder.learning_rate = 1e-12;
  config.encoder.loss = "siglip";
  config.encoder.logit_bias = -4;
  train(config);
  CHECK(load_encoders(config.out + "/" + kImage.file()).logit_bias.item<double>() == Approx(-4).margin(1e-5));
  config.encoder.loss = "clip";
  config.encoder.logit_bias = RunConfig{}.encoder.logit_bias;
  const at::Tensor bias = load_encoders(config.out + "/" + kImage.file()).class_bias;
  REQUIRE(bias.numel() == 6);
  CHECK((bias + 3).abs().max().item<double>() < 1e-6);
  // The learnt one starts where a fixed one stays.
  config.encoder.clip_weight = 0;
  const double learnt = first_loss(config, kImage);
  config.encoder.class_bias = false;
  CHECK(first_loss(config, kImage) == Approx(learnt).epsilon(1e-6));
  config.encoder.class_bias_value = 0;
  CHECK(std::abs(first_loss(config, kImage) - learnt) > 1e-3);
}

TEST_CASE("a validation that is not better by enough ends a run's training", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.encoder.epochs = 5;
  config.encoder.patience = 1;
  config.encoder.min_improvement = 1;  // which no second value can have
  train(config);
  CHECK(losses(config, kImage).size() == 4);  // two epochs of 24 images in batches of 12
}

TEST_CASE("a run keeps the last weights beside the best: those of a training without validations", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.encoder.epochs = 3;
  config.encoder.ema = 0.5;
  config.encoder.patience = 3;
  config.encoder.min_improvement = 1;  // the first of three validations stays the best
  train(config);
  CHECK(losses(config, kImage).size() == 6);
  const SafetensorsFile best = read_safetensors(config.out + "/" + kImage.file()),
                        last = read_safetensors(config.out + "/" + kImage.last_file());
  config.encoder.patience = 0;
  config.encoder.min_improvement = 0;
  train(config);
  const SafetensorsFile without = read_safetensors(config.out + "/" + kImage.file());
  REQUIRE(last.tensors.size() == without.tensors.size());
  bool moved = false;
  for (const auto& [name, array] : without.tensors) {
    INFO(name);
    CHECK((last.at(name).data == array.data));
    moved = moved || best.at(name).data != array.data;
  }
  CHECK(moved);
}

TEST_CASE("a run's towers compute activations again, to the same weights", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  const auto weights = [&] { return read_safetensors(config.out + "/" + kImage.file()); };
  const SafetensorsFile kept = weights();
  CHECK_FALSE(load_encoders(config.out + "/" + kImage.file()).text->options().use_checkpoint);
  config.encoder.checkpoint = true;
  train(config);
  const auto computed_again = [&] {
    const EncoderPair pair = load_encoders(config.out + "/" + kImage.file());
    return pair.image->options().use_checkpoint && pair.text->options().use_checkpoint;
  };
  CHECK(computed_again());
  const SafetensorsFile again = weights();
  REQUIRE(again.tensors.size() == kept.tensors.size());
  for (const auto& [name, array] : kept.tensors) {
    INFO(name);
    CHECK(daug::test::absolute_error(again.at(name).to_double(), array.to_double()) < 1e-4);
  }
  // Towers that come from a file as well.
  config.encoder.checkpoint = false;
  train(config);
  std::filesystem::copy_file(config.out + "/" + kImage.file(), scratch.path("own.safetensors"));
  config.encoder.image_checkpoint = scratch.path("own.safetensors");
  config.encoder.checkpoint = true;
  train(config);
  CHECK(computed_again());
}

TEST_CASE("paired prompts train, and classify by the softmax of the two scores", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.encoder.class_form = "paired";
  train(config);
  Run run(config, {});
  for (Stage stage : {Stage::kIndex, Stage::kEvaluate}) CHECK(run.execute(stage));
  const std::vector<double> found =
      read_predictions(config.out + "/" + kPredictionsFile).table(kImage.name, kProbabilities);

  Run::Impl inside;
  inside.config = config;
  inside.read_only = true;
  const RunData& data = inside.data();
  const EncoderPair pair = load_encoders(inside, kImage);
  const Tokenizer tokenizer = Tokenizer::load(config.out + "/tokenizer");
  const ClassPrompts prompts = class_prompts(data.cohort.findings);
  const auto unit = [](const at::Tensor& rows) {
    const at::Tensor wide = rows.to(at::kDouble);
    return wide / wide.square().sum(1, /*keepdim=*/true).sqrt();
  };
  const auto classes = [&](const std::vector<std::string>& texts) {
    return unit(embed_texts(pair, to_text_batch(tokenizer, texts, config.encoder.context)));
  };
  const at::Tensor images = unit(embed_rows(inside, kImage, pair, data.test));
  const double tau = std::exp(config.encoder.logit_scale);
  const at::Tensor present = (tau * images.matmul(classes(prompts.positive).t())).exp();
  const at::Tensor absent = (tau * images.matmul(classes(prompts.negative).t())).exp();
  const std::vector<double> expected = test::to_doubles(present / (present + absent));
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i] == Approx(expected[i]).margin(1e-5));

  config.encoder.prompts = "ensemble";
  CHECK(Run(config, {}).execute(Stage::kEvaluate));
  CHECK(read_predictions(config.out + "/" + kPredictionsFile).table(kImage.name, kProbabilities) != found);
}
