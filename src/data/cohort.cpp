#include "daug/data/cohort.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "daug/core/random.h"
#include "daug/io/csv.h"

namespace daug {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFunction = "read_cohort";
constexpr std::size_t kShown = 5;  // how many of many problems a message names

bool contains(const std::vector<std::string>& values, const std::string& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

bool is_split(const std::string& name) { return std::find(kSplits.begin(), kSplits.end(), name) != kSplits.end(); }

bool starts_with(const std::string& text, std::string_view prefix) { return text.rfind(prefix, 0) == 0; }

std::string first_few(const std::vector<std::string>& items) {
  const std::size_t shown = std::min(items.size(), kShown);
  std::string text;
  for (std::size_t i = 0; i < shown; ++i) text += (i ? ", " : "") + items[i];
  return items.size() > shown ? fmt::format("{} and {} more", text, items.size() - shown) : text;
}

std::string cell_name(const CsvTable& table, std::size_t row, std::size_t column) {
  return fmt::format("{} line {} column {}", table.name, table.lines[row], table.columns[column]);
}

/// Columns of labels.csv by their role. Positions are table columns.
struct Columns {
  std::size_t id = 0, path = 0, split = 0, patient = 0;
  std::optional<std::size_t> view, source, report, no_finding, counterfactual;
  std::vector<std::size_t> labels;                            // in the order of Cohort::findings
  std::vector<std::size_t> other_labels;                      // of what is left out, all that may be labels
  std::map<std::size_t, std::size_t> masks, counterfactuals;  // finding index -> column
  std::vector<std::size_t> meta;
};

std::optional<std::size_t> optional_column(const CsvTable& table, std::string_view name) {
  if (!table.has_column(name)) return std::nullopt;
  return table.column(name);
}

/// Whether a column holds nothing but labels, so that it may be one of them.
bool holds_labels(const CsvTable& table, std::size_t column) {
  try {
    for (const auto& row : table.rows) parse_label(row[column], table.name);
  } catch (const Error&) {
    return false;
  }
  return true;
}

Columns assign_columns(const CsvTable& table, const CohortOptions& options, std::vector<std::string>& findings) {
  Columns columns;
  columns.id = table.column("id");
  columns.path = table.column("path");
  columns.split = table.column("split");
  columns.patient = table.column("patient_id");
  columns.view = optional_column(table, "view");
  columns.source = optional_column(table, "source");
  columns.report = optional_column(table, "report");
  columns.counterfactual = optional_column(table, "counterfactual");
  columns.no_finding = optional_column(table, "No_Finding");
  if (!columns.no_finding) columns.no_finding = optional_column(table, "No Finding");

  static const std::vector<std::string> kKnown = {"id",         "path",    "split",   "patient_id",
                                                  "view",       "source",  "report",  "No_Finding",
                                                  "No Finding", "licence", "license", "counterfactual"};
  std::vector<std::string> label_columns;
  for (const auto& name : options.meta_columns) table.column(name);  // a misspelt one must not pass silently
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    const std::string& name = table.columns[i];
    if (contains(options.meta_columns, name) || name == "licence" || name == "license")
      columns.meta.push_back(i);
    else if (!contains(kKnown, name) && !starts_with(name, "mask_") && !starts_with(name, "counterfactual_"))
      label_columns.push_back(name);
  }
  findings = options.findings.empty() ? label_columns : options.findings;
  if (findings.empty())
    fail(ErrorCode::kNotFound, kFunction, table.name, "at least one label column",
         fmt::format("only {}", fmt::join(table.columns, ", ")));
  for (std::size_t f = 0; f < findings.size(); ++f) {
    if (findings[f].find_first_of(",|") != std::string::npos)  // between findings in settings, weights and indexes
      fail(ErrorCode::kFormat, kFunction, table.name, "label columns without a comma or '|' in their names",
           "'" + findings[f] + "'");
    if (!contains(label_columns, findings[f]))
      fail(ErrorCode::kNotFound, kFunction, table.name, fmt::format("a label column '{}'", findings[f]),
           fmt::format("{}", fmt::join(label_columns, ", ")));
    columns.labels.push_back(table.column(findings[f]));
    if (const auto mask = optional_column(table, "mask_" + findings[f])) columns.masks[f] = *mask;
    if (const auto healthy = optional_column(table, "counterfactual_" + findings[f]))
      columns.counterfactuals[f] = *healthy;
  }
  for (const auto& name : label_columns)
    if (const std::size_t column = table.column(name); !contains(findings, name) && holds_labels(table, column))
      columns.other_labels.push_back(column);
  for (const auto& name : table.columns)
    for (const std::string prefix : {"mask_", "counterfactual_"})
      if (starts_with(name, prefix) && !contains(label_columns, name.substr(prefix.size())))
        fail(ErrorCode::kNotFound, kFunction, fmt::format("{} column {}", table.name, name),
             "the name of a label column after " + prefix, fmt::format("{}", fmt::join(label_columns, ", ")));
  return columns;
}

/// Turns a path cell into an absolute path; blank stays blank. Nothing outside the cohort's folder is ever opened.
std::string resolve(const fs::path& folder, const std::string& cell, const std::string& where) {
  if (cell.empty()) return {};
  const fs::path relative(cell);
  const fs::path normal = relative.lexically_normal();
  if (relative.is_absolute() || normal.empty() || *normal.begin() == ".." || cell.find('\0') != std::string::npos)
    fail(ErrorCode::kFormat, kFunction, where, "a path inside the cohort's folder", "'" + cell + "'");
  return (folder / normal).string();
}

double number(const CsvTable& table, std::size_t row, std::size_t column) {
  const std::string& text = table.rows[row][column];
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    fail(ErrorCode::kFormat, kFunction, cell_name(table, row, column), "a number", "'" + text + "'");
  return value;
}

using StudyIndex = std::unordered_map<std::string, std::size_t>;

std::size_t study_of_row(const StudyIndex& index, const CsvTable& table, std::size_t row, std::size_t column) {
  const auto found = index.find(table.rows[row][column]);
  if (found == index.end())
    fail(ErrorCode::kNotFound, kFunction, cell_name(table, row, column), "an id of labels.csv",
         "'" + table.rows[row][column] + "'");
  return found->second;
}

void read_boxes(const std::string& path, const StudyIndex& index, Cohort& cohort) {
  const CsvTable table = read_csv(path);
  const std::size_t id = table.column("id"), finding = table.column("finding");
  const std::size_t x = table.column("x"), y = table.column("y"), w = table.column("w"), h = table.column("h");
  const auto annotation = optional_column(table, "annotation_source");
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const Box box{number(table, r, x), number(table, r, y), number(table, r, w), number(table, r, h)};
    for (const auto& [column, extent] : {std::pair{w, box.width}, std::pair{h, box.height}})
      if (extent <= 0) fail(ErrorCode::kFormat, kFunction, cell_name(table, r, column), "an extent > 0", extent);
    cohort.studies[study_of_row(index, table, r, id)].boxes.push_back(
        {table.rows[r][finding], box, annotation ? table.rows[r][*annotation] : ""});
  }
}

void read_meta(const std::string& path, const StudyIndex& index, Cohort& cohort) {
  const CsvTable table = read_csv(path);
  const std::size_t id = table.column("id");
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    auto& meta = cohort.studies[study_of_row(index, table, r, id)].meta;
    for (std::size_t c = 0; c < table.columns.size(); ++c)
      if (c != id && !table.rows[r][c].empty()) meta[table.columns[c]] = table.rows[r][c];
  }
}

/// Other common spellings of the validation split.
std::string split_name(const std::string& cell) {
  return cell == "validate" || cell == "validation" || cell == "valid" ? "val" : cell;
}

/// Uses the file's splits, or draws them when the file has none at all.
void settle_splits(const CsvTable& table, std::size_t column, const SplitOptions& options, Cohort& cohort) {
  const auto blank = [](const Study& study) { return study.split.empty(); };
  if (std::all_of(cohort.studies.begin(), cohort.studies.end(), blank)) {
    std::vector<std::string> patients;
    for (const auto& study : cohort.studies) patients.push_back(study.patient_id);
    const auto splits = patient_disjoint_split(patients, options);
    for (std::size_t i = 0; i < splits.size(); ++i) cohort.studies[i].split = splits[i];
  }
  for (std::size_t i = 0; i < cohort.studies.size(); ++i)
    if (!is_split(cohort.studies[i].split))
      fail(ErrorCode::kFormat, kFunction, cell_name(table, i, column), "train, val or test (or blank in every row)",
           "'" + cohort.studies[i].split + "'");
}

std::string patient_name(const Study& study) { return "patient " + study.patient_id; }
std::string image_name(const Study& study) { return "image " + study.path; }

void check_files(const CsvTable& table, const Cohort& cohort, const CohortOptions& options) {
  std::vector<std::string> missing;
  for (const Study& study : cohort.studies) {
    const auto check = [&](const std::string& path) {
      std::error_code unreadable;  // such as a name that is too long
      if (!path.empty() && !fs::is_regular_file(path, unreadable))
        missing.push_back(fmt::format("{} ({}, line {})", path, study.id, study.line));
    };
    if (options.check_images) check(study.path);
    if (!options.check_files) continue;
    check(study.counterfactual_path);
    for (const auto& entry : study.mask_paths) check(entry.second);
    for (const auto& entry : study.counterfactual_paths) check(entry.second);
  }
  if (!missing.empty())
    fail(ErrorCode::kNotFound, kFunction, table.name, "every file that it names",
         fmt::format("{} missing: {}", missing.size(), first_few(missing)));
}

void refuse_leaks(const CsvTable& table, const Cohort& cohort) {
  const auto leaks = leak_check(cohort);
  if (leaks.empty()) return;
  std::vector<std::string> texts;
  for (const auto& leak : leaks) {
    texts.emplace_back();
    if (texts.size() > kShown) continue;  // not shown, and every place is searched for among all rows
    std::vector<std::string> places;
    for (const auto& split : leak.splits)
      for (std::size_t i = 0; i < cohort.studies.size(); ++i) {
        const Study& study = cohort.studies[i];
        if (study.split != split || (leak.what != patient_name(study) && leak.what != image_name(study))) continue;
        places.push_back(fmt::format("{} (line {})", split, table.lines[i]));
        break;  // the first one will do
      }
    texts.back() = fmt::format("{} in {}", leak.what, fmt::join(places, " and "));
  }
  fail(ErrorCode::kMismatch, kFunction, table.name, "every patient and image in one split only",
       fmt::format("{} in several: {}", leaks.size(), first_few(texts)));
}

}  // namespace

void SplitOptions::validate() const {
  require_range(val_fraction, 0.0, 1.0, "SplitOptions", "val_fraction");
  require_range(test_fraction, 0.0, 1.0, "SplitOptions", "test_fraction");
  require(val_fraction + test_fraction < 1, "SplitOptions", "val_fraction + test_fraction", "less than 1",
          val_fraction + test_fraction);
}

void CohortOptions::validate() const {
  for (std::size_t i = 0; i < findings.size(); ++i)
    require(std::count(findings.begin(), findings.end(), findings[i]) == 1, "CohortOptions", "findings",
            "unique findings", "'" + findings[i] + "' twice");
  for (const auto& name : required_splits)
    require(is_split(name), "CohortOptions", "required_splits", "train, val or test", "'" + name + "'");
  split.validate();
}

const std::string& Study::meta_value(const std::string& column) const {
  static const std::string kBlank;
  const auto found = meta.find(column);
  return found == meta.end() ? kBlank : found->second;
}

std::size_t Cohort::finding_index(const std::string& finding) const {
  const auto found = std::find(findings.begin(), findings.end(), finding);
  if (found == findings.end())
    fail(ErrorCode::kNotFound, "Cohort", "finding", fmt::format("one of {}", fmt::join(findings, ", ")),
         "'" + finding + "'");
  return static_cast<std::size_t>(found - findings.begin());
}

std::vector<std::size_t> Cohort::split_indices(const std::string& split) const {
  require(is_split(split), "Cohort", "split", "train, val or test", "'" + split + "'");
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < studies.size(); ++i)
    if (studies[i].split == split) indices.push_back(i);
  return indices;
}

Cohort read_cohort(const std::string& folder, const CohortOptions& options) {
  options.validate();
  std::error_code unreadable;
  if (!fs::is_directory(folder, unreadable))
    fail(ErrorCode::kNotFound, kFunction, "folder", "a folder that holds labels.csv", "'" + folder + "'");
  const fs::path root = fs::absolute(folder).lexically_normal();
  const CsvTable table = read_csv((root / "labels.csv").string());

  Cohort cohort;
  cohort.folder = root.string();
  const Columns columns = assign_columns(table, options, cohort.findings);
  StudyIndex index;
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const auto& row = table.rows[r];
    const auto filled = [&](std::size_t column) -> const std::string& {
      if (row[column].empty()) fail(ErrorCode::kFormat, kFunction, cell_name(table, r, column), "a value", "a blank");
      return row[column];
    };
    const auto text = [&](const std::optional<std::size_t>& column) { return column ? row[*column] : std::string(); };
    const auto label = [&](std::size_t column) { return parse_label(row[column], cell_name(table, r, column)); };
    const auto file = [&](std::size_t column) { return resolve(root, row[column], cell_name(table, r, column)); };

    Study study;
    study.line = table.lines[r];
    study.id = filled(columns.id);
    study.path = resolve(root, filled(columns.path), cell_name(table, r, columns.path));
    study.patient_id = filled(columns.patient);
    study.split = split_name(row[columns.split]);
    study.view = text(columns.view);
    study.source = text(columns.source);
    study.report = text(columns.report);
    for (std::size_t column : columns.labels) study.labels.push_back(label(column));
    for (std::size_t column : columns.other_labels) study.other_labels.push_back(label(column));
    if (columns.no_finding) study.no_finding = label(*columns.no_finding);
    for (const auto& [finding, column] : columns.masks)
      if (!row[column].empty()) study.mask_paths[finding] = file(column);
    for (const auto& [finding, column] : columns.counterfactuals)
      if (!row[column].empty()) study.counterfactual_paths[finding] = file(column);
    if (columns.counterfactual) study.counterfactual_path = file(*columns.counterfactual);
    for (std::size_t column : columns.meta)
      if (!row[column].empty()) study.meta[table.columns[column]] = row[column];

    const auto [known, fresh] = index.emplace(study.id, r);
    if (!fresh)
      fail(ErrorCode::kFormat, kFunction, cell_name(table, r, columns.id), "an id of its own",
           fmt::format("'{}', which line {} has too", study.id, table.lines[known->second]));
    cohort.has_reports = cohort.has_reports || !study.report.empty();
    cohort.studies.push_back(std::move(study));
  }

  settle_splits(table, columns.split, options.split, cohort);
  refuse_leaks(table, cohort);
  for (const auto& split : options.required_splits)
    if (cohort.split_indices(split).empty())
      fail(ErrorCode::kMismatch, kFunction, table.name, fmt::format("at least one row with split '{}'", split), "none");
  if (fs::exists(root / "boxes.csv")) read_boxes((root / "boxes.csv").string(), index, cohort);
  if (fs::exists(root / "meta.csv")) read_meta((root / "meta.csv").string(), index, cohort);
  check_files(table, cohort, options);
  return cohort;
}

std::vector<Leak> leak_check(const Cohort& cohort) {
  std::map<std::string, std::set<std::string>> patients, images;
  for (const auto& study : cohort.studies) {
    patients[patient_name(study)].insert(study.split);
    images[image_name(study)].insert(study.split);
  }
  std::vector<Leak> leaks;
  const auto collect = [&](const auto& seen) {
    for (const auto& [name, splits] : seen) {
      if (splits.size() < 2) continue;
      Leak leak{name, {}};
      for (const char* split : kSplits)
        if (splits.count(split)) leak.splits.emplace_back(split);
      leaks.push_back(std::move(leak));
    }
  };
  collect(patients);
  collect(images);
  return leaks;
}

std::vector<std::string> patient_disjoint_split(const std::vector<std::string>& patient_ids,
                                                const SplitOptions& options) {
  options.validate();
  std::map<std::string, std::size_t> images;
  for (const auto& patient : patient_ids) ++images[patient];
  std::vector<std::pair<double, std::string>> order;
  for (const auto& entry : images)
    order.emplace_back(RandomStream(options.seed, hash_text(entry.first), "split").uniform(), entry.first);
  std::sort(order.begin(), order.end());

  const auto total = static_cast<double>(patient_ids.size());
  const double test_end = options.test_fraction * total;
  const double val_end = test_end + options.val_fraction * total;
  std::map<std::string, std::string> split_of;
  double assigned = 0;
  for (const auto& entry : order) {
    split_of[entry.second] = assigned < test_end ? "test" : assigned < val_end ? "val" : "train";
    assigned += static_cast<double>(images[entry.second]);
  }
  std::vector<std::string> splits;
  for (const auto& patient : patient_ids) splits.push_back(split_of[patient]);
  return splits;
}

CohortSummary summarise(const Cohort& cohort) {
  CohortSummary summary;
  summary.findings = cohort.findings;
  const std::size_t findings = cohort.findings.size();
  for (std::size_t s = 0; s < kSplits.size(); ++s) {
    SplitSummary& split = summary.splits[s];
    split.split = kSplits[s];
    split.finding_states.resize(findings);
    split.masks.resize(findings);
    split.boxes.resize(findings);
    std::set<std::string> patients;
    for (std::size_t i : cohort.split_indices(kSplits[s])) {
      const Study& study = cohort.studies[i];
      ++split.images;
      patients.insert(study.patient_id);
      split.reports += !study.report.empty();
      ++split.views[study.view];
      const LabelState derived = no_finding_state(study.labels);
      split.no_finding += derived == LabelState::kPositive;
      summary.no_finding_conflicts += study.no_finding == LabelState::kPositive && derived == LabelState::kNegative;
      std::set<std::string> boxed;
      for (const auto& box : study.boxes) {
        boxed.insert(box.finding);
        if (!contains(cohort.findings, box.finding)) ++summary.other_boxes[box.finding];
      }
      for (std::size_t f = 0; f < findings; ++f) {
        ++split.finding_states[f][static_cast<std::size_t>(study.labels[f])];
        split.masks[f] += study.mask_paths.count(f);
        split.boxes[f] += boxed.count(cohort.findings[f]);
      }
    }
    split.patients = patients.size();
  }
  return summary;
}

}  // namespace daug
