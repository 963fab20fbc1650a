#include "daug/data/vocabulary.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "daug/io/csv.h"
#include "daug/io/file.h"

namespace daug {
namespace {

Vocabulary parse_json(const std::string& path) {
  Vocabulary vocabulary;
  try {
    const auto json = nlohmann::ordered_json::parse(read_text_file(path));
    json.at("findings").get_to(vocabulary.findings);
    if (json.contains("groups")) {
      for (const auto& [name, members] : json.at("groups").items())
        vocabulary.groups.push_back({name, members.get<std::vector<std::string>>()});
    } else {
      vocabulary.groups = one_group_per_finding(vocabulary.findings);
    }
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kFormat, "read_vocabulary", path, R"({"findings": [names], "groups": {name: [findings]}})",
         error.what());
  }
  return vocabulary;
}

Vocabulary parse_csv_rows(const std::string& path) {
  const CsvTable table = read_csv(path);
  const std::size_t finding_column = table.column("finding");
  Vocabulary vocabulary;
  for (const auto& row : table.rows) {
    const std::string& finding = row[finding_column];
    const std::string own = table.has_column("group") ? row[table.column("group")] : "";
    const std::string& group = own.empty() ? finding : own;
    if (std::find(vocabulary.findings.begin(), vocabulary.findings.end(), finding) == vocabulary.findings.end())
      vocabulary.findings.push_back(finding);
    auto found = std::find_if(vocabulary.groups.begin(), vocabulary.groups.end(),
                              [&](const FindingGroup& known) { return known.name == group; });
    if (found == vocabulary.groups.end()) found = vocabulary.groups.insert(found, {group, {}});
    found->findings.push_back(finding);
  }
  return vocabulary;
}

}  // namespace

void Vocabulary::validate() const {
  require(!findings.empty(), "Vocabulary", "findings", "at least one finding", "none");
  std::set<std::string> seen;
  for (const auto& finding : findings) {
    require(!finding.empty(), "Vocabulary", "findings", "finding names", "an empty text");
    require(seen.insert(finding).second, "Vocabulary", "findings", "unique findings", "'" + finding + "' twice");
  }
  validate_groups(groups, findings);
}

Vocabulary read_vocabulary(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension != ".json" && extension != ".csv")
    fail(ErrorCode::kUnsupported, "read_vocabulary", path, "a .json or .csv file", "'" + extension + "'");
  Vocabulary vocabulary = extension == ".json" ? parse_json(path) : parse_csv_rows(path);
  try {
    vocabulary.validate();
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
  return vocabulary;
}

}  // namespace daug
