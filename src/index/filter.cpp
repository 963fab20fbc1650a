#include "daug/index/filter.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "daug/core/error.h"
#include "filter_node.h"

namespace daug {
namespace {

using detail::FilterNode;
using Kind = FilterNode::Kind;

std::shared_ptr<const FilterNode> node(FilterNode fields) {
  return std::make_shared<const FilterNode>(std::move(fields));
}

bool list_has(std::string_view list, std::string_view element) {
  for (;;) {
    const auto end = list.find('|');
    if (list.substr(0, end) == element) return true;
    if (end == list.npos) return false;
    list.remove_prefix(end + 1);
  }
}

std::optional<double> number(const std::string& text) {
  double value = 0;
  const auto* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end || !std::isfinite(value)) return std::nullopt;  // "inf" is no decimal number
  return value;
}

/// Such texts sort as their dates do.
bool is_date(const std::string& text) {
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') return false;
  int parts[3] = {};
  const std::size_t starts[] = {0, 5, 8, 11};
  for (int part = 0; part < 3; ++part)
    for (std::size_t i = starts[part]; i + 1 < starts[part + 1]; ++i) {
      if (text[i] < '0' || text[i] > '9') return false;
      parts[part] = 10 * parts[part] + (text[i] - '0');
    }
  return std::chrono::year_month_day(std::chrono::year(parts[0]), std::chrono::month(static_cast<unsigned>(parts[1])),
                                     std::chrono::day(static_cast<unsigned>(parts[2])))
      .ok();
}

bool passes(const FilterNode* filter, std::int64_t id, const Metadata& metadata) {
  if (!filter) return true;
  switch (filter->kind) {
    case Kind::kValue: {
      const auto found = metadata.find(filter->key);
      return found != metadata.end() && filter->test(found->second);
    }
    case Kind::kHas:
      return metadata.count(filter->key) != 0;
    case Kind::kIds:
      return filter->ids.count(id) != 0;
    case Kind::kPredicate:
      return filter->predicate(id, metadata);
    case Kind::kAnd:
      return passes(filter->a.get(), id, metadata) && passes(filter->b.get(), id, metadata);
    case Kind::kOr:
      return passes(filter->a.get(), id, metadata) || passes(filter->b.get(), id, metadata);
    case Kind::kNot:
      return !passes(filter->a.get(), id, metadata);
  }
  return false;
}

/// In quotation marks, with a backslash before each that it has.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + '"';
}

/// The shortest text that reads back as this number.
std::string shortest(double value) {
  std::array<char, 32> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

std::string text_of(const FilterNode* filter) {
  if (!filter) return "everything";
  switch (filter->kind) {
    case Kind::kValue:
      return quoted(filter->key) + " " + filter->asked;
    case Kind::kHas:
      return "has " + quoted(filter->key);
    case Kind::kIds: {
      std::string text = "id in";
      for (const auto id : std::set<std::int64_t>(filter->ids.begin(), filter->ids.end()))
        text += " " + std::to_string(id);
      return text;
    }
    case Kind::kPredicate:
      return "predicate";
    case Kind::kAnd:
      return "(" + text_of(filter->a.get()) + " && " + text_of(filter->b.get()) + ")";
    case Kind::kOr:
      return "(" + text_of(filter->a.get()) + " || " + text_of(filter->b.get()) + ")";
    case Kind::kNot:
      return "!(" + text_of(filter->a.get()) + ")";
  }
  return {};
}

void collect_fields(const FilterNode* filter, std::set<std::string>& fields) {
  if (!filter) return;
  if (filter->kind == Kind::kValue) fields.insert(filter->key);
  collect_fields(filter->a.get(), fields);
  collect_fields(filter->b.get(), fields);
}

}  // namespace

Filter::Filter(Predicate predicate) {
  if (predicate) root_ = node({.kind = Kind::kPredicate, .predicate = std::move(predicate)});
}

Filter Filter::equals(std::string key, std::string value) {
  return Filter(node({.kind = Kind::kValue,
                      .key = std::move(key),
                      .asked = "equals " + quoted(value),
                      .test = [value](const std::string& text) { return text == value; },
                      .only = value}));
}

Filter Filter::lists(std::string key, std::string element) {
  return Filter(node({.kind = Kind::kValue,
                      .key = std::move(key),
                      .asked = "lists " + quoted(element),
                      .test = [element](const std::string& text) { return list_has(text, element); }}));
}

Filter Filter::has(std::string key) { return Filter(node({.kind = Kind::kHas, .key = std::move(key)})); }

Filter Filter::between(std::string key, double low, double high) {
  require(low <= high, "Filter::between", "low, high", "two numbers in ascending order",
          detail::concat(low, " and ", high));
  return Filter(node({.kind = Kind::kValue,
                      .key = std::move(key),
                      .asked = "between " + shortest(low) + " and " + shortest(high),
                      .test = [low, high](const std::string& text) {
                        const auto value = number(text);
                        return value && *value >= low && *value <= high;
                      }}));
}

Filter Filter::dates(std::string key, const std::string& from, const std::string& to) {
  require(is_date(from), "Filter::dates", "from", "a date YYYY-MM-DD", "'" + from + "'");
  require(is_date(to), "Filter::dates", "to", "a date YYYY-MM-DD", "'" + to + "'");
  require(from <= to, "Filter::dates", "to", "a date not before " + from, to);
  return Filter(
      node({.kind = Kind::kValue,
            .key = std::move(key),
            .asked = "from " + from + " to " + to,
            .test = [from, to](const std::string& text) { return from <= text && text <= to && is_date(text); }}));
}

Filter Filter::ids(const std::vector<std::int64_t>& ids) {
  return Filter(node({.kind = Kind::kIds, .ids = {ids.begin(), ids.end()}}));
}

Filter Filter::exclude_patient(std::string patient) { return !equals("patient", std::move(patient)); }

bool Filter::matches(std::int64_t id, const Metadata& metadata) const { return passes(root_.get(), id, metadata); }

std::string Filter::text() const { return text_of(root_.get()); }

std::vector<std::string> Filter::fields() const {
  std::set<std::string> fields;
  collect_fields(root_.get(), fields);
  return {fields.begin(), fields.end()};
}

Filter operator&&(const Filter& a, const Filter& b) {
  return Filter(node({.kind = Kind::kAnd, .a = a.root_, .b = b.root_}));
}

Filter operator||(const Filter& a, const Filter& b) {
  return Filter(node({.kind = Kind::kOr, .a = a.root_, .b = b.root_}));
}

Filter operator!(const Filter& a) { return Filter(node({.kind = Kind::kNot, .a = a.root_})); }

}  // namespace daug
