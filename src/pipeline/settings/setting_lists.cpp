// Settings that are lists.

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/pipeline/run_config.h"

namespace daug {

namespace {
template <class T>
std::vector<T> parse_list(const std::string& text, const std::string& setting) {
  std::vector<T> values;
  if (text.empty()) return values;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data();; ++at) {
    T value = 0;
    const auto [after, error] = std::from_chars(at, end, value);
    if (error != std::errc() || (after != end && *after != ','))
      fail(ErrorCode::kInvalidArgument, "daug::RunConfig", setting, "comma-separated numbers", "'" + text + "'");
    values.push_back(value);
    if (after == end) return values;
    at = after;
  }
}
}  // namespace

std::vector<std::int64_t> parse_integers(const std::string& text, const std::string& setting) {
  return parse_list<std::int64_t>(text, setting);
}

std::vector<double> parse_numbers(const std::string& text, const std::string& setting) {
  return parse_list<double>(text, setting);
}

std::vector<std::string> parse_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::size_t first = std::min(text.find_first_not_of(' ', begin), end);
    std::size_t last = end;
    while (last > first && text[last - 1] == ' ') --last;
    names.push_back(text.substr(first, last - first));
    begin = end + 1;
  }
  return names;
}

std::vector<std::pair<std::string, std::vector<std::string>>> parse_box_groups(const std::string& text) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const auto& item : parse_names(text)) {
    const std::size_t equals = item.find('=');
    std::string members = equals == std::string::npos ? "" : item.substr(equals + 1);
    std::replace(members.begin(), members.end(), '|', ',');
    groups.emplace_back(item.substr(0, equals), parse_names(members));
    require(!groups.back().first.empty() && !groups.back().second.empty(), "daug::RunConfig", "evaluate.box_groups",
            "name=map|map,...", "'" + text + "'");
  }
  return groups;
}

}  // namespace daug
