#include "daug/metrics/comparison.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "daug/metrics/roc.h"
#include "support/catch.h"

namespace daug {

TEST_CASE("the sign-flip test of a hand-computed example", "[metrics]") {
  // Patients differ by 1, 2 and 3; of the eight patterns of signs only +++ and --- reach a sum of 6.
  const std::vector<std::int64_t> groups{4, 9, 4, 7};
  const std::vector<double> differences{0.25, 2, 0.75, 3};
  const PermutationTest test = sign_flip_test(groups, differences).value();
  CHECK(test.p == Approx(0.25));
  CHECK(test.exact);
  CHECK(test.permutations == 8);
  CHECK(test.patients == 3);
  CHECK(test.statistic == Approx(1.5));

  SECTION("no difference has a p-value of one") {
    CHECK(sign_flip_test(groups, std::vector<double>(4, 0)).value().p == 1);
  }
  SECTION("patients whose images cancel say nothing") {
    CHECK(sign_flip_test(groups, std::vector<double>{5, 0, -5, 0}).value().p == 1);
  }
}

TEST_CASE("the sign-flip test agrees with counting all patterns", "[metrics]") {
  for (std::uint64_t item = 0; item < 10; ++item) {
    RandomStream random(3, item, "sign flip");
    constexpr int kPatients = 11;
    std::vector<std::int64_t> groups;
    std::vector<double> differences, sums(kPatients, 0);
    for (int patient = 0; patient < kPatients; ++patient)
      for (std::uint32_t row = 0; row <= random.below(3); ++row) {
        groups.push_back(patient);
        differences.push_back(random.normal() + 0.3);
        sums[static_cast<std::size_t>(patient)] += differences.back();
      }
    const double observed = std::abs(std::accumulate(sums.begin(), sums.end(), 0.0));
    int as_large = 0;
    for (int pattern = 0; pattern < 1 << kPatients; ++pattern) {
      double sum = 0;
      for (int g = 0; g < kPatients; ++g) sum += (pattern >> g & 1 ? -1 : 1) * sums[static_cast<std::size_t>(g)];
      as_large += std::abs(sum) >= observed - 1e-9;
    }
    const double expected = as_large / std::pow(2.0, kPatients);
    const PermutationTest exact = sign_flip_test(groups, differences, {1 << kPatients, 0}).value();
    CHECK(exact.exact);
    CHECK(exact.p == Approx(expected));
    const PermutationTest drawn = sign_flip_test(groups, differences, {2000, item}).value();
    CHECK_FALSE(drawn.exact);
    CHECK(drawn.permutations == 2000);
    CHECK(drawn.p == Approx(expected).margin(4 * std::sqrt(0.25 / 2000)));
    CHECK(sign_flip_test(groups, differences, {2000, item}).value().p == drawn.p);
    // The data themselves are one of the patterns, so p * 2001 is a whole number from 1 on.
    CHECK(drawn.p * 2001 == Approx(std::round(drawn.p * 2001)));
    CHECK(drawn.p >= 1 / 2001.0);
  }
}

TEST_CASE("p-values are uniform when there is no difference", "[metrics]") {
  int below = 0;
  constexpr int kTrials = 400;
  for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
    RandomStream random(4, trial, "null");
    std::vector<std::int64_t> groups;
    std::vector<double> differences;
    for (int patient = 0; patient < 40; ++patient) {
      const double common = random.normal();  // what would fool a test that flips images one by one
      for (int image = 0; image < 3; ++image) {
        groups.push_back(patient);
        differences.push_back(common + 0.1 * random.normal());
      }
    }
    below += sign_flip_test(groups, differences, {199, trial}).value().p <= 0.1;
  }
  CHECK(below >= 16);  // 40 expected, four standard errors
  CHECK(below <= 64);
}

TEST_CASE("swapping the scores of patients", "[metrics]") {
  const std::vector<std::int64_t> groups{0, 0, 1, 2, 3};
  const std::vector<double> first{0.9, 0.8, 0.3, 0.7, 0.2}, second{0.5, 0.9, 0.4, 0.1, 0.3};
  SECTION("of a mean is the sign-flip test") {
    const auto mean = [](const std::vector<double>& scores) -> std::optional<double> {
      return std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(scores.size());
    };
    std::vector<double> differences;
    for (std::size_t i = 0; i < first.size(); ++i) differences.push_back(first[i] - second[i]);
    const PermutationTest swapped = swap_test(groups, first, second, mean).value();
    const PermutationTest flipped = sign_flip_test(groups, differences).value();
    CHECK(swapped.exact);
    CHECK(swapped.permutations == 16);
    CHECK(swapped.p == Approx(flipped.p));
    CHECK(swapped.statistic == Approx(flipped.statistic));
  }
  SECTION("of an AUROC agrees with doing it by hand") {
    const std::vector<std::uint8_t> labels{1, 1, 0, 1, 0};
    const auto area = [&](const std::vector<double>& scores) { return auroc(scores, labels); };
    const double observed = *area(first) - *area(second);
    int as_large = 0;
    for (int pattern = 0; pattern < 16; ++pattern) {
      auto a = first, b = second;
      for (std::size_t row = 0; row < a.size(); ++row)
        if (pattern >> groups[row] & 1) std::swap(a[row], b[row]);
      as_large += std::abs(*area(a) - *area(b)) >= std::abs(observed) - 1e-9;
    }
    const PermutationTest test = swap_test(groups, first, second, area).value();
    CHECK(test.statistic == Approx(observed));
    CHECK(test.p == Approx(as_large / 16.0));
  }
  SECTION("gives the same p whatever the unit of the scores") {
    const auto mean = [](const std::vector<double>& scores) -> std::optional<double> {
      return std::accumulate(scores.begin(), scores.end(), 0.0) / static_cast<double>(scores.size());
    };
    const double p = swap_test(groups, first, second, mean).value().p;
    CHECK(p < 1);
    for (const double unit : {0x1p-80, 0x1p-45, 0x1p45, 0x1p300}) {  // powers of two round nothing
      auto a = first, b = second;
      for (auto& value : a) value *= unit;
      for (auto& value : b) value *= unit;
      CHECK(swap_test(groups, a, b, mean).value().p == p);
    }
  }
  SECTION("of a statistic that does not exist is nothing") {
    CHECK_FALSE(swap_test(groups, first, second, [](const auto&) { return std::optional<double>(); }));
  }
}

TEST_CASE("corrected p-values of a hand-computed example", "[metrics]") {
  const std::vector<double> p{0.01, 0.04, 0.03, 0.005};
  const auto check = [&](PCorrection correction, std::vector<double> expected) {
    const auto adjusted = adjust_p(p, correction);
    REQUIRE(adjusted.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(adjusted[i] == Approx(expected[i]));
  };
  check(PCorrection::kBonferroni, {0.04, 0.16, 0.12, 0.02});
  check(PCorrection::kHolm, {0.03, 0.06, 0.06, 0.02});
  check(PCorrection::kBenjaminiHochberg, {0.02, 0.04, 0.04, 0.02});
  CHECK(adjust_p(std::vector<double>{}, PCorrection::kHolm).empty());
  CHECK_THROWS_AS(adjust_p(std::vector<double>{0.5, std::nan("")}, PCorrection::kHolm), Error);
  CHECK_THROWS_AS(adjust_p(std::vector<double>{-0.1}, PCorrection::kBonferroni), Error);
}

TEST_CASE("corrections reject what their step procedures reject", "[metrics]") {
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(9, item, "corrections");
    std::vector<double> p(1 + random.below(12));
    for (double& value : p) value = std::pow(random.uniform(), 3);
    if (item % 3 == 0) p.push_back(p.front());  // a tie
    const auto m = static_cast<double>(p.size());
    auto sorted = p;
    std::sort(sorted.begin(), sorted.end());
    const auto bonferroni = adjust_p(p, PCorrection::kBonferroni), holm = adjust_p(p, PCorrection::kHolm);
    const auto bh = adjust_p(p, PCorrection::kBenjaminiHochberg);
    for (double alpha : {0.01, 0.05, 0.2}) {
      std::size_t steps_down = 0, steps_up = 0;
      while (steps_down < p.size() && sorted[steps_down] <= alpha / (m - static_cast<double>(steps_down))) ++steps_down;
      for (std::size_t i = 0; i < p.size(); ++i)
        if (sorted[i] <= alpha * static_cast<double>(i + 1) / m) steps_up = i + 1;
      const auto rejected = [alpha](const std::vector<double>& adjusted) {
        return static_cast<std::size_t>(
            std::count_if(adjusted.begin(), adjusted.end(), [alpha](double value) { return value <= alpha; }));
      };
      CHECK(rejected(holm) == steps_down);
      CHECK(rejected(bh) == steps_up);
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
      CHECK(p[i] <= bh[i]);
      CHECK(bh[i] <= holm[i]);
      CHECK(holm[i] <= bonferroni[i]);
      CHECK(bonferroni[i] == Approx(std::min(1.0, m * p[i])));
    }
  }
}

TEST_CASE("permutation tests refuse bad input and are nothing without rows", "[metrics]") {
  const std::vector<std::int64_t> groups{1, 2};
  CHECK_FALSE(sign_flip_test(std::vector<std::int64_t>{}, std::vector<double>{}));
  CHECK_THROWS_AS(sign_flip_test(groups, std::vector<double>{1}), Error);
  CHECK_THROWS_AS(sign_flip_test(groups, std::vector<double>{1, std::nan("")}), Error);
  CHECK_THROWS_AS(sign_flip_test(groups, std::vector<double>{1, 2}, {0}), Error);
  const auto statistic = [](const auto&) { return std::optional(1.0); };
  CHECK_THROWS_AS(swap_test(groups, std::vector<double>{1}, std::vector<double>{1, 2}, statistic), Error);
  CHECK_THROWS_AS(swap_test(groups, std::vector<double>{1, 2}, std::vector<double>{1}, statistic), Error);
}

}  // namespace daug
