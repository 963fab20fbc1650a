#include "daug/metrics/classification_bootstrap.h"

#include <cmath>
#include <vector>

#include "daug/core/random.h"
#include "metrics/intervals.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

/// Several findings of patients with several images; one finding is rare, some cells are unknown, scores tie.
struct Cohort {
  std::size_t rows = 0, findings = 3;
  std::vector<double> scores;
  Labels labels, known;
  std::vector<std::int64_t> patients;

  Cohort(std::uint64_t item, std::size_t count, std::uint32_t levels) {
    RandomStream random(19, item, "classification bootstrap");
    for (std::size_t patient = 0; patient < count; ++patient)
      for (std::uint32_t image = 0; image <= random.below(3); ++image, ++rows) {
        patients.push_back(static_cast<std::int64_t>(1000 - patient));
        for (std::size_t f = 0; f < findings; ++f) {
          labels.push_back(f == 2 ? patient < 2 : random.uniform() < 0.3);
          known.push_back(random.uniform() < 0.9 || f == 2);
          scores.push_back(std::floor((random.normal() + labels.back()) * levels));
        }
      }
  }
  MultiLabelData data() const { return {{scores, rows, findings}, {labels, rows, findings}, {known, rows, findings}}; }
};

}  // namespace

TEST_CASE("bootstraps of sorted rows equal those that sort each resample anew", "[metrics]") {
  for (std::uint64_t item = 0; item < 4; ++item) {
    const Cohort cohort(item, 25, item % 2 ? 1 : 1000);
    const MultiLabelData data = cohort.data();
    const BootstrapOptions options{60, 0.9, item, item < 2 ? IntervalMethod::kPercentile : IntervalMethod::kBca};
    const auto slow = [&](auto by_finding, auto pick) {
      return bootstrap(
          cohort.patients,
          [&](const std::vector<std::size_t>& rows) { return pick(by_finding(data, ArrayView<std::size_t>(rows))); },
          options);
    };
    const auto macro = [](const FindingSummary& s) { return s.macro; };
    const auto weighted = [](const FindingSummary& s) { return s.weighted; };
    const auto area = [](const auto& d, const auto& rows) { return auroc_by_finding(d, rows); };
    const auto precision = [](const auto& d, const auto& rows) { return average_precision_by_finding(d, rows); };
    const FindingIntervals areas = bootstrap_auroc(data, cohort.patients, options);
    const FindingIntervals precisions = bootstrap_average_precision(data, cohort.patients, options);
    check_equal(areas.macro, slow(area, macro));
    check_equal(areas.weighted, slow(area, weighted));
    check_equal(precisions.macro, slow(precision, macro));
    check_equal(precisions.weighted, slow(precision, weighted));
    REQUIRE(areas.finding.size() == cohort.findings);
    for (std::size_t f = 0; f < cohort.findings; ++f) {
      const auto one = [f](const FindingSummary& s) { return s.finding[f]; };
      check_equal(areas.finding[f], slow(area, one));
      check_equal(precisions.finding[f], slow(precision, one));
    }
    const auto pooled = [&](auto micro) {
      return bootstrap(
          cohort.patients,
          [&](const std::vector<std::size_t>& rows) { return micro(data, ArrayView<std::size_t>(rows)); }, options);
    };
    check_equal(bootstrap_micro_auroc(data, cohort.patients, options),
                pooled([](const auto& d, const auto& rows) { return micro_auroc(d, rows); }));
    check_equal(bootstrap_micro_average_precision(data, cohort.patients, options),
                pooled([](const auto& d, const auto& rows) { return micro_average_precision(d, rows); }));
    // Two patients have the rare finding: about e^-2 of the resamples lack both.
    CHECK(areas.finding[2]->degenerate > 0);
  }
}

TEST_CASE("the calibration error's bootstrap equals one that puts each resample into bins anew", "[metrics]") {
  for (std::uint64_t item = 0; item < 3; ++item) {
    Cohort cohort(item, 25, item % 2 ? 1 : 1000);
    for (double& score : cohort.scores) score = detail::sigmoid(score / (item % 2 ? 1 : 1000));
    cohort.scores[1] = 1;  // a bin of its own
    const MultiLabelData data = cohort.data();
    const BootstrapOptions options{60, 0.9, item, item < 2 ? IntervalMethod::kPercentile : IntervalMethod::kBca};
    const auto slow = bootstrap(
        cohort.patients,
        [&](const std::vector<std::size_t>& rows) {
          std::vector<double> probabilities;
          Labels labels;
          for (const std::size_t row : rows)
            for (std::size_t f = 0; f < cohort.findings; ++f)
              if (const std::size_t k = row * cohort.findings + f; cohort.known[k]) {
                probabilities.push_back(cohort.scores[k]);
                labels.push_back(cohort.labels[k]);
              }
          return calibration_error(probabilities, labels, 7);
        },
        options);
    check_equal(bootstrap_calibration_error(data, cohort.patients, 7, options), slow);
  }
  const std::vector<std::int64_t> patients{1, 2};
  CHECK_FALSE(bootstrap_calibration_error(
      {{std::vector<double>{0.5, 1}, 2, 1}, {Labels{0, 1}, 2, 1}, {Labels{0, 0}, 2, 1}}, patients));
  CHECK_THROWS_AS(
      bootstrap_calibration_error({{std::vector<double>{0.5, 1.5}, 2, 1}, {Labels{0, 1}, 2, 1}, {}}, patients), Error);
}

TEST_CASE("rows count as often as their patient, by hand", "[metrics]") {
  const std::vector<double> scores{0.9, 0.8, 0.8, 0.1};
  const Labels labels{1, 0, 1, 0};
  const std::vector<std::uint32_t> patients{0, 1, 2, 1};
  const RankedRows rows(scores, labels, patients);
  CHECK(rows.auroc({1, 1, 1}).value == Approx((1 + 1 + 0.5 + 1) / 4));
  CHECK(rows.auroc({0, 2, 3}).value == Approx(0.75));
  CHECK(rows.auroc({0, 2, 3}).positives == 3);
  CHECK(rows.average_precision({1, 1, 1}).value == Approx(0.5 * 1 + 0.5 * 2 / 3.0));
  CHECK(rows.average_precision({2, 1, 0}).value == 1);
  CHECK(std::isnan(rows.auroc({1, 0, 1}).value));
  CHECK(std::isnan(rows.average_precision({0, 5, 0}).value));
}

TEST_CASE("fast bootstraps leave out what does not exist and refuse bad input", "[metrics]") {
  const std::vector<double> scores{0.1, 0.2, 0.3, 0.4};
  const Labels labels{1, 0, 1, 0};
  const std::vector<std::int64_t> patients{1, 2};
  const auto result = bootstrap_auroc({{scores, 2, 2}, {labels, 2, 2}, {}}, patients);
  CHECK_FALSE(result.finding[0]);
  CHECK_FALSE(result.macro);
  CHECK_FALSE(result.weighted);
  CHECK_FALSE(bootstrap_micro_auroc({{std::vector<double>{1, 2}, 2, 1}, {Labels{1, 1}, 2, 1}, {}}, patients));
  CHECK_THROWS_AS(bootstrap_micro_auroc({{scores, 4, 1}, {labels, 4, 1}, {}}, patients), Error);
  CHECK_THROWS_AS(bootstrap_auroc({{scores, 4, 1}, {labels, 4, 1}, {}}, patients), Error);
  CHECK_THROWS_AS(bootstrap_auroc({{scores, 4, 1}, {labels, 2, 2}, {}}, patients), Error);
  CHECK_THROWS_AS(bootstrap_auroc({{scores, 2, 2}, {Labels{1, 0, 7, 0}, 2, 2}, {}}, patients), Error);
  CHECK_THROWS_AS(bootstrap_auroc({{scores, 2, 2}, {labels, 2, 2}, {}}, patients, {0}), Error);
  const std::vector<std::uint32_t> owners{0, 3};
  const RankedRows rows(std::vector<double>{1, 2}, Labels{0, 1}, owners);
  CHECK_THROWS_AS(rows.auroc({1, 1, 1}), Error);
  CHECK_THROWS_AS(RankedRows(std::vector<double>{1, 2}, Labels{0}, owners), Error);
  CHECK_THROWS_AS(RankedRows(std::vector<double>{1, std::nan("")}, Labels{0, 1}, owners), Error);
}

}  // namespace daug
