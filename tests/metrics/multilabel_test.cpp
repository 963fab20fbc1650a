#include "daug/metrics/multilabel.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Labels = std::vector<std::uint8_t>;

}  // namespace

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

TEST_CASE("multi-label figures agree with counting pairs of cells", "[metrics]") {
  using Cells = std::vector<std::pair<double, bool>>;  // score, label
  const auto counted_auroc = [](const Cells& cells) -> std::optional<double> {
    double wins = 0, pairs = 0;
    for (const auto& [score, positive] : cells)
      for (const auto& [other, also] : cells) {
        if (!positive || also) continue;
        wins += score > other ? 1 : score == other ? 0.5 : 0;
        ++pairs;
      }
    if (pairs == 0) return std::nullopt;
    return wins / pairs;
  };
  // The mean over the positives of the precision among the cells that score as much or more: the steps' sum.
  const auto counted_precision = [](const Cells& cells) -> std::optional<double> {
    double sum = 0, positives = 0;
    for (const auto& [score, positive] : cells) {
      if (!positive) continue;
      double found = 0, right = 0;
      for (const auto& [other, also] : cells) {
        found += other >= score;
        right += other >= score && also;
      }
      sum += right / found;
      ++positives;
    }
    if (positives == 0) return std::nullopt;
    return sum / positives;
  };
  const auto check_same = [](const std::optional<double>& found, const std::optional<double>& expected) {
    REQUIRE(found.has_value() == expected.has_value());
    if (found) CHECK(*found == Approx(*expected).epsilon(1e-12));
  };
  constexpr std::size_t kFindings = 4;
  for (std::uint64_t item = 0; item < 30; ++item) {
    RandomStream random(37, item, "multi-label");
    const std::size_t rows = 3 + 2 * static_cast<std::size_t>(item);
    std::vector<double> scores;
    Labels labels, known;
    std::vector<Cells> columns(kFindings);
    Cells pooled;
    for (std::size_t cell = 0; cell < rows * kFindings; ++cell) {
      const std::size_t f = cell % kFindings;
      const bool positive = f > 0 && random.uniform() < 0.2 * static_cast<double>(f);  // the first has none
      const bool is_known = item % 3 == 0 || random.below(4) > 0;
      scores.push_back(item % 2 ? random.below(6) : random.normal());
      labels.push_back(static_cast<std::uint8_t>(is_known ? positive : 77));  // an unknown cell may hold anything
      known.push_back(is_known);
      if (!is_known) continue;
      columns[f].emplace_back(scores.back(), positive);
      pooled.emplace_back(scores.back(), positive);
    }
    MultiLabelData data{{scores, rows, kFindings}, {labels, rows, kFindings}, {}};
    if (item % 3 != 0) data.known = MatrixView<std::uint8_t>(known, rows, kFindings);
    INFO("item " << item);
    for (const bool area : {true, false}) {
      const FindingSummary summary = area ? auroc_by_finding(data) : average_precision_by_finding(data);
      double sum = 0, defined = 0, weighted = 0, weights = 0;
      REQUIRE(summary.finding.size() == kFindings);
      for (std::size_t f = 0; f < kFindings; ++f) {
        std::optional<double> expected = counted_auroc(columns[f]);  // none where a class is missing
        if (expected && !area) expected = counted_precision(columns[f]);
        check_same(summary.finding[f], expected);
        if (!expected) continue;
        double positives = 0;
        for (const auto& [score, positive] : columns[f]) positives += positive;
        sum += *expected;
        ++defined;
        weighted += positives * *expected;
        weights += positives;
      }
      CHECK(static_cast<double>(summary.left_out) == kFindings - defined);
      check_same(summary.macro, defined > 0 ? std::optional<double>(sum / defined) : std::nullopt);
      check_same(summary.weighted, weights > 0 ? std::optional<double>(weighted / weights) : std::nullopt);
    }
    check_same(micro_auroc(data), counted_auroc(pooled));
    check_same(micro_average_precision(data), counted_precision(pooled));
  }
}

TEST_CASE("published averages count findings with one class as their code does", "[metrics]") {
  // Columns: informative; all negative; all positive.
  const std::vector<double> scores{0.9, 0.1, 0.3,  //
                                   0.8, 0.2, 0.9,  //
                                   0.3, 0.3, 0.8,  //
                                   0.4, 0.4, 0.1};
  const Labels labels{1, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1};
  const MultiLabelData data{{scores, 4, 3}, {labels, 4, 3}, {}};
  const FindingSummary area = auroc_by_finding(data, std::nullopt, Compat::kPublished);
  CHECK(area.finding[0].value() == 0.75);
  CHECK(std::isnan(area.finding[1].value()));
  CHECK(std::isnan(area.macro.value()));
  CHECK(std::isnan(area.weighted.value()));  // the all-positive column has a weight
  CHECK(area.left_out == 0);
  const FindingSummary precision = average_precision_by_finding(data, std::nullopt, Compat::kPublished);
  const double first = 0.5 * 1 + 0.5 * 2 / 3.0;
  CHECK(precision.finding[1].value() == 0);
  CHECK(precision.finding[2].value() == 1);
  CHECK(precision.macro.value() == Approx((first + 0 + 1) / 3));
  CHECK(precision.weighted.value() == Approx((2 * first + 4 * 1) / 6));
  CHECK(average_precision_by_finding(data).macro.value() == Approx(first));

  SECTION("NaN without a weight does not spoil the weighted mean") {
    const std::vector<double> two{0.9, 0.1, 0.8, 0.2, 0.3, 0.3, 0.4, 0.4};
    const Labels negative{1, 0, 0, 0, 0, 0, 1, 0};
    const auto summary = auroc_by_finding({{two, 4, 2}, {negative, 4, 2}, {}}, std::nullopt, Compat::kPublished);
    CHECK(std::isnan(summary.macro.value()));
    CHECK(summary.weighted.value() == 0.75);
  }
}

TEST_CASE("bad cells are refused even where a finding would be left out", "[metrics]") {
  const std::vector<double> scores{0.1, 0.2}, broken{0.1, std::nan("")};
  CHECK_THROWS_AS(auroc_by_finding({{scores, 2, 1}, {Labels{0, 2}, 2, 1}, {}}), Error);
  CHECK_THROWS_AS(auroc_by_finding({{broken, 2, 1}, {Labels{0, 0}, 2, 1}, {}}), Error);
  CHECK_THROWS_AS(micro_auroc({{broken, 2, 1}, {Labels{0, 0}, 2, 1}, {}}), Error);
  CHECK_THROWS_AS(summarize_findings({0.5, 0.2}, {1}), Error);
}

TEST_CASE("weighted averages weigh by positives", "[metrics]") {
  const FindingSummary summary = summarize_findings({0.5, std::nullopt, 1.0}, {3, 100, 1});
  CHECK(summary.macro.value() == 0.75);
  CHECK(summary.weighted.value() == Approx((0.5 * 3 + 1.0) / 4));
  CHECK(summary.left_out == 1);
  CHECK_FALSE(summarize_findings({std::nullopt}, {0}).macro);
  CHECK_FALSE(summarize_findings({std::nullopt}, {0}).weighted);
}

}  // namespace daug
