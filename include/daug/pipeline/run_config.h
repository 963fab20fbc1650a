#pragma once
/// @file
/// Every setting of a run in one place, by name, so that the command line, config.json, the report and the fingerprints
/// all speak of the same things.

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

namespace daug {

/// Settings of a run. Defaults are those of the preset "tiny"; `apply_preset` changes them.
struct RunConfig {
  std::string preset = "tiny";
  std::string data;
  std::string out = "runs/quickstart";
  std::int64_t seed = 0;
  std::int64_t size = 32;
  std::int64_t labelled = 0;
  double budget = 0;
  std::int64_t threads = 2;
  bool skip_bad = false;
  std::vector<std::string> force;

  struct Phantom {
    std::int64_t train = 1700, val = 300, test = 300;
    std::int64_t seed = 0;
    std::string labels = "truth";
  } phantom;

  struct Labels {
    std::string findings, vocabulary, uncertain = "ignore", not_mentioned = "ignore";
  } labels;

  struct Diffusion {
    std::int64_t steps = 1300, batch = 16, base = 32, blocks = 1, patch = 2, heads = 2, norm_groups = 4;
    std::string levels = "1,2", attention = "", schedule = "linear", prediction = "v", embedding = "scale_shift";
    double learning_rate = 1.5e-3, ema = 0.995;
    std::int64_t max_level = 400;
    double finding_dropout = 0.15, condition_dropout = 0.15, labelled_share = 0.75;
    std::string variance = "fixed_large", objective = "mse";
    double min_snr = 0, dropout = 0;
    bool loss_aware_levels = false, checkpoint = false;
  } diffusion;

  struct Guide {
    std::int64_t steps = 200, batch = 32, base = 16, blocks = 1;
    std::string levels = "1,2,2", attention = "4";
    double learning_rate = 1.5e-3;
  } guide;

  struct Maps {
    std::int64_t level = 250, steps = 6, evaluations = 2;
    std::string solver = "ddim", guidance = "contrast";
    double weight = 2.0, classifier_scale = 10.0, smoothing = 1.0, tolerance = 0;
    bool add_classifier = false;
    std::int64_t lowest_level = 0, highest_level = 1000;
    std::string evidence_levels = "40,100,250";
    std::int64_t evidence_samples = 2;
    std::int64_t train_images = 250, memory_budget = 0;
  } maps;

  struct Encoder {
    std::int64_t epochs = 60, batch = 32, width = 32, embedding = 128, vocabulary = 768, context = 48;
    double learning_rate = 1e-3, weight_decay = 0.05, clip_weight = 0.5, logit_scale = 2.3;
    double rotation = 5, shift = 0.06, zoom = 0.05;
    std::string maps = "evidence", mode = "append";
    std::int64_t map_index = 0;
    std::int64_t chunk = 0, patience = 0, max_skipped = 10;
    double clip_norm = 0, ema = 0.99, layer_decay = 1, drop_path = 0, map_dropout = 0;
    bool map_gates = false;
    std::string freeze, precision = "float32";
    std::string kind = "conv", pooling = "default", image_checkpoint, clip;
    bool learn_temperature = false, class_bias = false;
    double positive_weights = 0;
    std::string loss = "clip", negatives = "all", prompts = "single", arms = "paper";
  } encoder;

  struct Evaluate {
    std::int64_t resamples = 1000;
    std::string slice_by = "src_repo", metadata = "view,age,sex,follow_up", box_groups;
  } evaluate;

  struct Report {
    std::int64_t examples = 6;
  } report;

  struct Study {
    std::int64_t images = 100, student_steps = 600;
    std::string steps = "250,25,12,5";
  } study;

  /// Throws kInvalidArgument naming the first setting that is out of range or no known name.
  void validate() const;
};

/// One named setting: where it lives and what it means. `name` has its section in front ("diffusion.steps").
struct Setting {
  std::string name;
  std::string help;  ///< meaning and unit
  std::variant<std::int64_t*, double*, std::string*, bool*> value;
  double low = 0, high = 0;  ///< range of a number, both ends included

  /// Throws kInvalidArgument for a number outside its range and a text that is not UTF-8. Whether a text is one that
  /// means something is checked by RunConfig::validate.
  void validate() const;
  /// Help text with the range of a number.
  std::string description() const;

  /// The value as text, numbers with all their digits.
  std::string text() const;
};

/// All settings of a config except preset and force, in a fixed order.
std::vector<Setting> settings(RunConfig& config);

/// Names of the presets: "tiny" (the quickstart), "small" (real images in an hour on two cores), "reference" (the
/// published settings, for GPUs and patience).
std::vector<std::string> preset_names();

/// Overwrites every setting that the preset defines. Throws kInvalidArgument for an unknown name.
void apply_preset(RunConfig& config, const std::string& name);

/// Writes {"version", "preset", "settings": {name: value}}, atomically. Throws kIo.
void write_config(const std::string& path, const RunConfig& config);
/// Reads such a file; settings it lacks keep their defaults (it may be of an older version). Throws kNotFound, kFormat
/// for other contents or an unknown setting, and what RunConfig::validate throws.
RunConfig read_config(const std::string& path);

/// The arguments that give these settings: the preset and what differs from it. parse_command_line reads them back.
std::vector<std::string> command_line(const RunConfig& config);

/// Integers of a comma-separated list; empty text is an empty list. Throws kInvalidArgument naming the setting.
std::vector<std::int64_t> parse_integers(const std::string& text, const std::string& setting);
/// The same for numbers.
std::vector<double> parse_numbers(const std::string& text, const std::string& setting);
/// Items of a comma-separated list, without the blanks around them.
std::vector<std::string> parse_names(const std::string& text);
/// Names with their members, of "name=member|member,...". Throws kInvalidArgument naming the setting.
std::vector<std::pair<std::string, std::vector<std::string>>> parse_box_groups(const std::string& text);

/// Hash of the settings whose name begins with one of `prefixes`, but for those that begin with one that has a minus
/// sign in front.
std::string settings_fingerprint(RunConfig config, const std::vector<std::string>& prefixes);

/// Result of reading a command line.
struct CommandLine {
  RunConfig config;
  bool exit = false;  ///< help was asked for, or the arguments are wrong: stop with exit_code
  int exit_code = 0;  ///< 0 after help, 2 for wrong arguments (the message is on standard error)
};

/// Reads a program's arguments: `--preset` first, then every setting as `--name VALUE`. `description` heads the help.
CommandLine parse_command_line(int argc, const char* const* argv, const std::string& description);

}  // namespace daug
