#include "daug/metrics/roc.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/precision_recall.h"
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

TEST_CASE("no weights lift a figure above 1", "[metrics]") {
  bool above = false;
  for (std::uint64_t item = 0; item < 500; ++item) {
    RandomStream random(12, item, "weights");
    Sample sample;
    for (int row = 0; row < 20; ++row) {
      sample.scores.push_back(row);
      sample.labels.push_back(row >= 10);
      sample.weights.push_back(random.uniform());
    }
    const double area = auroc(sample.scores, sample.labels, sample.weights).value();
    const double precision = average_precision(sample.scores, Labels(20, 1), sample.weights).value();
    above = above || area > 1 || precision > 1;
    REQUIRE(area == Approx(1));
    REQUIRE(precision == Approx(1));
  }
  CHECK_FALSE(above);
}

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
      CHECK(roc.fpr[i] == Approx(rates.fp / rates.negatives).epsilon(1e-12));
      CHECK(roc.tpr[i] == Approx(rates.tp / rates.positives).epsilon(1e-12));
      const std::size_t mirrored = pr.thresholds.size() - i;
      CHECK(pr.thresholds[mirrored] == roc.thresholds[i]);
      CHECK(pr.recall[mirrored] == Approx(roc.tpr[i]).epsilon(1e-12));
      CHECK(pr.precision[mirrored] == Approx(rates.tp / (rates.tp + rates.fp)).epsilon(1e-12));
      area += (roc.fpr[i] - roc.fpr[i - 1]) * (roc.tpr[i] + roc.tpr[i - 1]) / 2;
    }
    CHECK(area == Approx(auroc(sample.scores, sample.labels, sample.weights).value()).epsilon(1e-12));
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
      CHECK(point.sensitivity == Approx(best).epsilon(1e-12));
      CHECK(point.specificity >= wanted);
      const Rates rates = rates_at(sample, point.threshold);
      CHECK(point.sensitivity == Approx(rates.tp / rates.positives).epsilon(1e-12));
      CHECK(point.specificity == Approx(1 - rates.fp / rates.negatives).epsilon(1e-12));
    }
  }
  SECTION("a specificity that some threshold has exactly is reached, rounding or not") {
    // Ten negatives below the positive but one: 1 - 9 / 10 is less than 0.1 in float64.
    std::vector<double> scores{5};
    Labels labels{1};
    for (int i = 0; i < 10; ++i) scores.push_back(i < 9 ? 9.0 : 1.0), labels.push_back(0);
    const auto point = sensitivity_at_specificity(scores, labels, 0.1).value();
    CHECK(point.sensitivity == 1);
    CHECK(point.specificity == 0.1);
    CHECK(point.threshold == 5);
  }
  SECTION("never positive is always specific enough") {
    const auto point = sensitivity_at_specificity(std::vector<double>{0.9, 0.1}, Labels{0, 1}, 1.0).value();
    CHECK(point.sensitivity == 0);
    CHECK(point.specificity == 1);
    CHECK(std::isinf(point.threshold));
  }
}

}  // namespace daug
