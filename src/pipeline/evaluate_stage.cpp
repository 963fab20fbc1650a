// Measures everything a run made: maps against masks and true counterfactuals, classification and retrieval of every
// arm, always beside the baselines that see little or nothing.

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <numeric>
#include <set>

#include "daug/data/baselines.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/metrics/calibration.h"
#include "daug/metrics/decision_curve.h"
#include "daug/metrics/subgroup.h"
#include "daug/train/classify.h"
#include "duplicates.h"
#include "encoder_stages.h"
#include "evaluation.h"
#include "measurements.h"
#include "paired_tests.h"
#include "predictions.h"
#include "report_charts.h"
#include "temperature.h"

namespace daug {

namespace {

constexpr std::int64_t kRanks[] = {1, 3, 5, 10};
constexpr const char* kImageRetrieval = "retrieval.";  ///< prefix of the figures of image-to-image retrieval
constexpr double kLeastBenefit = -0.5;                 ///< standardised; what lies lower would flatten the chart
constexpr std::size_t kMostSubgroups = 12;             ///< of one attribute; more of them are no groups

/// What a study is in one attribute; empty when that is not known. Ages become bands.
std::string subgroup_value(const Study& study, const std::string& attribute) {
  const auto found = study.meta.find(attribute);
  const std::string value = found != study.meta.end() ? found->second : attribute == "view" ? study.view : "";
  if (attribute != "age" || value.empty()) return value;
  double years = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), years);
  if (error != std::errc() || end != value.data() + value.size() || !(years >= 0)) return "";
  constexpr int kEdges[] = {40, 65};
  return age_band(years, ArrayView<int>(kEdges, 2));
}

/// What every classifier and arm is asked about, read once.
struct Asked {
  std::vector<std::size_t> tests_and_validation;                    ///< rows
  std::vector<std::uint8_t> validation_positive, validation_known;  ///< [validation images, findings]
  std::vector<std::string> test_patients;
  std::vector<std::size_t> gallery;          ///< rows
  std::vector<std::uint8_t> gallery_labels;  ///< [gallery, findings]
  std::vector<std::int64_t> gallery_patients;
  Tokenizer tokenizer;
  TextBatch reports;            ///< of the test images; undefined where the cohort has none
  std::set<std::string> texts;  ///< arms that learnt from texts

  explicit Asked(const Measurements& out)
      : tests_and_validation(out.data.test),
        gallery(gallery_rows(out.data)),
        tokenizer(Tokenizer::load(out.run.path("tokenizer"))) {
    const RunData& data = out.data;
    tests_and_validation.insert(tests_and_validation.end(), data.val.begin(), data.val.end());
    for (const std::size_t row : data.val)
      for (std::size_t f = 0; f < data.findings(); ++f) {
        const float state = data.state(row, f);
        validation_positive.push_back(state > 0);
        validation_known.push_back(state != 0);
      }
    for (const std::size_t row : data.test) test_patients.push_back(data.study(row).patient_id);
    for (const std::size_t row : gallery) {
      gallery_patients.push_back(data.patient[row]);
      for (std::size_t f = 0; f < data.findings(); ++f) gallery_labels.push_back(data.state(row, f) > 0);
    }
    if (data.cohort.has_reports)
      reports = to_text_batch(tokenizer, study_texts(data, data.test), out.run.config.encoder.context);
    for (const Arm& arm : out.run.arms()) texts.insert(arm.name);
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
        labels_(out.of_findings.positive),
        known_(out.of_findings.known) {}

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
    classification("pca_logistic", scores(pca_logistic(image_matrix(data_.images, data_.encoder_train), targets,
                                                       image_matrix(data_.images, asked_.tests_and_validation))));
    std::vector<std::string> columns;
    for (const auto& column : parse_names(run_.config.evaluate.metadata))
      if (column == "view" || data_.study(data_.test[0]).meta.count(column)) columns.push_back(column);
    if (columns.empty()) return;
    const MetadataEncoder encoder(data_.cohort, studies, columns);
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
    const Scores scores = {
        to_doubles(probabilities),
        to_doubles(class_probabilities(pair, stored_embeddings(index, trained, asked_.gallery.size()), classes, loss))};
    classification(arm.name, scores);
    keep(arm.name, kProbabilities, scores.tests);
    linear_probe(arm, stored_embeddings(index, 0, trained), images);
    const bool own = arm.name == run_.paper_arms().back().name;
    if (own || arm.name == "image") finding_curves(arm.name, scores.tests);
    if (own) subgroups(arm.name, scores.tests), errors(scores.tests);
    if (arm.name == "image") flip_rate(arm, pair, classes, loss, probabilities);
    const auto hits = search_positions(index, images, asked_.test_patients);
    retrieval(kImageRetrieval, arm.name, "image to image", hits);
    if (own) examples(hits);
    if (data_.cohort.has_reports)
      retrieval("retrieval.report_to_image.", arm.name, "report to image",
                search_positions(index, embed_texts(pair, asked_.reports), asked_.test_patients));
  }

 private:
  /// Scores of the test and of the validation images, [images, findings] each; none of the latter: no temperature.
  struct Scores {
    std::vector<double> tests, validation;
  };

  /// Scores of all that is asked about.
  Scores tests_then_validation(const std::vector<double>& scores) const {
    const auto end_of_tests = scores.begin() + static_cast<std::ptrdiff_t>(tests_ * f_);
    return {{scores.begin(), end_of_tests}, {end_of_tests, scores.end()}};
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
    out_.add_table(
        "map.flip_rate", "difference",
        "of the images positive for a finding that the image-only encoder calls positive (probability above 0.5), "
        "the share it calls negative after translation; macro over findings",
        flips(data_, data_.test, before, after), out_.slices[0]);
  }

  // --- classification ---

  void classification(const std::string& arm, const Scores& of, bool probabilities = true) {
    const std::vector<double>& scores = of.tests;
    const std::string note = asked_.texts.count(arm) ? out_.text_note() : "";
    for (const auto& slice : out_.slices) {
      const auto n = static_cast<std::int64_t>(slice.rows.size());
      const FindingIntervals auroc = out_.auroc(scores, out_.of_findings, slice);
      out_.put("classification.auroc_macro", arm, slice.name, auroc.macro, n,
               "AUROC by finding, plain mean over findings with both classes" + note);
      out_.put("classification.auroc_weighted", arm, slice.name, auroc.weighted, n,
               "AUROC by finding, mean weighted by positives" + note);
      out_.put("classification.auprc_macro", arm, slice.name,
               out_.average_precision(scores, out_.of_findings, slice).macro, n,
               "average precision by finding, plain mean over findings" + note);
      if (&slice != &out_.slices[0]) continue;
      for (std::size_t f = 0; f < f_; ++f) {
        std::int64_t known = 0;
        for (std::size_t i = 0; i < tests_; ++i) known += known_[i * f_ + f];
        out_.put("classification.auroc[" + data_.cohort.findings[f] + "]", arm, slice.name, auroc.finding[f], known,
                 "AUROC" + note);
      }
    }
    if (probabilities) calibration(arm, of, note);
    curves(arm, scores, probabilities);
  }

  /// Do probabilities mean what they say, before and after a temperature that the validation images gave?
  void calibration(const std::string& arm, const Scores& of, const std::string& note) {
    const auto put = [&](const std::string& ending, const std::vector<double>& probabilities, const std::string& how) {
      const auto n = static_cast<std::int64_t>(tests_);
      const std::string pooled = ", all findings pooled" + how + note;
      out_.put("classification.ece" + ending, arm, out_.slices[0].name,
               bootstrap_calibration_error(out_.multi_label(probabilities, out_.of_findings), out_.patients,
                                           kCalibrationBins, out_.bootstrap_options()),
               n,
               fmt::format("calibration error, {} bins of the probability of the positive class", kCalibrationBins) +
                   pooled);
      RetrievalValues errors = out_.empty_table(f_);
      std::vector<double> known;
      std::vector<std::uint8_t> truth;
      for (std::size_t k = 0; k < tests_ * f_; ++k) {
        if (!known_[k]) continue;
        const double error = probabilities[k] - labels_[k];
        errors.values[k] = error * error;
        known.push_back(probabilities[k]);
        truth.push_back(labels_[k]);
      }
      out_.put("classification.brier" + ending, arm, out_.slices[0].name, out_.means(errors, out_.slices[0]).weighted,
               n, "Brier score, mean squared distance of probability and label" + pooled);
      for (const CalibrationBin& bin : calibration_bins(known, truth, kCalibrationBins))
        if (bin.count > 0)
          out_.details["calibration" + ending][arm].push_back({bin.mean_probability, bin.positive_rate});
    };
    put("", of.tests, "");
    const FittedTemperature fitted = temperature_of(of.validation, asked_.validation_positive, asked_.validation_known);
    if (!fitted.value) {
      out_.details["untempered"][arm] = fitted.reason;
      return;
    }
    out_.figures.push_back({"classification.temperature",
                            arm,
                            "val",
                            *fitted.value,
                            {},
                            {},
                            fitted.labels,
                            "temperature T that makes the validation images' labels likeliest under the probabilities "
                            "1 / (1 + exp(-logit / T)), all findings pooled; above 1 where the arm was too sure" +
                                note});
    put("_tempered", at_temperature(of.tests, *fitted.value),
        " after temperature scaling: 1 / (1 + exp(-logit / T)), T fitted to the validation images and the same in "
        "every resample");
  }

  /// ROC and precision-recall curves, thinned for the report.
  static void ranking_curves(const std::vector<double>& scores, const std::vector<std::uint8_t>& truth,
                             const std::string& arm, nlohmann::ordered_json& out) {
    const auto thin = [](const std::vector<double>& x, const std::vector<double>& y) {
      nlohmann::ordered_json points = nlohmann::ordered_json::array();
      const std::size_t step = std::max<std::size_t>(1, x.size() / 100);
      for (std::size_t i = 0; i < x.size(); i += step) points.push_back({x[i], y[i]});
      if (!x.empty()) points.push_back({x.back(), y.back()});
      return points;
    };
    if (const auto roc = roc_curve(scores, truth)) out["roc"][arm] = thin(roc->fpr, roc->tpr);
    if (const auto pr = precision_recall_curve(scores, truth)) out["pr"][arm] = thin(pr->recall, pr->precision);
  }

  /// The same of every finding.
  void finding_curves(const std::string& arm, const std::vector<double>& scores) {
    for (std::size_t f = 0; f < f_; ++f) {
      std::vector<double> of_finding;
      std::vector<std::uint8_t> truth;
      for (std::size_t k = f; k < tests_ * f_; k += f_)
        if (known_[k]) {
          of_finding.push_back(scores[k]);
          truth.push_back(labels_[k]);
        }
      ranking_curves(of_finding, truth, arm, out_.details["finding_curves"][data_.cohort.findings[f]]);
    }
  }

  /// The images that an arm is surest of and wrong about, by finding, surest first.
  void errors(const std::vector<double>& probabilities) {
    constexpr std::size_t kErrors = 6;
    for (std::size_t f = 0; f < f_; ++f) {
      std::vector<std::pair<double, std::size_t>> wrong;  // how wrong, negated so that the largest comes first
      for (std::size_t i = 0; i < tests_; ++i) {
        const std::size_t k = i * f_ + f;
        const double distance = labels_[k] ? 1 - probabilities[k] : probabilities[k];
        if (known_[k] && distance > 0.5) wrong.emplace_back(-distance, i);
      }
      std::sort(wrong.begin(), wrong.end());
      auto& list = out_.details["errors"][data_.cohort.findings[f]] = nlohmann::ordered_json::array();
      for (std::size_t n = 0; n < std::min(kErrors, wrong.size()); ++n) {
        const std::size_t k = wrong[n].second * f_ + f;
        list.push_back(
            {{"row", data_.test[wrong[n].second]}, {"probability", probabilities[k]}, {"positive", labels_[k] != 0}});
      }
    }
  }

  /// Curves pooled over findings.
  void curves(const std::string& arm, const std::vector<double>& scores, bool probabilities) {
    std::vector<double> pooled;
    std::vector<std::uint8_t> truth;
    for (std::size_t k = 0; k < tests_ * f_; ++k)
      if (known_[k]) {
        pooled.push_back(scores[k]);
        truth.push_back(labels_[k]);
      }
    ranking_curves(pooled, truth, arm, out_.details);
    if (probabilities) {
      std::vector<double> thresholds;
      for (int percent = 2; percent < 100; percent += 2) thresholds.push_back(percent / 100.0);
      if (const auto curve = decision_curve(pooled, truth, thresholds)) {
        const auto positives = static_cast<double>(std::count(truth.begin(), truth.end(), 1));
        const double prevalence = positives / static_cast<double>(truth.size());
        auto& all = out_.details["net_benefit"][kTreatAll] = nlohmann::ordered_json::array();
        for (const NetBenefit& point : *curve)
          if (const double benefit = point.treat_all / prevalence; benefit > kLeastBenefit)
            all.push_back({point.threshold, benefit});
        for (const NetBenefit& point : *curve)
          if (point.standardized > kLeastBenefit)
            out_.details["net_benefit"][arm].push_back({point.threshold, point.standardized});
      }
    }
  }

  struct GapTest {
    std::optional<double> p, p_holm;
  };

  using FigureOfRows = std::function<std::optional<double>(const std::vector<std::size_t>&)>;

  /// Of no gap between a subgroup's figure and that of the attribute's other images.
  std::optional<double> subgroup_p(const SubgroupAttribute& attribute, const std::string& value,
                                   const FigureOfRows& figure) const {
    std::vector<std::size_t> known;
    std::vector<std::int64_t> patients;
    std::vector<std::uint8_t> inside;
    for (std::size_t i = 0; i < tests_; ++i) {
      if (attribute.values[i].empty()) continue;
      known.push_back(i);
      patients.push_back(out_.patients[i]);
      inside.push_back(attribute.values[i] == value ? 1 : 0);
    }
    std::vector<std::size_t> rows;
    return gap_p(
        patients, inside,
        [&](const std::vector<std::size_t>& chosen) {
          rows.clear();
          for (const std::size_t i : chosen) rows.push_back(known[i]);
          return figure(rows);
        },
        out_.bootstrap_options());
  }

  /// Macro AUROC by whatever the cohort's metadata tell apart.
  void subgroups(const std::string& arm, const std::vector<double>& scores) {
    std::vector<std::string> names = {"sex", "age", "view", "site"};
    if (const std::string& by = run_.config.evaluate.slice_by; std::count(names.begin(), names.end(), by) == 0)
      names.push_back(by);
    std::vector<std::vector<std::string>> values(names.size());
    for (const std::size_t row : data_.test)
      for (std::size_t a = 0; a < names.size(); ++a) values[a].push_back(subgroup_value(data_.study(row), names[a]));
    std::vector<SubgroupAttribute> attributes;
    for (std::size_t a = 0; a < names.size(); ++a) {
      const std::set<std::string> distinct(values[a].begin(), values[a].end());
      if (distinct.size() > 1 && distinct.size() <= kMostSubgroups) attributes.push_back({names[a], values[a]});
    }
    if (attributes.empty()) return;
    // Sorted once, every row for itself; a resample is how often each was drawn.
    std::vector<std::int64_t> places(tests_);
    std::iota(places.begin(), places.end(), 0);
    const RankedFindings ranked(out_.multi_label(scores, out_.of_findings), PatientGroups(places));
    PatientCopies copies(tests_);
    const FigureOfRows figure = [&](const std::vector<std::size_t>& rows) {
      std::fill(copies.begin(), copies.end(), 0);
      for (const std::size_t row : rows) ++copies[row];
      return ranked.auroc(copies).macro;
    };
    SubgroupOptions options;
    options.bootstrap = out_.bootstrap_options();
    const auto table = subgroup_table(out_.patients, attributes, figure, options);
    std::vector<GapTest> tests(table.subgroups.size());
    for (std::size_t g = 0; g < tests.size(); ++g) {
      const Subgroup& group = table.subgroups[g];
      for (const SubgroupAttribute& attribute : attributes)
        if (group.gap && attribute.name == group.attribute) tests[g].p = subgroup_p(attribute, group.value, figure);
    }
    correct_by_holm(tests.begin(), tests.end());
    const auto number = [](const std::optional<double>& one) -> nlohmann::ordered_json {
      if (!one) return nullptr;
      return *one;
    };
    const auto interval = [](const std::optional<Interval>& one) -> nlohmann::ordered_json {
      if (!one) return nullptr;
      return nlohmann::ordered_json::array({one->value, one->low, one->high});
    };
    for (std::size_t g = 0; g < tests.size(); ++g) {
      const Subgroup& group = table.subgroups[g];
      out_.details["subgroups"][arm].push_back({{"attribute", group.attribute},
                                                {"value", group.value},
                                                {"images", group.rows},
                                                {"patients", group.patients},
                                                {"figure", interval(group.figure)},
                                                {"gap", interval(group.gap)},
                                                {"p", number(tests[g].p)},
                                                {"p_holm", number(tests[g].p_holm)}});
      const auto put = [&](const char* name, const std::optional<Interval>& one, const std::string& definition) {
        out_.put(name, arm, "test[" + group.attribute + "=" + group.value + "]", one,
                 static_cast<std::int64_t>(group.rows), definition + out_.text_note());
      };
      // A slice of the test split has that figure already.
      if (group.attribute != run_.config.evaluate.slice_by)
        put("classification.auroc_macro", group.figure, "AUROC by finding, plain mean over findings with both classes");
      put("classification.auroc_macro_gap", group.gap, "macro AUROC of the subgroup less that of all other images");
      const auto put_p = [&](const char* name, const std::optional<double>& p, const std::string& definition) {
        if (!p) return;
        out_.figures.push_back({name,
                                arm,
                                "test[" + group.attribute + "=" + group.value + "]",
                                *p,
                                {},
                                {},
                                static_cast<std::int64_t>(group.rows),
                                definition + out_.text_note()});
      };
      put_p("classification.auroc_macro_gap_p", tests[g].p,
            "two-sided p-value of no gap: twice the share of its patient-bootstrap resamples on the other side of 0");
      put_p("classification.auroc_macro_gap_p_holm", tests[g].p_holm,
            "that p-value by Holm's correction for all subgroups of all attributes");
    }
  }

  // --- encoders ---

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
          "the encoder with L2 penalty 1; AUROC by finding, plain mean over findings with both classes",
          scores, out_.of_findings, slice);
  }

  void retrieval(const std::string& prefix, const std::string& arm, const std::string& what,
                 const std::vector<std::vector<std::int64_t>>& rankings) {
    const RetrievalTask task{rankings, MatrixView<std::uint8_t>(labels_, tests_, f_),
                             MatrixView<std::uint8_t>(asked_.gallery_labels, asked_.gallery.size(), f_), out_.patients,
                             asked_.gallery_patients};
    const RetrievalEvaluation evaluation(task);
    const std::string relevant =
        what +
        "; gallery: the labelled images that trained the encoders, and the validation images; relevant: positive for "
        "the query's finding; the query's own patient is never retrieved; a query with nothing relevant is left out" +
        out_.text_note() + "; ";
    if (prefix == kImageRetrieval) keep(arm, kPrecisionAt5, evaluation.values(RetrievalMetric::kPrecision, 5).values);
    for (std::int64_t k : kRanks) {
      run_.control.stop.throw_if_stopped("daug::Run: evaluate");
      const auto add = [&](const std::string& name, RetrievalMetric metric, const std::string& definition,
                           bool weighted = false) {
        const RetrievalValues values = evaluation.values(metric, static_cast<std::size_t>(k));
        for (const auto& slice : out_.slices) {
          const FindingIntervals means = out_.means(values, slice);
          const auto put = [&](const std::string& prefixed, const std::optional<Interval>& mean, const char* over) {
            out_.put(fmt::format("{}{}_at_{}", prefix, prefixed, k), arm, slice.name, mean, count_values(values, slice),
                     relevant + definition + over);
          };
          put(name, means.macro, ", mean over queries, then over findings");
          if (weighted) put("w" + name, means.weighted, ", mean over (query, finding) pairs");
          if (metric != RetrievalMetric::kPrecision || k != 5 || &slice != &out_.slices[0]) continue;
          for (std::size_t f = 0; f < f_; ++f)
            out_.put(fmt::format("{}p_at_5[{}]", prefix, data_.cohort.findings[f]), arm, slice.name, means.finding[f],
                     count_values(values, slice, f), relevant + definition + ", mean over queries with the finding");
        }
      };
      add("p", RetrievalMetric::kPrecision, "precision");
      add("map", RetrievalMetric::kApTruncated, "AP divided by min(k, relevant)", true);
      add("map_reference", RetrievalMetric::kApReference, "AP divided by the relevant items retrieved", true);
      add("ndcg", RetrievalMetric::kNdcg, "nDCG");
      add("recall", RetrievalMetric::kRecall, "recall");
    }
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
  const std::vector<std::uint8_t>&labels_, &known_;  ///< [tests, findings]
};

/// Classifiers, baselines and arms, none of which depends on another.
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
