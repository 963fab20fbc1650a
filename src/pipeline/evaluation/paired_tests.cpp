#include "paired_tests.h"

#include <algorithm>
#include <functional>

#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/delong.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/retrieval_bootstrap.h"
#include "daug/metrics/retrieval_values.h"
#include "pipeline/report/report_charts.h"

namespace daug {

namespace {

constexpr const char* kDifference = "_difference";

MultiLabelData labelled(const Predictions& images, const std::vector<double>& probabilities) {
  return {MatrixView<double>(probabilities, images.images(), images.findings),
          MatrixView<std::uint8_t>(images.positive, images.images(), images.findings),
          MatrixView<std::uint8_t>(images.known, images.images(), images.findings)};
}

/// A figure for any copies of the patients, not-a-number where these do not define it.
using OfCopies = std::function<double(const PatientCopies&)>;

/// The figure of a table, sorted or summed once.
OfCopies prepared(const TableFigure& figure, const Predictions& images, const std::vector<double>& table,
                  const PatientGroups& patients) {
  if (!figure.classification) {
    const SummedValues sums({images.images(), images.findings, table}, patients);
    return [=](const PatientCopies& copies) { return detail::or_nan(sums.summarize(copies).macro); };
  }
  const RankedFindings ranked(labelled(images, table), patients);
  return [=](const PatientCopies& copies) { return detail::or_nan(ranked.auroc(copies).macro); };
}

/// One table above another.
template <class T>
std::vector<T> stacked(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// What is exchanged are a patient's whole rows, in all pairs together.
std::optional<double> swap_p(const TableFigure& figure, const Predictions& images, const std::vector<TablePair>& pairs,
                             const PatientGroups& patients, const PermutationOptions& options) {
  Predictions twice;
  twice.findings = images.findings;
  twice.rows = stacked(images.rows, images.rows);
  twice.positive = stacked(images.positive, images.positive);
  twice.known = stacked(images.known, images.known);
  const PatientGroups both = stacked_patients(patients);
  std::vector<OfCopies> of_pairs;
  for (const TablePair& pair : pairs)
    of_pairs.push_back(prepared(figure, twice, stacked(*pair.first, *pair.second), both));
  const auto mean = [&](const PatientCopies& copies) {
    double sum = 0;
    for (const OfCopies& of_pair : of_pairs) sum += of_pair(copies);
    return sum / static_cast<double>(pairs.size());
  };
  const auto test = swap_test_copies(patients, mean, options);
  return test ? std::optional<double>(test->p) : std::nullopt;
}

/// A p-value; as a bound where its digits would say nothing.
std::string p_text(const Figure* figure) {
  if (!figure) return "-";
  return figure->value < 0.0005 ? "<0.001" : number(figure->value);
}

}  // namespace

std::optional<double> table_figure(const TableFigure& figure, const Predictions& images,
                                   const std::vector<double>& table) {
  if (!figure.classification) return RetrievalValues{images.images(), images.findings, table}.summarize().macro;
  return auroc_by_finding(labelled(images, table)).macro;
}

std::vector<std::pair<std::string, std::string>> arm_comparisons() {
  const std::string image = "image", text = ", image-text loss", noise = "image+noise";
  std::vector<std::pair<std::string, std::string>> pairs = {{image, image + text}};
  for (const char* source : {"difference", "evidence", "noise"}) {
    const std::string with = std::string("image+") + source;
    pairs.emplace_back(with, image);
    pairs.emplace_back(with + text, image + text);
    if (with != noise) pairs.emplace_back(with, noise);
  }
  return pairs;
}

std::optional<PairedTest> paired_test(const TableFigure& figure, const Predictions& images,
                                      const std::vector<TablePair>& pairs, int resamples, std::uint64_t seed) {
  BootstrapOptions draws;
  draws.resamples = resamples;
  draws.seed = seed;
  const PatientGroups patients(images.patients);
  std::vector<std::pair<OfCopies, OfCopies>> prepared_pairs;
  for (const TablePair& pair : pairs)
    prepared_pairs.emplace_back(prepared(figure, images, *pair.first, patients),
                                prepared(figure, images, *pair.second, patients));
  const auto difference = [&](const PatientCopies& copies) {
    double sum = 0;
    for (const auto& [first, second] : prepared_pairs) sum += first(copies) - second(copies);
    return std::vector<double>{sum / static_cast<double>(pairs.size())};
  };
  const auto interval = bootstrap_copies(patients, difference, draws)[0];
  if (!interval) return std::nullopt;
  PairedTest test;
  test.value = interval->value;
  test.low = interval->low;
  test.high = interval->high;
  PermutationOptions permutations;
  permutations.permutations = resamples;
  permutations.seed = seed;
  test.p = swap_p(figure, images, pairs, patients, permutations);
  return test;
}

std::vector<PairedTest> delong_tests(const Predictions& images, const TablePair& probabilities,
                                     const std::string& arms) {
  std::vector<PairedTest> tests;
  for (std::size_t f = 0; f < images.findings; ++f) {
    std::vector<double> first, second;
    std::vector<std::uint8_t> labels;
    std::vector<std::int64_t> patients;
    for (std::size_t i = 0; i < images.images(); ++i) {
      const std::size_t k = i * images.findings + f;
      if (!images.known[k]) continue;
      first.push_back((*probabilities.first)[k]);
      second.push_back((*probabilities.second)[k]);
      labels.push_back(images.positive[k]);
      patients.push_back(images.patients[i]);
    }
    const auto result = delong_test(first, second, labels, patients);
    if (!result) continue;
    PairedTest test;
    test.figure = "classification.auroc";
    test.finding = images.finding_name(f);
    test.arms = arms;
    test.value = result->difference;
    test.low = result->low;
    test.high = result->high;
    test.p = result->p;
    tests.push_back(std::move(test));
  }
  correct_by_holm(tests.begin(), tests.end());
  return tests;
}

std::optional<double> gap_p(const std::vector<std::int64_t>& patients, const std::vector<std::uint8_t>& inside,
                            const std::function<std::optional<double>(const std::vector<std::size_t>&)>& figure,
                            const BootstrapOptions& options) {
  std::vector<double> gaps;  // of the data, then of the resamples
  std::vector<std::size_t> in, out;
  const auto gap = [&](const std::vector<std::size_t>& rows) -> std::optional<double> {
    in.clear();
    out.clear();
    for (const std::size_t row : rows) (inside[row] ? in : out).push_back(row);
    if (in.empty() || out.empty()) return std::nullopt;
    const std::optional<double> a = figure(in), b = a ? figure(out) : std::nullopt;
    if (!b) return std::nullopt;
    gaps.push_back(*a - *b);
    return gaps.back();
  };
  if (!bootstrap(patients, gap, options) || gaps.size() < 2) return std::nullopt;
  const auto below = std::count_if(gaps.begin() + 1, gaps.end(), [](double one) { return one <= 0; });
  const auto above = std::count_if(gaps.begin() + 1, gaps.end(), [](double one) { return one >= 0; });
  return std::min(1.0, 2.0 * static_cast<double>(1 + std::min(below, above)) / static_cast<double>(gaps.size()));
}

std::vector<Figure> test_figures(const PairedTest& test, std::int64_t n, const std::string& note) {
  const bool delong = !test.finding.empty();
  const std::string name = test.figure + kDifference, of = delong ? "[" + test.finding + "]" : "";
  const std::string what = "the first arm's figure less the second's on the same images";
  std::vector<Figure> figures = {{name + of, test.arms, "test", test.value, test.low, test.high, n,
                                  what +
                                      (delong ? ", DeLong's normal interval for patients with several images"
                                              : ", paired bootstrap of the patients") +
                                      note}};
  if (test.p)
    figures.push_back({name + "_p" + of,
                       test.arms,
                       "test",
                       *test.p,
                       {},
                       {},
                       n,
                       std::string("two-sided p-value of no difference, ") +
                           (delong ? "DeLong's test for patients with several images"
                                   : "swap test: permutations exchange the arms' rows of whole patients") +
                           note});
  if (test.p_holm)
    figures.push_back({name + "_p_holm" + of,
                       test.arms,
                       "test",
                       *test.p_holm,
                       {},
                       {},
                       n,
                       std::string("that p-value by Holm's correction for ") +
                           (delong ? "all findings" : "all comparisons of this figure") + note});
  return figures;
}

Table tests_table(const std::string& caption, const std::vector<Figure>& figures, bool of_findings) {
  Table table;
  table.caption = caption;
  table.header = {"figure", "arms", "difference", "p", "p, Holm"};
  const std::string ending = kDifference;
  for (const Figure& figure : figures) {
    const std::size_t bracket = std::min(figure.name.find('['), figure.name.size());
    const std::string name = figure.name.substr(0, bracket), of = figure.name.substr(bracket);
    const bool difference =
        name.size() > ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
    if (!difference || of.empty() == of_findings) continue;
    const auto p = [&](const char* which) {
      return p_text(find_figure(figures, name + which + of, figure.arm, figure.split));
    };
    table.rows.push_back(
        {name.substr(0, name.size() - ending.size()) + of, figure.arm, with_interval(&figure), p("_p"), p("_p_holm")});
  }
  return table;
}

}  // namespace daug
