#include "encoder_data.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "daug/core/error.h"
#include "daug/encoder/report_text.h"

namespace daug {

std::vector<std::string> study_texts(const RunData& data, const std::vector<std::size_t>& rows) {
  std::vector<std::string> texts;
  for (std::size_t row : rows) {
    const Study& study = data.study(row);
    if (data.cohort.has_reports)
      texts.push_back(split_sections(study.report).text());
    else
      texts.push_back(label_derived_text(data.cohort.findings, study.labels).text);
  }
  return texts;
}

at::Tensor study_numbers(const RunData& data, const std::vector<std::size_t>& rows, const std::string& column) {
  if (column.empty()) return {};
  const bool patients = column == "patient_id";
  std::map<std::pair<std::string, std::string>, std::int64_t> numbers;
  std::vector<std::int64_t> studies;
  bool known = patients;
  for (std::size_t row : rows) {
    const Study& study = data.study(row);
    const std::string name = patients ? "" : study.meta_value(column);
    const bool blank = !patients && name.empty();
    known = known || !blank;
    const auto fresh = static_cast<std::int64_t>(studies.size());
    studies.push_back(blank ? fresh : numbers.emplace(std::pair(study.patient_id, name), fresh).first->second);
  }
  if (!known) {
    std::set<std::string> columns = {"patient_id"};
    for (std::size_t row : rows)
      for (const auto& entry : data.study(row).meta) columns.insert(entry.first);
    fail(ErrorCode::kNotFound, "daug::Run", "encoder.study",
         fmt::format("one of {}, as the training images have them", fmt::join(columns, ", ")), column);
  }
  return at::tensor(studies, at::kLong);
}

at::Tensor uncertain_labels(const RunData& data, const std::vector<std::size_t>& rows) {
  const auto findings = static_cast<std::int64_t>(data.findings());
  at::Tensor uncertain = at::zeros({static_cast<std::int64_t>(rows.size()), findings}, at::kBool);
  bool* cell = uncertain.data_ptr<bool>();
  for (const std::size_t row : rows)
    for (std::size_t f = 0; f < data.findings(); ++f) *cell++ = data.study(row).labels[f] == LabelState::kUncertain;
  return uncertain;
}

std::vector<std::string> metadata_columns(const RunData& data, const std::string& list) {
  std::set<std::string> known = {"view"};
  for (const Study& study : data.cohort.studies)
    for (const auto& entry : study.meta) known.insert(entry.first);
  std::vector<std::string> columns;
  for (const auto& name : parse_names(list)) {
    if (known.count(name) > 0)
      columns.push_back(name);
    else if (list != RunConfig{}.evaluate.metadata)
      fail(ErrorCode::kNotFound, "daug::Run", "evaluate.metadata",
           fmt::format("columns with a value in the cohort: {}", fmt::join(known, ", ")), "'" + name + "'");
  }
  return columns;
}

}  // namespace daug
