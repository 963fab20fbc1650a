// How large a page of many pictures is, and what a browser makes of it: DAUG_LONG_TESTS=1 also makes that of a run
// (tests/pipeline).

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "daug/image/colormap.h"
#include "daug/image/png.h"
#include "daug/report/html_report.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/devtools.h"
#include "support/html.h"
#include "support/page_look.h"
#include "support/scratch.h"

namespace {

struct PageOfPictures {
  std::string html;
  std::size_t encoded = 0;  ///< bytes of the pictures, as base64
};

/// Of the size that reports show them in, with noise of one gray level, which no file format makes smaller.
PageOfPictures page_of_pictures() {
  constexpr int kSide = 128;
  const auto pixel = [](std::size_t i) {
    return std::pair(static_cast<double>(i % kSide), static_cast<double>(i / kSide));
  };
  daug::ImageGrid grid;
  std::size_t encoded = 0;
  const auto counted = [&](const std::vector<std::uint8_t>& png) {
    encoded += (png.size() + 2) / 3 * 4;
    return png;
  };
  for (std::uint64_t number = 0; number < 300; ++number) {
    daug::RandomStream random(91, number, "page size");
    daug::GrayImage image = daug::GrayImage::filled(kSide, kSide);
    std::vector<float> map(image.pixels.size());
    for (std::size_t i = 0; i < map.size(); ++i) {
      const auto [x, y] = pixel(i);
      const double level = 0.5 + 0.25 * std::sin(x / 20) * std::cos(y / 17) + random.normal() / 255;
      image.pixels[i] = static_cast<float>(level);
      map[i] = static_cast<float>(std::exp(-((x - 64) * (x - 64) + (y - 40) * (y - 40)) / 600));
    }
    daug::ReportImage shown{counted(daug::encode_png(image)), "Effusion, 0.93", "radiograph and map", {}};
    if (number % 2 == 0)
      shown.overlay_png = counted(daug::encode_png(daug::overlay_map(image, map, 0, 1, daug::Colormap::kInferno, 1.0)));
    if (number % 6 == 0) grid.rows.push_back({"study " + std::to_string(number), {}});
    grid.rows.back().cells.push_back(shown);
  }
  return {daug::HtmlReport("Run").section("Pictures").images(grid).html(), encoded};
}

}  // namespace

TEST_CASE("a page of 300 pictures, half of them with maps, is below 10 MB and holds each once", "[report]") {
  const auto [page, encoded] = page_of_pictures();
  INFO(page.size() << " bytes, " << encoded << " of them pictures");
  CHECK(daug::test::count(page, "data:image/png;base64,") == 450);
  CHECK(page.size() < 10'000'000);
  CHECK(page.size() > encoded);
  CHECK(page.size() < encoded + 300 * 1000 + 50'000);  // what stands around a picture, and the style sheet
}

TEST_CASE("a browser shows a page of 300 pictures in full, and says how long opening it took", "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  const daug::test::Scratch scratch;
  daug::test::BrowserSession browser;
  browser.open("file://" + scratch.put("page.html", page_of_pictures().html));
  CHECK(browser.evaluate("document.images.length").get<int>() == 450);
  const auto shown =
      browser.evaluate("[...document.images].filter(one => one.complete && one.naturalWidth === 128).length");
  CHECK(shown.get<int>() == 450);
  CHECK(browser.console().empty());
  std::cout << "a page of 300 pictures opens in " << daug::test::opening_ms(browser) << " ms\n";
}
