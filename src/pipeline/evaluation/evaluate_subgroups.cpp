// Does it hold for everybody? A classifier by sex, age, view and site.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/subgroup.h"
#include "evaluate_classification.h"
#include "paired_tests.h"

namespace daug {

namespace {

constexpr std::size_t kMostSubgroups = 12;  ///< known values of one attribute; more of them are no groups

/// What a study is in one attribute; empty when that is not known. Ages become bands; a view is what meta.csv says,
/// else what labels.csv says.
std::string subgroup_value(const Study& study, const std::string& attribute) {
  std::string value = study.meta_value(attribute);
  if (value.empty() && attribute == "view") value = study.view;
  if (attribute != "age" || value.empty()) return value;
  double years = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), years);
  if (error != std::errc() || end != value.data() + value.size() || !(years >= 0)) return "";
  constexpr int kEdges[] = {40, 65};
  return age_band(years, ArrayView<int>(kEdges, 2));
}

struct GapTest {
  std::optional<double> p, p_holm;
};

using FigureOfRows = std::function<std::optional<double>(const std::vector<std::size_t>&)>;

/// Of no gap between a subgroup's figure and that of the attribute's other images.
std::optional<double> subgroup_p(const Measurements& out, const SubgroupAttribute& attribute, const std::string& value,
                                 const FigureOfRows& figure) {
  std::vector<std::size_t> known;
  std::vector<std::int64_t> patients;
  std::vector<std::uint8_t> inside;
  for (std::size_t i = 0; i < out.tests; ++i) {
    if (attribute.values[i].empty()) continue;
    known.push_back(i);
    patients.push_back(out.patients[i]);
    inside.push_back(attribute.values[i] == value ? 1 : 0);
  }
  std::vector<std::size_t> rows;
  return gap_p(
      patients, inside,
      [&](const std::vector<std::size_t>& chosen) {
        rows.clear();
        for (const std::size_t i : chosen) rows.push_back(known[i]);
        return figure(rows);
      },
      out.bootstrap_options());
}

}  // namespace

void add_subgroups(Measurements& out, const std::string& arm, const std::vector<double>& scores) {
  std::vector<std::string> names = {"sex", "age", "view", "site"};
  if (const std::string& by = out.run.config.evaluate.slice_by; std::count(names.begin(), names.end(), by) == 0)
    names.push_back(by);
  std::vector<std::vector<std::string>> values(names.size());
  for (const std::size_t row : out.data.test)
    for (std::size_t a = 0; a < names.size(); ++a) values[a].push_back(subgroup_value(out.data.study(row), names[a]));
  std::vector<SubgroupAttribute> attributes;
  for (std::size_t a = 0; a < names.size(); ++a) {
    std::set<std::string> distinct(values[a].begin(), values[a].end());
    distinct.erase("");  // not known
    if (distinct.size() > 1 && distinct.size() <= kMostSubgroups) attributes.push_back({names[a], values[a]});
  }
  if (attributes.empty()) return;
  // Sorted once, every row for itself; a resample is how often each was drawn.
  std::vector<std::int64_t> places(out.tests);
  std::iota(places.begin(), places.end(), 0);
  const RankedFindings ranked(out.multi_label(scores, out.of_findings), PatientGroups(places));
  PatientCopies copies(out.tests);
  const FigureOfRows figure = [&](const std::vector<std::size_t>& rows) {
    std::fill(copies.begin(), copies.end(), 0);
    for (const std::size_t row : rows) ++copies[row];
    return ranked.auroc(copies).macro;
  };
  SubgroupOptions options;
  options.bootstrap = out.bootstrap_options();
  const auto table = subgroup_table(out.patients, attributes, figure, options);
  std::vector<GapTest> tests(table.subgroups.size());
  for (std::size_t g = 0; g < tests.size(); ++g) {
    const Subgroup& group = table.subgroups[g];
    for (const SubgroupAttribute& attribute : attributes)
      if (group.gap && attribute.name == group.attribute) tests[g].p = subgroup_p(out, attribute, group.value, figure);
  }
  correct_by_holm(tests.begin(), tests.end());
  const auto number = [](const std::optional<double>& one) -> nlohmann::ordered_json {
    if (!one) return nullptr;
    return *one;
  };
  const auto interval = [](const std::optional<Interval>& one) -> nlohmann::ordered_json {
    if (!one) return nullptr;
    return nlohmann::ordered_json::array({one->value, one->low, one->high});
  };
  for (std::size_t g = 0; g < tests.size(); ++g) {
    const Subgroup& group = table.subgroups[g];
    out.details["subgroups"][arm].push_back({{"attribute", group.attribute},
                                             {"value", group.value},
                                             {"images", group.rows},
                                             {"patients", group.patients},
                                             {"figure", interval(group.figure)},
                                             {"gap", interval(group.gap)},
                                             {"p", number(tests[g].p)},
                                             {"p_holm", number(tests[g].p_holm)}});
    const auto put = [&](const char* name, const std::optional<Interval>& one, const std::string& definition) {
      out.put(name, arm, "test[" + group.attribute + "=" + group.value + "]", one,
              static_cast<std::int64_t>(group.rows), definition + out.text_note());
    };
    // A slice of the test split has that figure already.
    if (group.attribute != out.run.config.evaluate.slice_by)
      put("classification.auroc_macro", group.figure, "AUROC by finding, plain mean over findings with both classes");
    put("classification.auroc_macro_gap", group.gap, "macro AUROC of the subgroup less that of all other images");
    const auto put_p = [&](const char* name, const std::optional<double>& p, const std::string& definition) {
      if (!p) return;
      out.figures.push_back({name,
                             arm,
                             "test[" + group.attribute + "=" + group.value + "]",
                             *p,
                             {},
                             {},
                             static_cast<std::int64_t>(group.rows),
                             definition + out.text_note()});
    };
    put_p("classification.auroc_macro_gap_p", tests[g].p,
          "two-sided p-value of no gap: twice the share of its patient-bootstrap resamples on the other side of 0");
    put_p("classification.auroc_macro_gap_p_holm", tests[g].p_holm,
          "that p-value by Holm's correction for all subgroups of all attributes");
  }
}

}  // namespace daug
