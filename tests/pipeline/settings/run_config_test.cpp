#include "daug/pipeline/run_config.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "daug/core/error.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::Scratch;

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
  for (const auto& name : parse_names(
           "diffusion.schedule, diffusion.prediction, diffusion.variance, diffusion.objective, diffusion.levels, "
           "diffusion.attention, diffusion.embedding, diffusion.precision, guide.levels, guide.attention, "
           "guide.precision, maps.solver, maps.guidance, "
           "maps.evidence_levels, encoder.mode, encoder.maps, encoder.precision, encoder.kind, encoder.pooling, "
           "encoder.pixels, encoder.image_positions, encoder.text_positions, encoder.text_cleaning, encoder.loss, "
           "encoder.class_form, encoder.uncertain, encoder.negatives, encoder.prompts, encoder.arms, "
           "labels.uncertain, study.steps, phantom.labels, maps.precision, maps.normalisation, device")) {
    RunConfig changed;
    for (const auto& setting : settings(changed))
      if (setting.name == name) *std::get<std::string*>(setting.value) = "nonsense";
    INFO(name);
    CHECK(caught([&] { changed.validate(); }).code() == ErrorCode::kInvalidArgument);
  }
  RunConfig of_halves;
  of_halves.guide.precision = "half";
  CHECK_THROWS_WITH(of_halves.validate(),
                    daug::test::contains_text("guide.precision: expected float32, bfloat16 or auto, got"));
  // A report could not say how to repeat such a run, and would be the first to notice.
  RunConfig of_nothing;
  of_nothing.preset = "huge";
  CHECK_THROWS_WITH(of_nothing.validate(), daug::test::contains_text("preset: expected tiny, small or reference"));
}

TEST_CASE("a list of numbers is numbers and commas, to the last character", "[pipeline]") {
  CHECK(parse_integers("", "list").empty());
  CHECK(parse_integers("1,-20,9223372036854775807", "list") == std::vector<std::int64_t>{1, -20, 9223372036854775807});
  CHECK(parse_numbers("1,.5,2e3", "list") == std::vector<double>{1, 0.5, 2000});
  for (const char* bad : {"1,2,", ",1", "1,,2", ",", " 1", "1, 2", "1 ", "+4", "0x10", "one"}) {
    INFO(bad);
    const char* message = "list: expected comma-separated numbers, got '";
    check_refused(ErrorCode::kInvalidArgument, message, [&] { parse_integers(bad, "list"); });
    check_refused(ErrorCode::kInvalidArgument, message, [&] { parse_numbers(bad, "list"); });
  }
  check_refused(ErrorCode::kInvalidArgument, "'1.5'", [] { parse_integers("1.5", "list"); });
  check_refused(ErrorCode::kInvalidArgument, "9223372036854775808",
                [] { parse_integers("9223372036854775808", "list"); });
  check_refused(ErrorCode::kInvalidArgument, "1e999", [] { parse_numbers("1e999", "list"); });
}

TEST_CASE("settings of random changes have the limits of the options that they become", "[pipeline]") {
  const auto accepted = [](const auto& options) {
    try {
      options.validate();
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  const std::pair<const char*, double ChannelAugmenterOptions::*> settings_and_options[] = {
      {"encoder.rotation", &ChannelAugmenterOptions::max_rotation},
      {"encoder.shift", &ChannelAugmenterOptions::max_shift},
      {"encoder.zoom", &ChannelAugmenterOptions::max_scale}};
  for (const auto& [name, option] : settings_and_options) {
    RunConfig config;
    const auto all = settings(config);
    const auto setting =
        std::find_if(all.begin(), all.end(), [&, &name = name](const auto& s) { return s.name == name; });
    REQUIRE(setting != all.end());
    // The last value of the range and the first beyond, at both ends.
    for (const double value : {setting->low, std::nextafter(setting->low, -1.0), setting->high,
                               std::nextafter(setting->high, setting->high + 1)}) {
      INFO(name << " = " << value);
      ChannelAugmenterOptions options;
      options.*option = value;
      *std::get<double*>(setting->value) = value;
      CHECK(accepted(config) == accepted(options));
      CHECK(accepted(config) == (value >= setting->low && value <= setting->high));
    }
  }
}

TEST_CASE("settings that do not go together are refused", "[pipeline]") {
  const auto refused = [](const char* part, const std::function<void(RunConfig&)>& spoil) {
    RunConfig config;
    spoil(config);
    INFO(part);
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text(part));
  };
  refused("prediction", [](RunConfig& c) { c.diffusion.schedule = "zero_snr_cosine", c.diffusion.prediction = "eps"; });
  refused("min_snr", [](RunConfig& c) { c.diffusion.objective = "kl", c.diffusion.min_snr = 5; });
  refused("maps.lowest_level", [](RunConfig& c) { c.maps.lowest_level = 200, c.maps.highest_level = 100; });
  refused("maps.classifier_scale", [](RunConfig& c) { c.maps.add_classifier = true, c.maps.classifier_scale = 0; });
  refused("multiple of 32", [](RunConfig& c) { c.encoder.kind = kClipViT, c.size = 40; });
  refused("encoder.kind", [](RunConfig& c) { c.encoder.kind = kClipViT, c.encoder.image_checkpoint = "file"; });
  refused("encoder.pooling", [](RunConfig& c) { c.encoder.kind = kClipViT, c.encoder.pooling = "mean"; });
  refused("encoder.study", [](RunConfig& c) { c.encoder.negatives = "positives", c.encoder.study = "patient_id"; });
  refused("encoder.class_bias", [](RunConfig& c) { c.encoder.class_form = "paired", c.encoder.class_bias = true; });
  refused("encoder.class_bias_value",
          [](RunConfig& c) { c.encoder.class_form = "paired", c.encoder.class_bias_value = 1; });
  refused("encoder.min_logit_scale",
          [](RunConfig& c) { c.encoder.min_logit_scale = 3, c.encoder.max_logit_scale = 2; });
  refused("encoder.logit_scale",
          [](RunConfig& c) { c.encoder.learn_temperature = true, c.encoder.max_logit_scale = 2; });
  refused("encoder.pixels", [](RunConfig& c) { c.encoder.pixels = "radiograph"; });  // of no file
  // What only another choice makes use of.
  refused("encoder.min_logit_scale", [](RunConfig& c) { c.encoder.min_logit_scale = 1; });
  refused("encoder.max_logit_scale", [](RunConfig& c) { c.encoder.max_logit_scale = 4; });
  refused("encoder.logit_bias", [](RunConfig& c) { c.encoder.logit_bias = -4; });
  refused("encoder.label_softness: expected 0.1 without encoder.negatives soft, got 0.5",
          [](RunConfig& c) { c.encoder.negatives = "positives", c.encoder.label_softness = 0.5; });
  refused("encoder.uncertain_target",
          [](RunConfig& c) { c.encoder.uncertain = "masked", c.encoder.uncertain_target = 0.5; });
  refused("encoder.min_improvement", [](RunConfig& c) { c.encoder.min_improvement = 0.01; });
  refused("encoder.map_dropout", [](RunConfig& c) { c.encoder.mode = "add", c.encoder.map_dropout = 0.1; });
  refused("encoder.map_gates", [](RunConfig& c) { c.encoder.mode = "channel", c.encoder.map_gates = true; });
  refused("encoder.map_index", [](RunConfig& c) { c.encoder.map_index = 1; });
  // Sizes of a transformer where there is none that takes them, or that do not fit each other.
  refused("encoder.patch", [](RunConfig& c) { c.encoder.patch = 8; });
  refused("encoder.depth", [](RunConfig& c) { c.encoder.kind = "resnet18", c.encoder.depth = 2; });
  refused("encoder.heads", [](RunConfig& c) { c.encoder.kind = kClipViT, c.encoder.heads = 12; });
  refused("encoder.text_width", [](RunConfig& c) { c.encoder.clip = "folder", c.encoder.text_width = 64; });
  refused("encoder.text_depth", [](RunConfig& c) { c.encoder.kind = kClipViT, c.encoder.text_depth = 12; });
  refused("encoder.text_heads", [](RunConfig& c) { c.encoder.clip = "folder", c.encoder.text_heads = 4; });
  refused("encoder.patch: expected a divisor of the size, 32, got 5",
          [](RunConfig& c) { c.encoder.kind = "vit", c.encoder.patch = 5; });
  refused("encoder.patch: expected a divisor of the size, 100, got 12",  // the kind's own
          [](RunConfig& c) { c.encoder.kind = "vit", c.size = 100; });
  refused("encoder.heads: expected a divisor of vit's width, 2 encoder.width = 64, got 6",
          [](RunConfig& c) { c.encoder.kind = "vit", c.encoder.heads = 6; });
  refused("encoder.text_heads: expected a divisor of encoder.text_width, 64, got 3",
          [](RunConfig& c) { c.encoder.text_heads = 3; });
  refused("encoder.text_heads", [](RunConfig& c) { c.encoder.text_width = 30; });
  refused("encoder.image_positions", [](RunConfig& c) { c.encoder.image_positions = "bicubic"; });  // of no table
  refused("encoder.text_positions", [](RunConfig& c) { c.encoder.text_positions = "linear"; });
  RunConfig checkpoint;  // which says how large its patches are
  checkpoint.encoder.kind = kClipViT;
  checkpoint.encoder.clip = "folder";
  checkpoint.size = 40;
  checkpoint.encoder.image_positions = "bicubic";
  checkpoint.encoder.text_positions = "linear";
  CHECK_NOTHROW(checkpoint.validate());
  for (const char* schedule : {"linear", "scaled_linear", "cosine", "zero_snr_linear"}) {
    RunConfig config;
    config.diffusion.schedule = schedule;
    CHECK_NOTHROW(config.validate());
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
  CHECK(read({"--encoder.class-bias"}).config.encoder.class_bias);
  CHECK(read({"--encoder.class_bias"}).config.encoder.class_bias);  // as config.json has it
  CHECK(read({"--sice", "64"}).exit_code == 2);
  CHECK(read({"--size", "many"}).exit_code == 2);
  CHECK(read({"--size", "8"}).exit_code == 2);
  CHECK(read({"--preset", "huge"}).exit_code == 2);
  CHECK(read({"--force", "translater"}).exit_code == 2);
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
  const Scratch scratch;
  RunConfig written;
  written.diffusion.steps = 77;
  written.labels.findings = "Nodule";
  written.skip_bad = true;
  written.maps.weight = 0.1;
  write_config(scratch.path("config.json"), written);
  RunConfig back = read_config(scratch.path("config.json"));
  for (std::size_t i = 0; i < settings(back).size(); ++i)
    CHECK(settings(back)[i].text() == settings(written)[i].text());
  for (const char* text : {"{}", "[1", R"({"version": 1, "preset": "tiny", "settings": {"sice": 3}})",
                           R"({"version": 1, "preset": "tiny", "settings": {"size": "large"}})"}) {
    write_file_atomically(scratch.path("bad.json"), text);
    CHECK(caught([&] { read_config(scratch.path("bad.json")); }).code() == ErrorCode::kFormat);
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

TEST_CASE("a setting that earlier versions did without is in fingerprints where it is not its default", "[pipeline]") {
  const std::vector<std::string> sections = {"diffusion.", "guide.", "maps.", "encoder."};
  const auto in = [](const Setting& setting, const std::string& section) {
    return setting.name.rfind(section, 0) == 0;
  };
  std::set<std::string> later;
  for (const auto& name : preset_names()) {
    RunConfig config;
    apply_preset(config, name);
    Fingerprint earlier;  // a version without them
    for (const auto& setting : settings(config)) {
      if (setting.added_later)
        later.insert(setting.name);
      else if (std::any_of(sections.begin(), sections.end(), [&](const auto& section) { return in(setting, section); }))
        earlier.add(setting.name, setting.text());
    }
    CHECK(settings_fingerprint(config, sections) == earlier.hex());
  }
  CHECK(later == std::set<std::string>{"encoder.patch", "encoder.depth", "encoder.heads", "encoder.text_width",
                                       "encoder.text_depth", "encoder.text_heads", "encoder.image_positions",
                                       "encoder.text_positions", "encoder.text_cleaning", "encoder.logit_bias",
                                       "maps.precision", "maps.normalisation", "diffusion.precision",
                                       "guide.precision"});
  struct Change {
    void operator()(std::int64_t* value) const { *value += 1; }
    void operator()(double* value) const { *value += 1; }
    void operator()(std::string* value) const { *value += " "; }
    void operator()(bool* value) const { *value = !*value; }
  };
  std::set<std::string> prints = {settings_fingerprint(RunConfig{}, sections)};
  RunConfig config;
  for (std::size_t i = 0; i < settings(config).size(); ++i) {
    RunConfig changed;
    const Setting setting = settings(changed)[i];
    if (!setting.added_later) continue;
    std::visit(Change{}, setting.value);
    INFO(setting.name);
    CHECK(prints.insert(settings_fingerprint(changed, sections)).second);
    for (const auto& section : sections)
      CHECK((settings_fingerprint(changed, {section}) == settings_fingerprint(RunConfig{}, {section})) ==
            !in(setting, section));
  }
}
