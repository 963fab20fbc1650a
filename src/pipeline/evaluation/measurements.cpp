#include "measurements.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "pipeline/settings/stage_options.h"

namespace daug {

namespace {

template <class State>
TestStates states_of(const RunData& data, std::size_t columns, const State& state) {
  TestStates result;
  result.columns = columns;
  for (const std::size_t row : data.test)
    for (std::size_t c = 0; c < columns; ++c) {
      const float value = state(row, c);
      result.positive.push_back(value > 0);
      result.known.push_back(value != 0);
    }
  return result;
}

/// `measure(data, patients, options)` of the slice's rows alone.
template <class Measure>
FindingIntervals measure_slice(const Measurements& out, const std::vector<double>& scores, const TestStates& states,
                               const Slice& slice, const Measure& measure) {
  out.run.control.stop.throw_if_stopped("daug::Run: evaluate");
  const std::size_t columns = states.columns;
  std::vector<double> chosen;
  std::vector<std::uint8_t> positive, known;
  std::vector<std::int64_t> patients;
  const auto append = [columns](auto& to, const auto& from, std::size_t row) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row * columns);
    to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(columns));
  };
  for (const std::size_t row : slice.rows) {
    append(chosen, scores, row);
    append(positive, states.positive, row);
    append(known, states.known, row);
    patients.push_back(out.patients[row]);
  }
  const std::size_t rows = slice.rows.size();
  const MultiLabelData data = {MatrixView<double>(chosen, rows, columns),
                               MatrixView<std::uint8_t>(positive, rows, columns),
                               MatrixView<std::uint8_t>(known, rows, columns)};
  return measure(data, ArrayView<std::int64_t>(patients), out.bootstrap_options());
}

}  // namespace

std::vector<double> to_doubles(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

std::vector<Slice> slices_of(Run::Impl& run, const std::vector<std::size_t>& images) {
  const std::string& column = run.config.evaluate.slice_by;
  std::vector<Slice> slices = {{"test", {}}};
  std::map<std::string, std::vector<std::size_t>> by_value;
  for (std::size_t i = 0; i < images.size(); ++i) {
    slices[0].rows.push_back(i);
    const std::string& value = run.data().study(images[i]).meta_value(column);
    if (!value.empty()) by_value[value].push_back(i);
  }
  if (by_value.size() > 1)
    for (const auto& [value, rows] : by_value) slices.push_back({"test[" + column + "=" + value + "]", rows});
  return slices;
}

Measurements::Measurements(Run::Impl& of_run) : run(of_run), data(of_run.data()), tests(data.test.size()) {
  of_findings = states_of(data, data.findings(), [&](std::size_t row, std::size_t f) { return data.state(row, f); });
  of_maps = states_of(data, data.maps(), [&](std::size_t row, std::size_t g) { return data.group_state(row, g); });
  slices = slices_of(run, data.test);
  for (const std::size_t row : data.test) patients.push_back(data.patient[row]);
}

void Measurements::side_by_side(std::size_t count, const std::function<void(std::size_t, Measurements&)>& measure) {
  std::vector<Measurements> parts(count, Measurements(run));
  for_each_parallel(count, network_threads(run.config), [&](std::size_t i) {
    run.control.stop.throw_if_stopped("daug::Run: evaluate");
    measure(i, parts[i]);
  });
  for (Measurements& part : parts) {
    std::move(part.figures.begin(), part.figures.end(), std::back_inserter(figures));
    tables.merge(part.tables);
    if (!part.details.is_null()) details.merge_patch(part.details);
  }
}

std::int64_t count_values(const RetrievalValues& table, const Slice& slice, std::optional<std::size_t> column) {
  std::int64_t n = 0;
  for (const std::size_t row : slice.rows)
    for (std::size_t c = column.value_or(0); c < (column ? *column + 1 : table.columns); ++c)
      n += std::isnan(table.values[row * table.columns + c]) ? 0 : 1;
  return n;
}

void Measurements::add_table(const std::string& name, const std::string& arm, const std::string& definition,
                             const RetrievalValues& table, const Slice& slice) {
  run.control.stop.throw_if_stopped("daug::Run: evaluate");
  put(name, arm, slice.name, means(table, slice).macro, count_values(table, slice), definition);
}

FindingIntervals Measurements::auroc(const std::vector<double>& scores, const TestStates& states,
                                     const Slice& slice) const {
  return measure_slice(*this, scores, states, slice, bootstrap_auroc);
}

FindingIntervals Measurements::average_precision(const std::vector<double>& scores, const TestStates& states,
                                                 const Slice& slice) const {
  return measure_slice(*this, scores, states, slice, bootstrap_average_precision);
}

}  // namespace daug
