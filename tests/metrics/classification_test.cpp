#include "daug/metrics/classification.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

struct Sample {
  std::vector<double> scores;
  Labels labels;
  std::vector<double> weights;
};

/// Random rows; few `levels` mean many ties.
Sample random_sample(std::uint64_t item, std::size_t size, std::uint32_t levels) {
  RandomStream random(11, item, "metrics test");
  Sample sample;
  for (std::size_t i = 0; i < size; ++i) {
    sample.labels.push_back(random.uniform() < 0.4);
    sample.scores.push_back(random.below(levels) / static_cast<double>(levels) + 0.1 * sample.labels.back());
    sample.weights.push_back(random.below(4) * 0.5);
  }
  return sample;
}

double brute_auroc(const Sample& s) {
  double wins = 0, pairs = 0;
  for (std::size_t i = 0; i < s.scores.size(); ++i)
    for (std::size_t j = 0; j < s.scores.size(); ++j) {
      if (!s.labels[i] || s.labels[j]) continue;
      const double weight = s.weights[i] * s.weights[j];
      pairs += weight;
      wins += weight * (s.scores[i] > s.scores[j] ? 1 : s.scores[i] == s.scores[j] ? 0.5 : 0);
    }
  return wins / pairs;
}

struct Rates {
  double tp = 0, fp = 0, positives = 0, negatives = 0;
};

Rates rates_at(const Sample& s, double threshold) {
  Rates rates;
  for (std::size_t i = 0; i < s.scores.size(); ++i) {
    (s.labels[i] ? rates.positives : rates.negatives) += s.weights[i];
    if (s.scores[i] >= threshold) (s.labels[i] ? rates.tp : rates.fp) += s.weights[i];
  }
  return rates;
}

double brute_average_precision(const Sample& s) {
  const std::set<double, std::greater<>> thresholds(s.scores.begin(), s.scores.end());
  double sum = 0, last_recall = 0;
  for (double threshold : thresholds) {
    const Rates rates = rates_at(s, threshold);
    if (rates.tp + rates.fp == 0) continue;
    const double recall = rates.tp / rates.positives;
    sum += (recall - last_recall) * rates.tp / (rates.tp + rates.fp);
    last_recall = recall;
  }
  return sum;
}

}  // namespace

TEST_CASE("AUROC and average precision of a hand-computed example", "[metrics]") {
  const std::vector<double> scores{0.1, 0.4, 0.35, 0.8};
  const Labels labels{0, 0, 1, 1};
  CHECK(auroc(scores, labels).value() == Approx(0.75));
  CHECK(average_precision(scores, labels).value() == Approx(0.5 * 1 + 0.5 * 2 / 3.0));

  SECTION("float scores, perfect and inverted rankings") {
    const std::vector<float> perfect{0.1F, 0.2F, 0.7F, 0.9F};
    CHECK(auroc(perfect, labels).value() == 1);
    CHECK(average_precision(perfect, labels).value() == 1);
    CHECK(auroc(perfect, Labels{1, 1, 0, 0}).value() == 0);
    CHECK(average_precision(perfect, Labels{1, 1, 0, 0}).value() == Approx(0.5 / 3 + 0.5 * 2 / 4));
  }
  SECTION("a constant score carries no information") {
    const std::vector<double> constant(5, 3.0);
    CHECK(auroc(constant, Labels{1, 0, 0, 1, 0}).value() == 0.5);
    CHECK(average_precision(constant, Labels{1, 0, 0, 1, 0}).value() == Approx(0.4));
  }
}

TEST_CASE("AUROC and average precision agree with their quadratic definitions", "[metrics]") {
  for (std::uint64_t item = 0; item < 40; ++item) {
    Sample sample = random_sample(item, 5 + 3 * item, item % 2 ? 4 : 1000);
    sample.labels[0] = 1;
    sample.labels[1] = 0;
    sample.weights[0] = sample.weights[1] = 1;
    INFO("item " << item);
    CHECK(auroc(sample.scores, sample.labels, sample.weights).value() == Approx(brute_auroc(sample)).epsilon(1e-12));
    CHECK(average_precision(sample.scores, sample.labels, sample.weights).value() ==
          Approx(brute_average_precision(sample)).epsilon(1e-12));
    sample.weights.assign(sample.scores.size(), 1);
    CHECK(auroc(sample.scores, sample.labels).value() == Approx(brute_auroc(sample)).epsilon(1e-12));
    CHECK(average_precision(sample.scores, sample.labels).value() ==
          Approx(brute_average_precision(sample)).epsilon(1e-12));
  }
}

TEST_CASE("AUROC depends on the order of scores alone", "[metrics]") {
  const Sample sample = random_sample(99, 200, 30);
  const double area = auroc(sample.scores, sample.labels).value();
  std::vector<double> warped, negated;
  Labels flipped;
  for (std::size_t i = 0; i < sample.scores.size(); ++i) {
    warped.push_back(std::exp(5 * sample.scores[i]) - 3);
    negated.push_back(-sample.scores[i]);
    flipped.push_back(!sample.labels[i]);
  }
  CHECK(auroc(warped, sample.labels).value() == area);
  CHECK(auroc(negated, sample.labels).value() == Approx(1 - area));
  CHECK(auroc(sample.scores, flipped).value() == Approx(1 - area));
}

TEST_CASE("an integer weight counts like that many copies of the row", "[metrics]") {
  Sample weighted, copied;
  RandomStream random(5, 0, "copies");
  for (int i = 0; i < 60; ++i) {
    const double score = random.below(12);
    const std::uint8_t label = random.below(2);
    const auto copies = random.below(4);
    weighted.scores.push_back(score);
    weighted.labels.push_back(label);
    weighted.weights.push_back(copies);
    copied.scores.insert(copied.scores.end(), copies, score);
    copied.labels.insert(copied.labels.end(), copies, label);
  }
  CHECK(auroc(weighted.scores, weighted.labels, weighted.weights).value() ==
        Approx(auroc(copied.scores, copied.labels).value()).epsilon(1e-12));
  CHECK(average_precision(weighted.scores, weighted.labels, weighted.weights).value() ==
        Approx(average_precision(copied.scores, copied.labels).value()).epsilon(1e-12));
}

TEST_CASE("one class or no rows leave classification figures undefined", "[metrics]") {
  const std::vector<double> scores{0.2, 0.5, 0.9}, none;
  CHECK_FALSE(auroc(scores, Labels{0, 0, 0}));
  CHECK_FALSE(auroc(scores, Labels{1, 1, 1}));
  CHECK_FALSE(auroc(none, Labels{}));
  CHECK_FALSE(average_precision(scores, Labels{0, 0, 0}));
  CHECK(average_precision(scores, Labels{1, 1, 1}).value() == Approx(1));
  CHECK_FALSE(average_precision(none, Labels{}));
  CHECK_FALSE(roc_curve(scores, Labels{1, 1, 1}));
  CHECK_FALSE(precision_recall_curve(scores, Labels{0, 0, 0}));
  CHECK_FALSE(sensitivity_at_specificity(scores, Labels{0, 0, 0}, 0.9));
  CHECK_FALSE(brier_score(none, Labels{}));
  CHECK_FALSE(calibration_error(none, Labels{}));
  SECTION("a class whose rows all weigh nothing is missing") {
    CHECK_FALSE(auroc(scores, Labels{0, 0, 1}, std::vector<double>{1, 1, 0}));
  }
}

TEST_CASE("bad classification input is refused by name", "[metrics]") {
  const std::vector<double> scores{0.2, 0.5};
  CHECK_THROWS_WITH(auroc(scores, Labels{0, 255}), "auroc: labels: expected 0 or 1, got 255");
  CHECK_THROWS_WITH(auroc(scores, Labels{0}), "auroc: labels: expected 2, got 1");
  CHECK_THROWS_AS(auroc(scores, Labels{0, 1}, std::vector<double>{1, -1}), Error);
  CHECK_THROWS_AS(auroc(scores, Labels{0, 1}, std::vector<double>{1}), Error);
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    try {
      average_precision(std::vector<double>{0.1, bad}, Labels{0, 1});
      FAIL("accepted a score that is not finite");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kNumeric);
    }
  }
  CHECK_THROWS_AS(sensitivity_at_specificity(scores, Labels{0, 1}, 1.5), Error);
  CHECK_THROWS_AS(brier_score(std::vector<double>{1.5}, Labels{1}), Error);
  CHECK_THROWS_AS(calibration_error(std::vector<double>{-0.1}, Labels{1}), Error);
  CHECK_THROWS_AS(calibration_error(scores, Labels{0, 1}, 0), Error);
}

TEST_CASE("curves hold the rates of every distinct threshold", "[metrics]") {
  for (std::uint64_t item = 0; item < 10; ++item) {
    const Sample sample = random_sample(200 + item, 50, item % 2 ? 5 : 500);
    const RocCurve roc = roc_curve(sample.scores, sample.labels, sample.weights).value();
    const PrecisionRecallCurve pr = precision_recall_curve(sample.scores, sample.labels, sample.weights).value();
    REQUIRE(roc.thresholds.size() == pr.thresholds.size() + 1);
    REQUIRE(pr.precision.size() == pr.thresholds.size() + 1);
    CHECK(std::isinf(roc.thresholds.front()));
    CHECK(roc.fpr.back() == 1);
    CHECK(roc.tpr.back() == 1);
    CHECK(pr.precision.back() == 1);
    CHECK(pr.recall.back() == 0);
    double area = 0;
    for (std::size_t i = 1; i < roc.thresholds.size(); ++i) {
      const Rates rates = rates_at(sample, roc.thresholds[i]);
      CHECK(roc.thresholds[i] < roc.thresholds[i - 1]);
      CHECK(roc.fpr[i] == Approx(rates.fp / rates.negatives));
      CHECK(roc.tpr[i] == Approx(rates.tp / rates.positives));
      const std::size_t mirrored = pr.thresholds.size() - i;
      CHECK(pr.thresholds[mirrored] == roc.thresholds[i]);
      CHECK(pr.recall[mirrored] == Approx(roc.tpr[i]));
      CHECK(pr.precision[mirrored] == Approx(rates.tp / (rates.tp + rates.fp)));
      area += (roc.fpr[i] - roc.fpr[i - 1]) * (roc.tpr[i] + roc.tpr[i - 1]) / 2;
    }
    CHECK(area == Approx(auroc(sample.scores, sample.labels, sample.weights).value()));
  }
}

TEST_CASE("sensitivity at a specificity is the best over all thresholds", "[metrics]") {
  for (std::uint64_t item = 0; item < 10; ++item) {
    Sample sample = random_sample(300 + item, 60, item % 2 ? 6 : 600);
    sample.weights.assign(60, 1);
    for (double wanted : {0.0, 0.5, 0.8, 0.95, 1.0}) {
      double best = 0;
      for (double threshold : sample.scores) {
        const Rates rates = rates_at(sample, threshold);
        if (1 - rates.fp / rates.negatives >= wanted) best = std::max(best, rates.tp / rates.positives);
      }
      const OperatingPoint point = sensitivity_at_specificity(sample.scores, sample.labels, wanted).value();
      CHECK(point.sensitivity == Approx(best));
      CHECK(point.specificity >= wanted);
      const Rates rates = rates_at(sample, point.threshold);
      CHECK(point.sensitivity == Approx(rates.tp / rates.positives));
      CHECK(point.specificity == Approx(1 - rates.fp / rates.negatives));
    }
  }
  SECTION("never positive is always specific enough") {
    const auto point = sensitivity_at_specificity(std::vector<double>{0.9, 0.1}, Labels{0, 1}, 1.0).value();
    CHECK(point.sensitivity == 0);
    CHECK(point.specificity == 1);
    CHECK(std::isinf(point.threshold));
  }
}

TEST_CASE("multi-label averages leave out and count findings with one class", "[metrics]") {
  // Columns: informative; all negative; informative once its unknown cells are left out.
  const std::vector<double> scores{0.9, 0.1, 0.3,  //
                                   0.8, 0.2, 0.9,  //
                                   0.3, 0.3, 0.8,  //
                                   0.4, 0.4, 0.1};
  const Labels labels{1, 0, 1,   //
                      0, 0, 1,   //
                      0, 0, 77,  // an unknown cell may hold anything
                      1, 0, 0};
  const Labels known{1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1};
  const MultiLabelData data{{scores, 4, 3}, {labels, 4, 3}, {known, 4, 3}};

  const FindingSummary area = auroc_by_finding(data);
  REQUIRE(area.finding.size() == 3);
  CHECK(area.finding[0].value() == 0.75);
  CHECK_FALSE(area.finding[1]);
  CHECK(area.finding[2].value() == 1);
  CHECK(area.left_out == 1);
  CHECK(area.weight == std::vector<std::size_t>{2, 0, 2});
  CHECK(area.macro.value() == 0.875);
  CHECK(area.weighted.value() == 0.875);

  const FindingSummary precision = average_precision_by_finding(data);
  CHECK(precision.finding[0].value() == Approx(0.5 * 1 + 0.5 * 2 / 3.0));
  CHECK_FALSE(precision.finding[1]);
  CHECK(precision.left_out == 1);

  SECTION("micro figures pool the known cells") {
    std::vector<double> pooled_scores;
    Labels pooled_labels;
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (known[i]) pooled_scores.push_back(scores[i]), pooled_labels.push_back(labels[i]);
    CHECK(micro_auroc(data).value() == auroc(pooled_scores, pooled_labels).value());
    CHECK(micro_average_precision(data).value() == Approx(average_precision(pooled_scores, pooled_labels).value()));
  }
  SECTION("rows may be selected, repeated, or absent") {
    const std::vector<std::size_t> rows{0, 1, 1, 1, 3}, two_rows{2, 3}, no_rows, bad{4};
    CHECK(auroc_by_finding(data, rows).finding[0].value() == Approx(3 / 6.0));
    CHECK(auroc_by_finding(data, rows).weight == std::vector<std::size_t>{2, 0, 4});
    CHECK(auroc_by_finding(data, two_rows).left_out == 2);
    CHECK(auroc_by_finding(data, no_rows).left_out == 3);
    CHECK_FALSE(auroc_by_finding(data, no_rows).macro);
    CHECK_FALSE(micro_auroc(data, no_rows));
    CHECK_THROWS_AS(auroc_by_finding(data, bad), Error);
  }
  SECTION("shapes must agree") {
    CHECK_THROWS_AS(auroc_by_finding({{scores, 4, 3}, {labels, 3, 4}, {}}), Error);
    CHECK_THROWS_AS(auroc_by_finding({{scores, 4, 3}, {labels, 4, 3}, {known, 3, 4}}), Error);
    CHECK_THROWS_AS((MatrixView<double>(scores, 5, 3)), Error);
  }
  SECTION("without a mask every cell is known, so the bad label is seen") {
    CHECK_THROWS_AS(auroc_by_finding({{scores, 4, 3}, {labels, 4, 3}, {}}), Error);
  }
}

TEST_CASE("weighted averages weigh by positives", "[metrics]") {
  const FindingSummary summary = summarize_findings({0.5, std::nullopt, 1.0}, {3, 100, 1});
  CHECK(summary.macro.value() == 0.75);
  CHECK(summary.weighted.value() == Approx((0.5 * 3 + 1.0) / 4));
  CHECK(summary.left_out == 1);
  CHECK_FALSE(summarize_findings({std::nullopt}, {0}).macro);
  CHECK_FALSE(summarize_findings({std::nullopt}, {0}).weighted);
}

TEST_CASE("calibration error of hand-computed bins", "[metrics]") {
  // Bins of width 0.5: two in [0, 0.5), one in [0.5, 1), one of exactly 1 in its own bin.
  const std::vector<double> probabilities{0.1, 0.3, 0.5, 1.0};
  const Labels labels{0, 1, 1, 0};
  const auto bins = calibration_bins(probabilities, labels, 2);
  REQUIRE(bins.size() == 3);
  CHECK(bins[0].count == 2);
  CHECK(bins[0].mean_probability == Approx(0.2));
  CHECK(bins[0].positive_rate == Approx(0.5));
  CHECK(bins[1].count == 1);
  CHECK(bins[2].count == 1);
  CHECK(bins[2].mean_probability == 1);
  CHECK(calibration_error(probabilities, labels, 2).value() == Approx(0.5 * 0.3 + 0.25 * 0.5 + 0.25 * 1));
  CHECK(calibration_error(probabilities, labels, 2, CalibrationNorm::kL2).value() ==
        Approx(std::sqrt(0.5 * 0.09 + 0.25 * 0.25 + 0.25 * 1)));
  CHECK(calibration_error(probabilities, labels, 2, CalibrationNorm::kMax).value() == 1);
  CHECK(brier_score(probabilities, labels).value() == Approx((0.01 + 0.49 + 0.25 + 1) / 4));

  SECTION("certainty that is always right is perfectly calibrated") {
    const std::vector<float> certain{0, 1, 1, 0};
    CHECK(calibration_error(certain, Labels{0, 1, 1, 0}).value() == 0);
    CHECK(brier_score(certain, Labels{0, 1, 1, 0}).value() == 0);
  }
}

TEST_CASE("calibration edges rise from 0 to 1 and hold every probability", "[metrics]") {
  for (int bins : {1, 2, 7, 10, 15, 100}) {
    const auto edges = calibration_edges<float>(bins);
    REQUIRE(edges.size() == static_cast<std::size_t>(bins) + 1);
    CHECK(edges.front() == 0);
    CHECK(edges.back() == 1);
    CHECK(std::is_sorted(edges.begin(), edges.end()));
    RandomStream random(3, static_cast<std::uint64_t>(bins), "edges");
    for (int i = 0; i < 100; ++i) {
      const auto probability = static_cast<float>(random.uniform());
      const std::size_t bin = calibration_bin(edges, probability);
      REQUIRE(edges[bin] <= probability);
      if (bin + 1 < edges.size()) REQUIRE(probability < edges[bin + 1]);
    }
  }
}

TEST_CASE("float32 probabilities on an edge fall where torchmetrics puts them", "[metrics]") {
  CHECK(calibration_bin(calibration_edges<float>(10), 0.9F) == 9);
  CHECK(calibration_bin(calibration_edges<float>(15), 0.2F) == 2);
  CHECK(calibration_bin(calibration_edges<float>(15), 0.8F) == 12);
  CHECK(calibration_bin(calibration_edges<double>(15), 1.0) == 15);
}

TEST_CASE("calibration error and Brier score vanish on average for honest probabilities", "[metrics]") {
  std::vector<double> probabilities;
  Labels labels;
  RandomStream random(1, 0, "honest");
  double expected_brier = 0;
  constexpr int kRows = 50000;
  for (int i = 0; i < kRows; ++i) {
    const double p = random.uniform();
    probabilities.push_back(p);
    labels.push_back(random.uniform() < p);
    expected_brier += p * (1 - p) / kRows;
  }
  // A bin of about 5000 rows has a standard error below 0.5 / sqrt(5000) = 0.007.
  CHECK(calibration_error(probabilities, labels, 10).value() < 0.01);
  CHECK(brier_score(probabilities, labels).value() == Approx(expected_brier).margin(0.01));
  std::vector<double> boasting;
  for (double p : probabilities) boasting.push_back(p > 0.5 ? 1 - (1 - p) / 4 : p / 4);
  CHECK(calibration_error(boasting, labels, 10).value() > 0.1);
}

}  // namespace daug
