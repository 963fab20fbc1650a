// The whole pipeline at its smallest, in a temporary folder.

#include <ATen/ATen.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <set>

#include "daug/core/error.h"
#include "daug/data/dataset.h"
#include "daug/data/phantom.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/map_maker.h"
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
  CHECK(fs::exists(config.out + "/tables"));
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

  SECTION("a program of one's own makes the stored maps again") {
    const MapMaker maker = MapMaker::load(config.out);
    const SafetensorsFile stored = read_safetensors(config.out + "/heatmaps/000000.safetensors");
    std::vector<std::uint64_t> items;
    for (const std::int64_t row : stored.at("rows").to_int64()) items.push_back(static_cast<std::uint64_t>(row));
    // The input is what the stored round trip and its error came from; ask for it back through the cohort.
    const Cohort cohort = read_cohort(config.out + "/phantoms");
    LoadOptions load;
    load.preprocess = maker.preprocess();
    const ImageSet all = load_images(cohort, load).images;
    std::vector<at::Tensor> rows;
    for (const std::uint64_t item : items)
      rows.push_back(at::from_blob(const_cast<float*>(all.image(item)), {1, 1, 32, 32}).clone());
    const at::Tensor x = at::cat(rows);
    const ImageMaps maps = maker.make(x, items, true);
    const auto same = [&](const char* name, const at::Tensor& made) {
      const std::vector<float> expected = stored.at(name).to_float();
      const at::Tensor flat = made.contiguous();
      REQUIRE(static_cast<std::size_t>(flat.numel()) == expected.size());
      CHECK(at::allclose(flat.flatten(), at::tensor(expected), 1e-4, 1e-5));
    };
    same("difference", maps.difference);
    same("evidence", maps.evidence);
    same("no_target", maps.no_target);
    same("residual", maps.residual);
    CHECK_FALSE(maker.make(x.narrow(0, 0, 1), {items[0]}, false).reconstruction.defined());
    CHECK(error_of([&] { MapMaker::load(scratch / "nowhere"); }) == ErrorCode::kNotFound);
  }

  SECTION("encoders train as their settings say") {
    RunConfig changed = config;
    changed.encoder.epochs = 3;
    changed.encoder.patience = 1;
    changed.encoder.chunk = 5;
    changed.encoder.clip_norm = 1;
    changed.encoder.ema = 0.5;
    changed.encoder.layer_decay = 0.7;
    changed.encoder.freeze = "text.*.bias, image.*.norm1.weight";
    changed.encoder.precision = "auto";
    CHECK(Run(changed, {}).execute(Stage::kEncoders));
    CHECK(read_text_file(config.out + "/run.log").find("validations") != std::string::npos);
    int frozen = 0;
    for (const auto& [name, array] : read_safetensors(config.out + "/encoders/image_evidence.safetensors").tensors) {
      const bool text_bias = name.rfind("text.", 0) == 0 && name.ends_with(".bias");
      const bool norm = name.rfind("image.", 0) == 0 && name.ends_with(".norm1.weight");
      if (!text_bias && !norm) continue;
      INFO(name);
      ++frozen;
      for (const double value : array.to_double()) REQUIRE(value == (norm ? 1 : 0));
    }
    CHECK(frozen > 5);
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

TEST_CASE("findings that a vocabulary groups share a map", "[pipeline]") {
  const Scratch scratch("groups");
  RunConfig config = smallest(scratch / "run");
  config.labels.vocabulary = scratch / "vocabulary.json";
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"],
      "groups": {"opacity": ["Consolidation", "Effusion"], "nodule": ["Nodule"]}})");
  {
    Run run(config, {});
    for (Stage stage : all_stages()) CHECK(run.execute(stage));
  }
  const SafetensorsFile maps = read_safetensors(config.out + "/heatmaps/000000.safetensors");
  CHECK(maps.at("evidence").shape.at(1) == 2);
  CHECK(maps.at("translated").shape.at(1) == 2);
  std::set<std::string> seen;
  for (const Figure& figure : read_metrics(config.out + "/metrics.json")) seen.insert(figure.name + "/" + figure.arm);
  for (const char* name : {"map.pixel_ap/difference", "map.pixel_ap/mean_mask", "classification.auroc_macro/image"})
    CHECK(seen.count(name) == 1);
  CHECK(read_text_file(config.out + "/report.html").find("opacity") != std::string::npos);

  // Other groups are other maps.
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion", "Nodule", "Consolidation"]})");
  CHECK(Run(config, {}).execute(Stage::kTranslator));
  write_file_atomically(config.labels.vocabulary, R"({"findings": ["Effusion"], "groups": {"bone": ["Fracture"]}})");
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kNotFound);
  config.labels.findings = "Effusion";
  CHECK(error_of([&] { Run run(config, {}); }) == ErrorCode::kInvalidArgument);
}

TEST_CASE("settings that do not fit together are refused before the first stage's work", "[pipeline]") {
  const Scratch scratch("unfit");
  RunConfig config = smallest(scratch / "run");
  SECTION("norm groups that do not divide the width") { config.diffusion.norm_groups = 5; }
  SECTION("an image that cannot be halved so often") { config.guide.levels = "1,1,1,1,1,1,1,1"; }
  SECTION("an encoder's width") { config.encoder.width = 12; }
  SECTION("parameters to freeze that no encoder has") { config.encoder.freeze = "images.*"; }
  SECTION("a map that is not there") {
    config.encoder.mode = "channel";
    config.encoder.map_index = 6;
  }
  CHECK(error_of([&] { Run(config, {}).execute(Stage::kTranslator); }) == ErrorCode::kInvalidArgument);
  CHECK(fs::is_empty(config.out + "/stages"));
}

TEST_CASE("every number out of its range and every unknown word is refused by name", "[pipeline]") {
  RunConfig config;
  for (std::size_t i = 0; i < settings(config).size(); ++i) {
    RunConfig changed;
    const Setting setting = settings(changed)[i];
    INFO(setting.name);
    const auto refused = [&] { CHECK_THROWS_WITH(changed.validate(), daug::test::contains_text(setting.name)); };
    if (const auto* integer = std::get_if<std::int64_t*>(&setting.value)) {
      **integer = static_cast<std::int64_t>(setting.low) - 1;
      refused();
      **integer = static_cast<std::int64_t>(setting.high) + 1;
      refused();
    } else if (const auto* number = std::get_if<double*>(&setting.value)) {
      for (const double value : {setting.low - 1, setting.high * 2 + 1, std::nan("")}) {
        **number = value;
        refused();
      }
    }
  }
  for (const char* name :
       {"diffusion.schedule", "diffusion.prediction", "diffusion.levels", "guide.levels", "diffusion.attention",
        "guide.attention", "maps.solver", "maps.guidance", "maps.evidence_levels", "encoder.mode", "encoder.maps",
        "encoder.precision", "labels.uncertain", "study.steps"}) {
    RunConfig changed;
    for (const auto& setting : settings(changed))
      if (setting.name == name) *std::get<std::string*>(setting.value) = "nonsense";
    INFO(name);
    CHECK(error_of([&] { changed.validate(); }) == ErrorCode::kInvalidArgument);
  }
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
  const Scratch scratch("config");
  RunConfig written;
  written.diffusion.steps = 77;
  written.labels.findings = "Nodule";
  written.skip_bad = true;
  written.maps.weight = 0.1;
  write_config(scratch / "config.json", written);
  RunConfig back = read_config(scratch / "config.json");
  for (std::size_t i = 0; i < settings(back).size(); ++i)
    CHECK(settings(back)[i].text() == settings(written)[i].text());
  for (const char* text : {"{}", "[1", R"({"version": 1, "preset": "tiny", "settings": {"sice": 3}})",
                           R"({"version": 1, "preset": "tiny", "settings": {"size": "large"}})"}) {
    write_file_atomically(scratch / "bad.json", text);
    CHECK(error_of([&] { read_config(scratch / "bad.json"); }) == ErrorCode::kFormat);
  }
  const auto words = command_line(written);
  CHECK(words == std::vector<std::string>{"--preset", "tiny", "--skip-bad", "--labels.findings", "Nodule",
                                          "--diffusion.steps", "77", "--maps.weight", "0.1"});
  RunConfig large;
  apply_preset(large, "small");
  large.size = 96;
  large.data = "a folder/with space";
  const auto again = command_line(large);
  std::vector<const char*> arguments = {"program"};
  for (const auto& word : again) arguments.push_back(word.c_str());
  RunConfig parsed = parse_command_line(static_cast<int>(arguments.size()), arguments.data(), "test").config;
  for (std::size_t i = 0; i < settings(parsed).size(); ++i)
    CHECK(settings(parsed)[i].text() == settings(large)[i].text());
  RunConfig a, b;
  b.diffusion.steps += 1;
  CHECK(settings_fingerprint(a, {"diffusion."}) != settings_fingerprint(b, {"diffusion."}));
  CHECK(settings_fingerprint(a, {"encoder."}) == settings_fingerprint(b, {"encoder."}));
}
