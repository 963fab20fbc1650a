#pragma once
/// @file
/// Is one model better than another? Paired permutation tests whose unit is the patient, and corrections for asking
/// many questions at once.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/view.h"

namespace daug {

/// How many permutations, which draws.
struct PermutationOptions {
  int permutations = 10000;  ///< >= 1; with at most this many sign patterns all of them are counted instead
  std::uint64_t seed = 0;    ///< any value

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(permutations >= 1, "PermutationOptions", "permutations", "a value >= 1", permutations);
  }
};

/// Outcome of a permutation test.
struct PermutationTest {
  double statistic = 0;          ///< of the data themselves
  double p = 1;                  ///< two-sided, in (0, 1]
  std::size_t patients = 0;      ///< distinct patients
  std::size_t permutations = 0;  ///< how many sign patterns were counted
  bool exact = false;            ///< whether these were all there are
};

namespace detail {

/// Calls `visit(flip)` for all 2^patients patterns or, when these are too many, for random ones; `flip` [patients] is
/// 0 or 1. Returns how many it visited and whether those were all.
template <class Visit>
std::pair<std::size_t, bool> for_each_flip(std::size_t patients, const PermutationOptions& options, Visit&& visit) {
  std::vector<std::uint8_t> flip(patients);
  const auto limit = static_cast<std::size_t>(options.permutations);
  const bool exact = patients < 31 && (std::size_t{1} << patients) <= limit;
  const std::size_t count = exact ? std::size_t{1} << patients : limit;
  for (std::size_t pattern = 0; pattern < count; ++pattern) {
    RandomStream random(options.seed, pattern, "permutation");
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < patients; ++i) {
      if (!exact && i % 32 == 0) bits = random();
      flip[i] = exact ? (pattern >> i) & 1 : (bits >> (i % 32)) & 1;
    }
    visit(std::as_const(flip));
  }
  return {count, exact};
}

/// Share of the permuted statistics at least as large; random patterns count the data themselves once (Phipson & Smyth,
/// 2010), so that the p-value is never 0.
inline double permutation_p(std::size_t as_large, std::size_t count, bool exact) {
  const double more = exact ? 0 : 1;
  return (static_cast<double>(as_large) + more) / (static_cast<double>(count) + more);
}

/// The swap test of `figure_of(flip, other)`: the figure, or nothing, of the first arm (of the other one) once the
/// patients with flip 1 are exchanged.
template <class FigureOf>
std::optional<PermutationTest> swap_test_by_flips(std::size_t patients, const PermutationOptions& options,
                                                  FigureOf&& figure_of) {
  double scale = 0;  // of the two figures compared last, which another order of rows changes by rounding
  const auto difference = [&](const std::vector<std::uint8_t>& flip) -> std::optional<double> {
    const std::optional<double> first = figure_of(flip, false);
    const std::optional<double> other = first ? figure_of(flip, true) : std::nullopt;
    if (!other || std::isnan(*first) || std::isnan(*other)) return std::nullopt;
    scale = std::abs(*first) + std::abs(*other);
    return *first - *other;
  };
  const std::optional<double> observed = difference(std::vector<std::uint8_t>(patients, 0));
  if (!observed || patients == 0) return std::nullopt;
  const double threshold = std::abs(*observed) - 1e-12 * scale;
  std::size_t as_large = 0;
  const auto [count, exact] = for_each_flip(patients, options, [&](const std::vector<std::uint8_t>& flip) {
    const std::optional<double> permuted = difference(flip);
    as_large += !permuted || std::abs(*permuted) >= threshold - 1e-12 * scale;
  });
  return PermutationTest{*observed, permutation_p(as_large, count, exact), patients, count, exact};
}

}  // namespace detail

/// Sign-flip test of a paired difference: under the hypothesis that two models are exchangeable for each patient, the
/// patient's sum `D_g = sum of d_i over its rows` is as likely negative. `T = |sum_g D_g|`;
/// `p = #{s in {-1, 1}^G : |sum_g s_g D_g| >= T} / 2^G` or, with B random patterns, `(1 + #{...}) / (1 + B)`.
///
/// `groups` [N]: the patient of each row. `differences` [N]: a per-row figure of one model minus that of the other (the
/// AP of a query, the Brier score of a row), finite (kNumeric). `statistic` of the result is the mean difference of the
/// rows. Deterministic for a seed. Nothing without rows.
inline std::optional<PermutationTest> sign_flip_test(ArrayView<std::int64_t> groups, ArrayView<double> differences,
                                                     const PermutationOptions& options = {}) {
  constexpr const char* kFunction = "sign_flip_test";
  options.validate();
  detail::require_same_size(kFunction, "differences", groups, differences);
  const PatientGroups patients(groups);
  if (patients.size() == 0) return std::nullopt;
  std::vector<double> sums(patients.size(), 0);
  double total = 0, scale = 0;
  for (std::size_t row = 0; row < differences.size(); ++row) {
    if (!std::isfinite(differences[row]))
      fail(ErrorCode::kNumeric, kFunction, "differences", "finite values", differences[row]);
    sums[patients.of(row)] += differences[row];
  }
  for (double sum : sums) {
    total += sum;
    scale += std::abs(sum);
  }
  const double threshold = std::abs(total) - 1e-12 * scale;  // sums in another order differ by rounding
  std::size_t as_large = 0;
  const auto [count, exact] = detail::for_each_flip(patients.size(), options, [&](const auto& flip) {
    double sum = 0;
    for (std::size_t g = 0; g < sums.size(); ++g) sum += flip[g] ? -sums[g] : sums[g];
    as_large += std::abs(sum) >= threshold;
  });
  return PermutationTest{total / static_cast<double>(differences.size()), detail::permutation_p(as_large, count, exact),
                         patients.size(), count, exact};
}

/// Swap test of two score columns under any statistic that is not a mean of rows (an AUROC, a calibration error): a
/// permutation exchanges the two models' scores of whole patients; `T = |f(A) - f(B)|`, p as in `sign_flip_test`.
///
/// `groups`, `first`, `second` [N]. `statistic(scores)` takes a `const std::vector<double>&` [N] and returns
/// std::optional<double>. Exchanging scores supposes that both models' mean the same: give probabilities, or ranks
/// (Bandos et al., 2005). Permutations that leave the statistic undefined count as large, so p errs upwards. Nothing
/// when the data do not define it.
template <class Statistic>
std::optional<PermutationTest> swap_test(ArrayView<std::int64_t> groups, ArrayView<double> first,
                                         ArrayView<double> second, Statistic&& statistic,
                                         const PermutationOptions& options = {}) {
  constexpr const char* kFunction = "swap_test";
  options.validate();
  detail::require_same_size(kFunction, "first", groups, first);
  detail::require_same_size(kFunction, "second", groups, second);
  const PatientGroups patients(groups);
  std::vector<double> scores(first.size());
  const auto figure_of = [&](const std::vector<std::uint8_t>& flip, bool other) -> std::optional<double> {
    for (std::size_t row = 0; row < scores.size(); ++row)
      scores[row] = (flip[patients.of(row)] != 0) == other ? first[row] : second[row];
    return statistic(std::as_const(scores));
  };
  return detail::swap_test_by_flips(patients.size(), options, figure_of);
}

/// Whose rows are whose once two tables of the same N rows, with `patients`, stand one above the other: patient p of
/// the first is p, and of the second `patients.size() + p`. Throws kUnsupported from 2^29 rows on.
inline PatientGroups stacked_patients(const PatientGroups& patients) {
  std::vector<std::int64_t> names(2 * patients.rows());
  for (std::size_t row = 0; row < patients.rows(); ++row) {
    names[row] = patients.of(row);
    names[patients.rows() + row] = static_cast<std::int64_t>(patients.size()) + patients.of(row);
  }
  return PatientGroups(names);
}

/// `swap_test` by copies in place of scores, for a statistic that has sorted or summed both arms' rows once.
///
/// `statistic(copies)` takes a `const PatientCopies&` [2 P] of the patients as stacked (stacked_patients): for every
/// patient 1 where the arm has the rows of the first table or of the second, and 0 for the other. It returns a double,
/// NaN where it is undefined, and is called for either arm of a permutation. RankedRows, RankedFindings and
/// SummedValues of a stacked table are such statistics. The same permutations as swap_test's for the same patients and
/// seed.
template <class Statistic>
std::optional<PermutationTest> swap_test_copies(const PatientGroups& patients, Statistic&& statistic,
                                                const PermutationOptions& options = {}) {
  options.validate();
  PatientCopies copies(2 * patients.size());
  const auto figure_of = [&](const std::vector<std::uint8_t>& flip, bool other) -> std::optional<double> {
    for (std::size_t patient = 0; patient < flip.size(); ++patient) {
      const bool of_first = (flip[patient] != 0) == other;
      copies[patient] = of_first ? 1 : 0;
      copies[flip.size() + patient] = of_first ? 0 : 1;
    }
    return statistic(std::as_const(copies));
  };
  return detail::swap_test_by_flips(patients.size(), options, figure_of);
}

/// `swap_test` of `auroc`, with the same bits: the scores of both arms are sorted together once, and a permutation
/// reads off either arm's area in one pass over that order, whatever ties there are within and between the arms.
///
/// `groups`, `first`, `second`, `labels` [N], as in `swap_test` and `auroc`. Nothing when a class is missing. Cost:
/// O(N log N), then O(N) a permutation. Throws kInvalidArgument for lengths and labels, kNumeric for scores that are
/// not finite.
inline std::optional<PermutationTest> swap_test_auroc(ArrayView<std::int64_t> groups, ArrayView<double> first,
                                                      ArrayView<double> second, ArrayView<std::uint8_t> labels,
                                                      const PermutationOptions& options = {}) {
  constexpr const char* kFunction = "swap_test_auroc";
  options.validate();
  detail::require_same_size(kFunction, "first", groups, first);
  detail::require_same_size(kFunction, "second", groups, second);
  detail::require_same_size(kFunction, "labels", groups, labels);
  const PatientGroups patients(groups), stacked = stacked_patients(patients);
  std::vector<double> scores(first.begin(), first.end());
  scores.insert(scores.end(), second.begin(), second.end());
  std::vector<std::uint8_t> both(labels.begin(), labels.end());
  both.insert(both.end(), labels.begin(), labels.end());
  std::vector<std::uint32_t> owners;
  for (std::size_t row = 0; row < stacked.rows(); ++row) owners.push_back(stacked.of(row));
  const RankedRows ranked(scores, both, owners);
  return swap_test_copies(
      patients, [&](const PatientCopies& copies) { return ranked.auroc(copies).value; }, options);
}

/// How p-values are corrected for their number m. With `p_(1) <= ... <= p_(m)`:
enum class PCorrection {
  kBonferroni,         ///< `m p`, family-wise error
  kHolm,               ///< `max_{j <= i} (m - j + 1) p_(j)`, family-wise error (Holm, 1979); never above Bonferroni
  kBenjaminiHochberg,  ///< `min_{j >= i} m p_(j) / j`, false discovery rate (Benjamini & Hochberg, 1995)
};

/// The p-values [m], each in [0, 1], adjusted: a question is answered at level alpha when its adjusted p <= alpha. At
/// most 1, in the order given. Throws kInvalidArgument for a value outside [0, 1], NaN included.
inline std::vector<double> adjust_p(ArrayView<double> p, PCorrection correction) {
  const std::size_t m = p.size();
  for (double value : p) require_range(value, 0, 1, "adjust_p", "p");
  std::vector<std::size_t> order(m);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(m);
  double running = correction == PCorrection::kBenjaminiHochberg ? 1 : 0;
  for (std::size_t step = 0; step < m; ++step) {
    const bool falling = correction == PCorrection::kBenjaminiHochberg;
    const std::size_t i = falling ? m - 1 - step : step;  // place among the sorted, from 0
    const double value = p[order[i]];
    if (falling)
      running = std::min(running, value * (static_cast<double>(m) / static_cast<double>(i + 1)));
    else if (correction == PCorrection::kHolm)
      running = std::max(running, value * static_cast<double>(m - i));
    else
      running = value * static_cast<double>(m);
    adjusted[order[i]] = std::min(running, 1.0);
  }
  return adjusted;
}

}  // namespace daug
