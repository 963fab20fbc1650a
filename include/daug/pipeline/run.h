#pragma once
/// @file
/// The complete pipeline over a run folder: stages that know what made their inputs, can be reused, redone, stopped
/// and resumed.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/progress.h"
#include "daug/pipeline/run_config.h"

namespace daug {

/// The stages, in the order in which they run.
enum class Stage {
  kTranslator,  ///< trains the diffusion model
  kGuide,       ///< trains the noise-aware classifier
  kHeatmaps,    ///< makes and stores maps, and calibrates them
  kEncoders,    ///< trains the tokenizer and the encoders of every arm
  kIndex,       ///< embeds the gallery into an index an arm
  kEvaluate,    ///< measures
  kReport,      ///< writes the page, its tables and figures
};

/// All stages in order.
std::vector<Stage> all_stages();
/// "translator", "guide", "heatmaps", "encoders", "index", "evaluate" or "report".
std::string stage_name(Stage stage);
/// Inverse of stage_name; throws kInvalidArgument.
Stage parse_stage(const std::string& name);

/// A run folder and the settings that fill it.
///
/// A stage's fingerprint is a hash of the data, the settings it depends on, the fingerprints of the stages before it
/// and, of maps and encoders, the format of their files. Every file a stage writes carries it. `execute` skips a stage
/// whose record shows the same fingerprint and whose files are there, redoes others, and refuses (kMismatch) to build
/// on an earlier stage that is missing or was made by other settings or data. Files are written atomically; a stopped
/// stage leaves a checkpoint, from which the same settings go on and which others remove, to begin anew, with a line
/// through `say`. The settings replace those of config.json when a stage begins or is up to date, so that what is
/// refused leaves a finished run as it was.
class Run {
 public:
  /// `say` receives one line of text for the log and the user at a time; may be empty. Creates the folder; throws
  /// kIo when it cannot be written, kInvalidArgument for settings, stages to force and a data folder that are none,
  /// kUnsupported saying why for a config.device that is not there. Networks are computed on that device; what stages
  /// store is float32 and was brought back to the CPU. A run may go on on another device, whose results differ in
  /// rounding and what training makes of it: like threads, the device is in no fingerprint, nor is
  /// config.deterministic, under which stages on a CUDA device are done `deterministically`. For the whole process it
  /// sets LibTorch's threads to config.threads and lets tensors reuse memory (reuse_tensor_memory).
  Run(RunConfig config, RunControl control, std::function<void(const std::string&)> say = {});
  /// Files and records stay.
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  /// Runs one stage, or skips it when it is up to date. Returns whether it ran. Throws kCancelled on a stop request,
  /// kIo for whatever the file system refuses, and what its work throws; with config.deterministic on a CUDA device
  /// kUnsupported, naming --deterministic, as `deterministically`.
  ///
  /// With config.ranks > 1 the stage is kEncoders (kUnsupported): it waits for the other ranks (make_process_group) and
  /// trains every arm with them. Rank 0 alone writes into the folder.
  bool execute(Stage stage);

  /// Compares ways of making maps on test images with masks or boxes: difference maps of several solvers and step
  /// counts, the published loop, score differences, signed evidence and a student of it, beside maps and changes of
  /// other patients' images, the round trip without a target and the mean training mask, and how much of the maps
  /// seeds, levels and scales decide. Needs the translator and the guide, and study.level (or, where that
  /// is 0, maps.level) in [2, 999]. Writes map_study.json and map_study.md (tables) into the run folder; settings are
  /// those named study.
  void study_maps();

  /// Current fingerprint of a stage under this run's settings and data.
  std::string fingerprint(Stage stage);

  /// The settings it was made with.
  const RunConfig& config() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

/// A whole program: reads the command line, runs the stages with a progress display, handles Ctrl-C. Returns the
/// process's exit status: 0, 1 for a failed run (message on standard error), 2 for wrong arguments, 130 when stopped.
/// `then` is called after the stages; may be empty.
int run_program(int argc, const char* const* argv, const std::string& description, const std::vector<Stage>& stages,
                const std::function<void(Run&)>& then = {});

}  // namespace daug
