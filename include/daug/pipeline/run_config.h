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

/// The `encoder.kind` of the towers of CLIP ViT-B/32, image and text.
inline constexpr const char* kClipViT = "clip_vit_b32";

/// Settings of a run. Defaults are those of the preset "tiny"; `apply_preset` changes them.
struct RunConfig {
  std::string preset = "tiny";          ///< name of the preset that the settings started from
  std::string data;                     ///< cohort folder with labels.csv; empty: phantoms are made in the run folder
  std::string out = "runs/quickstart";  ///< run folder
  std::int64_t seed = 0;                ///< fixes every random choice, in [0, 1e15]
  std::int64_t size = 32;               ///< side of the square images, pixels, in [16, 512]
  std::int64_t labelled = 0;            ///< training images whose labels are used, >= 0; 0: all
  double budget = 0;                    ///< minutes, of which .7 decide how long is trained, in [0, 1e6]; 0: as set
  std::int64_t threads = 2;             ///< worker threads, in [1, 256]
  std::string device = "cpu";           ///< where networks are computed: "cpu", "cuda" or "cuda:N"
  bool deterministic = false;           ///< on a CUDA device: the same bits in every run (daug::deterministically)
  std::int64_t ranks = 1;               ///< processes that train the encoders together, in [1, 4096]
  std::int64_t rank = 0;                ///< which of them this one is, in [0, ranks)
  std::string meeting = "127.0.0.1:29500";  ///< where they find each other, see ProcessGroupOptions
  bool skip_bad = false;                    ///< go on without unreadable images
  std::vector<std::string> force;           ///< stages that are redone though they are up to date, see stage_name

  /// The phantom cohort that is made where `data` is empty, see PhantomOptions.
  struct Phantom {
    std::int64_t train = 1700,     ///< training images, in [1, 2^24]
        val = 200,                 ///< validation images, in [1, 2^24]
        test = 250;                ///< test images, in [1, 2^24]
    std::int64_t seed = 0;         ///< which cohort, in [0, 1e15]
    std::string labels = "truth";  ///< "truth" or "report", see PhantomLabels
  } phantom;                       ///< the settings "phantom.*"

  /// What is learnt from the labels.
  struct Labels {
    std::string findings,          ///< label columns in order, comma-separated; empty: all
        vocabulary,                ///< vocabulary file, see read_vocabulary; empty: the label columns, a map each
        uncertain = "ignore",      ///< what -1 counts as, see parse_policy
        not_mentioned = "ignore";  ///< what a blank counts as, see parse_policy
  } labels;                        ///< the settings "labels.*"

  /// The diffusion model and its training, see DenoiserTrainerOptions.
  struct Diffusion {
    std::int64_t steps = 1300,             ///< optimiser steps, >= 1
        batch = 16,                        ///< images a step over all threads, in [1, 2^20]
        base = 32,                         ///< channels of the first level, >= 1
        blocks = 1,                        ///< residual blocks a level, in [1, 64]
        patch = 2,                         ///< pixel-unshuffle factor, in [1, 64]
        heads = 2,                         ///< attention heads, in [1, 1024]
        norm_groups = 4;                   ///< groups of every group norm, in [1, 4096]
    std::string levels = "1,2",            ///< width of each level as a multiple of the base, comma-separated
        attention = "",                    ///< downsample factors with attention, after the patch, comma-separated
        schedule = "linear",               ///< noise schedule of 1000 steps, see NoiseSchedule::named
        prediction = "v",                  ///< what the network outputs, see daug::prediction
        embedding = "scale_shift";         ///< how level and labels enter a block: "scale_shift" of its norm, or "add"
    double learning_rate = 1.5e-3,         ///< peak learning rate, > 0
        ema = 0.995;                       ///< decay of the averaged weights, in [0, 1); 0: none
    std::int64_t max_level = 400;          ///< highest noise level trained, in [1, 1000]
    double finding_dropout = 0.15,         ///< probability that a finding's label is hidden, in [0, 1]
        condition_dropout = 0.15,          ///< probability that all labels are hidden, in [0, 1]
        labelled_share = 0.75;             ///< least share of a batch whose labels are known, in [0, 1]
    std::string variance = "fixed_large",  ///< of a denoising step, see variance_kind
        objective = "mse";                 ///< what is minimised, see denoising_objective
    double min_snr = 0,                    ///< gamma of min-SNR weighting, in [0, 1e6]; 0: none
        dropout = 0;                       ///< inside residual blocks while training, in [0, 1)
    bool loss_aware_levels = false,        ///< draw noise levels by their recent losses, not uniformly
        checkpoint = false;                ///< compute activations again in the backward pass
    std::int64_t warmup_steps = 20;        ///< of the learning rate, optimiser steps, >= 0
    double weight_decay = 0;               ///< of AdamW, in [0, 1000]
    std::string precision = "float32";     ///< in which it is trained, see training_precision
  } diffusion;                             ///< the settings "diffusion.*"

  /// The noise-aware classifier and its training, see ClassifierTrainerOptions.
  struct Guide {
    std::int64_t steps = 200,           ///< optimiser steps, >= 1
        batch = 32,                     ///< images a step over all threads, in [1, 2^20]
        base = 16,                      ///< channels of the first level, >= 1
        blocks = 1;                     ///< residual blocks a level, in [1, 64]
    std::string levels = "1,2,2",       ///< width of each level as a multiple of the base, comma-separated
        attention = "4";                ///< downsample factors with attention, comma-separated
    double learning_rate = 1.5e-3;      ///< peak learning rate, > 0
    std::int64_t warmup_steps = 10;     ///< of the learning rate, optimiser steps, >= 0
    double weight_decay = 0.01;         ///< of AdamW, in [0, 1000]
    std::string precision = "float32";  ///< in which it is trained, see training_precision
  } guide;                              ///< the settings "guide.*"

  /// How maps are made, see MapMaker.
  struct Maps {
    std::int64_t level = 250,       ///< noise level to which images are encoded, in [1, diffusion.max_level]
        steps = 6,                  ///< transitions between the image and that level, in [1, level]
        evaluations = 2;            ///< of ddim's encode step, in [1, 20]; 1: plain inversion
    std::string solver = "ddim",    ///< how to walk between levels, see make_solver
        guidance = "contrast";      ///< see guidance_kind
    double weight = 2.0,            ///< of classifier-free or contrast guidance, in [0, 1000]
        classifier_scale = 10.0,    ///< of classifier guidance, in [0, 10000]
        smoothing = 1.0,            ///< sigma of the blur, pixels at size 32, in [0, 100]; 0: none
        tolerance = 0;              ///< see DdimSolverOptions, in [0, 1000]; 0: never
    bool add_classifier = false;    ///< classifier guidance beside `guidance`
    std::int64_t lowest_level = 0,  ///< guidance acts from this noise level, in [0, highest_level]
        highest_level = 1000;       ///< up to this one, in [0, 1000]
    std::string evidence_levels = "40,100,250";  ///< each in [1, diffusion.max_level], comma-separated
    std::int64_t evidence_samples = 2;           ///< noise draws a level, in [1, 2^20]
    std::int64_t train_images = 250,             ///< labelled training images with maps, for encoders, >= 0; 0: all
        memory_budget = 0;                       ///< of a thread's network call, MB, >= 0; 0: not bounded
    std::string precision = "float32",           ///< in which the networks compute maps, see network_precision
        normalisation = "none";  ///< of difference maps: "none" or "reference" (reference_difference_map)
  } maps;                        ///< the settings "maps.*"

  /// The encoders and their training, see EncoderTrainerOptions.
  struct Encoder {
    std::int64_t epochs = 60,        ///< passes over the training images, >= 1
        batch = 32,                  ///< images a step, in [1, 2^20]
        width = 32,                  ///< channels of the first stage, >= 8, for conv in eights; vit has twice that
        patch = 0,                   ///< side of vit's patches, pixels, in [0, 512]; 0: size / 8, at least 4
        depth = 0,                   ///< transformer layers of vit, in [0, 256]; 0: 4
        heads = 0,                   ///< attention heads of vit, in [0, 1024]; 0: 4
        text_width = 0,              ///< size of the text tower's tokens, in [0, 2^16]; 0: 64
        text_depth = 0,              ///< its transformer layers, in [0, 256]; 0: 1
        text_heads = 0,              ///< its attention heads, in [0, 1024]; 0: 4
        embedding = 128,             ///< size of image and text embeddings, >= 1
        vocabulary = 768,            ///< byte-pair tokens learned from the training reports, in [514, 2^20]
        context = 48;                ///< longest text, tokens, >= 3
    double learning_rate = 1e-3,     ///< peak learning rate, > 0
        weight_decay = 0.05,         ///< of AdamW, in [0, 1000]
        clip_weight = 0.5,           ///< w of the hybrid loss, in [0, 1]
        logit_scale = 2.3,           ///< ln tau of both terms, or where a learnt one starts, in [-10, 10]
        logit_bias = -10,            ///< where the learnt b of "siglip" starts, in [-1000, 1000]
        min_logit_scale = 0,         ///< least learnt ln tau, in [-10, max_logit_scale]
        max_logit_scale = 4.60517;   ///< largest learnt ln tau, in [-10, 10]; CLIP's ln 100
    double rotation = 5,             ///< random rotation, degrees either way, in [0, 180]
        shift = 0.06,                ///< random shift, fraction of the side either way, in [0, 0.5]
        zoom = 0.05;                 ///< random zoom, fraction either way, in [0, 0.5]
    std::string maps = "evidence",   ///< maps of the four-arm comparison: "evidence" or "difference"
        mode = "append";             ///< how maps reach an encoder, see channel_mode
    std::int64_t map_index = 0;      ///< which map for "channel" and "add", counted from 0
    std::int64_t chunk = 0,          ///< images embedded at a time, see embed_in_chunks; 0: all at once
        patience = 0,                ///< epochs without a better validation that end a training; 0: none do
        max_skipped = 10;            ///< non-finite steps in a row that end it with an error, >= 1
    double min_improvement = 0,      ///< what a better validation is better by, macro AUROC, in [0, 1]
        clip_norm = 0,               ///< limit of the gradient's norm, >= 0; 0: none
        ema = 0.99,                  ///< decay of the averaged weights, in [0, 1); 0: none
        layer_decay = 1,             ///< see layer_rate_scales, in [0.001, 1]
        drop_path = 0,               ///< see ImageEncoderOptions, in [0, 1)
        map_dropout = 0;             ///< see ExtraChannelOptions, in [0, 1)
    std::int64_t warmup_steps = 10;  ///< of the learning rate, optimiser steps, >= 0
    bool map_gates = false,          ///< each map has a learnable factor
        checkpoint = false;          ///< both towers compute activations again in the backward pass
    std::string freeze,              ///< patterns of parameters that are not trained, comma-separated
        precision = "float32";       ///< see training_precision
    std::string kind = "conv",       ///< "conv", "vit", "resnet18", "resnet50", "densenet121" or kClipViT
        pooling = "default",         ///< "default", "flatten", "class", "attention" or "mean", as the kind has it
        image_checkpoint,            ///< safetensors file of an image tower to start from; empty: none
        pixels = "default",          ///< how a torchvision file's tower takes pixels: "default" or "radiograph"
        clip;                        ///< CLIP folder to start from (load_clip_folder); empty: none
    bool clip_strict = false;        ///< a field that its configuration leaves out is an error, no upstream default
    std::string image_positions = "bicubic_antialias",  ///< how its image positions are resampled, see PositionFilter
        text_positions = "bicubic_antialias",           ///< how those of its texts are: that, "bicubic" or "linear"
        text_cleaning = "transformers";                 ///< "transformers" or "open_clip", see TextCleaning
    bool learn_temperature = false,  ///< ln tau is learnt, held in [min_logit_scale, max_logit_scale]
        class_bias = false;          ///< a bias of each finding is learnt; not with class_form "paired"
    double class_bias_value = 0,     ///< bias of every finding, or where learnt ones start, in [-1000, 1000]
        positive_weights = 0,        ///< see daug::positive_weights, 0 or in [1, 1e6]; 0: all weigh the same
        uncertain_target = 0.7,      ///< target of labels of -1 that are smoothed, in [0, 1]
        label_softness = 0.1;        ///< of negatives "soft", see HybridLossOptions, in [0.001, 1000]
    std::string loss = "clip",       ///< image-text term: "clip" or "siglip", see ContrastiveForm
        class_form = "bce",          ///< class term and classification: "bce" or "paired", see ClassForm
        uncertain = "labels",        ///< targets of -1: "labels" (as labels.uncertain says), "masked" or "smoothed"
        negatives = "all",           ///< same labels: "all", "masked", "soft" or "positives", see LabelPairs
        prompts = "single",          ///< wordings of the class prompts: "single" or "ensemble"
        arms = "paper",              ///< encoders trained: "paper" (the four arms and further maps) or "all"
        study;  ///< column of meta.csv that names a study, or "patient_id"; empty: images are apart
  } encoder;    ///< the settings "encoder.*"

  /// How figures are measured.
  struct Evaluate {
    std::int64_t resamples = 1000;            ///< patient-bootstrap resamples behind each interval, >= 1
    std::string slice_by = "src_repo",        ///< metadata column whose values make slices of the test split
        metadata = "view,age,sex,follow_up",  ///< columns of the metadata-only baseline, comma-separated
        box_groups;                           ///< boxes that are no findings, see parse_box_groups
  } evaluate;                                 ///< the settings "evaluate.*"

  /// What the report shows.
  struct Report {
    std::int64_t examples = 6;  ///< example images, in [1, 50]
  } report;                     ///< the settings "report.*"

  /// What Run::study_maps compares.
  struct Study {
    std::int64_t images = 100,  ///< test images, those with masks or boxes first, >= 1
        level = 0,              ///< of the difference maps, in [0, 999] and at most diffusion.max_level; 0: maps.level
        student_steps = 600;    ///< optimiser steps of the student of the evidence maps, >= 1
    std::string steps = "250,25,12,5",  ///< of every solver's difference maps, each in [1, level], comma-separated
        evaluations = "1,2,3,4";        ///< of ddim's encode step in walks of at most 25 steps, each in [1, 20]
  } study;                              ///< the settings "study.*"

  /// Throws kInvalidArgument naming the first setting that is out of range or no known name, the preset among them.
  void validate() const;
};

/// One named setting: where it lives and what it means. `name` has its section in front ("diffusion.steps").
struct Setting {
  std::string name;                                                 ///< such as "diffusion.steps"
  std::string help;                                                 ///< meaning and unit
  std::variant<std::int64_t*, double*, std::string*, bool*> value;  ///< into the config
  double low = 0,                                                   ///< least value of a number
      high = 0;                                                     ///< largest value of a number
  /// Runs of earlier versions did without it, as with its default, which therefore stays: fingerprints have it only
  /// where it has another value.
  bool added_later = false;

  /// Throws kInvalidArgument for a number outside its range and a text that is not UTF-8. Whether a text is one that
  /// means something is checked by RunConfig::validate.
  void validate() const;
  /// Help text with the range of a number.
  std::string description() const;

  /// The value as text, numbers with all their digits.
  std::string text() const;
};

/// All settings of a config except preset and force, in a fixed order. They point into `config`.
std::vector<Setting> settings(RunConfig& config);

/// Names of the presets: "tiny" (the quickstart), "small" (64 x 64, some forty minutes on two cores), "reference" (the
/// published settings, for GPUs and patience).
std::vector<std::string> preset_names();

/// Gives every setting the preset's value, whatever it was, but for data, out and force, which stay. Throws
/// kInvalidArgument for an unknown name.
void apply_preset(RunConfig& config, const std::string& name);

/// Writes {"version", "preset", "settings": {name: value}}, atomically. Throws kIo.
void write_config(const std::string& path, const RunConfig& config);
/// Reads such a file; settings it lacks keep their defaults (it may be of an older version). Throws kNotFound, kIo,
/// kUnsupported for another version of the layout, kFormat for other contents or an unknown setting, and what
/// RunConfig::validate throws.
RunConfig read_config(const std::string& path);

/// The arguments that give these settings: the preset and what differs from it. parse_command_line reads them back.
std::vector<std::string> command_line(const RunConfig& config);

/// Integers of a comma-separated list without blanks; empty text is an empty list. Throws kInvalidArgument naming the
/// setting for anything else, numbers of another form ("+4", "0x10") and beyond 64 bits among it.
std::vector<std::int64_t> parse_integers(const std::string& text, const std::string& setting);
/// The same for decimal numbers, such as "0.5,2e3".
std::vector<double> parse_numbers(const std::string& text, const std::string& setting);
/// Items of a comma-separated list, without the blanks around them.
std::vector<std::string> parse_names(const std::string& text);
/// Names with their members, of "name=member|member,...". Throws kInvalidArgument naming the setting.
std::vector<std::pair<std::string, std::vector<std::string>>> parse_box_groups(const std::string& text);

/// Hash of the settings whose name begins with one of `prefixes`, but for those that begin with one that has a minus
/// sign in front, and those added later that have their default.
std::string settings_fingerprint(RunConfig config, const std::vector<std::string>& prefixes);

/// Result of reading a command line.
struct CommandLine {
  RunConfig config;   ///< checked, where `exit` is false
  bool exit = false;  ///< help was asked for, or the arguments are wrong: stop with exit_code
  int exit_code = 0;  ///< 0 after help, 2 for wrong arguments (the message is on standard error)
};

/// Reads a program's arguments: `--preset` first, then every setting as `--name VALUE`. `description` heads the help.
/// `own` are further ones, of the program alone, into whose values it reads; they are not checked, and one that has a
/// setting's name stands in its place.
CommandLine parse_command_line(int argc, const char* const* argv, const std::string& description,
                               const std::vector<Setting>& own = {});

}  // namespace daug
