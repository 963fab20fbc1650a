#include "daug/pipeline/compare_runs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run_config.h"
#include "pipeline/evaluation/predictions.h"
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

  // Every run has a name of its own, also where a folder is called as another run is.
  fs::create_directory(scratch.path("below"));
  fs::copy(other, scratch.path("below/other"), fs::copy_options::recursive);
  const fs::path before = fs::current_path();
  fs::current_path(scratch.folder());
  const std::string place = (fs::current_path() / "other").string();
  std::vector<std::string> header;
  try {
    header = compare_runs({"below/other", "other"}).tables()[0].header;
  } catch (const Error& error) {
    CHECK(std::string(error.what()) == "");
  }
  fs::current_path(before);
  CHECK(header == std::vector<std::string>{"", "other", place});
  CHECK(caught([&] { compare_runs({config.out, scratch.path("nowhere")}); }).code() == ErrorCode::kNotFound);
}

TEST_CASE("the tests of several runs against the first are one family for Holm's correction", "[pipeline]") {
  // Six patients of an image each, so that all 2^6 exchanges are counted. An arm is 1/4 above the first run's for every
  // patient but `worse` of them, for whom it is as much below. Exchanges make differences of |6 - 2 j| / 24, C(6, j)
  // times each: as large as the data's are 2 of them with none worse, 14 with one and 44 with two.
  const Scratch scratch;
  const auto write_run = [&](const std::string& name, std::vector<std::size_t> worse, double less = 0.25) {
    const std::string folder = scratch.path(name);
    fs::create_directories(folder);
    RunConfig config;
    config.evaluate.resamples = 100;
    write_config(folder + "/config.json", config);
    write_metrics(folder + "/metrics.json", {{"retrieval.p_at_5", "image", "test", 0.5, {}, {}, 6, "P@5"}}, name);
    Predictions predictions;
    predictions.fingerprint = name;
    predictions.findings = 1;
    predictions.names = {"Edema"};
    for (std::int64_t i = 0; i < 6; ++i) {
      predictions.rows.push_back(i);
      predictions.patients.push_back(name == "others" ? i / 2 : i);
    }
    predictions.positive.assign(6, 1);
    predictions.known.assign(6, 1);
    for (const char* arm : {"image", "image+evidence"}) {
      std::vector<double> table(6, 0.5 + less);
      for (std::size_t i = 0; i < worse.front(); ++i) table[i] = 0.5 - less;
      worse.erase(worse.begin());
      predictions.add(arm, kPrecisionAt5, table);
    }
    write_predictions(folder + "/" + kPredictionsFile, predictions);
    return folder;
  };
  const HtmlReport page = compare_runs({write_run("first", {0, 0}, 0), write_run("second", {0, 1}),
                                        write_run("third", {2, 0}), write_run("others", {0, 0})});
  CHECK(daug::test::structure_error(page.html()) == "");
  const auto check_row = [&](const std::string& arms, const std::string& difference, const std::string& p,
                             const std::string& holm) {
    INFO(arms);
    std::size_t found = 0;
    for (const Table& table : page.tables())
      for (const auto& row : table.rows) {
        if (row.size() != 5 || row[0] != "retrieval.p_at_5" || row[1] != arms) continue;
        ++found;
        CHECK(row[2].rfind(difference, 0) == 0);
        CHECK(row[3] == p);
        CHECK(row[4] == holm);
      }
    CHECK(found == 1);
  };
  // p are 2/64, 14/64, 44/64 and 2/64: times 4, 3, 2 and 1 from the least on, and never less than the one before.
  check_row("image: second less first", "0.250", "0.031", "0.125");
  check_row("image+evidence: second less first", "0.167", "0.219", "0.438");
  check_row("image: third less first", "0.083", "0.688", "0.688");
  check_row("image+evidence: third less first", "0.250", "0.031", "0.125");
  // A run of other patients is in no family.
  CHECK(page.html().find("others less first") == std::string::npos);
  CHECK(page.html().find("others has other test images or labels") != std::string::npos);
}
