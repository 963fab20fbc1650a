// A page as it is used: by keyboard, on a phone, on paper, and by a program that reads its structure aloud.

#include <set>
#include <string>

#include "daug/image/png.h"
#include "daug/report/html_report.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/contrast.h"
#include "support/devtools.h"
#include "support/page_look.h"
#include "support/scratch.h"

namespace {

using daug::test::BrowserSession;
using daug::test::contrast;

constexpr int kPhone = 320;
constexpr int kA4 = 718;         // pixels of an A4 page between margins of 1 cm
constexpr int kA3Across = 1511;  // of an A3 page, the long side across

/// Every kind of piece, with names as long as a run's, which no blank breaks.
daug::HtmlReport page_of_a_run() {
  const std::string folder = "runs/encoder.negatives=soft,encoder.label_softness=0.1/quickstart_of_another_day";
  const auto png = daug::encode_png(daug::GrayImage::filled(40, 30, 0.5F));
  daug::Table figures{"Figures of the arms", {"arm, and what its maps are made of"}, {}, {2}};
  for (int c = 0; c < 12; ++c) figures.header.push_back(c % 2 ? "report_to_image P@5" : "macro AUROC");
  for (const char* arm : {"image, image-text loss", "image", "image+evidence", "noise_aware_classifier"}) {
    figures.rows.push_back({arm});
    for (int c = 0; c < 12; ++c) figures.rows.back().emplace_back("0.882 (0.861 to 0.902)");
  }
  daug::HtmlReport page("retrieval.report_to_image_of_every_finding_beside_classification", folder);
  page.paragraph("What stands before the first section.");
  page.section("Summary").key_figures({{"0.882", "macro AUROC", "95 % 0.861 to 0.902, n = 400"}});
  page.intervals({"Macro AUROC", {"AUROC", 0.5, 1}, {{folder, 0.882, 0.861, 1, true}, {"image", 0.7, 0.5, 0.8}}, 0.5});
  page.section("Arms-and-what-they-differ-in-setting-by-setting").subsection("Figures").table(figures);
  page.table({"Runs", {"", folder, "other"}, {{"folder", folder, folder + "-2"}, {"figures", "120", "121"}}, {}});
  page.charts({{"Receiver operating characteristic",
                {"1 - specificity", 0, 1},
                {"sensitivity", 0, 1},
                {{"image", {0, 1}, {0, 1}}, {folder, {0, 0.5, 1}, {0, 0.8, 1}}},
                true}});
  page.section("Pictures");
  page.images({"Maps", {{"study 1", {{png, "radiograph", "", {}}, {png, "map", "", png}}}}, {{"unit", 0, 1}}, 0.7});
  page.retrieval("Hits", {{{png, "s1", "", {}}, {"Edema"}, {{{png, "s2", "", {}}, {"Edema", "Nodule"}}}}});
  page.section("Methods").paragraph("As published.").key_values("Settings", {{"encoder.max_logit_scale", folder}});
  page.preformatted("The command", "00_quickstart --out " + folder + folder + "\n  second line");
  return page;
}

constexpr int kSections = 4, kRegions = 5;  // those that scroll: two tables, settings, hits, the command

/// The page in a file of its own.
struct Shown {
  daug::test::Scratch scratch;
  BrowserSession browser;

  explicit Shown(const daug::HtmlReport& page) {
    page.write(scratch.path("page.html"));
    open();
  }
  void open() { browser.open("file://" + scratch.path("page.html")); }
};

}  // namespace

TEST_CASE("all of a page is reached by keyboard, in order, and what has the focus is seen to", "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  Shown shown(page_of_a_run());
  BrowserSession& browser = shown.browser;
  for (const int width : {1280, kPhone}) {
    INFO(width << " pixels wide");
    shown.open();
    browser.show_as(width, 640);
    const auto found = browser.evaluate(
        "(globalThis.stops = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, "
        "[tabindex]')].filter(one => one.tabIndex >= 0 && one.getClientRects().length > 0)).length");
    const int stops = found.get<int>();
    CHECK(stops == 1 + kSections + kRegions + 1);  // the link to the contents, and the slider
    CHECK(browser.evaluate("stops.every(one => getComputedStyle(one).outlineStyle === 'none')").get<bool>());
    // Whatever scrolls is a stop or has one in it.
    const auto out_of_reach = browser.evaluate(R"js([...document.body.querySelectorAll('*')].filter(one => {
      const style = getComputedStyle(one), scrolls = /auto|scroll/;
      return (scrolls.test(style.overflowX) && one.scrollWidth > one.clientWidth ||
              scrolls.test(style.overflowY) && one.scrollHeight > one.clientHeight) &&
        !stops.some(stop => one.contains(stop));
    }).length)js");
    CHECK(out_of_reach.get<int>() == 0);
    for (int stop = 0; stop < stops; ++stop) {
      browser.press("Tab");
      const auto focus = browser.evaluate("(() => {" + daug::test::kColourScript + R"js(
        const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
        return {stop: stops.indexOf(one), style: style.outlineStyle, width: parseFloat(style.outlineWidth),
          colour: hex(style.outlineColor), behind: behind(one.parentElement),
          inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth};
      })())js");
      INFO(focus.dump());
      CHECK(focus.at("stop").get<int>() == stop);
      CHECK(focus.at("style").get<std::string>() == "solid");
      CHECK(focus.at("width").get<double>() >= 2);
      CHECK(contrast(focus.at("colour").get<std::string>(), focus.at("behind").get<std::string>()) >= 3);
      CHECK(focus.at("inside").get<bool>());
    }
  }
  // Arrows move the slider, and scroll the table that the phone has no room for.
  browser.evaluate("document.querySelector('input[data-opacity]').focus()");
  browser.press("ArrowRight");
  CHECK(browser.value("input[data-opacity]") == "0.75");
  CHECK(browser.evaluate("document.querySelector('.grid').style.getPropertyValue('--opacity')").get<std::string>() ==
        "0.75");
  browser.evaluate("document.querySelector('.scroll').focus()");
  browser.press("ArrowRight");
  browser.wait_for("document.querySelector('.scroll').scrollLeft > 0");
  // The first link leads past the navigation.
  shown.open();
  browser.show_as(kPhone, 640);
  browser.press("Tab");
  CHECK(browser.text(":focus") == "Skip to content");
  browser.press("Enter", "\r");
  browser.wait_for("location.hash === '#Content' && scrollY > 0");
  browser.press("Tab");
  CHECK(browser.evaluate("document.activeElement === document.querySelector('main [tabindex]')").get<bool>());
  CHECK(browser.console().empty());
}

TEST_CASE("a phone shows a page without scrolling sideways, every text in contrast, light and dark",
          "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  Shown shown(page_of_a_run());
  for (const bool dark : {false, true}) {
    INFO((dark ? "dark" : "light"));
    shown.browser.show_as(kPhone, 740, dark);
    CHECK(daug::test::sticking_out(shown.browser) == "");
    std::set<std::string> places;
    for (const auto& text : daug::test::shown_texts(shown.browser)) {
      INFO(text.place << " " << text.front << " on " << text.back);
      CHECK(contrast(text.front, text.back) >= 4.5);
      CHECK((daug::test::luminance(text.front) > daug::test::luminance(text.back)) == dark);
      places.insert(text.place);
    }
    for (const char* place :
         {"header h1", "header p", "nav a", "main h2", "main p", "main dd", "thead th", "tbody th", "tbody td",
          "figcaption figcaption", "figcaption span", "svg text", "main li", "main pre"}) {
      INFO(place);
      CHECK(places.count(place) == 1);
    }
  }
}

TEST_CASE("paper gets the whole page, dark on white, without what only a screen can use", "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  Shown shown(page_of_a_run());
  BrowserSession& browser = shown.browser;
  for (const int width : {kA4, kA3Across})
    for (const bool dark : {false, true}) {
      INFO(width << " pixels wide, " << (dark ? "dark" : "light"));
      browser.show_as(width, 1000, dark, true);
      for (const char* part : {"nav", ".skip", "input"}) CHECK_FALSE(browser.visible(part));
      CHECK(daug::test::sticking_out(browser) == "");
      CHECK(daug::test::scrolled(browser) == "");
      const auto share = browser.evaluate("document.querySelector('main').getBoundingClientRect().width / innerWidth");
      CHECK(share.get<double>() > 0.9);
      // Backgrounds are not printed unless asked for, so texts have to stand out from white as well.
      for (const auto& text : daug::test::shown_texts(browser)) {
        INFO(text.place << " " << text.front << " on " << text.back);
        CHECK(contrast(text.front, text.back) >= 4.5);
        CHECK(contrast(text.front, "#ffffff") >= 4.5);
      }
      // No value is broken in two.
      const auto lines = browser.evaluate(R"js([...document.querySelectorAll('td.number')].map(cell => {
        const range = document.createRange();
        range.selectNodeContents(cell.firstChild);
        return range.getClientRects().length;
      }))js");
      CHECK(lines.size() >= 48);
      for (const auto& of_value : lines) CHECK(of_value.get<int>() == 1);
    }
}

TEST_CASE("a page has its landmarks once, its headings in order, and a name for every picture", "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  Shown shown(page_of_a_run());
  const auto number = [&](const std::string& expression) { return shown.browser.evaluate(expression).get<int>(); };
  for (const char* once : {"main", "h1", "body > header", "nav"}) {
    INFO(once);
    CHECK(number("document.querySelectorAll('" + std::string(once) + "').length") == 1);
  }
  // Landmarks and regions bear a name of their own or that of the heading that they point to.
  CHECK(number("document.querySelectorAll('nav, section, [role=region]').length") == 1 + kSections + kRegions);
  CHECK(number(R"js([...document.querySelectorAll('nav, section, [role=region]')].filter(one => {
    const label = document.getElementById(one.getAttribute('aria-labelledby'));
    return !(one.getAttribute('aria-label') || (label && label.textContent) || '').trim();
  }).length)js") == 0);
  // An overlay belongs to the picture beneath it, whose name tells of both.
  CHECK(number("document.images.length") == 5);
  CHECK(number(R"js([...document.images].filter(one =>
    !(one.matches('.overlay') ? one.previousElementSibling : one).alt.trim()).length)js") == 0);
  CHECK(number("document.querySelectorAll('svg').length") > 3);
  CHECK(number(R"js([...document.querySelectorAll('svg')].filter(one => !one.parentElement.closest('svg') &&
    one.getAttribute('aria-hidden') !== 'true' &&
    !(one.getAttribute('role') === 'img' && one.getAttribute('aria-label').trim())).length)js") == 0);
  const auto headings = shown.browser.evaluate(
      "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(one => Number(one.tagName[1]))");
  REQUIRE(headings.size() == 1 + kSections + 1);
  CHECK(headings.at(0).get<int>() == 1);
  for (std::size_t i = 1; i < headings.size(); ++i) {
    CHECK(headings.at(i).get<int>() >= 2);
    CHECK(headings.at(i).get<int>() <= headings.at(i - 1).get<int>() + 1);
  }
}
