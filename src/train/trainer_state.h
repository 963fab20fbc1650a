#pragma once
// What a trainer holds between two steps: weights, moments and averages, buffers, history.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/adamw.h"
#include "daug/core/error.h"
#include "daug/train/trainer.h"
#include "ranks.h"

namespace daug {

namespace detail {

/// Tensors of a checkpoint by name.
using SavedTensors = std::vector<std::pair<std::string, at::Tensor*>>;

/// Numbers of the network that training changes.
struct Averaged {
  at::Tensor values;
  at::Tensor average;  ///< their running average; undefined without one
  at::Tensor best;     ///< what the best validation saw; undefined without validations

  Averaged(at::Tensor start, const TrainerOptions& options) : values(std::move(start)) {
    if (options.ema_decay > 0) average = values.clone();
    if (options.validate_every > 0) best = values.clone();
  }

  /// With a `weight` on the device, which is 0 for a step that is left out, that one is taken in place of 1 - decay.
  void update_average(double decay, const at::Tensor& weight) {
    if (!average.defined()) return;
    if (!values.is_floating_point())
      average.copy_(values);  // a count
    else
      backend::update_average(average, values, decay, weight);
  }

  void swap_average() {
    if (!average.defined()) return;
    const at::Tensor current = values.clone();
    values.copy_(average);
    average.copy_(current);
  }

  void add_saved(const std::string& name, SavedTensors& list) {
    list.emplace_back(name + ".values", &values);
    if (average.defined()) list.emplace_back(name + ".average", &average);
    if (best.defined()) list.emplace_back(name + ".best", &best);
  }
};

/// Parameters that share one set of AdamW settings, laid end to end so that an update is a handful of kernels.
struct ParameterGroup : Averaged {
  double decay, rate_scale;
  at::Tensor first_moment, second_moment, step;
  std::vector<at::Tensor> gradients;  ///< one flat tensor a replica

  ParameterGroup(at::Tensor start, const TrainerOptions& options, double weight_decay, double scale)
      : Averaged(std::move(start), options),
        decay(weight_decay),
        rate_scale(scale),
        first_moment(at::zeros_like(values)),
        second_moment(at::zeros_like(values)),
        step(at::zeros({}, values.options().dtype(at::kFloat))) {}

  void add_saved(const std::string& name, SavedTensors& list) {
    Averaged::add_saved(name, list);
    list.emplace_back(name + ".first_moment", &first_moment);
    list.emplace_back(name + ".second_moment", &second_moment);
    list.emplace_back(name + ".step", &step);
  }
};

/// What a network counts while it runs, such as batch norm's statistics.
struct Buffer : Averaged {
  std::string name;
  at::Tensor kept;  ///< after the last step that was not skipped

  Buffer(std::string its_name, const at::Tensor& start, const TrainerOptions& options)
      : Averaged(start, options), name(std::move(its_name)), kept(values.clone()) {}
};

}  // namespace detail

/// Weights, moments and averages that the replicas of a training share, and what came of its steps.
struct Trainer::State {
  explicit State(c10d::ProcessGroup* group) : ranks(group) {}

  detail::Ranks ranks;
  std::vector<std::shared_ptr<torch::nn::Module>> replicas;
  std::vector<detail::ParameterGroup> groups;
  std::vector<detail::Buffer> buffers;
  std::shared_ptr<TrainingState> extra;
  TrainingHistory history;
  std::future<void> writing;  ///< of a checkpoint, beside the steps after it

  std::vector<detail::Averaged*> all() {
    std::vector<detail::Averaged*> list;
    for (auto& group : groups) list.push_back(&group);
    for (auto& buffer : buffers) list.push_back(&buffer);
    return list;
  }

  /// Steps between two readings of what became of them: 1 where something has to know at once.
  std::int64_t read_every(const TrainerOptions& options) const {
    constexpr std::int64_t kOnDevice = 20;
    if ((extra && extra->counts_steps()) || ranks.size() > 1) return 1;
    if (options.read_every > 0) return options.read_every;
    return groups.front().values.is_cpu() ? 1 : kOnDevice;
  }

  /// Leaves the mean over workers and ranks in the first worker's gradients. Returns each group's sum of squares.
  std::vector<at::Tensor> average_gradients();

  detail::SavedTensors saved() {
    detail::SavedTensors list;
    for (std::size_t i = 0; i < groups.size(); ++i) groups[i].add_saved(detail::concat("group", i), list);
    for (auto& buffer : buffers) buffer.add_saved("buffer." + buffer.name, list);
    return list;
  }
};

}  // namespace daug
