#pragma once
// Is one arm better than another on the same test images? Differences with intervals and p-values whose unit is the
// patient.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/metrics/bootstrap.h"
#include "daug/metrics/comparison.h"
#include "daug/metrics/multilabel.h"
#include "daug/pipeline/figures.h"
#include "daug/report/html_report.h"
#include "predictions.h"

namespace daug {

/// A figure that a stored table of the test images gives.
struct TableFigure {
  const char* name;     ///< as in metrics.json
  const char* table;    ///< see Predictions
  bool classification;  ///< mean AUROC of probabilities; else mean of values, over images and then over findings
};
inline constexpr TableFigure kTableFigures[] = {{"classification.auroc_macro", kProbabilities, true},
                                                {"retrieval.p_at_5", kPrecisionAt5, false}};

/// The figure of a table [images, findings]; nothing where the data do not define it.
std::optional<double> table_figure(const TableFigure& figure, const Predictions& images,
                                   const std::vector<double>& table);

/// The pairs of arms that the method's questions are about, the one that should be better first.
std::vector<std::pair<std::string, std::string>> arm_comparisons();

/// What two arms differ by in a figure.
struct PairedTest {
  std::string figure, finding;                     ///< its name, and the finding it is of; empty: of all
  std::string arms;                                ///< "FIRST less SECOND"
  double value = 0;                                ///< the first arm's figure less the second's
  double low = std::nan(""), high = std::nan("");  ///< 95 % interval; not-a-number when the data do not define it
  std::optional<double> p, p_holm;                 ///< two-sided, of no difference; corrected for its family
};

/// Tables of two arms, each [images, findings].
struct TablePair {
  const std::vector<double>*first, *second;
};

/// The difference of a figure's mean over `pairs` (one a seed, at least one) of tables of the same images: interval by
/// paired bootstrap of the patients, p by exchanging whole patients' rows of all pairs between the arms
/// (swap_test_copies). `resamples` and `seed` are of both. Nothing where the figure is not defined. Figure, finding and
/// arms are the caller's to fill in.
std::optional<PairedTest> paired_test(const TableFigure& figure, const Predictions& images,
                                      const std::vector<TablePair>& pairs, int resamples, std::uint64_t seed);

/// DeLong's test of every finding's AUROC for two arms' probabilities of the same images, with Obuchowski's extension
/// to patients with several; findings that do not define it are left out. p_holm is of them all.
std::vector<PairedTest> delong_tests(const Predictions& images, const TablePair& probabilities,
                                     const std::string& arms);

/// Two-sided p of no gap, a figure of the rows inside a group less that of the others: twice the share of the gap's
/// patient-bootstrap resamples on the other side of 0, the data counted once, so that it is below 0.05 where the gap's
/// 95 % percentile interval excludes 0. `patients` and `inside` [rows]; `figure` takes rows. Nothing where the gap is
/// not defined.
std::optional<double> gap_p(const std::vector<std::int64_t>& patients, const std::vector<std::uint8_t>& inside,
                            const std::function<std::optional<double>(const std::vector<std::size_t>&)>& figure,
                            const BootstrapOptions& options);

/// Holm's correction of the p-values that a range of tests (with members p and p_holm) has.
template <class Iterator>
void correct_by_holm(Iterator begin, Iterator end) {
  std::vector<double> p;
  for (Iterator test = begin; test != end; ++test)
    if (test->p) p.push_back(*test->p);
  const std::vector<double> adjusted = adjust_p(p, PCorrection::kHolm);
  auto next = adjusted.begin();
  for (Iterator test = begin; test != end; ++test)
    if (test->p) test->p_holm = *next++;
}

/// A test for metrics.json: FIGURE_difference with its interval, FIGURE_difference_p and FIGURE_difference_p_holm.
std::vector<Figure> test_figures(const PairedTest& test, std::int64_t n, const std::string& note = "");

/// A line for each such difference among figures, in their order, those of single findings or all others.
Table tests_table(const std::string& caption, const std::vector<Figure>& figures, bool of_findings);

}  // namespace daug
