#include "daug/pipeline/run_search.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/serve/search_server.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/connection.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::finished_run;
using daug::test::Scratch;

namespace {

/// Every file of a folder with its time and size.
std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    files[entry.path()] = std::to_string(entry.last_write_time().time_since_epoch().count()) +
                          (entry.is_regular_file() ? " " + std::to_string(entry.file_size()) : "");
  return files;
}

std::vector<std::size_t> images_of(const GalleryAnswer& answer) {
  std::vector<std::size_t> images;
  for (const GalleryHit& hit : answer.hits) images.push_back(hit.image);
  return images;
}

}  // namespace

TEST_CASE("a finished run is searched by report, image and image file, and stays as it is", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const auto before = files_of(config.out);
  const RunSearch search(config.out);
  const GalleryFacts& facts = search.facts();
  CHECK(facts.images == 66);
  CHECK(facts.gallery == 34);
  CHECK(facts.splits == std::vector<std::string>{"train", "val"});
  CHECK(facts.sites.empty());  // phantoms have neither
  CHECK(facts.first_day.empty());
  const Cohort cohort = read_cohort(config.out + "/phantoms");
  for (std::size_t i = 0; i < facts.images; ++i) CHECK(search.find(search.image(i).study) == i);
  CHECK_FALSE(search.find("nobody"));
  GalleryQuery everything;
  everything.text = "Heart.";
  everything.count = 1000;
  const auto gallery = images_of(search.search(everything));
  REQUIRE(gallery.size() == 34);

  SECTION("an image of the test split finds what the evaluation found") {
    const auto details = nlohmann::json::parse(read_text_file(config.out + "/stages/details.json"));
    std::size_t compared = 0;
    for (const auto& example : details.at("retrieval_examples")) {
      GalleryQuery query;
      query.image = example.at("query").get<std::size_t>();
      query.count = 5;
      CHECK(images_of(search.search(query)) == example.at("hits").get<std::vector<std::size_t>>());
      ++compared;
    }
    CHECK(compared == 6);
  }

  SECTION("reports find what the evaluation counted") {
    // P@5 as its definition says, over findings, from searches by the text of every test study.
    std::map<std::string, std::pair<double, int>> by_finding;
    std::map<std::string, int> relevant;
    for (const std::size_t image : gallery)
      for (const auto& finding : search.image(image).findings) ++relevant[finding];
    for (const std::size_t test : cohort.split_indices("test")) {
      GalleryQuery query;
      query.text = cohort.studies[test].report;
      query.count = 5;
      const GalleryAnswer answer = search.search(query);
      for (const auto& finding : search.image(*search.find(cohort.studies[test].id)).findings) {
        if (relevant[finding] == 0) continue;
        auto& [sum, queries] = by_finding[finding];
        for (const GalleryHit& hit : answer.hits) {
          const auto found = search.image(hit.image).findings;
          sum += static_cast<double>(std::count(found.begin(), found.end(), finding)) / 5;
        }
        ++queries;
      }
    }
    double mean = 0;
    for (const auto& entry : by_finding) mean += entry.second.first / entry.second.second;
    mean /= static_cast<double>(by_finding.size());
    const auto figures = read_metrics(config.out + "/metrics.json");
    const Figure* expected = find_figure(figures, "retrieval.report_to_image.p_at_5", "image+evidence");
    REQUIRE(expected);
    CHECK(mean == Approx(expected->value).epsilon(1e-9));
  }

  SECTION("an image file finds itself; filters hold") {
    const RunSearch plain(config.out, "image");
    const std::size_t train = cohort.split_indices("val")[3];
    GalleryQuery query;
    query.picture = read_file(cohort.studies[train].path);
    query.count = 3;
    const GalleryAnswer answer = plain.search(query);
    REQUIRE(answer.hits.size() == 3);
    CHECK(plain.image(answer.hits[0].image).study == cohort.studies[train].id);
    CHECK(answer.hits[0].cosine == Approx(1).margin(1e-5));
    CHECK_FALSE(answer.seen_png.empty());
    CHECK(search.search(query).hits.size() == 3);  // with maps made for it
    query.picture = {'n', 'o'};
    CHECK(caught([&] { plain.search(query); }).code() == ErrorCode::kFormat);

    query.picture.clear();
    query.image = *search.find(cohort.studies[train].id);
    query.count = 1000;
    std::size_t others = 0;
    for (const std::size_t image : gallery) others += search.image(image).patient != search.image(*query.image).patient;
    CHECK(others < 34);
    CHECK(images_of(search.search(query)).size() == others);
    query.filter.other_patients = false;
    CHECK(images_of(search.search(query)).front() == *query.image);
    query.filter.split = "train";
    CHECK(images_of(search.search(query)).size() == 24);
    for (const auto& finding : facts.findings) {
      query.filter.finding = finding;
      for (const std::size_t image : images_of(search.search(query))) {
        const GalleryImage found = search.image(image);
        CHECK(std::count(found.findings.begin(), found.findings.end(), finding) == 1);
        CHECK(found.split == "train");
      }
    }
    query.filter = {};
    query.filter.finding = GalleryFacts::kNoFinding;
    for (const std::size_t image : images_of(search.search(query))) CHECK(search.image(image).findings.empty());
    query.filter = {};
    query.filter.patient = search.image(0).patient;
    for (const std::size_t image : images_of(search.search(query)))
      CHECK(search.image(image).patient == search.image(0).patient);
    query.text = "both";
    CHECK(caught([&] { search.search(query); }).code() == ErrorCode::kInvalidArgument);
    query.text.clear();
    query.image = 66;
    CHECK(caught([&] { search.search(query); }).code() == ErrorCode::kNotFound);
  }

  SECTION("what does not fit is refused by name") {
    CHECK_THROWS_WITH(RunSearch(config.out, "imagination"), daug::test::contains_text("'image+evidence'"));
    CHECK(caught([&] { RunSearch(scratch.path("nowhere")); }).code() == ErrorCode::kNotFound);
    RunConfig other = config;
    other.encoder.epochs += 1;
    write_config(config.out + "/config.json", other);
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("stage 'index'"));
    other = config;
    other.phantom.seed += 1;
    write_config(config.out + "/config.json", other);
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("phantoms"));
    write_config(config.out + "/config.json", config);
    fs::copy_file(config.out + "/index/image.daugindex", config.out + "/index/image_evidence.daugindex",
                  fs::copy_options::overwrite_existing);
    CHECK(caught([&] { RunSearch(config.out); }).code() == ErrorCode::kMismatch);
    fs::remove(config.out + "/stages/index.json");
    CHECK_THROWS_WITH(RunSearch(config.out), daug::test::contains_text("stage 'index' to be finished"));
    return;
  }

  SECTION("the program serves it until Ctrl-C") {
    SearchServerOptions options;
    options.port = 0;
    auto other = std::make_unique<SearchServer>(search, options);
    const int port = other->port();
    const std::string number = std::to_string(port);
    const std::vector<const char*> arguments = {"search", config.out.c_str(), "--port", number.c_str()};
    const auto run = [&] { return search_program(static_cast<int>(arguments.size()), arguments.data()); };
    CHECK(run() == 1);  // the port is taken
    other.reset();
    int status = -1;
    std::thread program([&] { status = run(); });
    std::string reply;
    for (int i = 0; i < 600 && reply.empty(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      const daug::test::Connection connection(port);
      if (connection.open()) reply = connection.talk("GET /images HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    CHECK(reply.rfind("HTTP/1.1 200", 0) == 0);
    CHECK(reply.find(search.image(0).study) != std::string::npos);
    std::raise(SIGINT);
    program.join();
    CHECK(status == 130);
    const char* none[] = {"search"};
    CHECK(search_program(1, none) == 2);
  }

  CHECK(files_of(config.out) == before);
}

TEST_CASE("reports that are searched with are cleaned as those of the training", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = finished_run(scratch);
  const auto cosines = [&](const std::string& text) {
    GalleryQuery query;
    query.text = text;
    std::vector<double> found;
    const GalleryAnswer answer = RunSearch(config.out, "image").search(query);
    for (const GalleryHit& hit : answer.hits) found.push_back(hit.cosine);
    return found;
  };
  const std::string curly = "\xE2\x80\x9CHeart\xE2\x80\x9D &amp; lungs.", plain = "\"Heart\" & lungs.";
  CHECK(cosines(curly) != cosines(plain));
  config.encoder.text_cleaning = "open_clip";
  Run run(config, {});
  for (Stage stage : {Stage::kEncoders, Stage::kIndex}) CHECK(run.execute(stage));
  CHECK(cosines(curly) == cosines(plain));
}
