#pragma once
// JSON from files that may be hostile, and what its values must be.

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>

#include "daug/core/error.h"

namespace daug::detail {

/// Most brackets within brackets: copying, comparing and printing a value recurse once a level, and a megabyte of
/// opening brackets would end the stack.
constexpr int kDeepestJson = 64;

inline bool nested_too_deep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else
        quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepestJson) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

/// Throws kFormat, calling the text `where`, when it is no JSON or nests too deep.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const char* function, const std::string& where) {
  if (nested_too_deep(text))
    fail(ErrorCode::kFormat, function, where, concat("JSON of at most ", kDeepestJson, " levels"), "more");
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kFormat, function, where, "JSON", error.what());
  }
}

/// The beginning of a value, for a message.
template <class Json>
std::string shown(const Json& value) {
  return value.dump().substr(0, 80);
}

// Parsing and printing are several seconds of compilation and stand in json.cpp.
extern template nlohmann::json parse_json<nlohmann::json>(std::string_view, const char*, const std::string&);
extern template nlohmann::ordered_json parse_json<nlohmann::ordered_json>(std::string_view, const char*,
                                                                          const std::string&);
extern template std::string shown<nlohmann::json>(const nlohmann::json&);
extern template std::string shown<nlohmann::ordered_json>(const nlohmann::ordered_json&);

/// A text, bool, 64-bit integer or double; throws kFormat for a value of another kind, rather than convert it.
template <class T, class Json>
T value_of(const Json& value, const char* function, const std::string& where) {
  bool fits = value.is_string();
  const char* kind = "a text";
  if constexpr (std::is_same_v<T, bool>) {
    fits = value.is_boolean(), kind = "true or false";
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    fits = value.is_number_integer() && !(value.is_number_unsigned() && value.template get<std::uint64_t>() > kMost);
    kind = "a whole number";
  } else if constexpr (std::is_same_v<T, double>) {
    fits = value.is_number(), kind = "a number";
  } else {
    static_assert(std::is_same_v<T, std::string>);
  }
  if (!fits) fail(ErrorCode::kFormat, function, where, kind, shown(value));
  return value.template get<T>();
}

/// A member of what must be an object; throws kFormat naming it where there is none.
template <class Json>
const Json& member_of(const Json& object, const std::string& key, const char* function, const std::string& where) {
  const auto found = object.find(key);
  if (!object.is_object() || found == object.end())
    fail(ErrorCode::kFormat, function, where + ": " + key, "a value", "none");
  return *found;
}

template <class T, class Json>
T member_as(const Json& object, const std::string& key, const char* function, const std::string& where) {
  return value_of<T>(member_of(object, key, function, where), function, where + ": " + key);
}

}  // namespace daug::detail
