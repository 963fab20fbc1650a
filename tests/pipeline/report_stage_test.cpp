// The report of a run: what it says beyond its figures, and what becomes of it when it cannot be written.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/io/file.h"
#include "daug/pipeline/compare_runs.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/browser.h"
#include "support/catch.h"
#include "support/full_disk.h"
#include "support/html.h"
#include "support/long_tests.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::FullDisk;
using Scratch = daug::test::ScratchRun;
using daug::test::smallest;

namespace {

/// The settings of a run of which all stages are done, in a copy of its folder; it is made once.
RunConfig finished_run(const Scratch& scratch) {
  static const Scratch original("reported");
  static const RunConfig config = [] {
    const RunConfig made = smallest(original / "run");
    Run run(made, {});
    for (Stage stage : all_stages()) REQUIRE(run.execute(stage));
    return made;
  }();
  RunConfig copy = config;
  copy.out = scratch / "run";
  fs::copy(config.out, copy.out, fs::copy_options::recursive);
  return copy;
}

/// Names and contents of the files of a run's report.
std::map<std::string, std::string> report_files(const std::string& run) {
  std::map<std::string, std::string> files = {{"report.html", read_text_file(run + "/report.html")}};
  for (const char* folder : {"tables", "figures"})
    for (const auto& entry : fs::directory_iterator(run + "/" + folder))
      files[entry.path().string().substr(run.size())] = read_text_file(entry.path().string());
  return files;
}

ErrorCode error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("no error");
  return ErrorCode::kCancelled;
}

}  // namespace

TEST_CASE("a report that cannot be written leaves the earlier one whole", "[pipeline]") {
  const Scratch scratch("report_disk");
  RunConfig config = finished_run(scratch);
  write_file_atomically(config.out + "/tables/99-of-an-earlier-version.csv", "a\n");
  const auto before = report_files(config.out);
  config.report.examples = 1;
  {
    Run run(config, {});
    const FullDisk full(20000);  // less than the page takes
    CHECK(error_of([&] { run.execute(Stage::kReport); }) == ErrorCode::kIo);
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

TEST_CASE("what the file system refuses a stage is an error of the library's that names the place", "[pipeline]") {
  const Scratch scratch("report_refused");
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

TEST_CASE("a browser shows the page of a comparison without a complaint", "[pipeline]") {
  if (!daug::test::browser_installed()) return;
  const Scratch scratch("comparison_page");
  const RunConfig config = finished_run(scratch);
  RunConfig other = config;
  other.out = scratch / "other";
  fs::copy(config.out, other.out, fs::copy_options::recursive);
  other.evaluate.resamples += 1;
  write_config(other.out + "/config.json", other);
  const std::string page = scratch / "comparison.html";
  compare_runs({config.out, other.out}).write(page);
  const std::size_t sections = daug::test::count(read_text_file(page), "<section");
  for (const bool phone : {false, true}) {
    const auto view = daug::test::open_in_browser(
        "file://" + page,
        {phone ? 390 : 1280, 2000, phone, daug::test::artefact(phone ? "comparison_phone_dark.png" : "comparison.png")});
    for (const auto& line : view.console) UNSCOPED_INFO(line);
    CHECK(view.console.empty());
    CHECK(daug::test::count(view.dom, "<section") == sections);
    CHECK(sections >= 5);
  }
}

TEST_CASE("the page of a run with 300 test images is below 10 MB", "[pipeline]") {
  if (!daug::test::long_tests()) return;
  const Scratch scratch("large_page");
  RunConfig config = smallest(scratch / "run");
  config.size = 64;
  config.phantom.test = 300;
  config.report.examples = 6;
  Run run(config, {});
  for (Stage stage : all_stages()) CHECK(run.execute(stage));
  CHECK(fs::file_size(config.out + "/report.html") < 10'000'000);
}
