#pragma once
// What every part of the evaluation shares: the test split, its slices, and figures with patient-bootstrap intervals.

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "daug/metrics/bootstrap.h"
#include "daug/metrics/classification_bootstrap.h"
#include "daug/metrics/retrieval.h"
#include "daug/metrics/retrieval_bootstrap.h"
#include "pipeline/run_impl.h"

namespace daug {

inline constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

/// A part of some test images: positions among them.
struct Slice {
  std::string name;
  std::vector<std::size_t> rows;
};

/// All of some test images first, then, where they differ in the column evaluate.slice_by, those of each value.
std::vector<Slice> slices_of(Run::Impl& run, const std::vector<std::size_t>& images);

/// States of the test images in some columns (findings, or maps).
struct TestStates {
  std::vector<std::uint8_t> positive, known;  ///< [tests, columns]
  std::size_t columns = 0;
};

/// Collects figures over the test split.
class Measurements {
 public:
  explicit Measurements(Run::Impl& run);

  /// Adds a figure with its interval; leaves it out where the data do not define it. `statistic` maps positions of the
  /// test split to an optional value.
  template <class Statistic>
  void add(const std::string& name, const std::string& arm, const std::string& definition, std::int64_t n,
           const Statistic& statistic, const Slice& slice);
  /// Adds the plain mean over columns of the means of a table [tests, columns].
  void add_table(const std::string& name, const std::string& arm, const std::string& definition,
                 const RetrievalValues& table, const Slice& slice);
  /// Adds a figure that was measured elsewhere, where it is defined.
  void put(const std::string& name, const std::string& arm, const std::string& split,
           const std::optional<Interval>& interval, std::int64_t n, const std::string& definition) {
    if (interval) figures.push_back({name, arm, split, interval->value, interval->low, interval->high, n, definition});
  }
  /// Adds the mean AUROC over columns of scores [tests, columns].
  void add_auroc(const std::string& name, const std::string& arm, const std::string& definition,
                 const std::vector<double>& scores, const TestStates& states, const Slice& slice) {
    put(name, arm, slice.name, auroc(scores, states, slice).macro, static_cast<std::int64_t>(slice.rows.size()),
        definition);
  }
  /// Intervals of the means of a table [tests, columns]: by column, over columns, and over all values.
  FindingIntervals means(const RetrievalValues& table, const Slice& slice) const {
    return bootstrap_values(table, patients, bootstrap_options(), ArrayView<std::size_t>(slice.rows));
  }
  /// AUROC of scores [tests, columns], by column and over them.
  FindingIntervals auroc(const std::vector<double>& scores, const TestStates& states, const Slice& slice) const;
  /// Average precision of the same.
  FindingIntervals average_precision(const std::vector<double>& scores, const TestStates& states,
                                     const Slice& slice) const;
  BootstrapOptions bootstrap_options() const {
    BootstrapOptions options;
    options.resamples = static_cast<int>(run.config.evaluate.resamples);
    options.seed = static_cast<std::uint64_t>(run.config.seed);
    return options;
  }
  /// Takes `count` measurements that do not depend on each other, several at a time (network_threads), each on one
  /// thread and into Measurements of its own. What they leave follows here in their order, whatever the threads.
  void side_by_side(std::size_t count, const std::function<void(std::size_t, Measurements&)>& measure);
  std::string text_note() const { return data.text_note(); }

  RetrievalValues empty_table(std::size_t columns) const {
    return {tests, columns, std::vector<double>(tests * columns, kNothing)};
  }
  MultiLabelData multi_label(const std::vector<double>& scores, const TestStates& states) const {
    return {MatrixView<double>(scores, tests, states.columns),
            MatrixView<std::uint8_t>(states.positive, tests, states.columns),
            MatrixView<std::uint8_t>(states.known, tests, states.columns)};
  }

  Run::Impl& run;
  const RunData& data;
  std::size_t tests;                                  ///< images of the test split
  std::vector<Slice> slices;                          ///< the whole split first
  std::vector<std::int64_t> patients;                 ///< [tests]
  TestStates of_findings, of_maps;                    ///< labels
  std::vector<Figure> figures;                        ///< for metrics.json
  nlohmann::ordered_json details;                     ///< curves and retrieval rows for the report
  std::map<std::string, std::vector<double>> tables;  ///< see Predictions
};

/// How many values a table has in a slice, in one column or in all.
std::int64_t count_values(const RetrievalValues& table, const Slice& slice, std::optional<std::size_t> column = {});

/// Every element, in double.
std::vector<double> to_doubles(const at::Tensor& tensor);

/// Measures the maps: against masks, against true counterfactuals, and as detectors of disease.
void evaluate_maps(Measurements& out);
/// Measures classifiers, baselines and the encoders of every arm, none of which depends on another.
void evaluate_encoders(Measurements& out);

template <class Statistic>
void Measurements::add(const std::string& name, const std::string& arm, const std::string& definition, std::int64_t n,
                       const Statistic& statistic, const Slice& slice) {
  run.control.stop.throw_if_stopped("daug::Run: evaluate");
  std::vector<std::int64_t> groups;
  for (std::size_t i : slice.rows) groups.push_back(patients[i]);
  std::vector<std::size_t> rows;
  const auto interval = bootstrap(
      groups,
      [&](const std::vector<std::size_t>& chosen) -> std::optional<double> {
        rows.clear();
        for (std::size_t i : chosen) rows.push_back(slice.rows[i]);
        return statistic(rows);
      },
      bootstrap_options());
  put(name, arm, slice.name, interval, n, definition);
}

}  // namespace daug
