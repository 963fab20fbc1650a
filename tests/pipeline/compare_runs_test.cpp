#include "daug/pipeline/compare_runs.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/html.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::finished_run;
using daug::test::Scratch;

TEST_CASE("runs stand side by side with their intervals and what they differ in", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const std::string other = scratch.path("other");
  fs::copy(config.out, other, fs::copy_options::recursive);
  RunConfig changed = config;
  changed.evaluate.resamples = 77;
  write_config(other + "/config.json", changed);
  std::vector<Figure> figures = read_metrics(other + "/metrics.json");
  const auto figure = std::find_if(figures.begin(), figures.end(), [](const Figure& f) {
    return f.name == "classification.auroc_macro" && f.arm == "image" && f.split == "test";
  });
  REQUIRE(figure != figures.end());
  figure->value = 0.875, figure->low = 0.75, figure->high = 0.9375, figure->n = 7;
  figures.push_back({"map.new", "evidence", "test", 0.125, {}, {}, 3, "new"});
  for (auto& f : figures)
    if (f.name == "data.images") f.definition = "otherwise";
  write_metrics(other + "/metrics.json", figures, "elsewhere");

  const HtmlReport page = compare_runs({config.out, other});
  const std::string html = page.html();
  CHECK(daug::test::structure_error(html) == "");
  const auto cells = [&](const std::string& first) {
    for (const Table& table : page.tables())
      for (const auto& row : table.rows)
        if (row[0] == first) return row;
    FAIL("no row " << first);
    return std::vector<std::string>();
  };
  CHECK(cells("evaluate.resamples") == std::vector<std::string>{"evaluate.resamples", "20", "77"});
  const auto auroc = cells("auroc_macro, image");
  CHECK(auroc[1].find(", n = 20") != std::string::npos);
  CHECK(auroc[2] == "0.875 (0.750 to 0.938), n = 7");
  CHECK(cells("new, evidence") == std::vector<std::string>{"new, evidence", "-", "0.125"});
  CHECK(html.find("definitions differ: data.images.") != std::string::npos);
  bool plotted = false;
  for (const auto& plot : page.interval_plots())
    for (const auto& row : plot.rows)
      plotted =
          plotted || (row.label == "image | other" && row.value == 0.875 && row.low == 0.75 && row.high == 0.9375);
  CHECK(plotted);
  // All figures of both are there.
  std::size_t rows = 0;
  for (std::size_t t = 2; t < page.tables().size(); ++t) rows += page.tables()[t].rows.size();
  CHECK(rows == figures.size());

  const std::string out = scratch.path("side by side");
  const std::vector<const char*> arguments = {"compare_runs", config.out.c_str(), other.c_str(), "--out", out.c_str()};
  CHECK(compare_program(static_cast<int>(arguments.size()), arguments.data()) == 0);
  CHECK(read_text_file(out + "/comparison.html") == html);
  CHECK_FALSE(fs::is_empty(out + "/tables"));
  CHECK_FALSE(fs::is_empty(out + "/figures"));
  CHECK(compare_program(2, arguments.data()) == 1);
  CHECK(compare_program(1, arguments.data()) == 2);
  CHECK(caught([&] { compare_runs({config.out, config.out + "/"}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { compare_runs({config.out, scratch.path("nowhere")}); }).code() == ErrorCode::kNotFound);
}
