#pragma once
// What the stages share: data as tensors, files of the run folder, and access to what earlier stages made.

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <optional>

#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/data/labels.h"
#include "daug/data/vocabulary.h"
#include "daug/heatmap/map_calibration.h"
#include "daug/heatmap/map_scaler.h"
#include "daug/image/image.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/encoder_trainer.h"
#include "daug/translator/diffusion_translator.h"

namespace daug {

/// The cohort's images and labels as tensors; rows are loaded images.
struct RunData {
  Cohort cohort;
  ImageSet images;
  std::vector<LoadFailure> failures;
  LabelPolicies policies;  ///< what uncertain and blank labels count as
  at::Tensor pixels;       ///< [N, 1, S, S]
  at::Tensor states;       ///< [N, F]: +1, -1, 0 unknown; labels hidden by `labelled` are not hidden here
  FindingGroups groups;    ///< what one map each is of; every finding alone unless a vocabulary says otherwise
  std::vector<std::size_t> train, val, test;  ///< rows
  std::vector<std::size_t> labelled;          ///< training rows whose labels may be used
  std::vector<std::size_t> encoder_train;     ///< labelled rows that get maps and train the encoders
  std::vector<std::int64_t> patient;          ///< [N] patient number

  const Study& study(std::size_t row) const { return cohort.studies[images.study[row]]; }
  std::size_t findings() const { return cohort.findings.size(); }
  std::size_t maps() const { return groups.size(); }
  float state(std::size_t row, std::size_t finding) const {
    return states.const_data_ptr<float>()[row * findings() + finding];
  }
  /// Findings of a group, as columns.
  std::vector<std::size_t> members(std::size_t group) const;
  /// +1: the image has a finding of the group, -1: it has none, 0: not known.
  float group_state(std::size_t row, std::size_t group) const;
  /// The first map that is (also) of a finding; none when no group has it.
  std::optional<std::size_t> map_of(std::size_t finding) const;
  /// Those of some rows that have no finding, as far as their labels say; rows without any label are left out.
  std::vector<std::size_t> healthy(const std::vector<std::size_t>& among) const;
  /// States for training: [rows, F], zero where `labelled` hides them.
  at::Tensor training_states() const;
  /// What a definition says about a cohort whose texts were made from its labels; nothing otherwise.
  std::string text_note() const {
    return cohort.has_reports ? "" : "; texts are label-derived, made by a template from the labels";
  }
};

/// Maps of some rows.
struct MapSet {
  std::vector<std::size_t> rows;
  std::map<std::string, at::Tensor> maps;  ///< kind -> [rows, maps, S, S]
  at::Tensor translated;                   ///< [tests, maps, S, S]
  at::Tensor reconstruction;               ///< [tests, 1, S, S]
  at::Tensor residual;                     ///< [tests]
  std::vector<std::size_t> test_rows;      ///< rows of the three above

  /// Maps of a kind for the given rows, in their order. Throws kNotFound.
  at::Tensor select(const std::string& kind, const std::vector<std::size_t>& wanted) const;
};

/// One training run of the encoders.
struct Arm {
  std::string name;    ///< as in metrics.json
  std::string maps;    ///< "", "evidence", "difference" or "noise"
  double clip_weight;  ///< w of the loss
  std::string file() const;
  std::string last_file() const;  ///< weights after the last step, where `file` has those of the best validation
};

/// Towers of a checkpoint that encoders start from.
struct PretrainedTowers {
  ImageEncoder image{nullptr};
  TextEncoder text{nullptr};  ///< null: only the image tower is pretrained
  std::optional<PixelScaling> pixels;
};

/// In a folder whose files have no room for one: the fingerprint of what made them.
inline constexpr const char* kMadeBy = "made_by.txt";

/// Ends the name of a checkpoint that was put aside.
inline constexpr const char* kAside = ".aside";
/// Of one that is changing places with it.
inline constexpr const char* kAsideNext = ".aside.new";

/// What a run keeps of its maps and in what file format, as the fingerprint of their stage says it.
std::string map_format();

/// What the record of a stage, stages/NAME.json, says.
struct StageRecord {
  std::string fingerprint;
  double seconds = 0;
  std::string command;  ///< of the process that did the work; empty in records of earlier versions
};

/// What a run folder has of a stage.
struct StageState {
  std::optional<StageRecord> record;  ///< none: it was not finished
  bool current = false;               ///< the record is of the run's settings and data
  std::string missing;                ///< the first file that the stage leaves and that is not there; empty: none

  bool done() const { return current && missing.empty(); }
};

struct Run::Impl {
  RunConfig config;
  c10::Device device = c10::DeviceType::CPU;  ///< what config.device names; what is stored is on the CPU in any case
  RunControl control;
  std::function<void(const std::string&)> say;
  bool read_only = false;  ///< nothing is made in or written into the folder

  void log(const std::string& line) const;
  std::string path(const std::string& name) const { return config.out + "/" + name; }

  const RunData& data();
  std::string data_folder();
  std::string data_fingerprint();
  /// Of the files that nothing but the evaluation reads.
  std::string truth_fingerprint();
  /// The stages whose results a stage reads; maps that no classifier guides do not depend on the guide.
  std::vector<Stage> needs(Stage stage) const;
  /// The stages whose files a stage reads: those it needs, and others that these were made from.
  std::vector<Stage> reads(Stage stage) const;
  std::string fingerprint(Stage stage);
  StageState state_of(Stage stage);
  /// Of the contents of the files that encoders start from.
  std::string checkpoint_fingerprint();
  PreprocessOptions preprocess() const;
  NoiseSchedule schedule() const;
  RunControl stage_control(const std::string& stage) const;
  /// Throws kMismatch, naming the stage, unless it was finished with these settings and data; remembers what its record
  /// says.
  StageState require_done(Stage stage);
  /// The same for a stage whose files are to be read now: also throws, naming the file, where one is gone.
  void require_files(Stage stage);
  /// Whether a stage was finished with these settings and data, and all its files are there.
  bool is_done(Stage stage) { return state_of(stage).done(); }
  /// Writes config.json, once. Called when what is asked for will be done: what is refused leaves the folder its own.
  void keep_settings();
  /// A number that a measurement of speed decided, such as the steps that fit into --budget: measured once for a
  /// fingerprint and kept, whatever settings follow, because what is trained depends on it.
  std::int64_t remembered(const std::string& name, const std::string& made_by,
                          const std::function<std::int64_t()>& measure) const;
  /// The number that was kept; nothing where none was measured for this fingerprint.
  std::optional<std::int64_t> recalled(const std::string& name, const std::string& made_by) const;
  /// Puts the checkpoint of another training than that of these options aside, as a stage stopped under other settings
  /// is made anew and the trainer would refuse it; or lets the training go on from the one put aside before, where it
  /// is its own. Of two the one of more steps is kept. Says what it does. Throws kFormat, naming --force, for a damaged
  /// one.
  void keep_other_checkpoint(Stage stage, const std::string& training, const TrainerOptions& options) const;

  /// Builds every network once and looks up what settings name, so that those which do not fit together or the data are
  /// refused before the first stage's work.
  void require_buildable();

  /// work(), done `deterministically` where the settings ask for it and networks are on a device.
  void repeatably(const std::function<void()>& work) const;
  void make(Stage stage);
  // One function a stage, in a file NAME_stage.cpp: the first two in stages/diffusion_stages.cpp, the last two in
  // evaluation/ and report/.
  void train_translator();
  void train_guide();
  void make_heatmaps();
  void calibrate_maps();
  void train_encoder_arms();
  void build_indexes();
  void evaluate();
  void write_report();

  /// Of the vocabulary that the encoders' texts were cut with.
  std::string tokenizer_fingerprint() const;
  DenoiserTrainerOptions denoiser_options();
  ClassifierTrainerOptions guide_options();
  EncoderTrainerOptions encoder_options(const Arm& arm);
  bool has_checkpoint() const { return !config.encoder.clip.empty() || !config.encoder.image_checkpoint.empty(); }
  /// The checkpoint's towers at the run's image size, read once.
  const PretrainedTowers& pretrained();
  /// An arm's encoders before the first step.
  EncoderPair starting_encoders(const Arm& arm, const EncoderTrainerOptions& options);
  /// On the run's device.
  DenoiserUNet load_denoiser();
  NoiseAwareClassifier load_guide();
  /// What the guide says of clean images, whatever device either is on: logits [B, F] on the CPU.
  at::Tensor guide_logits(NoiseAwareClassifier& guide, const at::Tensor& images) const;
  const MapSet& maps();
  /// What maps of a kind are among healthy images; none where healthy images were too few to fit it on.
  std::optional<MapCalibration> calibration(const std::string& kind);
  std::vector<Arm> arms() const;
  std::vector<Arm> paper_arms() const;
  /// Map channels of an arm's input, 0 for the image alone.
  std::int64_t map_channels(const Arm& arm);
  /// Channel input of an arm for rows: scaled maps, or undefined.
  at::Tensor arm_maps(const Arm& arm, const std::vector<std::size_t>& rows);
  at::Tensor images(const std::vector<std::size_t>& rows);

  std::optional<RunData> data_;
  std::optional<MapSet> maps_;
  std::optional<PretrainedTowers> pretrained_;
  bool settings_kept_ = false;
  bool keeps_phantoms_ = false;  ///< a stage that builds on earlier ones does not exchange what those were made from
  std::string data_fingerprint_, truth_fingerprint_, checkpoint_fingerprint_;
  std::map<std::string, double> seconds_;        ///< of the stages' records
  std::map<std::string, std::string> commands_;  ///< the same: command lines
};

/// A preprocessed image [size, size] in [-1, 1] as grey values in [0, 1].
GrayImage gray_image(const float* pixels, int size);

/// Throws kMismatch naming the file at `path` unless its metadata say `expected` under `key`.
void require_metadata(const std::map<std::string, std::string>& metadata, const std::string& path, const char* key,
                      const std::string& expected);

/// Writes the losses of a training, [steps] under "loss", with the fingerprint of what made them.
void write_history(const std::string& path, const TrainingHistory& history, const std::string& fingerprint);

/// Throws kCancelled in the name of a stage unless its training ended before a stop was requested.
void require_finished(const TrainingHistory& history, const std::string& stage);

/// Rows of a tensor by row numbers.
at::Tensor take(const at::Tensor& tensor, const std::vector<std::size_t>& rows);

/// detail::for_each_task on threads of one intra-op thread each.
void for_each_parallel(std::size_t count, std::int64_t threads, const std::function<void(std::size_t)>& work);

/// Calls work(begin, count) for blocks of [0, total) on `threads` threads with one intra-op thread each; checks for a
/// stop between blocks and rethrows the first error.
void for_blocks(std::int64_t total, std::int64_t block, std::int64_t threads, const RunControl& control,
                const std::string& stage, const std::string& unit,
                const std::function<void(std::int64_t, std::int64_t)>& work);

}  // namespace daug
