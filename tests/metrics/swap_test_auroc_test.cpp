// Swap tests that sort once, against sorting for every permutation and against counting pairs for every pattern.

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/comparison.h"
#include "daug/metrics/multilabel.h"
#include "support/catch.h"

namespace daug {
namespace {

/// Rows of some patients in two arms, with ties within and between them.
struct SwapProblem {
  std::vector<std::int64_t> groups;
  std::vector<double> first, second;
  std::vector<std::uint8_t> labels;
};

SwapProblem swap_problem(std::uint64_t item, std::int64_t patients) {
  RandomStream random(17, item, "swap problems");
  SwapProblem problem;
  const double levels = item % 2 == 0 ? 4 : 1e6;
  for (std::int64_t patient = 0; patient < patients; ++patient)
    for (std::uint32_t row = 0; row <= random.below(3); ++row) {
      problem.groups.push_back(1000 - 3 * patient);  // any numbers, in any order
      problem.labels.push_back(random.below(3) == 0 ? 1 : 0);
      const double shared = random.uniform() + 0.3 * problem.labels.back();
      problem.first.push_back(std::round(levels * (shared + 0.3 * random.uniform())) / levels);
      problem.second.push_back(std::round(levels * (0.7 * shared + 0.5 * random.uniform())) / levels);
    }
  problem.labels.front() = 1;
  problem.labels.back() = 0;
  return problem;
}

/// The definition: pairs of a positive and a negative that stand in this order, ties one half.
double area_by_pairs(const std::vector<double>& scores, const std::vector<std::uint8_t>& labels) {
  double won = 0, pairs = 0;
  for (std::size_t i = 0; i < scores.size(); ++i)
    for (std::size_t j = 0; j < scores.size(); ++j) {
      if (labels[i] != 1 || labels[j] != 0) continue;
      won += scores[i] > scores[j] ? 1 : scores[i] == scores[j] ? 0.5 : 0;
      ++pairs;
    }
  return won / pairs;
}

void check_same(const std::optional<PermutationTest>& a, const std::optional<PermutationTest>& b) {
  REQUIRE(a);
  REQUIRE(b);
  CHECK(a->statistic == b->statistic);
  CHECK(a->p == b->p);
  CHECK(a->patients == b->patients);
  CHECK(a->permutations == b->permutations);
  CHECK(a->exact == b->exact);
}

}  // namespace

TEST_CASE("a swap test of AUROCs that sorts once has the bits of one that always sorts", "[metrics]") {
  for (std::uint64_t item = 0; item < 30; ++item) {
    const SwapProblem problem = swap_problem(item, 2 + static_cast<std::int64_t>(item));
    const auto area = [&](const std::vector<double>& scores) { return auroc(scores, problem.labels); };
    const PermutationOptions options{200, item};  // all patterns of up to seven patients, else random ones
    check_same(swap_test_auroc(problem.groups, problem.first, problem.second, problem.labels, options),
               swap_test(problem.groups, problem.first, problem.second, area, options));
  }
}

TEST_CASE("a swap test of AUROCs agrees with counting pairs under all patterns", "[metrics]") {
  for (std::uint64_t item = 0; item < 8; ++item) {
    constexpr std::int64_t kPatients = 6;
    const SwapProblem problem = swap_problem(item, kPatients);
    const double observed =
        area_by_pairs(problem.first, problem.labels) - area_by_pairs(problem.second, problem.labels);
    int as_large = 0;
    for (int pattern = 0; pattern < 1 << kPatients; ++pattern) {
      auto a = problem.first, b = problem.second;
      for (std::size_t row = 0; row < a.size(); ++row)
        if (pattern >> ((1000 - problem.groups[row]) / 3) & 1) std::swap(a[row], b[row]);
      as_large +=
          std::abs(area_by_pairs(a, problem.labels) - area_by_pairs(b, problem.labels)) >= std::abs(observed) - 1e-9;
    }
    const auto test = swap_test_auroc(problem.groups, problem.first, problem.second, problem.labels);
    REQUIRE(test);
    CHECK(test->exact);
    CHECK(test->statistic == Approx(observed).margin(1e-12));
    CHECK(test->p == Approx(as_large / std::pow(2.0, kPatients)));
  }
}

TEST_CASE("a swap test by copies takes figures of many findings", "[metrics]") {
  // Two findings of the same rows, one of them unknown in some; a permutation moves a patient's rows of both.
  for (std::uint64_t item = 0; item < 10; ++item) {
    const SwapProblem one = swap_problem(item, 9), other = swap_problem(item + 100, 40);
    const std::size_t rows = one.groups.size();
    std::vector<double> tables[2];
    std::vector<std::uint8_t> labels, known;
    for (std::size_t row = 0; row < rows; ++row) {
      tables[0].insert(tables[0].end(), {one.first[row], other.first[row]});
      tables[1].insert(tables[1].end(), {one.second[row], other.second[row]});
      labels.insert(labels.end(), {one.labels[row], other.labels[row]});
      known.insert(known.end(), {std::uint8_t{1}, static_cast<std::uint8_t>(row % 5 != 3)});
    }
    const auto macro = [&](const std::vector<double>& arm_of) {  // whose rows a mixed table has
      std::vector<double> mixed;
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t f = 0; f < 2; ++f) mixed.push_back(tables[arm_of[row] == 1 ? 1 : 0][2 * row + f]);
      return auroc_by_finding({{mixed, rows, 2}, {labels, rows, 2}, {known, rows, 2}}).macro;
    };
    const PermutationOptions options{300, item};
    const auto sorted_always =
        swap_test(one.groups, std::vector<double>(rows, 0), std::vector<double>(rows, 1), macro, options);

    std::vector<double> stacked = tables[0];
    stacked.insert(stacked.end(), tables[1].begin(), tables[1].end());
    std::vector<std::uint8_t> twice = labels, known_twice = known;
    twice.insert(twice.end(), labels.begin(), labels.end());
    known_twice.insert(known_twice.end(), known.begin(), known.end());
    const PatientGroups patients(one.groups);
    const RankedFindings ranked({{stacked, 2 * rows, 2}, {twice, 2 * rows, 2}, {known_twice, 2 * rows, 2}},
                                stacked_patients(patients));
    const auto of_copies = [&](const PatientCopies& copies) { return detail::or_nan(ranked.auroc(copies).macro); };
    check_same(swap_test_copies(patients, of_copies, options), sorted_always);
  }
}

TEST_CASE("swap tests that sort once refuse what others refuse", "[metrics]") {
  const std::vector<std::int64_t> groups{1, 2};
  const std::vector<double> scores{0.5, 0.25};
  const std::vector<std::uint8_t> labels{1, 0};
  CHECK(swap_test_auroc(groups, scores, scores, labels).value().p == 1);
  CHECK_FALSE(swap_test_auroc(groups, scores, scores, std::vector<std::uint8_t>{1, 1}));
  CHECK_FALSE(swap_test_auroc(std::vector<std::int64_t>{}, std::vector<double>{}, std::vector<double>{},
                              std::vector<std::uint8_t>{}));
  const auto nowhere = [](const PatientCopies&) { return std::nan(""); };
  CHECK_FALSE(swap_test_copies(PatientGroups(groups), nowhere));
  const std::vector<double> infinite{0.5, std::numeric_limits<double>::infinity()};
  CHECK_THROWS_WITH(swap_test_auroc(groups, scores, infinite, labels), test::contains_text("finite values"));
  CHECK_THROWS_WITH(swap_test_auroc(groups, scores, scores, std::vector<std::uint8_t>{1, 2}),
                    test::contains_text("0 or 1"));
  CHECK_THROWS_WITH(swap_test_auroc(groups, std::vector<double>{1}, scores, labels),
                    test::contains_text("swap_test_auroc: first"));
  CHECK_THROWS_WITH(swap_test_auroc(groups, scores, std::vector<double>{1}, labels),
                    test::contains_text("swap_test_auroc: second"));
  CHECK_THROWS_WITH(swap_test_auroc(groups, scores, scores, std::vector<std::uint8_t>{1}),
                    test::contains_text("swap_test_auroc: labels"));
  CHECK_THROWS_WITH(swap_test_auroc(groups, scores, scores, labels, {0}), test::contains_text("permutations"));
}

}  // namespace daug
