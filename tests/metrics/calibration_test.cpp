#include "daug/metrics/calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

}  // namespace

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

TEST_CASE("calibration error and Brier score agree with sums over every bin's rows", "[metrics]") {
  for (std::uint64_t item = 0; item < 40; ++item) {
    RandomStream random(19, item, "calibration");
    const int bins = 1 + static_cast<int>(random.below(15));
    std::vector<double> probabilities;
    Labels labels;
    for (std::size_t i = 0; i < 10 + 3 * item; ++i) {
      const double drawn = random.uniform();
      probabilities.push_back(drawn < 0.1 ? 0 : drawn > 0.9 ? 1 : drawn);
      labels.push_back(random.uniform() < 0.4);
    }
    const auto rows = static_cast<double>(labels.size());
    // A bin's gap times its rows is the sum of label less probability; probabilities of 1 are a bin of their own.
    double weighted = 0, squares = 0, largest = 0, brier = 0;
    for (int bin = 0; bin <= bins; ++bin) {
      double sum = 0, count = 0;
      for (std::size_t i = 0; i < labels.size(); ++i) {
        if (static_cast<int>(probabilities[i] * bins) != bin) continue;
        sum += labels[i] - probabilities[i];
        ++count;
      }
      if (count == 0) continue;
      weighted += std::abs(sum) / rows;
      squares += sum * sum / count / rows;
      largest = std::max(largest, std::abs(sum) / count);
    }
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const double off = labels[i] ? 1 - probabilities[i] : probabilities[i];
      brier += off * off / rows;
    }
    INFO("item " << item);
    CHECK(calibration_error(probabilities, labels, bins).value() == Approx(weighted).epsilon(1e-12));
    CHECK(calibration_error(probabilities, labels, bins, CalibrationNorm::kL2).value() ==
          Approx(std::sqrt(squares)).epsilon(1e-12));
    CHECK(calibration_error(probabilities, labels, bins, CalibrationNorm::kMax).value() ==
          Approx(largest).epsilon(1e-12));
    CHECK(brier_score(probabilities, labels).value() == Approx(brier).epsilon(1e-12));
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

TEST_CASE("calibration figures are undefined without rows and refuse what is no probability", "[metrics]") {
  const std::vector<double> none, two{0.2, 0.5};
  CHECK_FALSE(brier_score(none, Labels{}));
  CHECK_FALSE(calibration_error(none, Labels{}));
  CHECK_THROWS_AS(brier_score(std::vector<double>{1.5}, Labels{1}), Error);
  CHECK_THROWS_AS(brier_score(std::vector<double>{std::nan("")}, Labels{1}), Error);
  CHECK_THROWS_AS(brier_score(two, Labels{1}), Error);
  CHECK_THROWS_AS(calibration_error(std::vector<double>{-0.1}, Labels{1}), Error);
  CHECK_THROWS_AS(calibration_error(two, Labels{0, 2}), Error);
  CHECK_THROWS_AS(calibration_error(two, Labels{0, 1}, 0), Error);
}

TEST_CASE("the fitted temperature of a hand-computed sample", "[metrics]") {
  // Every logit is 2 and three of four labels are 1: the likelihood peaks where 1 / (1 + exp(-2 / T)) = 3 / 4.
  const std::vector<double> logits(4, 2.0);
  const Labels labels{1, 1, 0, 1};
  const double temperature = fit_temperature(logits, labels).value();
  CHECK(temperature == Approx(2 / std::log(3.0)).epsilon(1e-12));
  for (double p : tempered_probabilities(logits, temperature)) CHECK(p == Approx(0.75).epsilon(1e-12));
  CHECK(tempered_probabilities(std::vector<float>{-1000.0F, 0.0F, 1000.0F}, 1) == std::vector<double>{0, 0.5, 1});
}

TEST_CASE("the fitted temperature minimises the likelihood and undoes a scaling", "[metrics]") {
  RandomStream random(17, 0, "temperature");
  std::vector<double> logits, tripled;
  Labels labels;
  for (int i = 0; i < 4000; ++i) {
    logits.push_back(1.5 * random.normal());
    tripled.push_back(3 * logits.back());
    labels.push_back(random.uniform() < 1 / (1 + std::exp(-logits.back())));
  }
  const double fitted = fit_temperature(logits, labels).value();
  CHECK(fitted == Approx(1).margin(0.1));  // the labels were drawn at temperature 1
  CHECK(fit_temperature(tripled, labels).value() == Approx(3 * fitted).epsilon(1e-9));
  const auto loss = [&](double temperature) {
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i)
      sum += std::log1p(std::exp(-(labels[i] ? 1 : -1) * logits[i] / temperature));
    return sum;
  };
  for (double factor : {0.9, 0.99, 1.01, 1.1}) CHECK(loss(fitted) < loss(factor * fitted));
  const double before = calibration_error(tempered_probabilities(tripled, 1), labels).value();
  CHECK(calibration_error(tempered_probabilities(tripled, 3 * fitted), labels).value() < before / 2);
}

TEST_CASE("a temperature that does not exist is not invented", "[metrics]") {
  const std::vector<double> logits{-2, -1, 1, 2};
  CHECK_FALSE(fit_temperature(logits, Labels{0, 0, 1, 1}));                               // separated: T = 0
  CHECK_FALSE(fit_temperature(logits, Labels{1, 1, 0, 0}));                               // the wrong way round
  CHECK_FALSE(fit_temperature(std::vector<double>{0, 0}, Labels{0, 1}));                  // any T will do
  CHECK_FALSE(fit_temperature(std::vector<double>{}, Labels{}));                          // nothing to fit
  CHECK_FALSE(fit_temperature(std::vector<double>(4, 2.0), Labels{1, 1, 0, 1}, {2, 3}));  // outside the search
  CHECK_THROWS_AS(fit_temperature(logits, Labels{0, 1}), Error);
  CHECK_THROWS_AS(fit_temperature(logits, Labels{0, 1, 2, 1}), Error);
  CHECK_THROWS_AS(fit_temperature(std::vector<double>{std::nan("")}, Labels{1}), Error);
  CHECK_THROWS_AS(fit_temperature(logits, Labels{0, 0, 1, 1}, {0, 1}), Error);
  CHECK_THROWS_AS(fit_temperature(logits, Labels{0, 0, 1, 1}, {2, 1}), Error);
  CHECK_THROWS_AS(tempered_probabilities(logits, 0), Error);
  CHECK_THROWS_AS(tempered_probabilities(std::vector<double>{std::nan("")}, 1), Error);
}

TEST_CASE("the distance from uniform by hand and against a fine grid", "[metrics]") {
  CHECK_FALSE(uniform_distance({}));
  CHECK(uniform_distance({0.5}).value() == 0.5);
  CHECK(uniform_distance({0.75, 0.25}).value() == 0.25);
  CHECK(uniform_distance({0.9, 0.9}).value() == Approx(0.9).epsilon(1e-15));  // nothing up to 0.9
  CHECK(uniform_distance({0, 0, 0}).value() == 1);
  CHECK(uniform_distance({1, 1}).value() == 1);
  // Nothing is put in order before all of it is known to have one: the first in the caller's order is named.
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(uniform_distance({0.1, std::nan(""), -infinity}), test::contains_text("got nan"));
  CHECK_THROWS_WITH(uniform_distance({0.1, infinity, -infinity}), test::contains_text("got inf"));
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    RandomStream stream(seed, 0, "uniform");
    std::vector<double> values(1 + seed);
    for (double& value : values) value = std::round(32 * stream.uniform()) / 32;  // with ties
    double largest = 0;
    constexpr int kGrid = 1 << 12;
    for (int g = 0; g <= kGrid; ++g) {  // both sides of every step
      const double at = static_cast<double>(g) / kGrid;
      std::size_t below = 0, upto = 0;
      for (const double value : values) below += value < at, upto += value <= at;
      const auto n = static_cast<double>(values.size());
      largest = std::max(
          {largest, std::abs(static_cast<double>(below) / n - at), std::abs(static_cast<double>(upto) / n - at)});
    }
    CHECK(uniform_distance(values).value() == Approx(largest).epsilon(1e-12));
  }
}

}  // namespace daug
