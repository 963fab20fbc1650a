// The metrics against what scikit-learn, torchmetrics and the DAug authors' code computed. Sets are told apart by the
// "kind" in their JSON; cases, cut-offs, bin counts and tolerances are read from the files.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "daug/metrics/classification.h"
#include "golden_support.h"

namespace daug::test {
namespace {

std::vector<double> column(const std::vector<double>& matrix, std::size_t columns, std::size_t index) {
  std::vector<double> result;
  for (std::size_t i = index; i < matrix.size(); i += columns) result.push_back(matrix[i]);
  return result;
}

std::vector<std::uint8_t> column(const std::vector<std::uint8_t>& matrix, std::size_t columns, std::size_t index) {
  std::vector<std::uint8_t> result;
  for (std::size_t i = index; i < matrix.size(); i += columns) result.push_back(matrix[i]);
  return result;
}

double check_classification(const GoldenSet& set) {
  Comparison compare(set);
  const double tolerance = absolute_tolerance(set);
  const std::size_t rows = set.settings.at("config").at("N"), findings = set.settings.at("config").at("K");
  std::vector<Unread> unread;
  const auto labels = labels_of(compare.at("labels"));
  const auto scores = compare.at("scores").to_double(), weights = compare.at("weights").to_double();
  const MultiLabelData data{{scores, rows, findings}, {labels, rows, findings}, {}};

  std::vector<double> area, area_weighted, precision, precision_weighted;
  for (std::size_t f = 0; f < findings; ++f) {
    const auto s = column(scores, findings, f);
    const auto l = column(labels, findings, f);
    area.push_back(or_nan(auroc(s, l)));
    area_weighted.push_back(or_nan(auroc(s, l, weights)));
    // scikit-learn says 0 where no positive exists; here that is undefined.
    precision.push_back(average_precision(s, l).value_or(0));
    precision_weighted.push_back(average_precision(s, l, weights).value_or(0));
  }
  compare.near("auroc", area, tolerance);
  compare.near("auroc_weighted_samples", area_weighted, tolerance);
  compare.near("ap", precision, tolerance);
  compare.near("ap_weighted_samples", precision_weighted, tolerance);

  const auto areas = auroc_by_finding(data, std::nullopt, Compat::kPublished);
  const auto precisions = average_precision_by_finding(data, std::nullopt, Compat::kPublished);
  compare.near("auroc_averages", {or_nan(areas.macro), or_nan(areas.weighted), or_nan(micro_auroc(data))}, tolerance);
  compare.near("ap_averages",
               {or_nan(precisions.macro), or_nan(precisions.weighted), or_nan(micro_average_precision(data))},
               tolerance);
  if (const auto ours = auroc_by_finding(data); ours.left_out == 0) {  // then there is nothing to be compatible with
    CHECK(ours.macro == areas.macro);
    CHECK(ours.weighted == areas.weighted);
  }

  for (std::size_t f = 0; f < findings; ++f) {
    const auto s = column(scores, findings, f);
    const auto l = column(labels, findings, f);
    const auto positives = static_cast<std::size_t>(std::count(l.begin(), l.end(), 1));
    if (const std::string name = "roc" + std::to_string(f); set.file.contains(name + ".fpr")) {
      const auto curve = roc_curve(s, l);
      CHECK(curve.has_value() == (positives > 0 && positives < rows));
      if (curve) {
        compare.near(name + ".fpr", curve->fpr, tolerance);
        compare.near(name + ".tpr", curve->tpr, tolerance);
        compare.near(name + ".thresholds", curve->thresholds, tolerance);
      } else {
        unread.push_back({name + ".*", "a curve of one class, undefined here"});
      }
    }
    if (const std::string name = "pr" + std::to_string(f); set.file.contains(name + ".precision")) {
      const auto curve = precision_recall_curve(s, l);
      CHECK(curve.has_value() == (positives > 0));
      if (curve) {
        compare.near(name + ".precision", curve->precision, tolerance);
        compare.near(name + ".recall", curve->recall, tolerance);
        compare.near(name + ".thresholds", curve->thresholds, tolerance);
      } else {
        unread.push_back({name + ".*", "a curve without positives, undefined here"});
      }
    }
  }

  for (const auto& [name, expected] : set.settings.at("degenerate").items()) {
    const auto s = compare.at("degenerate.scores").to_double();
    const auto l = labels_of(compare.at("degenerate." + name + ".labels"));
    compare.near("degenerate " + name + " auroc", {or_nan(auroc(s, l))},
                 {number(expected.at("roc_auc_score").at("value"))}, tolerance);
    const auto ap = average_precision(s, l);
    CHECK(ap.has_value() == (std::count(l.begin(), l.end(), 1) > 0));
    compare.near("degenerate " + name + " ap", {ap.value_or(0)},
                 {number(expected.at("average_precision_score").at("value"))}, tolerance);
  }

  for (const auto& [name, expected] : set.settings.at("authors_evaluate_classification").items()) {
    const auto l = name == "as_is" ? labels : labels_of(compare.at("labels_" + name));
    const MultiLabelData cells{{scores, rows, findings}, {l, rows, findings}, {}};
    const auto summary = auroc_by_finding(cells, std::nullopt, Compat::kPublished);
    std::vector<double> per_finding;
    for (const auto& value : summary.finding) per_finding.push_back(or_nan(value));
    if (set.file.contains("auroc_" + name)) compare.near("auroc_" + name, per_finding, tolerance);
    compare.rounded("authors' auc, " + name, per_finding, expected.at("auc"), 5e-4 + 1e-9);
    compare.rounded("authors' avg_auc, " + name, {or_nan(summary.macro)}, {expected.at("avg_auc")}, 1e-6);
    compare.rounded("authors' w_avg_auc, " + name, {or_nan(summary.weighted)}, {expected.at("w_avg_auc")}, 1e-6);
    // Where theirs is NaN, ours leaves the undefined findings out.
    const auto ours = auroc_by_finding(cells);
    CHECK(ours.left_out == static_cast<std::size_t>(std::count_if(per_finding.begin(), per_finding.end(),
                                                                  [](double value) { return std::isnan(value); })));
    CHECK(std::isfinite(or_nan(ours.macro)) == (ours.left_out < findings));
  }
  return compare.largest(unread);
}

template <class T>
std::vector<double> calibration_norms(const std::vector<T>& probabilities, const std::vector<std::uint8_t>& labels,
                                      int bins) {
  std::vector<double> values;
  for (auto norm : {CalibrationNorm::kL1, CalibrationNorm::kL2, CalibrationNorm::kMax})
    values.push_back(or_nan(calibration_error(probabilities, labels, bins, norm)));
  return values;
}

double check_calibration(const GoldenSet& set) {
  Comparison compare(set);
  std::vector<Unread> unread;
  const double tolerance = absolute_tolerance(set);
  for (const auto& config : set.settings.at("config")) {
    const std::string name = config.at("name");
    const auto probabilities = compare.at(name + ".probabilities").to_float();
    const auto labels = labels_of(compare.at(name + ".labels"));
    const std::string prefix = name + ".bins";
    for (const auto& [key, tensor] : set.file.tensors) {
      if (key.rfind(prefix, 0) != 0 || key.find('.', prefix.size()) != std::string::npos) continue;
      const int bins = std::stoi(key.substr(prefix.size()));
      compare.near(key + ".f64",
                   calibration_norms(std::vector<double>(probabilities.begin(), probabilities.end()), labels, bins),
                   1e-9);
      const auto edges = calibration_edges<float>(bins);
      const auto expected = compare.at(key + ".index").to_int64();
      REQUIRE(expected.size() == probabilities.size());
      bool same = true;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto bin = static_cast<std::int64_t>(calibration_bin(edges, probabilities[i]));
        if (bin == expected[i]) continue;
        // From 16 edges on some of LibTorch's loops for vectors round them otherwise, which moves what lies on one.
        INFO(key << ", item " << i << ": bin " << bin << " instead of " << expected[i]);
        const float edge = edges.at(static_cast<std::size_t>(std::max(bin, expected[i])));
        CHECK((std::abs(bin - expected[i]) == 1 && std::abs(probabilities[i] - edge) <= 1.2e-7F));
        same = false;
      }
      if (same)
        compare.near(key, calibration_norms(probabilities, labels, bins), tolerance);
      else
        unread.push_back({key, "a probability on an edge that is rounded otherwise"});
    }
  }
  return compare.largest(unread);
}

}  // namespace

TEST_CASE("metrics agree with the published implementations", "[metrics][golden]") {
  for_each_golden("metrics_", [](const GoldenSet& set) {
    const std::string kind = set.settings.at("kind");
    if (kind == "classification metrics") return check_classification(set);
    if (kind == "calibration error") return check_calibration(set);
    if (kind == "retrieval metrics") return check_retrieval(set);
    if (kind == "torchmetrics retrieval") return check_torchmetrics(set);
    throw Skip{"unknown kind: " + kind};
  });
}

}  // namespace daug::test
