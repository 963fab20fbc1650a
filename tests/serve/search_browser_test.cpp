// The page as a browser shows it.

#include <fmt/format.h>

#include <filesystem>

#include "serve/served.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/html.h"
#include "toy_gallery.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("a browser shows the search page without a complaint or a request elsewhere", "[serve]") {
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
