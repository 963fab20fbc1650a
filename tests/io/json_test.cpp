#include "io/json.h"

#include <string>

#include "support/catch.h"
#include "support/caught.h"

using namespace daug;
using namespace daug::test;
using daug::detail::kDeepestJson;
using nlohmann::json;

namespace {

json parse(const std::string& text) { return detail::parse_json(text, "read", "x.json"); }

std::string nested(int levels) {
  return std::string(static_cast<std::size_t>(levels), '[') + std::string(static_cast<std::size_t>(levels), ']');
}

}  // namespace

TEST_CASE("brackets nest as deep as they may and no deeper", "[json]") {
  CHECK(parse(nested(kDeepestJson)).dump() == nested(kDeepestJson));
  for (const int levels : {kDeepestJson + 1, 1'000'000}) {
    const Error error = caught([&] { parse(nested(levels)); });
    CHECK(error.code() == ErrorCode::kFormat);
    CHECK(mentions(error, "x.json"));
    CHECK(mentions(error, "64 levels"));
  }
  CHECK(caught([] { parse(std::string(1'000'000, '{')); }).code() == ErrorCode::kFormat);
  std::string wide = "[0";
  for (int i = 0; i < 1000; ++i) wide += ",[{}]";
  CHECK(parse(wide + "]").size() == 1001);
}

TEST_CASE("brackets in texts do not nest", "[json]") {
  const std::string brackets(1000, '[');
  CHECK(parse("{\"" + brackets + "\": \"" + brackets + "\"}").at(brackets) == brackets);
  // A quote behind a backslash does not end a text, one behind two does.
  CHECK(parse(R"(["\"[[", "\\", ["]"]])").size() == 3);
  CHECK(caught([&] { parse("[\"\\\\\"," + nested(kDeepestJson) + "]"); }).code() == ErrorCode::kFormat);
}

TEST_CASE("what is no JSON is refused by name", "[json]") {
  for (const char* text : {"", "{", "]", "[1,]", "{\"a\":1} 2", "\"\xFF\"", "nul", "[\"", "\"\\"}) {
    INFO(text);
    check_refused(ErrorCode::kFormat, "read: x.json", [&] { parse(text); });
  }
}

TEST_CASE("members are of the kind asked for, and named when they are not", "[json]") {
  const json object = parse(
      R"({"text": "a", "whole": -3, "real": 1.5, "most": 9223372036854775807, "more": 9223372036854775808,
          "flag": true, "none": null, "list": [1]})");
  const auto refused = [](const auto& read, const std::string& key) {
    check_refused(ErrorCode::kFormat, "x.json: " + key, read);
  };
  const auto as = [&](auto example, const std::string& key) {
    return detail::member_as<decltype(example)>(object, key, "read", "x.json");
  };
  CHECK(as(std::string(), "text") == "a");
  CHECK(as(std::int64_t{}, "whole") == -3);
  CHECK(as(std::int64_t{}, "most") == std::numeric_limits<std::int64_t>::max());
  CHECK(as(double{}, "real") == 1.5);
  CHECK(as(double{}, "whole") == -3);
  CHECK(as(bool{}, "flag"));
  for (const char* key : {"text", "real", "more", "flag", "none", "list", "absent"})
    refused([&] { as(std::int64_t{}, key); }, key);
  for (const char* key : {"text", "flag", "none", "list", "absent"}) refused([&] { as(double{}, key); }, key);
  for (const char* key : {"text", "whole", "none", "absent"}) refused([&] { as(bool{}, key); }, key);
  for (const char* key : {"whole", "flag", "none", "list", "absent"}) refused([&] { as(std::string(), key); }, key);
  const json list = parse("[1]");
  refused([&] { detail::member_of(list, "0", "read", "x.json"); }, "0");
}
