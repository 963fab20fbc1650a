// Tables with many figures: intervals that move below their values, and what that is worth on a laptop.

#include <fmt/format.h>

#include <string>
#include <vector>

#include "daug/io/file.h"
#include "daug/report/html_report.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/html.h"
#include "support/scratch.h"

using daug::HtmlReport;
using daug::test::count;
using daug::test::matches;

namespace {

/// Arms as a run has them, with `columns` figures each.
daug::Table arms(int columns) {
  daug::Table table{fmt::format("{} figures an arm", columns), {"arm"}, {}, {2}};
  const std::vector<std::string> names = {"macro AUROC", "macro AP", "P@5", "mAP@10", "wmAP@10", "report to image P@5"};
  for (int c = 0; c < columns; ++c) table.header.push_back(names[static_cast<std::size_t>(c) % names.size()]);
  for (const char* arm : {"image, image-text loss", "image", "image+evidence", "noise_aware_classifier"}) {
    table.rows.push_back({arm});
    for (int c = 0; c < columns; ++c) table.rows.back().emplace_back("0.882 (0.861 to 0.902)");
  }
  return table;
}

}  // namespace

TEST_CASE("an interval is one piece behind its value, and names break where words are joined", "[report]") {
  const std::string html =
      HtmlReport("t")
          .table({"c",
                  {"a_b", "value", "text"},
                  {{"mean_mask", "0.88 (0.86 to 0.90)", "see (a) or (b)"}, {"x", "0.5 (0.4 to 0.6) / 0.33", "2"}},
                  {}})
          .html();
  CHECK(daug::test::structure_error(html) == "");
  CHECK(html.find("<td class=\"number\">0.88 <span class=\"interval\">(0.86 to 0.90)</span></td>") !=
        std::string::npos);
  CHECK(html.find(">0.5 <span class=\"interval\">(0.4 to 0.6)</span> / 0.33</td>") != std::string::npos);
  CHECK(html.find("<td>see (a) or (b)</td>") != std::string::npos);
  CHECK(html.find("<th scope=\"row\">mean_<wbr>mask</th>") != std::string::npos);
  CHECK(html.find("<th scope=\"col\">a_<wbr>b</th>") != std::string::npos);
}

TEST_CASE("six figures with intervals fit the width of a laptop", "[report][browser]") {
  if (!daug::test::browser_installed()) return;
  std::string html = HtmlReport("t").section("Arms").table(arms(6)).section("More").table(arms(16)).html();
  const std::string end = "</body>";
  html.insert(html.rfind(end),
              "<script>for (const box of document.querySelectorAll('.scroll')) "
              "box.dataset.beyond = box.scrollWidth - box.clientWidth;</script>\n");
  const daug::test::Scratch scratch;
  daug::write_file_atomically(scratch.path("page.html"), html);
  const auto view = daug::test::open_in_browser("file://" + scratch.path("page.html"),
                                                {1280, 900, false, daug::test::artefact("wide_tables.png")});
  CHECK(view.console.empty());
  const auto beyond = matches(view.dom, "data-beyond=\"([0-9]+)\"");
  REQUIRE(beyond.size() == 2);
  CHECK(beyond[0] == "0");
  CHECK(std::stoi(beyond[1]) > 0);  // what does not fit scrolls, and is seen to
}

TEST_CASE("what a chart shows in words stands in its label", "[report]") {
  daug::LineChart chart{"Reliability", {"p"}, {"share"}, {{"image", {0, 1}, {0, 1}}}, true};
  CHECK(HtmlReport("t").charts({chart}).html().find("aria-label=\"Reliability: share against p; image\"") !=
        std::string::npos);
  chart.alt = "error < 0.1";
  CHECK(HtmlReport("t").charts({chart}).html().find(
            "aria-label=\"Reliability: share against p; image. error &lt; 0.1\"") != std::string::npos);
}
