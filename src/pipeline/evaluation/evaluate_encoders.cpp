// Classification and retrieval of every arm, beside the baselines that see little or nothing.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/data/baselines.h"
#include "daug/encoder/tokenizer.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/index/retrieval_index.h"
#include "daug/metrics/retrieval.h"
#include "daug/train/classify.h"
#include "daug/train/encoder_trainer.h"
#include "evaluate_classification.h"
#include "flip_rate.h"
#include "measurements.h"
#include "pipeline/stages/encoder_data.h"
#include "pipeline/stages/encoder_texts.h"
#include "pipeline/stages/index_stage.h"
#include "pipeline/stages/trained_encoders.h"
#include "predictions.h"

namespace daug {

namespace {

constexpr std::int64_t kRanks[] = {1, 3, 5, 10};
constexpr const char* kImageRetrieval = "retrieval.";  ///< prefix of the figures of image-to-image retrieval

/// What every classifier and arm is asked about, read once.
struct Asked {
  std::vector<std::size_t> tests_and_validation;  ///< rows
  ValidationLabels validation;
  std::vector<std::string> test_patients;
  std::vector<std::size_t> gallery;          ///< rows
  std::vector<std::uint8_t> gallery_labels;  ///< [gallery, findings]
  std::vector<std::int64_t> gallery_patients;
  Tokenizer tokenizer;
  TextBatch reports;                  ///< of the test images; undefined where the cohort has none
  std::set<std::string> texts;        ///< arms that learnt from texts
  std::vector<std::string> metadata;  ///< columns of the metadata-only baseline

  explicit Asked(const Measurements& out)
      : tests_and_validation(out.data.test), gallery(gallery_rows(out.data)), tokenizer(load_tokenizer(out.run)) {
    const RunData& data = out.data;
    tests_and_validation.insert(tests_and_validation.end(), data.val.begin(), data.val.end());
    for (const std::size_t row : data.val)
      for (std::size_t f = 0; f < data.findings(); ++f) {
        const float state = data.state(row, f);
        validation.positive.push_back(state > 0);
        validation.known.push_back(state != 0);
      }
    for (const std::size_t row : data.test) test_patients.push_back(data.study(row).patient_id);
    for (const std::size_t row : gallery) {
      gallery_patients.push_back(data.patient[row]);
      for (std::size_t f = 0; f < data.findings(); ++f) gallery_labels.push_back(data.state(row, f) > 0);
    }
    if (data.cohort.has_reports)
      reports = to_text_batch(tokenizer, study_texts(data, data.test), out.run.config.encoder.context);
    for (const Arm& arm : out.run.arms()) texts.insert(arm.name);
    const std::string& list = out.run.config.evaluate.metadata;
    metadata = metadata_columns(data, list);
    std::vector<std::string> absent;
    for (const auto& name : parse_names(list))
      if (std::find(metadata.begin(), metadata.end(), name) == metadata.end()) absent.push_back(name);
    if (!absent.empty())
      out.run.log(fmt::format("evaluate: metadata-only baseline without {}, which the cohort does not have",
                              fmt::join(absent, ", ")));
  }
};

class EncoderEvaluation {
 public:
  EncoderEvaluation(Measurements& out, const Asked& asked)
      : out_(out),
        asked_(asked),
        run_(out.run),
        data_(out.data),
        tests_(out.tests),
        f_(out.data.findings()),
        labels_(out.of_findings.positive) {}

  /// What the classifier that can guide translations knows about clean images.
  void guide() {
    auto network = run_.load_guide();
    c10::InferenceMode inference;
    std::vector<at::Tensor> parts;
    for (const auto& part : run_.images(asked_.tests_and_validation).split(256))
      parts.push_back(at::sigmoid(run_.guide_logits(network, part)));
    classification("noise_aware_classifier", tests_then_validation(to_doubles(at::cat(parts))));
  }

  /// Those who see nothing, the pixels' principal components, or what else is known of a patient.
  void baselines() {
    const auto studies_of = [&](const std::vector<std::size_t>& rows) {
      std::vector<std::size_t> studies;
      for (const std::size_t row : rows) studies.push_back(data_.images.study[row]);
      return studies;
    };
    const std::vector<std::size_t> studies = studies_of(data_.encoder_train);
    const BaselineTargets targets = baseline_targets(data_.cohort, studies, data_.policies);
    const auto scores = [&](const FeatureMatrix& predicted) {
      return tests_then_validation({predicted.data(), predicted.data() + predicted.size()});
    };
    classification("chance", {std::vector<double>(tests_ * f_, 0.5), {}}, false);
    random_retrieval();
    classification("pca_logistic", scores(pca_logistic(image_matrix(data_.images, data_.encoder_train), targets,
                                                       image_matrix(data_.images, asked_.tests_and_validation))));
    if (asked_.metadata.empty()) return;
    const MetadataEncoder encoder(data_.cohort, studies, asked_.metadata);
    classification("metadata_logistic",
                   scores(fit_logistic(encoder.encode(data_.cohort, studies), targets)
                              .predict(encoder.encode(data_.cohort, studies_of(asked_.tests_and_validation)))));
  }

  /// Everything about an arm's encoders.
  void encoders(const Arm& arm) {
    const EncoderPair pair = load_encoders(run_, arm);
    // The index has embedded the images that train and validate; only those of the test are left.
    const RetrievalIndex index = load_index(run_, arm);
    const std::size_t trained = data_.encoder_train.size();
    const at::Tensor images = embed_rows(run_, arm, pair, data_.test);
    const HybridLossOptions loss = run_.encoder_options(arm).loss;
    const at::Tensor classes = class_embeddings(run_, pair, asked_.tokenizer);
    const at::Tensor probabilities = class_probabilities(pair, images, classes, loss);
    const ClassifierScores scores = {
        to_doubles(probabilities),
        to_doubles(class_probabilities(pair, stored_embeddings(index, trained, asked_.gallery.size()), classes, loss))};
    classification(arm.name, scores);
    keep(arm.name, kProbabilities, scores.tests);
    linear_probe(arm, stored_embeddings(index, 0, trained), images);
    const bool own = arm.name == run_.paper_arms().back().name;
    if (own || arm.name == "image") add_finding_curves(out_, arm.name, scores.tests);
    if (own) add_subgroups(out_, arm.name, scores.tests), add_errors(out_, scores.tests);
    if (arm.name == "image") flip_rate(arm, pair, classes, loss, probabilities);
    const std::string made_by = index_fingerprint(run_, arm);
    const auto hits = search_positions(index, images, asked_.test_patients, made_by, run_.device);
    retrieval(kImageRetrieval, arm.name, "image to image", hits);
    if (own) examples(hits);
    if (data_.cohort.has_reports)
      retrieval("retrieval.report_to_image.", arm.name, "report to image",
                search_positions(index, embed_texts(pair, asked_.reports), asked_.test_patients, made_by, run_.device));
  }

 private:
  /// Scores of all that is asked about.
  ClassifierScores tests_then_validation(const std::vector<double>& scores) const {
    const auto end_of_tests = scores.begin() + static_cast<std::ptrdiff_t>(tests_ * f_);
    return {{scores.begin(), end_of_tests}, {end_of_tests, scores.end()}};
  }

  void classification(const std::string& arm, const ClassifierScores& scores, bool probabilities = true) {
    const std::string note = asked_.texts.count(arm) ? out_.text_note() : "";
    add_classification(out_, arm, scores, asked_.validation, note, probabilities);
  }

  /// How often a classifier that saw the disease no longer sees it after translation. The classifier is an encoder
  /// that had no part in making the translation.
  void flip_rate(const Arm& arm, const EncoderPair& pair, const at::Tensor& prompts, const HybridLossOptions& loss,
                 const at::Tensor& before) {
    const MapSet& set = run_.maps();
    if (!set.translated.defined()) return;
    const HeatmapChannelAugmenter augmenter(run_.encoder_options(arm).augment);
    std::map<std::size_t, std::size_t> position;
    for (std::size_t i = 0; i < set.test_rows.size(); ++i) position.emplace(set.test_rows[i], i);
    std::vector<std::size_t> lanes;
    for (std::size_t row : data_.test) lanes.push_back(position.at(row));
    const auto after = [&](std::int64_t map) {
      const at::Tensor translated = take(set.translated.select(1, map).unsqueeze(1), lanes);
      return class_probabilities(pair, embed_images(pair, augmenter, translated, {}), prompts, loss);
    };
    out_.add_table("map.flip_rate", "difference", flip_rate_definition(data_), flips(data_, data_.test, before, after),
                   out_.slices[0]);
  }

  /// Keeps what an arm says about every test image, see Predictions.
  void keep(const std::string& arm, const char* table, std::vector<double> values) {
    out_.tables[arm + "/" + table] = std::move(values);
  }

  /// What the image embeddings are worth without any text.
  void linear_probe(const Arm& arm, const at::Tensor& trained, const at::Tensor& tests) {
    if (data_.encoder_train.size() < 2) return;
    const at::Tensor states = take(data_.training_states(), data_.encoder_train);
    const LinearProbe probe = LinearProbe::fit(trained, states.gt(0), states.ne(0));
    const std::vector<double> scores = to_doubles(probe.predict(tests));
    for (const auto& slice : out_.slices)
      out_.add_auroc(
          "classification.linear_probe_auroc_macro", arm.name,
          "logistic regressions on the standardised unit image embeddings, fitted to the images that trained "
          "the encoder with L2 penalty 1; AUROC by finding, plain mean over findings with both classes" +
              out_.text_note(),
          scores, out_.of_findings, slice);
  }

  RetrievalTask task(const std::vector<std::vector<std::int64_t>>& rankings) const {
    return {rankings, MatrixView<std::uint8_t>(labels_, tests_, f_),
            MatrixView<std::uint8_t>(asked_.gallery_labels, asked_.gallery.size(), f_), out_.patients,
            asked_.gallery_patients};
  }

  std::string relevant_text(const std::string& what) const {
    return what +
           "; gallery: the labelled images that trained the encoders, and the validation images; relevant: positive "
           "for the query's finding; the query's own patient is never retrieved; a query with nothing relevant is left "
           "out" +
           out_.text_note() + "; ";
  }

  /// The means of a figure at k over all slices; by finding too for precision at 5.
  void add_retrieval(const std::string& prefix, const std::string& name, std::int64_t k, const std::string& arm,
                     const RetrievalValues& values, const std::string& definition, bool weighted = false) {
    for (const auto& slice : out_.slices) {
      const FindingIntervals means = out_.means(values, slice);
      const auto put = [&](const std::string& prefixed, const std::optional<Interval>& mean, const char* over) {
        out_.put(fmt::format("{}{}_at_{}", prefix, prefixed, k), arm, slice.name, mean, count_values(values, slice),
                 definition + over);
      };
      put(name, means.macro, ", mean over queries, then over findings");
      if (weighted) put("w" + name, means.weighted, ", mean over (query, finding) pairs");
      if (name != "p" || k != 5 || &slice != &out_.slices[0]) continue;
      for (std::size_t f = 0; f < f_; ++f)
        out_.put(fmt::format("{}p_at_5[{}]", prefix, data_.cohort.findings[f]), arm, slice.name, means.finding[f],
                 count_values(values, slice, f), definition + ", mean over queries with the finding");
    }
  }

  void retrieval(const std::string& prefix, const std::string& arm, const std::string& what,
                 const std::vector<std::vector<std::int64_t>>& rankings) {
    const RetrievalEvaluation evaluation(task(rankings));
    const std::string relevant = relevant_text(what);
    if (prefix == kImageRetrieval) keep(arm, kPrecisionAt5, evaluation.values(RetrievalMetric::kPrecision, 5).values);
    for (std::int64_t k : kRanks) {
      run_.control.stop.throw_if_stopped("daug::Run: evaluate");
      const auto add = [&](const std::string& name, RetrievalMetric metric, const std::string& definition,
                           bool weighted = false) {
        add_retrieval(prefix, name, k, arm, evaluation.values(metric, static_cast<std::size_t>(k)),
                      relevant + definition, weighted);
      };
      add("p", RetrievalMetric::kPrecision, "precision");
      add("map", RetrievalMetric::kApTruncated, "AP divided by min(k, relevant)", true);
      add("map_reference", RetrievalMetric::kApReference, "AP divided by the relevant items retrieved", true);
      add("ndcg", RetrievalMetric::kNdcg, "nDCG");
      add("recall", RetrievalMetric::kRecall, "recall");
    }
  }

  /// What retrieval gives whose order has nothing to do with the images.
  void random_retrieval() {
    const std::vector<std::vector<std::int64_t>> nothing_ranked(tests_);
    const RetrievalEvaluation evaluation(task(nothing_ranked));
    for (const std::int64_t k : kRanks)
      add_retrieval(kImageRetrieval, "p", k, "chance", evaluation.chance_precision(static_cast<std::size_t>(k)),
                    relevant_text("image to image") + "precision, on average over all orders of the gallery");
  }

  void examples(const std::vector<std::vector<std::int64_t>>& hits) {
    constexpr std::size_t kHits = 5;
    out_.details["retrieval_examples"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < std::min<std::size_t>(tests_, 6); ++i) {
      nlohmann::ordered_json row = {{"query", data_.test[i]}, {"hits", nlohmann::ordered_json::array()}};
      for (std::size_t k = 0; k < std::min(kHits, hits[i].size()); ++k)
        row["hits"].push_back(asked_.gallery[static_cast<std::size_t>(hits[i][k])]);
      out_.details["retrieval_examples"].push_back(row);
    }
  }

  Measurements& out_;
  const Asked& asked_;
  Run::Impl& run_;
  const RunData& data_;
  std::size_t tests_, f_;
  const std::vector<std::uint8_t>& labels_;  ///< [tests, findings]
};

}  // namespace

void evaluate_encoders(Measurements& out) {
  const std::vector<Arm> arms = out.run.arms();
  std::vector<std::function<void(EncoderEvaluation&)>> parts = {[](EncoderEvaluation& part) { part.guide(); },
                                                                [](EncoderEvaluation& part) { part.baselines(); }};
  for (const Arm& arm : arms) parts.emplace_back([&arm](EncoderEvaluation& part) { part.encoders(arm); });
  out.run.maps();  // read once, before the threads share them
  const Asked asked(out);
  out.side_by_side(parts.size(), [&](std::size_t i, Measurements& of_part) {
    EncoderEvaluation part(of_part, asked);
    parts[i](part);
  });
}

}  // namespace daug
