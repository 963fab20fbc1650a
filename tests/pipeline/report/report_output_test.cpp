// The report of a run: what it says beyond its figures, and what becomes of it when it cannot be written.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/compare_runs.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "daug/report/html_parts.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/smallest_run.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/devtools.h"
#include "support/full_disk.h"
#include "support/html.h"
#include "support/long_tests.h"
#include "support/page_look.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::finished_run;
using daug::test::FullDisk;
using daug::test::Scratch;
using daug::test::smallest;

namespace {

/// Names and contents of the files of a run's report.
std::map<std::string, std::string> report_files(const std::string& run) {
  std::map<std::string, std::string> files = {{"report.html", read_text_file(run + "/report.html")}};
  for (const char* folder : {"tables", "figures"})
    for (const auto& entry : fs::directory_iterator(run + "/" + folder))
      files[entry.path().string().substr(run.size())] = read_text_file(entry.path().string());
  return files;
}

}  // namespace

TEST_CASE("a report that cannot be written leaves the earlier one whole", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  write_file_atomically(config.out + "/tables/99-of-an-earlier-version.csv", "a\n");
  const auto before = report_files(config.out);
  config.report.examples = 1;
  {
    Run run(config, {});
    const FullDisk full(20000);  // less than the page takes
    CHECK(daug::test::caught([&] { run.execute(Stage::kReport); }).code() == ErrorCode::kIo);
  }
  CHECK(report_files(config.out) == before);
  Run run(config, {});
  CHECK(run.execute(Stage::kReport));
  const auto after = report_files(config.out);
  CHECK(after.at("report.html") != before.at("report.html"));
  CHECK(after.size() == before.size() - 1);
  CHECK_FALSE(fs::exists(config.out + "/tables.new"));
  CHECK_FALSE(fs::exists(config.out + "/figures.new"));
}

TEST_CASE("a report is not made of files of two runs", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  config.force = {"report"};
  for (const char* name : {"metrics.json", "stages/details.json"}) {
    INFO(name);
    const std::string path = config.out + "/" + name, own = read_text_file(path);
    Run run(config, {});
    const std::string made_by = run.fingerprint(Stage::kEvaluate);
    REQUIRE(daug::test::count(own, made_by) == 1);
    std::string foreign = own;
    foreign.replace(foreign.find(made_by), made_by.size(), "another");
    write_file_atomically(path, foreign);
    const std::string told = daug::test::error_text(ErrorCode::kMismatch, [&] { run.execute(Stage::kReport); });
    CHECK(daug::test::mentions(told, path, "fingerprint " + made_by, "another"));
    write_file_atomically(path, own);
  }
  for (const char* name : {"stages/guide_history.safetensors", "encoders/image.safetensors.history"}) {
    INFO(name);
    const std::string path = config.out + "/" + name;
    const SafetensorsFile own = read_safetensors(path);
    SafetensorsFile foreign = own;
    foreign.metadata.at("fingerprint") = "another";
    write_safetensors(path, foreign);
    Run run(config, {});
    const std::string told = daug::test::error_text(ErrorCode::kMismatch, [&] { run.execute(Stage::kReport); });
    CHECK(daug::test::mentions(told, path, "fingerprint " + own.metadata.at("fingerprint"), "another"));
    write_safetensors(path, own);
  }
  CHECK(Run(config, {}).execute(Stage::kReport));
}

TEST_CASE("a training whose losses are gone or damaged has a sentence in place of its curve", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  const auto sentences = [&] {
    return daug::test::matches(read_text_file(config.out + "/report.html"), "<p>([^<]*: no curve, [^<]*)</p>");
  };
  CHECK(sentences().empty());
  fs::remove(config.out + "/stages/guide_history.safetensors");
  write_file_atomically(config.out + "/encoders/image.safetensors.history", "damaged");
  config.force = {"report"};
  CHECK(Run(config, {}).execute(Stage::kReport));
  const auto said = sentences();
  REQUIRE(said.size() == 2);
  CHECK(daug::test::mentions(said[0], "Noise-aware classifier: no curve", "stages/guide_history.safetensors"));
  CHECK(daug::test::mentions(said[1], "Encoder: image: no curve", "encoders/image.safetensors.history"));
}

TEST_CASE("what the file system refuses a stage is an error of the library's that names the place", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  fs::remove(config.out + "/stages/report.json");
  fs::create_directories(config.out + "/stages/report.json/not empty");  // which cannot be removed as a file
  config.force = {"evaluate"};
  Run run(config, {});
  try {
    run.execute(Stage::kEvaluate);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kIo);
    CHECK_THAT(error.what(), daug::test::contains_text("stages/report.json"));
  }
}

TEST_CASE("a browser shows the page of a comparison without a complaint", "[pipeline][browser]") {
  if (!daug::test::browser_installed()) return;
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  RunConfig other = config;
  other.out = scratch.path("other");
  fs::copy(config.out, other.out, fs::copy_options::recursive);
  other.evaluate.resamples += 1;
  write_config(other.out + "/config.json", other);
  const std::string page = scratch.path("comparison.html");
  compare_runs({config.out, other.out}).write(page);
  const std::size_t sections = daug::test::count(read_text_file(page), "<section");
  for (const bool phone : {false, true}) {
    const auto view = daug::test::open_in_browser(
        "file://" + page, {phone ? 390 : 1280, 2000, phone,
                           daug::test::artefact(phone ? "comparison_phone_dark.png" : "comparison.png")});
    for (const auto& line : view.console) UNSCOPED_INFO(line);
    CHECK(view.console.empty());
    CHECK(daug::test::count(view.dom, "<section") == sections);
    CHECK(sections >= 5);
  }
  daug::test::BrowserSession browser;
  browser.open("file://" + page);
  for (const bool print : {false, true}) {
    browser.show_as(print ? 718 : 360, 1000, true, print);  // a phone, and A4 between margins of 1 cm
    CHECK(daug::test::sticking_out(browser) == "");
  }
}

TEST_CASE("the page of a run with 300 test images is below 10 MB, and it is told how long it took to open",
          "[pipeline][browser]") {
  if (!daug::test::long_tests()) return;
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.size = 64;
  config.phantom.test = 300;
  config.report.examples = 6;
  Run run(config, {});
  for (Stage stage : all_stages()) CHECK(run.execute(stage));
  const auto bytes = fs::file_size(config.out + "/report.html");
  CHECK(bytes < 10'000'000);
  if (!daug::test::browser_installed()) return;
  daug::test::BrowserSession browser;
  browser.open("file://" + config.out + "/report.html");
  CHECK(browser.console().empty());
  std::cout << "a page of 300 test images, " << bytes << " bytes, opens in " << daug::test::opening_ms(browser)
            << " ms\n";
}

TEST_CASE("arms are tested against each other on the same images, in the figures and on the page", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const auto figures = read_metrics(config.out + "/metrics.json");
  int tests = 0;
  for (const auto& name : {"classification.auroc_macro", "retrieval.p_at_5"})
    for (const auto& [first, second] : {std::pair<std::string, std::string>{"image+evidence", "image"},
                                        {"image+evidence", "image+noise"},
                                        {"image", "image, image-text loss"}}) {
      INFO(name << " " << first << " " << second);
      const std::string arms = first + " less " + second, difference = name + std::string("_difference");
      const Figure* found = find_figure(figures, difference, arms);
      const Figure *a = find_figure(figures, name, first), *b = find_figure(figures, name, second);
      REQUIRE((found && a && b));
      CHECK(found->value == Approx(a->value - b->value).margin(1e-12));
      const Figure *p = find_figure(figures, difference + "_p", arms),
                   *holm = find_figure(figures, difference + "_p_holm", arms);
      REQUIRE((p && holm));
      CHECK((p->value > 0 && p->value <= holm->value && holm->value <= 1));
      ++tests;
    }
  CHECK(tests == 6);
  int of_findings = 0;
  for (const Figure& figure : figures) {
    if (figure.name.rfind("classification.auroc_difference[", 0) != 0) continue;
    const std::string of = figure.name.substr(figure.name.find('['));
    const Figure* with = find_figure(figures, "classification.auroc" + of, "image+evidence");
    const Figure* alone = find_figure(figures, "classification.auroc" + of, "image");
    REQUIRE((with && alone));
    CHECK(figure.value == Approx(with->value - alone->value).margin(1e-12));
    ++of_findings;
  }
  CHECK(of_findings > 0);
  const std::string html = read_text_file(config.out + "/report.html");
  CHECK(html.find("image+evidence less image+noise") != std::string::npos);
  CHECK(html.find("classification.auroc[") != std::string::npos);

  SECTION("what made the page stands on it") {
    std::ifstream words("/proc/self/cmdline", std::ios::binary);
    std::string program;
    std::getline(words, program, '\0');
    CHECK(daug::test::count(html, daug::report::escape(program)) >= all_stages().size());
    for (const char* library :
         {"Eigen 3.", "fmt ", "Highway 1.", "hnswlib ", "nlohmann-json 3.", "xxHash 0.", "zlib 1."})
      CHECK(html.find(library) != std::string::npos);
    // So do the fingerprints that its files carry.
    Run run(config, {});
    std::vector<std::string> prints = {
        read_safetensors(config.out + "/encoders/image.safetensors").metadata.at("tokenizer")};
    for (const Stage stage : all_stages()) prints.push_back(run.fingerprint(stage));
    for (const auto& print : prints) {
      INFO(print);
      CHECK(html.find(print) != std::string::npos);
    }
    CHECK(html.find("data: labels, reports, images") != std::string::npos);
    // Every reference that the text cites is there, numbered, and once as BibTeX.
    const auto cited = daug::test::matches(html, "<p>\\[([0-9]+)\\] ");
    CHECK(cited.size() == 15);
    for (std::size_t i = 0; i < cited.size(); ++i) CHECK(cited[i] == std::to_string(i + 1));
    const auto keys = daug::test::matches(html, "@[a-z]+\\{([a-z0-9]+),");
    CHECK(keys.size() == cited.size());
    CHECK(std::set<std::string>(keys.begin(), keys.end()).size() == keys.size());
    CHECK(html.find("identical images") != std::string::npos);
    CHECK(find_figure(figures, "data.identical_images", "data", "all"));
  }

  SECTION("runs are tested against the first one where they tell of the same images") {
    // A run whose arm 'image' knows the truth: 1 less what the first run's reaches.
    RunConfig other = config;
    other.out = scratch.path("other");
    fs::copy(config.out, other.out, fs::copy_options::recursive);
    const std::string path = other.out + "/" + kPredictionsFile;
    Predictions predictions = read_predictions(path);
    const auto truth = std::vector<double>(predictions.positive.begin(), predictions.positive.end());
    predictions.add("image", kProbabilities, truth);
    write_predictions(path, predictions);
    const auto row_of = [&](const HtmlReport& page, const std::string& figure, const std::string& arms) {
      for (const Table& table : page.tables())
        for (const auto& row : table.rows)
          if (row[0] == figure && row.size() == 5 && row[1] == arms) return row;
      return std::vector<std::string>();
    };
    const HtmlReport page = compare_runs({config.out, other.out});
    const auto image = row_of(page, "classification.auroc_macro", "image: other less run");
    REQUIRE(image.size() == 5);
    const double auroc = find_figure(figures, "classification.auroc_macro", "image")->value;
    CHECK(std::stod(image[2]) == Approx(1 - auroc).margin(6e-4));
    // What is the same is no different.
    const auto same = row_of(page, "classification.auroc_macro", "image+evidence: other less run");
    REQUIRE(same.size() == 5);
    CHECK(same[2] == "0.000 (0.000 to 0.000)");
    CHECK(same[3] == "1.000");
    CHECK(same[4] == "1.000");
    CHECK(page.html().find("Not tested against") == std::string::npos);

    predictions.positive[0] = predictions.positive[0] ? 0 : 1;
    write_predictions(path, predictions);
    CHECK(compare_runs({config.out, other.out}).html().find("other has other test images or labels") !=
          std::string::npos);
    predictions.fingerprint = "another evaluation";
    write_predictions(path, predictions);
    const HtmlReport foreign = compare_runs({config.out, other.out});
    CHECK(foreign.html().find("other has predictions of another evaluation") != std::string::npos);
    CHECK(row_of(foreign, "classification.auroc_macro", "image: other less run").empty());
    fs::remove(path);
    CHECK(compare_runs({config.out, other.out}).html().find("other has no predictions") != std::string::npos);
  }
}
