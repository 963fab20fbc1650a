#include "daug/index/filter.h"

#include <memory>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace daug {

Filter Filter::equals(std::string key, std::string value) {
  return Filter([key = std::move(key), value = std::move(value)](std::int64_t, const Metadata& metadata) {
    const auto found = metadata.find(key);
    return found != metadata.end() && found->second == value;
  });
}

Filter Filter::lists(std::string key, std::string element) {
  return Filter([key = std::move(key), element = std::move(element)](std::int64_t, const Metadata& metadata) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return false;
    for (std::string_view rest = found->second;;) {
      const auto end = rest.find('|');
      if (rest.substr(0, end) == element) return true;
      if (end == rest.npos) return false;
      rest.remove_prefix(end + 1);
    }
  });
}

Filter Filter::has(std::string key) {
  return Filter([key = std::move(key)](std::int64_t, const Metadata& metadata) { return metadata.count(key) != 0; });
}

Filter Filter::ids(const std::vector<std::int64_t>& ids) {
  // Shared, because copies of a filter copy what its function holds.
  auto set = std::make_shared<const std::unordered_set<std::int64_t>>(ids.begin(), ids.end());
  return Filter([set = std::move(set)](std::int64_t id, const Metadata&) { return set->count(id) != 0; });
}

Filter Filter::exclude_patient(std::string patient) { return !equals("patient", std::move(patient)); }

Filter operator&&(const Filter& a, const Filter& b) {
  return Filter(
      [a, b](std::int64_t id, const Metadata& metadata) { return a.matches(id, metadata) && b.matches(id, metadata); });
}

Filter operator||(const Filter& a, const Filter& b) {
  return Filter(
      [a, b](std::int64_t id, const Metadata& metadata) { return a.matches(id, metadata) || b.matches(id, metadata); });
}

Filter operator!(const Filter& a) {
  return Filter([a](std::int64_t id, const Metadata& metadata) { return !a.matches(id, metadata); });
}

}  // namespace daug
