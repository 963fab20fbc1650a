#pragma once
// Trainings whose steps are captured and replayed by the graphs that they are given.

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/graph_cache.h"
#include "daug/train/denoiser_trainer.h"
#include "daug/train/student_trainer.h"

namespace daug::detail {

/// Makes the graphs of a replica, for the tensors that they read or write: its parameters and their gradients. Null:
/// none. Called once a worker, on its thread.
using MakeGraphs = std::function<std::unique_ptr<backend::GraphCache>(std::vector<at::Tensor>)>;

/// Those of CUDA as an option `graphs` of trainings wants them (backend::make_graph_cache, "training_graph").
MakeGraphs cuda_graphs_of_trainings(Execution graphs, const char* function);

/// Gradients of a replica's whole shares, from graphs of the way to the loss and back.
class ReplayedShares {
 public:
  /// What is differentiated, one number, and what of it the caller is told.
  struct Passed {
    at::Tensor loss, told;
  };
  /// The way there, a function of these tensors and the replica's parameters. It may be called as long as this lives.
  using Pass = std::function<Passed(const std::vector<at::Tensor>&)>;

  /// Parameters and gradients of the replica lie where they stay.
  ReplayedShares(const torch::nn::Module& replica, const MakeGraphs& make_graphs);

  /// To be called where a step begins. One that begins again did not fit into memory: it and all after it are made in
  /// parts, plainly, and need what graphs hold.
  void begin(std::int64_t step);

  /// As backend::GraphCache::captures; false without graphs.
  bool captures(const at::Tensor& x) const { return graphs_ && graphs_->captures(x); }

  /// What is told of pass(inputs), where it `captures` the first input. Leaves the gradient of the loss in place of
  /// what the replica's was: a call is made once more before it is captured, and again where memory is short.
  at::Tensor told(const std::vector<at::Tensor>& inputs, const Pass& pass);

 private:
  std::vector<at::Tensor> gradients_;
  std::unique_ptr<backend::GraphCache> graphs_;  ///< null: none
  std::int64_t latest_ = -1;                     ///< step
};

/// train_denoiser with these graphs, whatever options.graphs says. They are asked for where a step can be replayed: a
/// squared error, no dropout.
DenoiserUNet train_replayed_denoiser(const at::Tensor& images, const at::Tensor& states, const NoiseSchedule& schedule,
                                     const DenoiserTrainerOptions& options, const RunControl& control,
                                     TrainingHistory* history, const MakeGraphs& make_graphs);

/// train_noise_aware_classifier likewise, where there is no dropout.
NoiseAwareClassifier train_replayed_classifier(const at::Tensor& images, const at::Tensor& states,
                                               const NoiseSchedule& schedule, const ClassifierTrainerOptions& options,
                                               const RunControl& control, TrainingHistory* history,
                                               const MakeGraphs& make_graphs);

/// train_map_student likewise, where there is no dropout.
TrainedStudent train_replayed_student(const at::Tensor& images, const at::Tensor& maps,
                                      const StudentTrainerOptions& options, const RunControl& control,
                                      TrainingHistory* history, const MakeGraphs& make_graphs);

}  // namespace daug::detail
