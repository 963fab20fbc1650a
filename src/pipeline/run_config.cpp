#include "daug/pipeline/run_config.h"

#include <CLI/CLI.hpp>
#include <charconv>

#include "daug/core/error.h"
#include "daug/data/labels.h"
#include "daug/heatmap/channel_augmenter.h"
#include "daug/io/fingerprint.h"

namespace daug {

std::string Setting::text() const {
  struct Print {
    std::string operator()(const std::int64_t* number) const { return std::to_string(*number); }
    std::string operator()(const double* number) const {
      char buffer[32];
      return {buffer, std::to_chars(buffer, buffer + sizeof buffer, *number).ptr};
    }
    std::string operator()(const std::string* text) const { return *text; }
    std::string operator()(const bool* flag) const { return *flag ? "true" : "false"; }
  };
  return std::visit(Print{}, value);
}

std::vector<Setting> settings(RunConfig& c) {
  return {
      {"data", "cohort folder with labels.csv; empty: phantoms are made in the run folder", &c.data},
      {"out", "run folder", &c.out},
      {"seed", "fixes every random choice, >= 0", &c.seed},
      {"size", "side of the square images, pixels, 16 to 512", &c.size},
      {"labelled", "training images whose labels are used; the others stay in as unlabelled; 0 = all", &c.labelled},
      {"budget", "time for all training, minutes; 0 = the preset's steps and epochs", &c.budget},
      {"threads", "worker threads, 1 to 256", &c.threads},
      {"skip_bad", "go on without unreadable images, counted in the report", &c.skip_bad},
      {"phantom.train", "phantom training images, >= 1", &c.phantom.train},
      {"phantom.val", "phantom validation images, >= 1", &c.phantom.val},
      {"phantom.test", "phantom test images, >= 1", &c.phantom.test},
      {"phantom.seed", "which phantom cohort, >= 0", &c.phantom.seed},
      {"labels.findings", "label columns used, comma-separated, in this order; empty: all", &c.labels.findings},
      {"labels.uncertain", "what -1 counts as: ignore, zeros or ones", &c.labels.uncertain},
      {"labels.not_mentioned", "what a blank counts as: ignore, zeros or ones", &c.labels.not_mentioned},
      {"diffusion.steps", "optimiser steps, >= 1", &c.diffusion.steps},
      {"diffusion.batch", "images a step over all threads", &c.diffusion.batch},
      {"diffusion.base", "channels of the first level", &c.diffusion.base},
      {"diffusion.levels", "width of each level as a multiple of the base", &c.diffusion.levels},
      {"diffusion.blocks", "residual blocks a level", &c.diffusion.blocks},
      {"diffusion.attention", "downsample factors with attention, after the patch", &c.diffusion.attention},
      {"diffusion.heads", "attention heads", &c.diffusion.heads},
      {"diffusion.norm_groups", "groups of every group norm", &c.diffusion.norm_groups},
      {"diffusion.patch", "pixel-unshuffle factor, >= 1", &c.diffusion.patch},
      {"diffusion.schedule", "noise schedule: linear or cosine, 1000 steps", &c.diffusion.schedule},
      {"diffusion.prediction", "what the network outputs: eps, x0 or v", &c.diffusion.prediction},
      {"diffusion.learning_rate", "peak learning rate", &c.diffusion.learning_rate},
      {"diffusion.ema", "decay of the averaged weights, in [0, 1)", &c.diffusion.ema},
      {"diffusion.max_level", "highest noise level trained, 1 to 1000", &c.diffusion.max_level},
      {"diffusion.finding_dropout", "chance that one finding's label is hidden", &c.diffusion.finding_dropout},
      {"diffusion.condition_dropout", "chance that all labels are hidden", &c.diffusion.condition_dropout},
      {"diffusion.labelled_share", "least share of a batch whose labels are known, in [0, 1]",
       &c.diffusion.labelled_share},
      {"guide.steps", "optimiser steps of the noise-aware classifier, >= 1", &c.guide.steps},
      {"guide.batch", "images a step over all threads", &c.guide.batch},
      {"guide.base", "channels of the first level", &c.guide.base},
      {"guide.levels", "width of each level as a multiple of the base", &c.guide.levels},
      {"guide.attention", "downsample factors with attention", &c.guide.attention},
      {"guide.learning_rate", "peak learning rate", &c.guide.learning_rate},
      {"maps.level", "noise level to which images are encoded, 1 to 1000", &c.maps.level},
      {"maps.steps", "transitions between the image and that level", &c.maps.steps},
      {"maps.solver", "how to walk between levels: ddim, dpm or bdia", &c.maps.solver},
      {"maps.evaluations", "network evaluations of ddim's encode step, 1 = plain inversion", &c.maps.evaluations},
      {"maps.guidance", "none, classifier_free, contrast or classifier", &c.maps.guidance},
      {"maps.weight", "weight of classifier-free or contrast guidance", &c.maps.weight},
      {"maps.classifier_scale", "scale of classifier guidance", &c.maps.classifier_scale},
      {"maps.smoothing", "sigma of the blur at 32 pixels, grows with the size; 0 = none", &c.maps.smoothing},
      {"maps.evidence_levels", "noise levels of evidence and score-difference maps", &c.maps.evidence_levels},
      {"maps.evidence_samples", "noise draws a level, >= 1", &c.maps.evidence_samples},
      {"maps.train_images", "labelled training images that get maps and train the encoders; 0 = all",
       &c.maps.train_images},
      {"encoder.mode", "how maps reach an encoder: append (all of them), channel or add (one)", &c.encoder.mode},
      {"encoder.map_index", "which finding's map, for channel and add, >= 0", &c.encoder.map_index},
      {"encoder.epochs", "passes over the encoders' training images, >= 1", &c.encoder.epochs},
      {"encoder.batch", "images a step", &c.encoder.batch},
      {"encoder.width", "channels of the first stage", &c.encoder.width},
      {"encoder.embedding", "size of image and text embeddings", &c.encoder.embedding},
      {"encoder.vocabulary", "byte-pair tokens learned from the training reports, 514 and more", &c.encoder.vocabulary},
      {"encoder.context", "longest text, tokens", &c.encoder.context},
      {"encoder.learning_rate", "peak learning rate", &c.encoder.learning_rate},
      {"encoder.weight_decay", "AdamW weight decay", &c.encoder.weight_decay},
      {"encoder.clip_weight", "w of the hybrid loss, in [0, 1]", &c.encoder.clip_weight},
      {"encoder.logit_scale", "ln tau of both loss terms", &c.encoder.logit_scale},
      {"encoder.rotation", "random rotation, degrees either way", &c.encoder.rotation},
      {"encoder.shift", "random shift, fraction of the side either way", &c.encoder.shift},
      {"encoder.zoom", "random zoom, fraction either way", &c.encoder.zoom},
      {"encoder.maps", "maps of the four-arm comparison: evidence or difference", &c.encoder.maps},
      {"evaluate.resamples", "patient-bootstrap resamples behind each interval, >= 1", &c.evaluate.resamples},
      {"evaluate.slice_by", "metadata column whose values make slices of the test split, where the cohort has it",
       &c.evaluate.slice_by},
      {"evaluate.metadata", "columns of the metadata-only baseline, those the cohort has", &c.evaluate.metadata},
      {"report.examples", "example images in the report, 1 to 50", &c.report.examples},
      {"study.images", "test images on which ways of making maps are compared, >= 1", &c.study.images},
      {"study.steps", "steps of the compared DDIM difference maps, in 1..maps.level", &c.study.steps},
      {"study.student_steps", "optimiser steps of the student of the evidence maps, >= 1", &c.study.student_steps},
  };
}

std::vector<std::string> preset_names() { return {"tiny", "small", "reference"}; }

void apply_preset(RunConfig& c, const std::string& name) {
  const RunConfig given = c;
  c = RunConfig{};
  c.preset = name;
  c.data = given.data;
  c.out = given.out;
  c.force = given.force;
  if (name == "tiny") return;
  if (name == "small") {
    c.size = 64;
    c.diffusion.steps = 2000;
    c.diffusion.levels = "1,2,2";
    c.diffusion.attention = "4";
    c.diffusion.learning_rate = 1e-3;
    c.diffusion.ema = 0.998;
    c.guide.levels = "1,2,2,4";
    c.guide.attention = "8";
    c.maps.steps = 5;
    c.maps.evidence_samples = 1;
    c.encoder.epochs = 40;
    return;
  }
  if (name == "reference") {
    c.size = 256;
    c.diffusion = {.steps = 500000,
                   .batch = 16,
                   .base = 128,
                   .blocks = 2,
                   .patch = 1,
                   .heads = 1,
                   .norm_groups = 32,
                   .levels = "1,1,2,2,4,4",
                   .attention = "16",
                   .schedule = "linear",
                   .prediction = "eps",
                   .learning_rate = 1e-4,
                   .ema = 0.9999,
                   .max_level = 1000,
                   .finding_dropout = 0.15,
                   .condition_dropout = 0.15,
                   .labelled_share = 0};
    c.guide = {.steps = 150000,
               .batch = 32,
               .base = 32,
               .levels = "1,1,2,2,4,4",
               .attention = "8,16,32",
               .learning_rate = 1e-4};
    c.maps.level = 500;
    c.maps.steps = 500;
    c.maps.train_images = 0;
    c.encoder.epochs = 10;
    c.encoder.learning_rate = 2e-5;
    c.encoder.weight_decay = 0.01;
    c.encoder.clip_weight = 0.7;
    c.encoder.logit_scale = 4.602;
    c.encoder.context = 154;
    return;
  }
  fail(ErrorCode::kInvalidArgument, "daug::apply_preset", "preset", "tiny, small or reference", name);
}

void RunConfig::validate() const {
  constexpr const char* kName = "daug::RunConfig";
  require_range(seed, 0, std::int64_t{1} << 62, kName, "seed");
  require_range(size, 16, 512, kName, "size");
  require_range(labelled, 0, std::int64_t{1} << 40, kName, "labelled");
  require_range(budget, 0.0, 1e6, kName, "budget");
  require_range(threads, 1, 256, kName, "threads");
  require_range(phantom.train, 1, 1 << 24, kName, "phantom.train");
  require_range(phantom.val, 1, 1 << 24, kName, "phantom.val");
  require_range(phantom.test, 1, 1 << 24, kName, "phantom.test");
  parse_policy(labels.uncertain);
  parse_policy(labels.not_mentioned);
  require_range(diffusion.steps, 1, std::int64_t{1} << 40, kName, "diffusion.steps");
  require_range(guide.steps, 1, std::int64_t{1} << 40, kName, "guide.steps");
  require_range(maps.smoothing, 0.0, 100.0, kName, "maps.smoothing");
  require_range(maps.train_images, 0, std::int64_t{1} << 40, kName, "maps.train_images");
  require_range(encoder.epochs, 1, 1 << 20, kName, "encoder.epochs");
  require_range(encoder.batch, 1, 1 << 20, kName, "encoder.batch");
  require(encoder.maps == "evidence" || encoder.maps == "difference", kName, "encoder.maps", "evidence or difference",
          encoder.maps);
  channel_mode(encoder.mode);
  require_range(evaluate.resamples, 1, 1 << 20, kName, "evaluate.resamples");
  require_range(report.examples, 1, 50, kName, "report.examples");
  require_range(study.images, 1, 1 << 20, kName, "study.images");
  require_range(study.student_steps, 1, 1 << 20, kName, "study.student_steps");
  for (const std::int64_t steps : parse_integers(study.steps, "study.steps"))
    require_range(steps, 1, maps.level, kName, "study.steps");
}

namespace {
template <class T, class Parse>
std::vector<T> parse_list(const std::string& text, const std::string& setting, const Parse& parse) {
  std::vector<T> values;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    std::size_t used = 0;
    try {
      values.push_back(parse(item, &used));
    } catch (const std::exception&) {
      used = std::string::npos;
    }
    if (used != item.size())
      fail(ErrorCode::kInvalidArgument, "daug::RunConfig", setting, "comma-separated numbers", "'" + text + "'");
    begin = end + 1;
  }
  return values;
}
}  // namespace

std::vector<std::int64_t> parse_integers(const std::string& text, const std::string& setting) {
  return parse_list<std::int64_t>(text, setting,
                                  [](const std::string& item, std::size_t* used) { return std::stoll(item, used); });
}

std::vector<double> parse_numbers(const std::string& text, const std::string& setting) {
  return parse_list<double>(text, setting,
                            [](const std::string& item, std::size_t* used) { return std::stod(item, used); });
}

std::vector<std::string> parse_names(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::size_t first = std::min(text.find_first_not_of(' ', begin), end);
    std::size_t last = end;
    while (last > first && text[last - 1] == ' ') --last;
    names.push_back(text.substr(first, last - first));
    begin = end + 1;
  }
  return names;
}

std::string settings_fingerprint(RunConfig config, const std::vector<std::string>& prefixes) {
  Fingerprint fingerprint;
  for (const auto& setting : settings(config))
    for (const auto& prefix : prefixes)
      if (setting.name.rfind(prefix, 0) == 0) fingerprint.add(setting.name, setting.text());
  return fingerprint.hex();
}

CommandLine parse_command_line(int argc, const char* const* argv, const std::string& description) {
  CommandLine result;
  RunConfig& config = result.config;
  CLI::App app(description + "\nNot a medical device.");
  app.option_defaults()->always_capture_default();
  std::string preset = "tiny";
  app.add_option("--preset", preset, "starting point of all settings: tiny, small or reference");
  app.add_option("--force", config.force,
                 "stages to redo although nothing changed: translator, guide, heatmaps, "
                 "encoders, index, evaluate, report");
  // The preset's values must be in place before the other options overwrite them.
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string(argv[i]) == "--preset") preset = argv[i + 1];
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]).rfind("--preset=", 0) == 0) preset = std::string(argv[i]).substr(9);
  try {
    apply_preset(config, preset);
    for (auto& setting : settings(config)) {
      std::string name = setting.name;
      std::visit(
          [&](auto* value) {
            if constexpr (std::is_same_v<decltype(value), bool*>) {
              std::replace(name.begin(), name.end(), '_', '-');
              app.add_flag("--" + name, *value, setting.help);
            } else {
              app.add_option("--" + name, *value, setting.help);
            }
          },
          setting.value);
    }
    app.parse(argc, argv);
    config.validate();
  } catch (const CLI::ParseError& error) {
    result.exit = true;
    result.exit_code = app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::cerr << error.what() << "\nRun with --help for more information.\n";
    result.exit = true;
    result.exit_code = 2;
  }
  return result;
}

}  // namespace daug
