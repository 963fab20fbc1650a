#include "daug/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/fitting_rows.h"
#include "daug/core/error.h"
#include "daug/train/parameter_groups.h"
#include "encoder/conv_layers.h"
#include "trainer_state.h"

namespace daug {

namespace {

/// What parameters have in common that share a group: whether they are vectors, and the factor on their learning rate.
using GroupKey = std::pair<bool, double>;

/// The parameters of a network that are trained, by group. Vectors are biases, norms and the like: the names differ
/// between networks, the rank does not.
std::map<GroupKey, std::vector<at::Tensor>> grouped_parameters(const torch::nn::Module& network, double layer_decay) {
  const auto parameters = network.named_parameters();
  std::vector<std::string> names;
  for (const auto& item : parameters) names.push_back(item.key());
  const std::vector<double> scales = layer_rate_scales(names, layer_decay);
  std::map<GroupKey, std::vector<at::Tensor>> groups;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const at::Tensor& parameter = parameters[i].value();
    if (parameter.requires_grad()) groups[{parameter.dim() <= 1, scales[i]}].push_back(parameter);
  }
  return groups;
}

/// Points a replica's parameters and gradients into the flat tensors of a group.
void attach(const std::vector<at::Tensor>& parameters, const at::Tensor& values, const at::Tensor& gradients) {
  std::int64_t offset = 0;
  for (at::Tensor parameter : parameters) {
    const std::int64_t count = parameter.numel();
    parameter.set_data(values.narrow(0, offset, count).view(parameter.sizes()));
    parameter.mutable_grad() = gradients.narrow(0, offset, count).view(parameter.sizes());
    offset += count;
  }
}

/// Takes down the losses of steps, at once or where many are read together.
class LossRecord {
 public:
  LossRecord(TrainingHistory& history, std::int64_t max_skipped, const StepsRead& steps_read)
      : history_(history), max_skipped_(max_skipped), steps_read_(steps_read) {
    const auto& loss = history.loss;
    if (!loss.empty()) latest_ = loss.back();
    // Those before a stop count too.
    failures_ =
        std::find_if(loss.rbegin(), loss.rend(), [](float value) { return !std::isnan(value); }) - loss.rbegin();
  }

  double latest() const { return latest_; }  ///< of the losses that are known
  std::int64_t unread() const { return static_cast<std::int64_t>(unread_.size()); }

  /// The loss of a step, which was left out unless `applied`. Throws kNumeric after too many such steps in a row.
  void add(double loss, bool applied, std::int64_t step) {
    latest_ = loss;
    history_.loss.push_back(applied ? static_cast<float>(loss) : std::numeric_limits<float>::quiet_NaN());
    history_.skipped_steps += applied ? 0 : 1;
    failures_ = applied ? 0 : failures_ + 1;
    if (failures_ >= max_skipped_)
      throw Error(ErrorCode::kNumeric, detail::concat("daug::Trainer::run: loss or gradient not finite in ", failures_,
                                                      " steps in a row, last step ", step));
  }

  /// The loss of a step, NaN if that was left out, wherever it lies.
  void add_unread(at::Tensor loss) { unread_.push_back(std::move(loss)); }

  /// Adds those of the steps before `step` that were not read yet, in one transfer.
  void read(std::int64_t step) {
    if (unread_.empty()) return;
    if (steps_read_) steps_read_();
    const at::Tensor losses = at::stack(unread_).to(at::kCPU);
    unread_.clear();
    for (std::int64_t i = 0; i < losses.size(0); ++i) {
      const double loss = losses.const_data_ptr<double>()[i];
      add(loss, !std::isnan(loss), step - losses.size(0) + i);
    }
  }

 private:
  TrainingHistory& history_;
  std::int64_t max_skipped_;
  const StepsRead& steps_read_;
  std::int64_t failures_ = 0;  ///< steps in a row that were left out
  double latest_ = 0;
  std::vector<at::Tensor> unread_;
};

}  // namespace

void TrainerOptions::validate() const {
  constexpr const char* kName = "daug::TrainerOptions";
  require(steps >= 0, kName, "steps", "at least 0", steps);
  require(learning_rate > 0 && std::isfinite(learning_rate), kName, "learning_rate", "more than 0", learning_rate);
  require(warmup_steps >= 0, kName, "warmup_steps", "at least 0", warmup_steps);
  require_range(final_rate, 0.0, 1.0, kName, "final_rate");
  require_range(weight_decay, 0.0, 1e3, kName, "weight_decay");
  require_range(beta1, 0.0, 0.999999, kName, "beta1");
  require_range(beta2, 0.0, 0.999999, kName, "beta2");
  require(epsilon > 0, kName, "epsilon", "more than 0", epsilon);
  require_range(ema_decay, 0.0, 0.999999, kName, "ema_decay");
  require_range(clip_norm, 0.0, 1e12, kName, "clip_norm");
  require(layer_decay > 0 && layer_decay <= 1, kName, "layer_decay", "a value in (0, 1]", layer_decay);
  require(max_skipped >= 1, kName, "max_skipped", "at least 1", max_skipped);
  require(read_every >= 0, kName, "read_every", "at least 0", read_every);
  require(validate_every >= 0, kName, "validate_every", "at least 0", validate_every);
  require(patience >= 0, kName, "patience", "at least 0", patience);
  require(patience == 0 || validate_every > 0, kName, "patience", "0 without validations (validate_every)", patience);
  require_range(min_improvement, 0.0, 1e300, kName, "min_improvement");
  require(checkpoint_every >= 0, kName, "checkpoint_every", "at least 0", checkpoint_every);
}

Trainer::Trainer(std::vector<std::shared_ptr<torch::nn::Module>> replicas, TrainerOptions options,
                 std::shared_ptr<TrainingState> extra, c10d::ProcessGroup* process_group)
    : options_(std::move(options)), state_(std::make_unique<State>(process_group)) {
  constexpr const char* kName = "daug::Trainer";
  options_.validate();
  require(!replicas.empty(), kName, "replicas", "at least one", 0);
  at::NoGradGuard no_grad;
  for (const auto& replica : replicas) freeze_parameters(*replica, options_.freeze);
  const auto first = grouped_parameters(*replicas[0], options_.layer_decay);
  require(!first.empty(), kName, "replicas", "a parameter that is trained", "none");
  for (const auto& [key, parameters] : first) {
    std::vector<at::Tensor> flat;
    for (const auto& parameter : parameters) flat.push_back(parameter.detach().reshape({-1}));
    state_->groups.emplace_back(at::cat(flat), options_, key.first ? 0.0 : options_.weight_decay, key.second);
  }
  for (const auto& part : replicas[0]->named_modules()) {
    // What does not change is left alone: a mean over ranks of one value is not always that value.
    const auto* norm = part.value()->as<detail::BatchNorm>();
    if (norm && norm->is_frozen()) continue;
    const std::string prefix = part.key().empty() ? "" : part.key() + ".";
    for (const auto& item : part.value()->named_buffers(/*recurse=*/false))
      state_->buffers.emplace_back(prefix + item.key(), item.value(), options_);
  }
  if (replicas.size() > 1 && !state_->buffers.empty())
    fail(ErrorCode::kUnsupported, kName, "replicas", "one of a network with buffers", replicas.size());
  for (const auto& replica : replicas) {
    const auto same_shape = [](const at::Tensor& a, const at::Tensor& b) { return a.sizes() == b.sizes(); };
    const auto same_group = [&](const auto& a, const auto& b) {
      return a.first == b.first &&
             std::equal(a.second.begin(), a.second.end(), b.second.begin(), b.second.end(), same_shape);
    };
    const auto groups = grouped_parameters(*replica, options_.layer_decay);
    require(std::equal(groups.begin(), groups.end(), first.begin(), first.end(), same_group), kName, "replicas",
            "identically built networks", "other parameters");
    auto group = state_->groups.begin();
    for (const auto& [key, parameters] : groups) {
      group->gradients.push_back(at::zeros_like(group->values));
      attach(parameters, group->values, group->gradients.back());
      ++group;
    }
  }
  state_->replicas = std::move(replicas);
  state_->extra = std::move(extra);
}

Trainer::~Trainer() = default;

void Trainer::validate(std::int64_t done, const Validation& validation) {
  at::NoGradGuard no_grad;
  const auto swap_average = [&] {
    for (auto* averaged : state_->all()) averaged->swap_average();
  };
  auto& history = state_->history;
  swap_average();
  try {
    // That of rank 0: another processor may round it another way.
    history.validation.push_back(state_->ranks.of_all("daug::Trainer::run", validation)[0]);
    const double value = history.validation.back();
    const double least = history.best_step == 0 ? -std::numeric_limits<double>::infinity()
                                                : history.validation[best_validation()] + options_.min_improvement;
    if (std::isfinite(value) && value > least) {
      for (auto* averaged : state_->all()) averaged->best.copy_(averaged->values);
      history.best_step = done;
    }
  } catch (...) {
    swap_average();
    throw;
  }
  swap_average();
}

std::size_t Trainer::best_validation() const {
  return static_cast<std::size_t>((state_->history.best_step - 1) / options_.validate_every);
}

bool Trainer::out_of_patience() const {
  if (options_.patience == 0) return false;
  const std::size_t before = state_->history.best_step == 0 ? 0 : best_validation() + 1;
  return state_->history.validation.size() - before >= static_cast<std::size_t>(options_.patience);
}

std::int64_t Trainer::read_every() const { return state_->read_every(options_); }

/// Makes the gradients of a worker's share, with at most `most` items at a time, which is made less where so many do
/// not fit; returns the loss.
at::Tensor Trainer::fitting_gradients(const StepInParts& gradients, std::size_t worker, std::int64_t step,
                                      std::int64_t& most) {
  for (;;) {
    for (auto& group : state_->groups) group.gradients[worker].zero_();
    try {
      return gradients(worker, step, most);
    } catch (const std::exception& error) {
      const char* text = backend::out_of_memory(error);
      if (!text) throw;
      // Ranks exchange something on the way, of which none may take part twice.
      if (most <= 1 || state_->ranks.size() > 1)
        fail(ErrorCode::kOutOfMemory, "daug::Trainer::run", "memory",
             detail::concat("enough for the smallest part of step ", step), text);
    }
    // Not where it was caught: what the failed attempt held is freed by now.
    most = (most + 1) / 2;
    settle_buffers(false);
  }
}

TrainingHistory Trainer::run(const StepLoss& loss, const RunControl& control, const Validation& validation,
                             const StepsRead& steps_read) {
  const auto whole = [&loss](std::size_t worker, std::int64_t step, std::int64_t) {
    const at::Tensor value = loss(worker, step);
    value.backward();
    return value.detach();
  };
  return run_in_parts(whole, 1, control, validation, steps_read);
}

TrainingHistory Trainer::run_in_parts(const StepInParts& gradients, std::int64_t items, const RunControl& control,
                                      const Validation& validation, const StepsRead& steps_read) try {
  constexpr const char* kFunction = "daug::Trainer::run";
  require(items >= 1, "daug::Trainer::run_in_parts", "items", "at least 1", items);
  require(static_cast<bool>(validation) == (options_.validate_every > 0), kFunction, "validation",
          options_.validate_every > 0 ? "a function, as validate_every says" : "none without validate_every",
          validation ? "one" : "none");
  auto& history = state_->history;
  const detail::Ranks& ranks = state_->ranks;
  std::int64_t step = start();
  const std::size_t workers = state_->replicas.size();
  std::vector<at::Tensor> losses(workers);
  LossRecord record(history, options_.max_skipped, steps_read);
  const std::int64_t every = read_every();
  std::vector<std::exception_ptr> errors(workers);
  bool running = step < options_.steps && !out_of_patience();
  std::vector<std::int64_t> most(workers, items);  // that each computes at a time
  bool told = false;                               // that some compute fewer

  // Runs on one thread, between two steps, while every worker waits.
  const auto between_steps = [&]() noexcept {
    const auto mean_of = [](const std::vector<double>& values) {
      return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    };
    const auto rethrow = [&] {
      for (const auto& error : errors)
        if (error) std::rethrow_exception(error);
    };
    try {
      if (every > 1) {
        rethrow();
        record.add_unread(update_unread(step, at::stack(losses).mean(at::kDouble)));
      } else {
        // One value that is not finite makes that of all ranks not finite.
        const double loss = mean_of(ranks.of_all(kFunction, [&] {
          rethrow();
          std::vector<double> values;
          for (const at::Tensor& value : losses) values.push_back(value.item<double>());
          return mean_of(values);
        }));
        const bool applied = std::isfinite(loss) && update(step);
        settle_buffers(applied);
        record.add(loss, applied, step);
      }
      ++step;
      const bool validates = validation && (step % options_.validate_every == 0 || step == options_.steps);
      if (validates || step == options_.steps || record.unread() >= every) record.read(step);
      if (validates) validate(step, validation);
      const std::vector<double> stops = ranks.of_all(kFunction, [&] {
        std::string shown = history.loss.empty() ? "" : detail::concat("loss ", record.latest());
        const std::int64_t fitting = *std::min_element(most.begin(), most.end());
        if (fitting < items && !std::exchange(told, true)) {
          shown += detail::concat(shown.empty() ? "" : ", ", "out of memory with ", items, " items at a time, ",
                                  fitting, " from here on");
          backend::tell_of_halving(items);
        }
        control.report({"train", step, options_.steps, "steps", shown});  // may ask for a stop
        return control.stop.stop_requested() ? 1.0 : 0.0;
      });
      const bool stop = std::count(stops.begin(), stops.end(), 1.0) > 0;
      running = !stop && step < options_.steps && !out_of_patience();
      const bool saves = !options_.checkpoint.empty() &&
                         (stop || (options_.checkpoint_every > 0 && step % options_.checkpoint_every == 0));
      if (stop || saves) record.read(step);
      if (saves)
        ranks.of_all(kFunction, [&] {
          if (ranks.rank() == 0) save_checkpoint(step);
          return 0.0;
        });
    } catch (...) {
      errors[0] = std::current_exception();
      running = false;
    }
  };
  std::barrier barrier(static_cast<std::ptrdiff_t>(workers), between_steps);
  const auto work = [&](std::size_t worker) {
    if (workers > 1) at::set_num_threads(1);
    while (running) {
      try {
        losses[worker] = fitting_gradients(gradients, worker, step, most[worker]);
      } catch (...) {
        errors[worker] = std::current_exception();
      }
      barrier.arrive_and_wait();
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    std::vector<std::thread> threads;
    for (std::size_t worker = 0; worker < workers; ++worker) threads.emplace_back(work, worker);
    for (auto& thread : threads) thread.join();
  }
  const auto first = std::find_if(errors.begin(), errors.end(), [](const auto& error) { return error != nullptr; });
  try {
    settle_checkpoint();
  } catch (...) {
    if (first == errors.end()) throw;  // else what ended the training is the news
  }
  if (first != errors.end()) std::rethrow_exception(*first);
  history.stopped_early = step < options_.steps && out_of_patience();
  history.finished = step >= options_.steps || history.stopped_early;
  return history;
} catch (const std::exception& error) {
  backend::rethrow_typed(error, "daug::Trainer::run");
}

void Trainer::use_averaged_weights() {
  if (options_.ema_decay <= 0) return;
  at::NoGradGuard no_grad;
  for (auto* averaged : state_->all()) averaged->values.copy_(averaged->average);
}

void Trainer::use_best_weights() {
  if (state_->history.best_step == 0) return use_averaged_weights();
  at::NoGradGuard no_grad;
  for (auto* averaged : state_->all()) averaged->values.copy_(averaged->best);
}

}  // namespace daug
