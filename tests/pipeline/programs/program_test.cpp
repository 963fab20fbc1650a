// What the program says, and with which status it ends, when it is given bad input; and what it leaves behind.

#include <c10/util/Exception.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <iostream>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/pipeline/run.h"
#include "image/fixtures.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/not_root.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::finished_run;
using daug::test::FullDisk;
using daug::test::mentions;
using daug::test::NotRoot;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

namespace {

/// How a program ended.
struct Ended {
  int status = -1;
  std::string output, errors;  ///< of std::cout and std::cerr
};

/// Runs the program of some stages in this process.
Ended ended(std::vector<std::string> words, const std::vector<Stage>& stages,
            const std::function<void(Run&)>& then = {}) {
  words.insert(words.begin(), "00_quickstart");
  std::vector<const char*> arguments;
  for (const auto& word : words) arguments.push_back(word.c_str());
  std::ostringstream output, errors;
  std::streambuf* const before_output = std::cout.rdbuf(output.rdbuf());
  std::streambuf* const before_errors = std::cerr.rdbuf(errors.rdbuf());
  Ended result;
  result.status =
      run_program(static_cast<int>(arguments.size()), arguments.data(), "The whole pipeline.", stages, then);
  std::cout.rdbuf(before_output);
  std::cerr.rdbuf(before_errors);
  result.output = output.str();
  result.errors = errors.str();
  return result;
}

/// The program refuses what it was given: status 1 and one message with all these parts.
template <class... Parts>
void refused(const Ended& end, const Parts&... parts) {
  INFO(end.errors);
  CHECK(end.status == 1);
  CHECK(end.errors.rfind("error: ", 0) == 0);
  CHECK(mentions(end.errors, parts...));
}

using Change = std::function<void(RunConfig&)>;

/// The program of some stages with a run's settings, changed.
Ended with(RunConfig config, const std::vector<Stage>& stages, const Change& change) {
  change(config);
  std::vector<std::string> words = command_line(config);
  for (const auto& stage : config.force) words.insert(words.end(), {"--force", stage});
  return ended(words, stages);
}

/// The smallest run on a cohort of its own, which may be spoilt.
class SmallCohort {
 public:
  SmallCohort() : config_(smallest(scratch_.path("run"))) {
    config_.data = small_cohort(scratch_.path("cohort"), 8, 4, 4);
  }

  std::string path(const std::string& name) const { return scratch_.path(name); }
  const std::string& run() const { return config_.out; }
  CsvTable labels() const { return read_csv(config_.data + "/labels.csv"); }
  std::string first_image() const { return read_cohort(config_.data).studies[0].path; }

  /// What the whole program says of it.
  Ended told(const Change& change = [](RunConfig&) {}) const { return with(config_, all_stages(), change); }
  /// The same after a change to labels.csv.
  Ended spoilt(const std::function<void(CsvTable&)>& spoil) const {
    CsvTable table = labels();
    spoil(table);
    write_csv(config_.data + "/labels.csv", table);
    return told();
  }

 private:
  Scratch scratch_;
  RunConfig config_;
};

std::string line_of(const CsvTable& table, std::size_t row) { return "line " + std::to_string(table.lines[row]); }

/// Whether a write that failed has left its beginning.
bool temporaries_in(const std::string& folder) {
  if (!fs::exists(folder)) return false;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == ".tmp") return true;
  return false;
}

}  // namespace

TEST_CASE("the program ends with status 1 and names file and row of what is wrong with a cohort", "[pipeline]") {
  const SmallCohort cohort;

  const auto elsewhere = [&](const char* folder) {
    return cohort.told([&](RunConfig& config) { config.data = cohort.path(folder); });
  };

  SECTION("no folder") { refused(elsewhere("nowhere"), "cohort folder", cohort.path("nowhere")); }
  SECTION("a folder without labels") {
    fs::create_directories(cohort.path("empty"));
    refused(elsewhere("empty"), "labels.csv", cohort.path("empty"));
  }
  SECTION("a missing column") {
    refused(cohort.spoilt([](CsvTable& table) { table.columns[table.column("patient_id")] = "patient"; }), "labels.csv",
            "patient_id");
  }
  SECTION("an unknown finding") {
    refused(cohort.told([](RunConfig& config) { config.labels.findings = "Fracture"; }), "labels.csv", "'Fracture'",
            "Effusion");
  }
  SECTION("a label 7") {
    std::string line;
    const Ended end = cohort.spoilt([&](CsvTable& table) {
      table.rows[2][table.column("Nodule")] = "7";
      line = line_of(table, 2);
    });
    refused(end, "labels.csv " + line + " column Nodule", "1, 0, -1 or blank", "'7'");
  }
  SECTION("an empty split") {
    const Ended end = cohort.spoilt([](CsvTable& table) {
      for (auto& row : table.rows)
        if (auto& split = row[table.column("split")]; split == "val") split = "test";
    });
    refused(end, "labels.csv", "split 'val'", "none");
  }
  SECTION("a patient in two splits") {
    std::string first, last;
    const Ended end = cohort.spoilt([&](CsvTable& table) {
      table.rows.back()[table.column("patient_id")] = table.rows[0][table.column("patient_id")];
      first = line_of(table, 0), last = line_of(table, table.rows.size() - 1);
    });
    refused(end, "labels.csv", "train (" + first + ")", "test (" + last + ")");
  }
  CHECK_FALSE(fs::exists(cohort.run() + "/translator.safetensors"));
  CHECK_FALSE(temporaries_in(cohort.run()));
}

TEST_CASE("the program collects images that cannot be read, and offers to go on without them", "[pipeline]") {
  const SmallCohort cohort;
  const std::string image = cohort.first_image();
  std::string why;
  SECTION("a truncated PNG") {
    // Signature, header, one chunk of data after 41 bytes, and an end: 57 bytes beside the data.
    const auto size = fs::file_size(image);
    fs::resize_file(image, size / 2);
    why = "expected " + std::to_string(size - 57) + " more bytes after byte 41, got a file that ends " +
          std::to_string(size / 2 - 41) + " later";
  }
  SECTION("one that is missing") {
    fs::remove(image);
    why = "expected a readable file, got No such file";
  }
  SECTION("a header of 60000 x 60000") {
    using namespace daug::test;
    const Bytes bomb =
        png_file({png_header(60000, 60000, 8, 0), png_chunk("IDAT", stored_zlib(Bytes(1000))), png_chunk("IEND", {})});
    write_file_atomically(image, bomb.data(), bomb.size());
    why = "60000 x 60000";
  }
  const CsvTable labels = cohort.labels();
  const std::string row = labels.rows[0][labels.column("id")] + " (labels.csv " + line_of(labels, 0) + ")";
  refused(cohort.told(), "16 readable images, got 1", row, image, why, "unreadable_images.csv", "--skip-bad");
  const CsvTable list = read_csv(cohort.run() + "/unreadable_images.csv");
  REQUIRE(list.rows.size() == 1);
  CHECK(list.rows[0][list.column("path")] == image);
  CHECK(list.rows[0][list.column("id")] == labels.rows[0][labels.column("id")]);
  CHECK(list.rows[0][list.column("line")] == std::to_string(labels.lines[0]));
  CHECK_FALSE(fs::exists(cohort.run() + "/translator.safetensors"));
}

TEST_CASE("arguments that are none end the program with status 2, and help is no error", "[pipeline]") {
  const Scratch scratch;
  const auto wrong = [&](const std::vector<std::string>& words, const std::string& named) {
    const Ended end = ended(words, all_stages());
    INFO(end.errors);
    CHECK(end.status == 2);
    CHECK(mentions(end.errors, named, "--help"));
  };
  const std::string out = scratch.path("run");
  wrong({"--out", out, "--sice", "64"}, "--sice");
  wrong({"--out", out, "--size", "8"}, "size");
  wrong({"--out", out, "--size", "large"}, "--size");
  wrong({"--out", out, "--preset", "huge"}, "tiny, small or reference");
  CHECK_FALSE(fs::exists(out));

  const Ended help = ended({"--help"}, all_stages());
  CHECK(help.status == 0);
  CHECK(help.errors.empty());
  CHECK(mentions(help.output, "Not a medical device", "--diffusion.steps", std::to_string(RunConfig{}.diffusion.steps),
                 "pixels", "minutes"));
  RunConfig small;
  apply_preset(small, "small");
  CHECK(mentions(ended({"--preset", "small", "--help"}, all_stages()).output, std::to_string(small.diffusion.steps)));
}

TEST_CASE("a finished run is as it was after a command that was refused", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const auto file = [&](const char* name) { return read_file(config.out + "/" + name); };
  const auto settings = file("config.json"), weights = file("translator.safetensors"), figures = file("metrics.json");
  const auto phantoms = file("phantoms/labels.csv");

  SECTION("other settings than those of an earlier stage") {
    refused(with(config, {Stage::kHeatmaps}, [](RunConfig& other) { other.diffusion.learning_rate = 0.5; }),
            "stage 'translator'", "fingerprint", "run that stage again, or use its settings");
  }
  SECTION("an earlier stage that is missing") {
    fs::remove(config.out + "/stages/index.json");
    refused(with(config, {Stage::kEvaluate}, [](RunConfig& other) { other.evaluate.resamples += 1; }), "stage 'index'",
            "run it first");
  }
  SECTION("phantoms that cannot be made") {
    refused(with(config, {Stage::kTranslator}, [](RunConfig& other) { other.size = 16; }), "size", "[32, 512]");
  }
  SECTION("other phantoms than those of an earlier stage") {
    refused(with(config, {Stage::kEvaluate}, [](RunConfig& other) { other.phantom.test += 1; }),
            config.out + "/phantoms", "none or others");
  }
  SECTION("settings that no network has") {
    refused(with(config, {Stage::kTranslator}, [](RunConfig& other) { other.diffusion.norm_groups = 5; }),
            "norm_groups");
    CHECK(fs::exists(config.out + "/stages/translator.json"));
  }
  CHECK(file("config.json") == settings);
  CHECK(file("translator.safetensors") == weights);
  CHECK(file("metrics.json") == figures);
  CHECK(file("phantoms/labels.csv") == phantoms);
  CHECK_FALSE(temporaries_in(config.out));
}

TEST_CASE("on a full disk the program ends with what was there, and nothing half-written", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  const std::string path = config.out + "/translator.safetensors";
  const auto weights = read_file(path);
  const Ended end = [&] {
    const FullDisk full(20000);  // less than the weights take
    return with(config, {Stage::kTranslator}, [](RunConfig& forced) { forced.force = {"translator"}; });
  }();
  refused(end, config.out, "translator", "File too large");
  CHECK(read_file(path) == weights);
  CHECK_FALSE(temporaries_in(config.out));
}

TEST_CASE("the program refuses weights of another architecture by name", "[pipeline]") {
  const Scratch scratch;
  const RunConfig config = finished_run(scratch);
  fs::copy_file(config.out + "/guide.safetensors", config.out + "/translator.safetensors",
                fs::copy_options::overwrite_existing);
  refused(with(config, {Stage::kHeatmaps}, [](RunConfig& forced) { forced.force = {"heatmaps"}; }),
          "translator.safetensors", "another architecture", "missing");
}

TEST_CASE("the program says that a folder cannot be written", "[pipeline]") {
  const Scratch scratch;
  fs::create_directories(scratch.path("closed/run/stages"));
  REQUIRE(::chmod(scratch.folder().c_str(), 0755) == 0);  // others may look into it
  for (const char* name : {"closed/run/stages", "closed/run", "closed"})
    REQUIRE(::chmod(scratch.path(name).c_str(), 0555) == 0);
  {
    const NotRoot nobody;
    if (nobody.holds()) {
      refused(ended(command_line(smallest(scratch.path("closed/new"))), all_stages()), "closed/new",
              "Permission denied");
      refused(ended(command_line(smallest(scratch.path("closed/run"))), all_stages()), "closed/run/config.json",
              "Permission denied");
    }
  }
  for (const char* name : {"closed", "closed/run", "closed/run/stages"})
    REQUIRE(::chmod(scratch.path(name).c_str(), 0755) == 0);
  CHECK(fs::is_empty(scratch.path("closed/run/stages")));
  CHECK_FALSE(fs::exists(scratch.path("closed/new")));
}

TEST_CASE("an error of another library is a message without a stack trace", "[pipeline]") {
  const Scratch scratch;
  const auto words = command_line(smallest(scratch.path("run")));
  const Ended torch = ended(words, {}, [](Run&) { TORCH_CHECK(false, "no such operator"); });
  refused(torch, "no such operator");
  CHECK_FALSE(mentions(torch.errors, "frame #"));
  refused(ended(words, {}, [](Run&) { throw std::bad_alloc(); }), "memory");
}

TEST_CASE("Ctrl-C ends the program at a step with status 130, its state and how to resume", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.diffusion.steps = 1000000;  // until it is stopped
  const std::string checkpoint = config.out + "/stages/translator_checkpoint.safetensors";
  Ended end;
  std::thread program([&] { end = ended(command_line(config), {Stage::kTranslator}); });
  for (int i = 0; i < 3000 && !fs::exists(checkpoint); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::raise(SIGINT);
  program.join();
  INFO(end.errors);
  CHECK(end.status == 130);
  CHECK(mentions(end.errors, config.out, "Run the same command again to resume"));
  CHECK(fs::exists(checkpoint));
  CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
  CHECK_FALSE(temporaries_in(config.out));
}
