// The page as a browser shows it.

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "serve/served.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/contrast.h"
#include "support/devtools.h"
#include "support/html.h"
#include "support/page_look.h"
#include "support/scratch.h"
#include "toy_gallery.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a browser shows the search page without a complaint or a request elsewhere", "[serve][browser]") {
  if (!browser_installed()) return;
  const ToyGallery gallery(20, " <b>&amp;");
  const Served served(gallery);
  const auto shown = [&](const std::string& target, const BrowserOptions& options = {}) {
    const BrowserView view = open_in_browser(served.url() + target, options);
    for (const auto& line : view.console) UNSCOPED_INFO(line);
    CHECK(view.console.empty());
    return view;
  };
  const std::string search = "?by=study&study=s4%20%3Cb%3E%26amp%3B&count=8&others=1";
  const BrowserView light = shown(search, {1280, 1700, false, artefact("search.png")});
  CHECK(count(light.dom, "<li><div class=\"stack\">") == 8);
  CHECK(light.dom.find("<b>1. s3 &lt;b&gt;&amp;amp;</b>") != std::string::npos);
  CHECK(count(light.dom, "<script") == 0);
  CHECK(std::filesystem::file_size(artefact("search.png")) > 10000);
  CHECK(gallery.shown() >= 2);  // images of query and hits, fetched from the server
  shown(search, {390, 2000, true, artefact("search_phone_dark.png")});
  CHECK(count(shown("images").dom, "<b>s") == 20);
  CHECK(shown("").dom.find("role=\"search\"") != std::string::npos);
}

TEST_CASE("a phone and paper hold the search page, however long the names of a cohort", "[serve][browser]") {
  if (!browser_installed()) return;
  const std::string name(70, 'x');
  const ToyGallery gallery(20, "_" + name);
  const Served served(gallery);
  BrowserSession browser;
  const std::vector<std::string> targets = {"", "?by=study&count=8&others=1&study=s4_" + name, "images",
                                            "?by=study&study=none_" + name};
  for (const auto& target : targets)
    for (const bool dark : {false, true}) {
      INFO(target << (dark ? " dark" : " light"));
      browser.open(served.url() + target);
      browser.show_as(360, 740, dark);
      CHECK(sticking_out(browser) == "");
      const auto shown = shown_texts(browser);
      CHECK(shown.size() >= 4);
      for (const auto& text : shown) {
        INFO(text.place << " " << text.front << " on " << text.back);
        CHECK(daug::test::contrast(text.front, text.back) >= 4.5);
      }
      browser.show_as(718, 1000, dark, true);  // A4 between margins of 1 cm
      CHECK(sticking_out(browser) == "");
      CHECK(scrolled(browser) == "");
      const auto for_screens = browser.evaluate(
          "[...document.querySelectorAll('nav, form, .skip, .more')].filter(one => one.getClientRects().length > 0)"
          ".length");
      CHECK(for_screens.get<int>() == 0);
      for (const auto& text : shown_texts(browser)) {
        INFO(text.place << " " << text.front);
        CHECK(daug::test::contrast(text.front, "#ffffff") >= 4.5);
      }
    }
}

TEST_CASE("a person types a report, picks an image and sends a file", "[serve][browser]") {
  if (!browser_installed()) return;
  const ToyGallery gallery(20);
  const Served served(gallery);
  const Scratch scratch;
  BrowserSession browser;
  const auto first_hit = [&] { return browser.text(".found > li:first-child b"); };
  browser.open(served.url());
  CHECK(browser.visible("#text"));
  CHECK_FALSE(browser.visible("#study"));
  CHECK_FALSE(browser.visible("#picture"));

  // By a report: 7 letters lie at 7 degrees, where image 7 is.
  browser.type("#text", "Edema 7");
  browser.follow("form button");
  CHECK(gallery.asked().back().text == "Edema 7");
  CHECK(browser.text("#T-Results") == "12 images");
  CHECK(first_hit() == "1. s7");
  CHECK(browser.value("#text") == "Edema 7");
  // The form keeps what was typed; more of it, and filters.
  browser.type("#text", ", both lungs");
  browser.choose("#view", "PA");
  browser.choose("#finding", "Nodule");
  browser.follow("form button");
  CHECK(gallery.asked().back().text == "Edema 7, both lungs");
  CHECK(gallery.asked().back().filter.view == "PA");
  CHECK(gallery.asked().back().filter.finding == "Nodule");
  CHECK(browser.text("#T-Results") == "3 images");  // 5, 11 and 17
  CHECK(browser.value("#view") == "PA");
  browser.choose("#site", "South");
  browser.follow("form button");
  CHECK(gallery.asked().back().filter.site == "South");
  CHECK(browser.text("#T-Results") == "1 image");  // 5; 11 and 17 are of the other site
  CHECK(browser.visible("#from"));
  CHECK(browser.visible("#to"));

  // By a study that is typed, with the return key.
  browser.open(served.url());
  browser.click("#by-study");
  CHECK(browser.visible("#study"));
  CHECK_FALSE(browser.visible("#text"));
  browser.enter("#study", "s4");
  REQUIRE(gallery.asked().back().image);
  CHECK(*gallery.asked().back().image == 4);
  CHECK(gallery.asked().back().filter.other_patients);
  CHECK(first_hit() == "1. s3");  // s5 is of the same patient
  // One that is not there is said to be none, and can be mended.
  browser.open(served.url());
  browser.click("#by-study");
  browser.enter("#study", "s4");
  browser.enter("#study", "4");
  CHECK(browser.text("[role=alert]") == "There is no study 's44'.");
  CHECK(browser.value("#study") == "s44");

  // By one that is picked from the list, then by a hit of it.
  browser.follow(".of-study a");
  CHECK(browser.text("h2") == "Images, page 1 of 1");
  browser.follow(".found > li:nth-child(12) a");
  CHECK(*gallery.asked().back().image == 11);
  browser.follow(".found > li:first-child a");
  CHECK(*gallery.asked().back().image == 12);  // 10 is of the same patient

  // By a file.
  const std::vector<std::uint8_t> png = encode_png(GrayImage::filled(8, 6, 0.5F));
  const std::string file = scratch.put("radiograph.png", std::string(png.begin(), png.end()));
  browser.open(served.url());
  browser.click("#by-picture");
  CHECK(browser.visible("#picture"));
  browser.upload("#picture", file);
  browser.follow("form button");
  CHECK(gallery.asked().back().picture == png);
  CHECK(first_hit() == "1. s0");
  CHECK(browser.evaluate("document.querySelector('.query img').naturalWidth") == 8);
  // One that is no image is refused in words.
  browser.upload("#picture", scratch.put("notes.txt", "no radiograph"));
  browser.click("#by-picture");
  browser.follow("form button");
  CHECK(browser.visible("[role=alert]"));

  std::vector<std::string> complaints;
  for (const auto& line : browser.console())
    if (line.find("status of 40") == std::string::npos) complaints.push_back(line);  // the refusals above
  for (const auto& line : complaints) UNSCOPED_INFO(line);
  CHECK(complaints.empty());
}
