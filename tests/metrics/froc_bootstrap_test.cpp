#include "daug/metrics/froc_bootstrap.h"

#include <cmath>
#include <optional>
#include <vector>

#include "daug/core/random.h"
#include "metrics/intervals.h"
#include "support/catch.h"

namespace daug {
namespace {

/// Candidates of a few findings in images of patients with several; scores tie in every other cohort.
struct Cohort {
  std::vector<std::int64_t> patients;
  std::vector<FrocFinding> findings = std::vector<FrocFinding>(3);

  explicit Cohort(std::uint64_t item) {
    RandomStream random(31, item, "froc bootstrap");
    for (std::int64_t patient = 0; patient < 20; ++patient)
      for (std::uint32_t image = 0; image <= random.below(3); ++image) {
        patients.push_back(500 - patient);
        for (std::size_t f = 0; f < findings.size(); ++f) {
          if (random.below(4) == 0) continue;  // nobody knows
          FrocImage seen;
          seen.lesions = f == 2 ? (patient < 2 ? 1U : 0U) : random.below(3);  // one finding is rare
          for (std::uint32_t d = random.below(6); d > 0; --d)
            seen.detections.push_back(
                {item % 2 ? random.below(5) : random.uniform(),
                 static_cast<std::int64_t>(random.below(static_cast<std::uint32_t>(seen.lesions) + 1)) - 1});
          findings[f].images.push_back(seen);
          findings[f].rows.push_back(patients.size() - 1);
        }
      }
  }

  /// A finding's curve over some rows, as often as they come.
  std::optional<FrocCurve> curve(std::size_t finding, const std::vector<std::size_t>& rows) const {
    std::vector<FrocImage> images;
    for (const std::size_t row : rows)
      for (std::size_t i = 0; i < findings[finding].rows.size(); ++i)
        if (findings[finding].rows[i] == row) images.push_back(findings[finding].images[i]);
    return froc_curve(images);
  }
};

}  // namespace

TEST_CASE("sensitivities of sorted candidates equal those of a curve drawn anew", "[metrics]") {
  const std::vector<double> rates{0, 0.3, 1, 2.5};
  for (std::uint64_t item = 0; item < 4; ++item) {
    const Cohort cohort(item);
    const BootstrapOptions options{60, 0.9, item, item < 3 ? IntervalMethod::kPercentile : IntervalMethod::kBca};
    const FrocIntervals fast = bootstrap_froc(cohort.findings, cohort.patients, rates, options);
    REQUIRE(fast.finding.size() == cohort.findings.size());
    REQUIRE(fast.macro.size() == rates.size());
    for (std::size_t f = 0; f < cohort.findings.size(); ++f)
      check_equal(fast.finding[f], bootstrap(
                                       cohort.patients,
                                       [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
                                         const auto curve = cohort.curve(f, rows);
                                         return curve ? froc_score(*curve, rates) : std::nullopt;
                                       },
                                       options));
    const auto macro = [&](const std::vector<double>& at) {
      return bootstrap(
          cohort.patients,
          [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
            double sum = 0, defined = 0;
            for (std::size_t f = 0; f < cohort.findings.size(); ++f)
              if (const auto curve = cohort.curve(f, rows)) {
                sum += *froc_score(*curve, at);
                ++defined;
              }
            return defined > 0 ? std::optional(sum / defined) : std::nullopt;
          },
          options);
    };
    for (std::size_t r = 0; r < rates.size(); ++r) check_equal(fast.macro[r], macro({rates[r]}));
    check_equal(fast.score, macro(rates));
    CHECK(fast.finding[2]->degenerate > 0);  // resamples without the rare finding's patients
  }
}

TEST_CASE("candidates count as often as their patient, by hand", "[metrics]") {
  // Patient 0: two lesions, one found at 0.9; patient 1: a normal image with false alarms at 0.8 and 0.4.
  const std::vector<FrocImage> images{{2, {{0.9, 0}, {0.5, 0}, {0.4, 1}}}, {0, {{0.8, -1}, {0.4, -1}}}};
  const RankedDetections ranked(images, std::vector<std::uint32_t>{0, 1});
  CHECK(ranked.sensitivities({1, 1}, {0, 0.5, 0.99, 1}) == std::vector<double>{0.5, 0.5, 0.5, 1});
  CHECK(ranked.sensitivities({1, 3}, {0, 1, 1.5}) == std::vector<double>{0.5, 0.5, 1});  // 3 and 6 alarms in 4 images
  CHECK(ranked.sensitivities({2, 0}, {0}) == std::vector<double>{1});
  CHECK(std::isnan(ranked.sensitivities({0, 5}, {0})[0]));
}

TEST_CASE("FROC intervals need lesions and refuse bad input", "[metrics]") {
  const std::vector<std::int64_t> patients{1, 2};
  const FrocFinding normal{{{0, {{1, -1}}}, {0, {}}}, {0, 1}}, found{{{1, {{1, 0}}}, {0, {}}}, {0, 1}};
  const auto none = bootstrap_froc(std::vector<FrocFinding>{normal}, patients);
  CHECK_FALSE(none.score);
  CHECK_FALSE(none.finding[0]);
  CHECK_FALSE(none.macro[0]);
  const auto half = bootstrap_froc(std::vector<FrocFinding>{normal, found}, patients);
  CHECK_FALSE(half.finding[0]);
  CHECK(half.score->value == 1);  // what has no lesion is in no average
  CHECK_FALSE(bootstrap_froc(std::vector<FrocFinding>{}, patients).score);
  for (const auto& rates : std::vector<std::vector<double>>{{}, {-1}, {1, 1}, {2, 1}})
    CHECK_THROWS_AS(bootstrap_froc(std::vector<FrocFinding>{found}, patients, rates), Error);
  CHECK_THROWS_AS(bootstrap_froc(std::vector<FrocFinding>{{found.images, {0, 2}}}, patients), Error);
  CHECK_THROWS_AS(bootstrap_froc(std::vector<FrocFinding>{{found.images, {0}}}, patients), Error);
  CHECK_THROWS_AS(RankedDetections(found.images, std::vector<std::uint32_t>{0, 1}).sensitivities({1}, {1}), Error);
}

}  // namespace daug
