#include "daug/metrics/decision_curve.h"

#include <cmath>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE("net benefit of a hand-computed example", "[metrics]") {
  const std::vector<double> probabilities{0.9, 0.6, 0.2, 0.1};
  const Labels labels{1, 0, 1, 0};
  const auto curve = decision_curve(probabilities, labels, std::vector<double>{0.2, 0.5, 0.95}).value();
  REQUIRE(curve.size() == 3);
  CHECK(curve[0].threshold == 0.2);
  CHECK(curve[0].model == Approx((2 - 1 * 0.25) / 4));  // treats three, one of them healthy, at odds of 1 to 4
  CHECK(curve[0].treat_all == Approx((2 - 2 * 0.25) / 4));
  CHECK(curve[0].standardized == Approx((2 - 1 * 0.25) / 4 / 0.5));
  CHECK(curve[0].avoided == Approx(1 / 4.0));  // one healthy patient in four spared, nobody missed
  CHECK(curve[1].model == Approx((1 - 1 * 1.0) / 4));
  CHECK(curve[1].treat_all == Approx(0).margin(1e-15));
  CHECK(curve[2].model == 0);  // nobody is treated
}

TEST_CASE("net benefit agrees with counting", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    RandomStream random(13, item, "decision curve");
    std::vector<float> probabilities;
    Labels labels;
    for (std::size_t i = 0; i < 5 + 4 * item; ++i) {
      probabilities.push_back(static_cast<float>(random.below(21)) / 20.0F);
      labels.push_back(i == 0 || random.uniform() < 0.3);
    }
    std::vector<double> thresholds;
    for (int i = 1; i < 20; ++i) thresholds.push_back(static_cast<double>(static_cast<float>(i) / 20.0F));
    const auto curve = decision_curve(probabilities, labels, thresholds).value();
    for (std::size_t t = 0; t < thresholds.size(); ++t) {
      double tp = 0, fp = 0, positives = 0;
      const auto n = static_cast<double>(labels.size()), odds = thresholds[t] / (1 - thresholds[t]);
      for (std::size_t i = 0; i < labels.size(); ++i) {
        positives += labels[i];
        if (static_cast<double>(probabilities[i]) >= thresholds[t]) ++(labels[i] ? tp : fp);
      }
      CHECK(curve[t].model == Approx(tp / n - fp / n * odds).epsilon(1e-12).margin(1e-12));
      CHECK(curve[t].treat_all == Approx(positives / n - (n - positives) / n * odds).epsilon(1e-12).margin(1e-12));
      CHECK(curve[t].model <= positives / n + 1e-12);
    }
  }
}

TEST_CASE("a model that says the same of everybody is as good as treating all or none", "[metrics]") {
  const Labels labels{1, 0, 0, 0, 1};
  const auto curve =
      decision_curve(std::vector<double>(5, 0.4), labels, std::vector<double>{0.1, 0.3, 0.5, 0.8}).value();
  for (const NetBenefit& point : curve) CHECK(point.model == (point.threshold <= 0.4 ? point.treat_all : 0));
}

TEST_CASE("decision curves refuse bad input and need a positive", "[metrics]") {
  const std::vector<double> p{0.2, 0.7}, t{0.5};
  CHECK_FALSE(decision_curve(p, Labels{0, 0}, t));
  CHECK_FALSE(decision_curve(std::vector<double>{}, Labels{}, t));
  CHECK(decision_curve(p, Labels{1, 1}, t)->front().model == 0.5);
  CHECK_THROWS_AS(decision_curve(p, Labels{0, 1}, std::vector<double>{0}), Error);
  CHECK_THROWS_AS(decision_curve(p, Labels{0, 1}, std::vector<double>{1}), Error);
  CHECK_THROWS_AS(decision_curve(p, Labels{0, 1}, std::vector<double>{std::nan("")}), Error);
  CHECK_THROWS_AS(decision_curve(std::vector<double>{0.2, 1.7}, Labels{0, 1}, t), Error);
  CHECK_THROWS_AS(decision_curve(p, Labels{0, 2}, t), Error);
  CHECK_THROWS_AS(decision_curve(p, Labels{0}, t), Error);
}

}  // namespace daug
