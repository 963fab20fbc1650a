#pragma once
/// @file
/// The training loop every network here shares: AdamW, warm-up and cosine, weight averaging, checkpoints, resume.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daug/core/execution.h"
#include "daug/core/progress.h"
#include "daug/train/sample_order.h"

namespace at {
class Tensor;
}
namespace c10d {
class ProcessGroup;
}
namespace torch::nn {
class Module;
}

namespace daug {

/// Settings of Trainer.
struct TrainerOptions {
  std::int64_t steps = 1000;        ///< optimiser steps, >= 0
  double learning_rate = 1e-3;      ///< peak learning rate, > 0
  std::int64_t warmup_steps = 10;   ///< linear warm-up, >= 0
  double final_rate = 0.0;          ///< learning rate at the end as a fraction of the peak, in [0, 1]
  double weight_decay = 0.01;       ///< AdamW decay (not on biases, norms and other vectors), >= 0
  double beta1 = 0.9;               ///< first-moment decay, in [0, 1)
  double beta2 = 0.999;             ///< second-moment decay, in [0, 1)
  double epsilon = 1e-8;            ///< AdamW denominator offset, > 0
  double ema_decay = 0.0;           ///< decay of the averaged weights, in [0, 1); 0 = no averaging
  double clip_norm = 0.0;           ///< gradient norm limit, >= 0; 0 = none
  double layer_decay = 1.0;         ///< decay of the learning rate from output to input (layer_rate_scales), in (0, 1]
  std::vector<std::string> freeze;  ///< patterns of parameters that are left as they are (freeze_parameters)
  std::int64_t max_skipped = 10;    ///< non-finite steps in a row that end the training with an error, >= 1
  std::int64_t read_every = 0;      ///< steps between readings of losses, >= 0; 0 = 1 on the CPU, else 20 (Trainer)
  std::int64_t validate_every = 0;  ///< steps between validations (one more after the last step), 0 = none, >= 0
  std::int64_t patience = 0;        ///< validations in a row without a better value that end it, >= 0; 0 = none do
  double min_improvement = 0.0;     ///< what a value has to exceed the best one by to be better, >= 0
  std::int64_t checkpoint_every = 0;  ///< steps between checkpoints, >= 0; 0 = only when stopped
  std::string checkpoint;             ///< checkpoint file, empty = none; removed by nobody but the caller
  std::string fingerprint;            ///< what makes this training; a checkpoint of another one is refused
  /// Of AdamW with the averages. kAuto takes the kernel of CUDA devices once a run of it is recorded; with kFused
  /// `Trainer::run` throws kUnsupported for anything but float32 on such a device.
  Execution execution = Execution::kAuto;

  /// Throws kInvalidArgument naming the first option out of range.
  void validate() const;
};

/// Loss of one worker's share of one step: a scalar attached to that worker's replica. Called concurrently for
/// different workers, so it must draw its random numbers from (seed, step, item) and touch no shared state.
using StepLoss = std::function<at::Tensor(std::size_t worker, std::int64_t step)>;

/// Makes the gradients of one worker's share of one step, with `most` of its items at a time or fewer, and returns the
/// share's loss, a scalar without a gradient. The gradients are added to those of the worker's replica, which begin as
/// zeros. For every `most` in [1, items of a share] they and the loss are the same, but for rounding. What is drawn at
/// random is drawn from (seed, step, item), as by StepLoss, since a step that does not fit into memory is made again.
using StepInParts = std::function<at::Tensor(std::size_t worker, std::int64_t step, std::int64_t most)>;

/// How good the network is on data it does not learn from; more is better. Called between two steps while the first
/// replica holds the weights that training would return, the averaged ones if there are any. It changes nothing that
/// training reads. A value that is not finite is never better.
using Validation = std::function<double()>;

/// Called between two steps, before the losses of the steps so far are read; not where each is read at its own step.
/// Throws what those steps left to be found.
using StepsRead = std::function<void()>;

/// What happened in training.
struct TrainingHistory {
  std::vector<float> loss;         ///< mean loss of every step, over workers; NaN for a skipped step
  std::int64_t skipped_steps = 0;  ///< steps left out because a loss or gradient was not finite
  std::vector<double> validation;  ///< value after every validate_every steps, and after the last one
  std::int64_t best_step = 0;      ///< steps done when the best of them was measured, 0 before that
  bool stopped_early = false;      ///< patience ended the training before its last step
  bool finished = false;           ///< false when a stop was requested first
};

/// What changes between steps beside the weights, and so belongs in a checkpoint.
class TrainingState {
 public:
  /// Implementations may be destroyed as this.
  virtual ~TrainingState() = default;

  /// Takes in what the workers' losses left behind, and may bring weights back into a range. Called after every step
  /// that changed weights, before their averages take them in, while all wait.
  virtual void step_done() = 0;
  /// Whether `step_done` has to stay away after a step that was left out, for which each is read. False: it may come
  /// after such a step, too, and then changes nothing (TrainerOptions::read_every).
  virtual bool counts_steps() const { return true; }
  /// All of it, in one tensor of unchanging shape; `restore` gets one of that shape back, from a file, and throws
  /// kFormat for values that `saved` does not give.
  virtual at::Tensor saved() const = 0;
  /// Goes back to a state that `saved` returned.
  virtual void restore(const at::Tensor& saved) = 0;
};

/// Trains one network, given as one replica a worker, on the device of its parameters. Replicas must be identically
/// built; the constructor makes them share the first one's parameters. Each worker runs on a thread of its own with one
/// intra-op thread, which on small networks is faster than two threads on one batch; the gradients are averaged in
/// worker order, so that results do not depend on timing. Bit-reproducible on the CPU of one machine, also across stop
/// and resume.
///
/// A step whose loss or gradient is not finite changes neither weights nor averages nor moments, nor what `extra`
/// holds, nor the network's buffers. Those of a network, batch norm's running statistics say, are averaged, saved and
/// returned with its weights; it is trained as one replica. Those of a tower's batch norm that is frozen are left
/// alone, as the norm leaves them (ImageEncoder).
///
/// Where losses are not read at every step (options.read_every), steps look at no number, so that none waits for a
/// device: whether loss and gradient are finite is decided there. Losses are read after so many steps, before a
/// validation or a checkpoint, on a stop and at the end; until then reports say the one that was read last (nothing
/// before the first), and too many skipped steps in a row are no error yet. Weights are those of read_every = 1 but for
/// rounding. With a process group, or an `extra` that counts steps, every step is read. Not yet run on a device.
///
/// With a process group every rank has such a trainer, and gradients and losses are averaged over the workers of all
/// ranks, group by group of parameters. Ranks start from the weights of rank 0 and have the same bits after every step;
/// one skips a step, stops, validates (the value is rank 0's) or throws when all do. Buffers are averaged over ranks.
/// Rank 0 alone writes checkpoints, and every rank reads them, so the path leads to the same file on all. What throws
/// while ranks exchange something, a lost connection say, ends the others after the group's timeout.
class Trainer {
 public:
  /// Freezes parameters as options say; those without gradient are left alone. `extra` may be null, and is the same on
  /// all ranks. `process_group` may be null; else it has a backend for tensors on the device of the parameters, which
  /// is the current one or the one that it is bound to unless it has one for the CPU as well (Gloo is tested, on the
  /// CPU; see distributed_contrastive_loss), and outlives the trainer. Throws kInvalidArgument for no replicas,
  /// replicas with other parameters, and nothing left to train, kUnsupported for several replicas with buffers.
  Trainer(std::vector<std::shared_ptr<torch::nn::Module>> replicas, TrainerOptions options,
          std::shared_ptr<TrainingState> extra = nullptr, c10d::ProcessGroup* process_group = nullptr);
  /// The replicas keep their weights.
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Runs from the checkpoint (when there is one) or from step 0 until options.steps, or until options.patience
  /// validations in a row were no better than the best one. On a stop request it finishes the step, writes the
  /// checkpoint and returns with finished = false. Checkpoints are written beside the steps that follow; what keeps one
  /// from being written is thrown by the time of the next one, or of the return. `validation` is given if
  /// options.validate_every > 0, and only then. Throws kNumeric after options.max_skipped non-finite steps in a row,
  /// kMismatch for a checkpoint of another training, and on ranks that differ in options, network or the checkpoint's
  /// step, or of which another one failed, kFormat for a damaged one, kOutOfMemory for a step whose gradients do not
  /// fit into memory, kDevice where a device failed. What `steps_read` throws ends the training.
  TrainingHistory run(const StepLoss& loss, const RunControl& control = {}, const Validation& validation = {},
                      const StepsRead& steps_read = {});

  /// `run` for shares of `items` >= 1 items that may be computed in parts. A worker whose share does not fit into the
  /// memory of its device (as LibTorch says, or Error with kOutOfMemory from what it calls) makes the step again
  /// with half as many items at a time, rounded up, and no more than that at any step after it. Buffers of the network
  /// are set back before a step is made again. The first time, the report of that step to `control` says so in its
  /// detail, and LibTorch's warning handler is told (once a process). Throws as `run`; kOutOfMemory comes where one
  /// item does not fit either, and on ranks of a process group, which make no parts, at once.
  TrainingHistory run_in_parts(const StepInParts& gradients, std::int64_t items, const RunControl& control = {},
                               const Validation& validation = {}, const StepsRead& steps_read = {});

  /// Steps between two readings of losses, as options, device, `extra` and group have it; 1: each is read.
  std::int64_t read_every() const;

  /// Replaces the weights by their running average, when ema_decay > 0. Call after training.
  void use_averaged_weights();

  /// Replaces the weights by those (averaged, when ema_decay > 0) that the best validation saw; without one, as
  /// use_averaged_weights. Call after training.
  void use_best_weights();

 private:
  struct State;
  void save_checkpoint(std::int64_t step);
  void settle_checkpoint();
  std::int64_t start();
  std::int64_t load_checkpoint();
  at::Tensor fitting_gradients(const StepInParts& gradients, std::size_t worker, std::int64_t step, std::int64_t& most);
  bool update(std::int64_t step);
  at::Tensor update_unread(std::int64_t step, const at::Tensor& loss);
  void apply_gradients(std::int64_t step, const at::Tensor& applied, const at::Tensor& factor);
  void share_buffers();
  void settle_buffers(bool applied);
  void validate(std::int64_t done, const Validation& validation);
  std::size_t best_validation() const;
  bool out_of_patience() const;
  double learning_rate(std::int64_t step) const;

  TrainerOptions options_;
  std::unique_ptr<State> state_;
};

}  // namespace daug
