// The whole pipeline at its smallest, in a temporary folder.

#include <ATen/ATen.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <set>

#include "daug/core/error.h"
#include "daug/data/phantom.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "support/catch.h"
#include "support/full_disk.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::FullDisk;

namespace {

/// A folder that goes away with the test.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_(fs::temp_directory_path() / ("daug_" + name + "_" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

RunConfig smallest(const std::string& out) {
  RunConfig config;
  config.out = out;
  config.phantom.train = 36;
  config.phantom.val = 10;
  config.phantom.test = 20;
  config.diffusion.steps = 6;
  config.diffusion.base = 16;
  config.diffusion.norm_groups = 4;
  config.guide.steps = 3;
  config.guide.batch = 8;
  config.maps.steps = 2;
  config.maps.train_images = 24;
  config.encoder.epochs = 2;
  config.encoder.batch = 12;
  config.encoder.width = 16;
  config.evaluate.resamples = 20;
  config.report.examples = 3;
  return config;
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

TEST_CASE("a run makes models, maps, indexes, figures and a report, and reuses them", "[pipeline]") {
  const Scratch scratch("run");
  const RunConfig config = smallest(scratch / "run");
  {
    Run run(config, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage));
  }
  for (const char* file : {"config.json", "metrics.json", "report.html", "run.log", "translator.safetensors",
                           "guide.safetensors", "tokenizer/vocab.json", "index/image.daugindex"})
    CHECK(fs::exists(config.out + "/" + file));

  SECTION("every figure has a definition and a sane interval, and the promised ones are there") {
    std::set<std::string> seen;
    for (const Figure& figure : read_metrics(config.out + "/metrics.json")) {
      INFO(figure.name << " " << figure.arm << " " << figure.split);
      CHECK_FALSE(figure.definition.empty());
      if (figure.low && figure.high) CHECK(*figure.low <= *figure.high);
      seen.insert(figure.name + "/" + figure.arm);
    }
    for (const char* arm : {"difference", "evidence", "score_difference", "mean_mask", "no_target"})
      for (const char* name : {"map.pixel_auroc", "map.pixel_ap", "map.pointing"})
        CHECK(seen.count(std::string(name) + "/" + arm) == 1);
    for (const char* name : {"map.in_mask_ratio/difference", "map.outside_change/difference",
                             "map.image_auroc/evidence", "classification.auroc_macro/pca_logistic"})
      CHECK(seen.count(name) == 1);
    for (const char* arm : {"image", "image+difference", "image+evidence", "image+noise"})
      for (const char* name :
           {"classification.auroc_macro", "retrieval.p_at_5", "retrieval.map_at_1", "retrieval.map_at_3",
            "retrieval.map_at_5", "retrieval.map_at_10", "retrieval.wmap_at_10", "retrieval.report_to_image.p_at_5"})
        CHECK(seen.count(std::string(name) + "/" + arm) == 1);
    for (Stage stage : all_stages()) CHECK(seen.count("time." + stage_name(stage) + "/run") == 1);
  }

  SECTION("a second run redoes nothing; a changed setting redoes what depends on it") {
    {
      Run run(config, {});
      for (Stage stage : all_stages()) CHECK_FALSE(run.execute(stage));
    }
    RunConfig changed = config;
    changed.evaluate.resamples = 21;
    {
      Run run(changed, {});
      for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage >= Stage::kEvaluate));
    }
    // Contrast-guided maps do not depend on the guide; what is measured does.
    changed.guide.steps += 1;
    Run run(changed, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage) == (stage == Stage::kGuide || stage >= Stage::kEvaluate));
  }

  SECTION("--force redoes one stage to the same bytes") {
    const auto before = read_file(config.out + "/translator.safetensors");
    RunConfig forced = config;
    forced.force = {"translator"};
    Run run(forced, {});
    CHECK(run.execute(Stage::kTranslator));
    CHECK(read_file(config.out + "/translator.safetensors") == before);
  }

  SECTION("a stage refuses what other settings made") {
    RunConfig other = config;
    other.diffusion.steps = 7;
    Run run(other, {});
    CHECK(error_of([&] { run.execute(Stage::kHeatmaps); }) == ErrorCode::kMismatch);
  }

  SECTION("weights of another architecture are refused by name") {
    fs::copy_file(config.out + "/guide.safetensors", config.out + "/translator.safetensors",
                  fs::copy_options::overwrite_existing);
    RunConfig forced = config;
    forced.force = {"heatmaps"};
    fs::remove_all(config.out + "/heatmaps");
    Run run(forced, {});
    CHECK_THROWS_WITH(run.execute(Stage::kHeatmaps), daug::test::contains_text("another architecture"));
  }
}

TEST_CASE("stopping and resuming gives the weights of an uninterrupted training, bit for bit", "[pipeline]") {
  const Scratch scratch("resume");
  RunConfig config = smallest(scratch / "straight");
  Run(config, {}).execute(Stage::kTranslator);
  const auto expected = read_file(config.out + "/translator.safetensors");

  config.out = scratch / "interrupted";
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.stage == "train translator" && progress.done == 2) stop.request_stop();
  };
  CHECK(error_of([&] { Run(config, control).execute(Stage::kTranslator); }) == ErrorCode::kCancelled);
  CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
  CHECK(fs::exists(config.out + "/stages/translator_checkpoint.safetensors"));
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  CHECK(read_file(config.out + "/translator.safetensors") == expected);
}

TEST_CASE("a run uses the findings and policies it is told to", "[pipeline]") {
  const Scratch scratch("findings");
  RunConfig config = smallest(scratch / "run");
  config.labels.findings = "Nodule, Effusion";
  Run(config, {}).execute(Stage::kTranslator);
  CHECK(read_safetensors(config.out + "/translator.safetensors").metadata.at("findings") == "Nodule,Effusion");
  RunConfig other = config;
  other.labels.not_mentioned = "zeros";
  CHECK(Run(other, {}).execute(Stage::kTranslator));  // other labels, another model
  other.labels.uncertain = "perhaps";
  CHECK(error_of([&] { Run run(other, {}); }) == ErrorCode::kInvalidArgument);
  config.labels.findings = "Nodule,Noodle";
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  CHECK(parse_names("") == std::vector<std::string>{});
  CHECK(parse_names(" a b ,c,") == std::vector<std::string>{"a b", "c"});
}

TEST_CASE("bad input is refused before anything is made", "[pipeline]") {
  const Scratch scratch("bad");
  RunConfig config = smallest(scratch / "run");

  SECTION("missing folder") {
    config.data = scratch / "nowhere";
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
  SECTION("an unreadable image stops the run, unless it may be skipped") {
    PhantomOptions phantom;
    phantom.train_images = 36;
    phantom.val_images = 10;
    phantom.test_images = 20;
    config.data = scratch / "cohort";
    write_phantom_cohort(config.data, phantom);
    const std::string victim = fs::directory_iterator(config.data + "/images")->path().string();
    fs::resize_file(victim, fs::file_size(victim) / 2);
    CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kFormat);
    CHECK(fs::exists(config.out + "/unreadable_images.csv"));
    config.skip_bad = true;
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    fs::remove(victim);
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    CHECK(read_text_file(config.out + "/unreadable_images.csv").find(fs::path(victim).filename()) != std::string::npos);
    config.skip_bad = false;
    CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  }
  SECTION("a disk that fills up while weights are written leaves neither them nor a record of the stage") {
    Run run(config, {});
    run.execute(Stage::kGuide);
    {
      const FullDisk full(20000);
      CHECK(error_of([&] { run.execute(Stage::kTranslator); }) == ErrorCode::kIo);
    }
    CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
    CHECK_FALSE(fs::exists(config.out + "/stages/translator.json"));
    for (const auto& entry : fs::recursive_directory_iterator(config.out)) CHECK(entry.path().extension() != ".tmp");
    CHECK(run.execute(Stage::kTranslator));
  }
  SECTION("an unknown stage to force") {
    config.force = {"translater"};
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
  SECTION("a setting out of range") {
    config.size = 8;
    CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("the command line reads presets, settings and mistakes", "[pipeline]") {
  const auto read = [](std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "program");
    return parse_command_line(static_cast<int>(arguments.size()), arguments.data(), "test");
  };
  CHECK(read({}).config.size == 32);
  const CommandLine small = read({"--preset", "small", "--size", "96", "--diffusion.steps", "5"});
  CHECK_FALSE(small.exit);
  CHECK(small.config.size == 96);
  CHECK(small.config.diffusion.steps == 5);
  CHECK(small.config.diffusion.levels == "1,2,2");
  CHECK(read({"--sice", "64"}).exit_code == 2);
  CHECK(read({"--size", "many"}).exit_code == 2);
  CHECK(read({"--size", "8"}).exit_code == 2);
  CHECK(read({"--preset", "huge"}).exit_code == 2);
  const CommandLine help = read({"--help"});
  CHECK(help.exit);
  CHECK(help.exit_code == 0);
}

TEST_CASE("every setting has a name of its own, a help text and a default in range", "[pipeline]") {
  for (const auto& name : preset_names()) {
    RunConfig config;
    apply_preset(config, name);
    CHECK_NOTHROW(config.validate());
    std::set<std::string> names;
    for (const auto& setting : settings(config)) {
      CHECK(names.insert(setting.name).second);
      CHECK_FALSE(setting.help.empty());
    }
    CHECK(names.size() > 50);
  }
  RunConfig a, b;
  b.diffusion.steps += 1;
  CHECK(settings_fingerprint(a, {"diffusion."}) != settings_fingerprint(b, {"diffusion."}));
  CHECK(settings_fingerprint(a, {"encoder."}) == settings_fingerprint(b, {"encoder."}));
}
