#pragma once
/// @file
/// Does a figure hold for everybody? The figure by sex, age band, view or site, with its interval and its gap to the
/// others.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/metrics/bootstrap.h"
#include "daug/metrics/patients.h"
#include "daug/metrics/view.h"

namespace daug {

/// Something that divides the rows.
struct SubgroupAttribute {
  std::string name;               ///< such as "sex" or "site"
  ArrayView<std::string> values;  ///< [N]; rows with an empty value belong to no subgroup of this attribute
};

/// When a subgroup is measured, and how its intervals are made.
struct SubgroupOptions {
  /// Patients below which a subgroup is listed but not measured, and below which the others are too few for a gap to
  /// them, >= 1.
  std::size_t smallest = 10;
  BootstrapOptions bootstrap;  ///< of every interval

  /// Throws kInvalidArgument for a value out of its range.
  void validate() const {
    require(smallest >= 1, "SubgroupOptions", "smallest", "a value >= 1", smallest);
    bootstrap.validate();
  }
};

/// One line of a subgroup table.
struct Subgroup {
  std::string attribute;           ///< SubgroupAttribute::name
  std::string value;               ///< the rows' value of it
  std::size_t rows = 0;            ///< how many
  std::size_t patients = 0;        ///< of how many patients
  std::optional<Interval> figure;  ///< nothing when too small or undefined
  std::optional<Interval> gap;     ///< figure - figure of the attribute's other rows, on the same resamples; nothing
                                   ///< when either side is too small or undefined
};

/// How far the subgroups of one attribute lie apart.
struct SubgroupSpread {
  std::string attribute;  ///< SubgroupAttribute::name
  std::string lowest,     ///< the value with the lowest figure
      highest;            ///< the value with the highest figure
  double spread = 0;      ///< highest figure - lowest figure, >= 0
};

/// A figure for everybody and by subgroup.
struct SubgroupTable {
  std::optional<Interval> overall;      ///< of all rows
  std::vector<Subgroup> subgroups;      ///< attributes in their order, values in alphabetical order
  std::vector<SubgroupSpread> spreads;  ///< of the attributes with at least two measured subgroups
};

/// Name of the age band of `years` between the rising `edges`: with edges {40, 65} "<40", "40-64" or ">=65". Empty for
/// NaN (age unknown). Throws kInvalidArgument for a negative age and edges that do not rise.
inline std::string age_band(double years, ArrayView<int> edges) {
  constexpr const char* kFunction = "age_band";
  require(!edges.empty() &&
              std::adjacent_find(edges.begin(), edges.end(), [](int a, int b) { return a >= b; }) == edges.end(),
          kFunction, "edges", "at least one, rising", edges.size());
  require(!(years < 0), kFunction, "years", "a value >= 0", years);
  if (std::isnan(years)) return "";
  const auto above = std::upper_bound(edges.begin(), edges.end(), years);
  if (above == edges.begin()) return "<" + std::to_string(*above);
  if (above == edges.end()) return ">=" + std::to_string(*(above - 1));
  return std::to_string(*(above - 1)) + "-" + std::to_string(*above - 1);
}

namespace detail {

/// `bootstrap` of some rows only: `statistic(rows)` gets rows of the whole.
template <class Statistic>
std::optional<Interval> bootstrap_part(ArrayView<std::int64_t> groups, const std::vector<std::size_t>& part,
                                       Statistic&& statistic, const BootstrapOptions& options) {
  std::vector<std::int64_t> patients;
  for (std::size_t row : part) patients.push_back(groups[row]);
  std::vector<std::size_t> rows;
  return bootstrap(
      patients,
      [&](const std::vector<std::size_t>& chosen) -> std::optional<double> {
        rows.clear();
        for (std::size_t i : chosen) rows.push_back(part[i]);
        return statistic(std::as_const(rows));
      },
      options);
}

/// Of how many patients some rows are.
inline std::size_t count_patients(ArrayView<std::int64_t> groups, const std::vector<std::size_t>& rows) {
  std::vector<std::int64_t> patients;
  for (std::size_t row : rows) patients.push_back(groups[row]);
  return PatientGroups(patients).size();
}

/// Lowest and highest measured figure among some subgroups; nothing unless there are two.
inline std::optional<SubgroupSpread> subgroup_spread(ArrayView<Subgroup> subgroups) {
  const Subgroup *low = nullptr, *high = nullptr;
  std::size_t measured = 0;
  for (const Subgroup& group : subgroups) {
    if (!group.figure) continue;
    ++measured;
    if (!low || group.figure->value < low->figure->value) low = &group;
    if (!high || group.figure->value > high->figure->value) high = &group;
  }
  if (measured < 2) return std::nullopt;
  return SubgroupSpread{low->attribute, low->value, high->value, high->figure->value - low->figure->value};
}

}  // namespace detail

/// The figure of every subgroup of every attribute.
///
/// `groups` [N]: patients. `statistic(rows)` as in `bootstrap`. The gap of subgroup v is
/// `f(rows with v) - f(rows with another known value)`, its interval from resampling the patients of both; an interval
/// that excludes 0 is one of several looks, see `adjust_p`. Throws kInvalidArgument for values of another length.
template <class Statistic>
SubgroupTable subgroup_table(ArrayView<std::int64_t> groups, ArrayView<SubgroupAttribute> attributes,
                             Statistic&& statistic, const SubgroupOptions& options = {}) {
  options.validate();
  SubgroupTable table;
  table.overall = bootstrap(groups, statistic, options.bootstrap);
  for (const SubgroupAttribute& attribute : attributes) {
    const auto& values = attribute.values;
    detail::require_same_size("subgroup_table", attribute.name.c_str(), groups, values);
    std::map<std::string, std::vector<std::size_t>> rows_of;
    std::vector<std::size_t> known;
    for (std::size_t row = 0; row < values.size(); ++row) {
      if (values[row].empty()) continue;
      rows_of[values[row]].push_back(row);
      known.push_back(row);
    }
    const std::size_t first = table.subgroups.size();
    for (const auto& [value, rows] : rows_of) {
      Subgroup group{attribute.name, value, rows.size(), detail::count_patients(groups, rows), {}, {}};
      if (group.patients >= options.smallest) {
        group.figure = detail::bootstrap_part(groups, rows, statistic, options.bootstrap);
        const auto gap = [&, &value = value](const std::vector<std::size_t>& chosen) -> std::optional<double> {
          std::vector<std::size_t> inside, outside;
          for (std::size_t row : chosen) (values[row] == value ? inside : outside).push_back(row);
          if (inside.empty() || outside.empty()) return std::nullopt;
          const std::optional<double> a = statistic(std::as_const(inside));
          const std::optional<double> b = a ? statistic(std::as_const(outside)) : std::nullopt;
          if (!b) return std::nullopt;
          return *a - *b;
        };
        std::vector<std::size_t> others;
        for (std::size_t row : known)
          if (values[row] != value) others.push_back(row);
        if (detail::count_patients(groups, others) >= options.smallest)
          group.gap = detail::bootstrap_part(groups, known, gap, options.bootstrap);
      }
      table.subgroups.push_back(std::move(group));
    }
    const auto spread = detail::subgroup_spread({table.subgroups.data() + first, table.subgroups.size() - first});
    if (spread) table.spreads.push_back(*spread);
  }
  return table;
}

}  // namespace daug
