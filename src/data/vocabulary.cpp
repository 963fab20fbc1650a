#include "daug/data/vocabulary.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "io/json.h"

namespace daug {
namespace {

constexpr const char* kRead = "read_vocabulary";
constexpr std::uint64_t kMostBytes = 1 << 24;

Vocabulary parse_json(const std::string& path) {
  using Json = nlohmann::ordered_json;  // in the order of the file
  const auto json = detail::parse_json<Json>(read_text_file(path, kMostBytes), kRead, path);
  const auto names = [](const Json& list, const std::string& where) {
    if (!list.is_array()) fail(ErrorCode::kFormat, kRead, where, "a list of names", list.type_name());
    std::vector<std::string> texts;
    for (const auto& name : list) texts.push_back(detail::value_of<std::string>(name, kRead, where));
    return texts;
  };
  Vocabulary vocabulary;
  vocabulary.findings = names(detail::member_of(json, "findings", kRead, path), path + ": findings");
  const auto groups = json.find("groups");
  if (groups == json.end()) {
    vocabulary.groups = one_group_per_finding(vocabulary.findings);
    return vocabulary;
  }
  if (!groups->is_object())
    fail(ErrorCode::kFormat, kRead, path + ": groups", "{name: [findings]}", groups->type_name());
  for (const auto& [name, members] : groups->items())
    vocabulary.groups.push_back({name, names(members, path + ": groups." + name)});
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
  const auto require_one_name = [](const char* argument, const std::string& name) {  // not several in a list
    require(name.find_first_of(",|") == std::string::npos, "Vocabulary", argument, "names without a comma or '|'",
            "'" + name + "'");
  };
  require(!findings.empty(), "Vocabulary", "findings", "at least one finding", "none");
  std::set<std::string> seen;
  for (const auto& finding : findings) {
    require(!finding.empty(), "Vocabulary", "findings", "finding names", "an empty text");
    require_one_name("findings", finding);
    require(seen.insert(finding).second, "Vocabulary", "findings", "unique findings", "'" + finding + "' twice");
  }
  for (const auto& group : groups) require_one_name("groups", group.name);
  validate_groups(groups, findings);
}

Vocabulary read_vocabulary(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension != ".json" && extension != ".csv")
    fail(ErrorCode::kUnsupported, kRead, path, "a .json or .csv file", "'" + extension + "'");
  Vocabulary vocabulary = extension == ".json" ? parse_json(path) : parse_csv_rows(path);
  try {
    vocabulary.validate();
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
  return vocabulary;
}

}  // namespace daug
