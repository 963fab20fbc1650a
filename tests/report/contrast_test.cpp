// Contrast of the style sheet's colours, by WCAG 2.1.

#include "support/contrast.h"

#include <map>
#include <string>

#include "daug/report/html_parts.h"
#include "page.h"
#include "support/catch.h"
#include "support/html.h"

using daug::test::contrast;

namespace {

/// The colours of the style sheet's `number`-th scheme, by name: light, then dark.
std::map<std::string, std::string> scheme(int number) {
  const std::string style(daug::report::kStyle);
  std::size_t begin = 0;
  for (int i = 0; i <= number; ++i) begin = style.find(":root {", begin) + 1;
  const std::string block = style.substr(begin, style.find('}', begin) - begin);
  std::map<std::string, std::string> colours;
  const auto names = daug::test::matches(block, "--([a-z0-9-]+): #"),
             values = daug::test::matches(block, ": (#[0-9a-f]{6})");
  REQUIRE(names.size() == values.size());
  for (std::size_t i = 0; i < names.size(); ++i) colours[names[i]] = values[i];
  return colours;
}

}  // namespace

TEST_CASE("contrast is that of the recommendation's examples", "[report]") {
  CHECK(contrast("#000000", "#ffffff") == Approx(21));
  CHECK(contrast("#777777", "#ffffff") == Approx(4.48).margin(0.005));
}

TEST_CASE("text and lines stand out from what is behind them, in light and dark", "[report]") {
  for (const int number : {0, 1}) {
    const auto colours = scheme(number);
    REQUIRE(colours.size() == 19);
    const auto check = [&](const char* front, const char* back, double least) {
      INFO((number == 0 ? "light: " : "dark: ") << front << " on " << back);
      CHECK(contrast(colours.at(front), colours.at(back)) >= least);
    };
    // Level AA, criterion 1.4.3: text, of whatever size.
    for (const char* back : {"page", "panel"})
      for (const char* front : {"text", "muted", "accent"}) check(front, back, 4.5);
    for (const char* front : {"text", "muted"}) check(front, "soft", 4.5);
    check("warn", "warn-soft", 4.5);
    check("good", "good-soft", 4.5);
    check("panel", "accent", 4.5);  // a button's
    // 1.4.11: what a chart says by lines.
    for (int s = 0; s < 8; ++s) check(("s" + std::to_string(s)).c_str(), "panel", 3);
    check("muted", "panel", 3);
  }
}

TEST_CASE("charts in files of their own have the page's light colours on white", "[report]") {
  const auto colours = scheme(0);
  const std::string style(daug::report::kSvgStyle);
  for (int s = 0; s < 8; ++s) {
    const std::string name = "s" + std::to_string(s);
    CHECK(daug::test::matches(style, "\\." + name + " \\{ stroke: (#[0-9a-f]{6})").at(0) == colours.at(name));
    CHECK(contrast(colours.at(name), "#ffffff") >= 3);
  }
  int texts = 0;
  for (const auto& fill : daug::test::matches(style, "fill: (#[0-9a-f]{6})")) {
    if (fill == "#ffffff") continue;  // a mark's, within its line
    CHECK(contrast(fill, "#ffffff") >= 4.5);
    ++texts;
  }
  CHECK(texts >= 3);
}
