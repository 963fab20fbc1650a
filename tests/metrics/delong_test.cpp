#include "daug/metrics/delong.h"

#include <cmath>
#include <map>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/roc.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

struct Sample {
  std::vector<double> first, second;
  Labels labels;
  std::vector<std::int64_t> patients;
};

/// Random rows of patients with one to four images; few `levels` mean many ties.
Sample random_sample(std::uint64_t item, std::size_t patients, std::uint32_t levels) {
  RandomStream random(71, item, "delong test");
  Sample sample;
  for (std::size_t patient = 0; patient < patients; ++patient) {
    const double common = random.normal();
    for (std::uint32_t image = 0; image <= random.below(4); ++image) {
      sample.labels.push_back(patient < 4 ? patient % 2 : random.below(2));
      const double signal = common + sample.labels.back();
      sample.first.push_back(std::floor((signal + random.normal()) * levels));
      sample.second.push_back(std::floor((signal + 2 * random.normal()) * levels));
      sample.patients.push_back(100 - static_cast<std::int64_t>(patient));
    }
  }
  return sample;
}

double psi(double a, double b) { return a > b ? 1 : a == b ? 0.5 : 0; }

/// Obuchowski's estimator by its double sums: the covariance of the AUROCs of two score columns.
double brute_covariance(const Sample& s, const std::vector<double>& a, const std::vector<double>& b) {
  struct Patient {
    double x[2] = {0, 0}, y[2] = {0, 0}, positives = 0, negatives = 0;
  };
  double m = 0, n = 0;
  for (auto label : s.labels) ++(label ? m : n);
  std::map<std::int64_t, Patient> patients;
  const std::vector<double>* columns[] = {&a, &b};
  double area[2] = {0, 0};
  for (int k = 0; k < 2; ++k) {
    const auto& scores = *columns[k];
    for (std::size_t i = 0; i < scores.size(); ++i)
      for (std::size_t j = 0; j < scores.size(); ++j) {
        if (!s.labels[i] || s.labels[j]) continue;
        const double wins = psi(scores[i], scores[j]);
        area[k] += wins / (m * n);
        patients[s.patients[i]].x[k] += wins / n;
        patients[s.patients[j]].y[k] += wins / m;
      }
  }
  for (std::size_t i = 0; i < s.labels.size(); ++i)
    ++(s.labels[i] ? patients[s.patients[i]].positives : patients[s.patients[i]].negatives);
  double i10 = 0, i01 = 0, s10 = 0, s01 = 0, s11 = 0;
  for (const auto& [name, p] : patients) {
    i10 += p.positives > 0;
    i01 += p.negatives > 0;
    const double x0 = p.x[0] - p.positives * area[0], x1 = p.x[1] - p.positives * area[1];
    const double y0 = p.y[0] - p.negatives * area[0], y1 = p.y[1] - p.negatives * area[1];
    s10 += x0 * x1;
    s01 += y0 * y1;
    s11 += x0 * y1 + y0 * x1;
  }
  const auto total = static_cast<double>(patients.size());
  return s10 * i10 / (i10 - 1) / (m * m) + s01 * i01 / (i01 - 1) / (n * n) + s11 * total / (total - 1) / (m * n);
}

}  // namespace

TEST_CASE("the normal distribution at tabulated points", "[metrics]") {
  CHECK(normal_cdf(0) == 0.5);
  CHECK(normal_cdf(1) == Approx(0.8413447460685429).epsilon(1e-14));
  CHECK(normal_cdf(-6) == Approx(9.865876450376946e-10).epsilon(1e-12));
  CHECK(normal_quantile(0.975) == Approx(1.959963984540054).epsilon(1e-13));
  CHECK(normal_quantile(0.5) == Approx(0).margin(1e-14));
  CHECK(normal_quantile(1e-9) == Approx(-5.997807015008182).epsilon(1e-12));
  CHECK(std::isinf(normal_quantile(0)));
  CHECK(std::isinf(normal_quantile(1)));
  CHECK(two_sided_p(-1.959963984540054) == Approx(0.05).epsilon(1e-12));
  CHECK_THROWS_AS(normal_quantile(1.5), Error);
  CHECK_THROWS_AS(normal_quantile(std::nan("")), Error);
  for (double p : {1e-300, 1e-5, 0.2, 0.7, 0.999}) CHECK(normal_cdf(normal_quantile(p)) == Approx(p).epsilon(1e-12));
}

TEST_CASE("DeLong's variance of a hand-computed example", "[metrics]") {
  // Placements of the positives 1, 2/3, 2/3 and of the negatives 1/3, 1, 1, all of mean 7/9: variances 1/27 and 4/27.
  const std::vector<double> scores{0.8, 0.6, 0.4, 0.7, 0.3, 0.2};
  const Labels labels{1, 1, 1, 0, 0, 0};
  const AurocEstimate estimate = delong_auroc(scores, labels).value();
  CHECK(estimate.auroc == Approx(7 / 9.0));
  CHECK(estimate.variance == Approx((1 / 27.0 + 4 / 27.0) / 3));
  CHECK(estimate.low == Approx(7 / 9.0 - 1.959963984540054 * std::sqrt(5 / 81.0)));
  CHECK(estimate.high == 1);
  const AurocEstimate narrow = delong_auroc(scores, labels, {}, 0.5).value();
  CHECK(narrow.high == Approx(7 / 9.0 + 0.6744897501960817 * std::sqrt(5 / 81.0)));
}

TEST_CASE("DeLong and Obuchowski agree with their double sums", "[metrics]") {
  for (std::uint64_t item = 0; item < 20; ++item) {
    Sample sample = random_sample(item, 6 + 2 * item, item % 2 ? 1 : 1000);
    INFO("item " << item);
    for (bool clustered : {true, false}) {
      if (!clustered)
        for (std::size_t i = 0; i < sample.patients.size(); ++i) sample.patients[i] = static_cast<std::int64_t>(i);
      const double a = brute_covariance(sample, sample.first, sample.first);
      const double b = brute_covariance(sample, sample.second, sample.second);
      const double ab = brute_covariance(sample, sample.first, sample.second);
      const auto estimate = delong_auroc(sample.first, sample.labels, sample.patients).value();
      CHECK(estimate.auroc == Approx(auroc(sample.first, sample.labels).value()).epsilon(1e-12));
      CHECK(estimate.variance == Approx(a).epsilon(1e-10));
      if (!clustered) CHECK(delong_auroc(sample.first, sample.labels).value().variance == estimate.variance);
      const auto test = delong_test(sample.first, sample.second, sample.labels, sample.patients).value();
      CHECK(test.first.variance == estimate.variance);
      CHECK(test.second.variance == Approx(b).epsilon(1e-10));
      CHECK(test.variance == Approx(a + b - 2 * ab).epsilon(1e-8));
      CHECK(test.difference == Approx(test.first.auroc - test.second.auroc).margin(1e-15));
      CHECK(test.z == Approx(test.difference / std::sqrt(a + b - 2 * ab)).epsilon(1e-8));
      CHECK(test.p == Approx(std::erfc(std::abs(test.z) / std::sqrt(2.0))));
      CHECK(test.high - test.low == Approx(2 * 1.959963984540054 * std::sqrt(a + b - 2 * ab)).epsilon(1e-8));
      const auto swapped = delong_test(sample.second, sample.first, sample.labels, sample.patients).value();
      CHECK(swapped.z == Approx(-test.z));
    }
  }
}

TEST_CASE("copies of a patient's images do not sharpen an AUROC", "[metrics]") {
  const Sample single = random_sample(77, 40, 1000);
  Sample copied = single;
  for (std::size_t i = 0; i < single.labels.size(); ++i) {
    copied.first.push_back(single.first[i]);
    copied.labels.push_back(single.labels[i]);
    copied.patients.push_back(single.patients[i]);
  }
  const double variance = delong_auroc(single.first, single.labels, single.patients).value().variance;
  CHECK(delong_auroc(copied.first, copied.labels, copied.patients).value().variance == Approx(variance));
  CHECK(delong_auroc(copied.first, copied.labels).value().variance < 0.75 * variance);
}

TEST_CASE("equal and perfectly opposed scores have their certain p-values", "[metrics]") {
  const Sample sample = random_sample(5, 30, 1000);
  std::vector<double> warped;
  for (double score : sample.first) warped.push_back(std::exp(score / 1e4));
  const auto same = delong_test(sample.first, warped, sample.labels, sample.patients).value();
  CHECK(same.difference == 0);
  CHECK(same.z == 0);
  CHECK(same.p == 1);
  const std::vector<double> right{1, 2, 3, 4}, wrong{4, 3, 2, 1};
  const auto opposed = delong_test(right, wrong, Labels{0, 0, 1, 1}).value();
  CHECK(opposed.difference == 1);
  CHECK(opposed.p == 0);
  CHECK(opposed.first.low == 1);
  CHECK(opposed.first.high == 1);
}

TEST_CASE("DeLong needs two patients of each class and refuses bad input", "[metrics]") {
  const std::vector<double> scores{1, 2, 3, 4};
  CHECK_FALSE(delong_auroc(scores, Labels{0, 0, 0, 1}));
  CHECK_FALSE(delong_auroc(scores, Labels{0, 0, 0, 0}));
  CHECK_FALSE(delong_auroc(std::vector<double>{}, Labels{}));
  CHECK_FALSE(delong_auroc(scores, Labels{0, 0, 1, 1}, std::vector<std::int64_t>{1, 2, 3, 3}));
  CHECK_FALSE(delong_test(scores, scores, Labels{0, 0, 0, 1}));
  CHECK_THROWS_AS(delong_auroc(scores, Labels{0, 0, 1, 2}), Error);
  CHECK_THROWS_AS(delong_auroc(scores, Labels{0, 1}), Error);
  CHECK_THROWS_AS(delong_auroc(scores, Labels{0, 0, 1, 1}, std::vector<std::int64_t>{1}), Error);
  CHECK_THROWS_AS(delong_auroc(scores, Labels{0, 0, 1, 1}, {}, 1.0), Error);
  CHECK_THROWS_AS(delong_auroc(std::vector<double>{1, 2, 3, std::nan("")}, Labels{0, 0, 1, 1}), Error);
  CHECK_THROWS_AS(delong_test(scores, std::vector<double>{1}, Labels{0, 0, 1, 1}), Error);
}

TEST_CASE("DeLong's intervals cover the true area about as often as they say", "[metrics]") {
  // Normal scores whose means lie one standard deviation apart: the area is Phi(1 / sqrt(2)).
  int covered = 0;
  constexpr int kTrials = 400;
  for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
    RandomStream random(8, trial, "coverage");
    std::vector<double> scores;
    Labels labels;
    for (int i = 0; i < 120; ++i) {
      labels.push_back(i % 2);
      scores.push_back(random.normal() + labels.back());
    }
    const auto estimate = delong_auroc(scores, labels).value();
    covered += estimate.low <= 0.7602499389065233 && 0.7602499389065233 <= estimate.high;
  }
  // 95 % of 400 within four standard errors.
  CHECK(covered >= 362);
  CHECK(covered <= 398);
}

}  // namespace daug
