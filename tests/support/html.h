#pragma once
// What tests ask of a page.

#include <regex.h>

#include <cctype>
#include <set>
#include <string>
#include <vector>

#include "support/catch.h"

namespace daug::test {

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

// First group of every match of a POSIX extended expression; std::regex recurses once a character, too deep for a page.
inline std::vector<std::string> matches(const std::string& text, const std::string& pattern) {
  std::vector<std::string> found;
  regex_t regex;
  REQUIRE(regcomp(&regex, pattern.c_str(), REG_EXTENDED) == 0);
  regmatch_t groups[2];
  for (const char* at = text.c_str(); regexec(&regex, at, 2, groups, 0) == 0; at += groups[0].rm_eo)
    found.emplace_back(at + groups[1].rm_so, at + groups[1].rm_eo);
  regfree(&regex);
  return found;
}

// Checks that tags nest and close and that attributes are quoted; returns what is wrong, or "".
inline std::string structure_error(const std::string& html) {
  static const std::set<std::string> kVoid = {"meta", "link", "img", "input", "br", "wbr"};
  std::vector<std::string> open;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    if (html.compare(at, 2, "<!") == 0) continue;
    const bool closing = html[at + 1] == '/';
    std::size_t i = at + 1 + closing;
    std::string name;
    while (i < html.size() && (std::isalnum(static_cast<unsigned char>(html[i])) != 0)) name += html[i++];
    if (name.empty()) return "stray '<' at " + html.substr(at, 40);
    bool quoted = false;
    for (; i < html.size() && (quoted || html[i] != '>'); ++i) {
      if (html[i] == '"') quoted = !quoted;
      if (html[i] == '<') return "'<' inside a tag at " + html.substr(at, 60);
    }
    if (i == html.size()) return "unfinished tag at " + html.substr(at, 40);
    if (closing) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes <" + (open.empty() ? "" : open.back()) + ">";
      open.pop_back();
    } else if (kVoid.count(name) == 0 && html[i - 1] != '/') {
      open.push_back(name);
      if (name == "script" || name == "style") i = html.find("</" + name, i) - 1;
    }
    at = i;
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

}  // namespace daug::test
