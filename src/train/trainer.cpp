#include "daug/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <exception>
#include <filesystem>
#include <future>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <thread>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "daug/io/fingerprint.h"
#include "daug/io/safetensors.h"
#include "daug/io/weights.h"
#include "daug/train/parameter_groups.h"
#include "encoder/conv_layers.h"
#include "ranks.h"

namespace daug {

namespace {

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
    else if (weight.defined())
      average.lerp_(values, weight.to(values.scalar_type()));
    else
      average.lerp_(values, 1 - decay);
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

struct Trainer::State {
  explicit State(c10d::ProcessGroup* group) : ranks(group) {}

  detail::Ranks ranks;
  std::vector<std::shared_ptr<torch::nn::Module>> replicas;
  std::vector<ParameterGroup> groups;
  std::vector<Buffer> buffers;
  std::shared_ptr<TrainingState> extra;
  TrainingHistory history;
  std::future<void> writing;  ///< of a checkpoint, beside the steps after it

  std::vector<Averaged*> all() {
    std::vector<Averaged*> list;
    for (auto& group : groups) list.push_back(&group);
    for (auto& buffer : buffers) list.push_back(&buffer);
    return list;
  }

  /// Steps between two readings of what became of them: 1 where something has to know at once.
  std::int64_t read_every(const TrainerOptions& options) const {
    constexpr std::int64_t kOnDevice = 20;
    if (extra || ranks.size() > 1) return 1;
    if (options.read_every > 0) return options.read_every;
    return groups.front().values.is_cpu() ? 1 : kOnDevice;
  }

  /// Leaves the mean over workers and ranks in the first worker's gradients. Returns each group's sum of squares.
  std::vector<at::Tensor> average_gradients() {
    const double shares = static_cast<double>(replicas.size()) * static_cast<double>(ranks.size());
    std::vector<at::Tensor> squares;
    for (auto& group : groups) {
      const at::Tensor& mean = group.gradients[0];
      for (std::size_t worker = 1; worker < group.gradients.size(); ++worker) mean.add_(group.gradients[worker]);
      ranks.add_up(mean);
      if (shares > 1) mean.div_(shares);
      squares.push_back(at::dot(mean, mean));
    }
    return squares;
  }

  SavedTensors saved() {
    SavedTensors list;
    for (std::size_t i = 0; i < groups.size(); ++i) groups[i].add_saved(detail::concat("group", i), list);
    for (auto& buffer : buffers) buffer.add_saved("buffer." + buffer.name, list);
    return list;
  }
};

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

double Trainer::learning_rate(std::int64_t step) const {
  if (step < options_.warmup_steps)
    return options_.learning_rate * static_cast<double>(step + 1) / static_cast<double>(options_.warmup_steps);
  const double span = static_cast<double>(std::max<std::int64_t>(options_.steps - options_.warmup_steps, 1));
  const double done = static_cast<double>(step - options_.warmup_steps) / span;
  const double cosine = 0.5 * (1 + std::cos(3.14159265358979323846 * std::min(done, 1.0)));
  return options_.learning_rate * (options_.final_rate + (1 - options_.final_rate) * cosine);
}

/// Makes a step unless a gradient is not finite; whether it did.
bool Trainer::update(std::int64_t step) {
  at::NoGradGuard no_grad;
  share_buffers();
  double square_norm = 0;
  for (const at::Tensor& square : state_->average_gradients()) square_norm += square.item<double>();
  if (!std::isfinite(square_norm)) return false;
  const double norm = std::sqrt(square_norm);
  if (options_.clip_norm > 0 && norm > options_.clip_norm)
    for (auto& group : state_->groups) group.gradients[0].mul_(options_.clip_norm / norm);
  apply_gradients(step, {});
  return true;
}

/// `update` and `settle_buffers` without a look at any number, so that a device is not waited for. Returns the loss as
/// the history has it, float64: NaN for a step that was left out.
at::Tensor Trainer::update_unread(std::int64_t step, const at::Tensor& loss) {
  at::NoGradGuard no_grad;
  const at::Tensor square_norm = at::stack(state_->average_gradients()).sum(at::kDouble);
  const at::Tensor mean = loss.to(square_norm.device(), at::kDouble);
  const at::Tensor applied = mean.isfinite().logical_and(square_norm.isfinite());
  if (options_.clip_norm > 0) {
    const at::Tensor factor = (square_norm.rsqrt() * options_.clip_norm).clamp_max(1);
    for (auto& group : state_->groups) group.gradients[0].mul_(factor);
  }
  for (auto& buffer : state_->buffers) {  // before averages: 0 times what is not finite is not 0
    buffer.kept.copy_(at::where(applied, buffer.values, buffer.kept));
    buffer.values.copy_(buffer.kept);
  }
  apply_gradients(step, applied);
  return at::where(applied, mean, std::numeric_limits<double>::quiet_NaN());
}

/// AdamW and the averages. Where `applied`, a truth value on the device, is given and false, both change nothing.
void Trainer::apply_gradients(std::int64_t step, const at::Tensor& applied) {
  // Early on the average follows closely, or it would remember the initial weights.
  const double decay = std::min(options_.ema_decay, static_cast<double>(1 + step) / static_cast<double>(10 + step));
  std::optional<at::Tensor> left_out;
  at::Tensor weight;
  if (applied.defined()) {
    left_out = applied.logical_not().to(at::kFloat);  // as the operator takes it, whatever it updates
    weight = applied.to(at::kDouble) * (1 - decay);
  }
  const double rate = learning_rate(step);
  for (auto& group : state_->groups) {
    group.step.add_(1);
    if (left_out) group.step.sub_(*left_out);
    at::_fused_adamw_({group.values}, {group.gradients[0]}, {group.first_moment}, {group.second_moment}, {},
                      {group.step}, rate * group.rate_scale, options_.beta1, options_.beta2, group.decay,
                      options_.epsilon, false, false, std::nullopt, left_out);
  }
  if (state_->extra) state_->extra->step_done();
  for (auto* averaged : state_->all()) averaged->update_average(decay, weight);
}

/// Averages buffers over ranks: each has counted its own items.
void Trainer::share_buffers() {
  const auto ranks = state_->ranks.size();
  std::vector<at::Tensor> flat;
  for (const auto& buffer : state_->buffers)
    if (buffer.values.is_floating_point()) flat.push_back(buffer.values.reshape({-1}));
  if (ranks == 1 || flat.empty()) return;
  const at::Tensor mean = at::cat(flat);
  state_->ranks.add_up(mean);
  mean.div_(static_cast<double>(ranks));
  std::int64_t offset = 0;
  for (auto& buffer : state_->buffers) {
    if (!buffer.values.is_floating_point()) continue;
    buffer.values.copy_(mean.narrow(0, offset, buffer.values.numel()).view(buffer.values.sizes()));
    offset += buffer.values.numel();
  }
}

void Trainer::settle_buffers(bool applied) {
  at::NoGradGuard no_grad;
  for (auto& buffer : state_->buffers) {
    if (applied)
      buffer.kept.copy_(buffer.values);
    else
      buffer.values.copy_(buffer.kept);
  }
}

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

TrainingHistory Trainer::run(const StepLoss& loss, const RunControl& control, const Validation& validation) {
  constexpr const char* kFunction = "daug::Trainer::run";
  require(static_cast<bool>(validation) == (options_.validate_every > 0), kFunction, "validation",
          options_.validate_every > 0 ? "a function, as validate_every says" : "none without validate_every",
          validation ? "one" : "none");
  auto& history = state_->history;
  const detail::Ranks& ranks = state_->ranks;
  std::int64_t step = start();
  const std::size_t workers = state_->replicas.size();
  std::vector<at::Tensor> losses(workers), unread;
  const std::int64_t read_every = state_->read_every(options_);
  std::vector<std::exception_ptr> errors(workers);
  bool running = step < options_.steps && !out_of_patience();
  // Those before a stop count too.
  std::int64_t failures =
      std::find_if(history.loss.rbegin(), history.loss.rend(), [](float value) { return !std::isnan(value); }) -
      history.loss.rbegin();
  double latest = history.loss.empty() ? 0.0 : history.loss.back();  // of the losses that were read

  // Takes down the loss of a step, NaN if that was left out.
  const auto count = [&](double value, std::int64_t of) {
    const bool applied = !std::isnan(value);
    history.loss.push_back(static_cast<float>(value));
    history.skipped_steps += applied ? 0 : 1;
    failures = applied ? 0 : failures + 1;
    if (failures >= options_.max_skipped)
      throw Error(ErrorCode::kNumeric, detail::concat(kFunction, ": loss or gradient not finite in ", failures,
                                                      " steps in a row, last step ", of));
  };
  // Takes down the steps before `step` that no number was read of, in one transfer.
  const auto read_losses = [&] {
    if (unread.empty()) return;
    const at::Tensor values = at::stack(unread).to(at::kCPU);
    unread.clear();
    for (std::int64_t i = 0; i < values.size(0); ++i) {
      latest = values.const_data_ptr<double>()[i];
      count(latest, step - values.size(0) + i);
    }
  };

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
      if (read_every > 1) {
        rethrow();
        unread.push_back(update_unread(step, at::stack(losses).mean(at::kDouble)));
      } else {
        // One value that is not finite makes that of all ranks not finite.
        latest = mean_of(ranks.of_all(kFunction, [&] {
          rethrow();
          std::vector<double> values;
          for (const at::Tensor& value : losses) values.push_back(value.item<double>());
          return mean_of(values);
        }));
        const bool applied = std::isfinite(latest) && update(step);
        settle_buffers(applied);
        count(applied ? latest : std::numeric_limits<double>::quiet_NaN(), step);
      }
      ++step;
      const bool validates = validation && (step % options_.validate_every == 0 || step == options_.steps);
      if (validates || step == options_.steps || static_cast<std::int64_t>(unread.size()) >= read_every) read_losses();
      if (validates) validate(step, validation);
      const std::vector<double> stops = ranks.of_all(kFunction, [&] {
        const std::string shown = history.loss.empty() ? "" : detail::concat("loss ", latest);
        control.report({"train", step, options_.steps, "steps", shown});  // may ask for a stop
        return control.stop.stop_requested() ? 1.0 : 0.0;
      });
      const bool stop = std::count(stops.begin(), stops.end(), 1.0) > 0;
      running = !stop && step < options_.steps && !out_of_patience();
      const bool saves = !options_.checkpoint.empty() &&
                         (stop || (options_.checkpoint_every > 0 && step % options_.checkpoint_every == 0));
      if (stop || saves) read_losses();
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
        for (auto& group : state_->groups) group.gradients[worker].zero_();
        const at::Tensor value = loss(worker, step);
        value.backward();
        losses[worker] = value.detach();
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

void Trainer::save_checkpoint(std::int64_t step) {
  settle_checkpoint();
  SafetensorsFile file;
  file.metadata = {{"format", "daug-checkpoint-1"},
                   {"step", std::to_string(step)},
                   {"skipped_steps", std::to_string(state_->history.skipped_steps)},
                   {"fingerprint", options_.fingerprint}};
  for (const auto& [name, tensor] : state_->saved()) file.tensors.emplace(name, array_from(*tensor));
  if (state_->extra) file.tensors.emplace("extra", array_from(state_->extra->saved()));
  const auto& loss = state_->history.loss;
  file.tensors.emplace("history.loss", Array::from(loss, {static_cast<std::int64_t>(loss.size())}));
  if (options_.validate_every > 0) {
    const auto& values = state_->history.validation;
    file.metadata.emplace("best_step", std::to_string(state_->history.best_step));
    file.tensors.emplace("history.validation", Array::from(values, {static_cast<std::int64_t>(values.size())}));
  }
  std::size_t bytes = 0;
  for (const auto& [name, array] : file.tensors) bytes += array.data.size();
  constexpr std::size_t kLargestBeside = 256U << 20U;  // a larger copy of the state had better be gone by the next step
  // All ranks are told when the first one cannot write, which they are waiting for here.
  if (state_->ranks.size() > 1 || bytes > kLargestBeside) return write_safetensors(options_.checkpoint, file);
  state_->writing = std::async(std::launch::async,
                               [path = options_.checkpoint, kept = std::move(file)] { write_safetensors(path, kept); });
}

/// Waits for the checkpoint that is being written, and throws what kept it from being so.
void Trainer::settle_checkpoint() {
  if (state_->writing.valid()) state_->writing.get();
}

/// Makes all ranks begin at one step with the weights, moments and averages of rank 0.
std::int64_t Trainer::start() {
  constexpr const char* kFunction = "daug::Trainer::run";
  const detail::Ranks& ranks = state_->ranks;
  if (ranks.size() == 1) return load_checkpoint();
  const TrainerOptions& o = options_;
  Fingerprint settings;
  settings.add("steps", o.steps).add("learning_rate", o.learning_rate).add("warmup_steps", o.warmup_steps);
  settings.add("final_rate", o.final_rate).add("weight_decay", o.weight_decay).add("beta1", o.beta1);
  settings.add("beta2", o.beta2).add("epsilon", o.epsilon).add("ema_decay", o.ema_decay).add("clip_norm", o.clip_norm);
  settings.add("max_skipped", o.max_skipped).add("validate_every", o.validate_every).add("patience", o.patience);
  settings.add("min_improvement", o.min_improvement).add("checkpoint", !o.checkpoint.empty());
  settings.add("checkpoint_every", o.checkpoint_every).add("fingerprint", o.fingerprint);
  for (const auto& group : state_->groups) settings.add("rate", group.rate_scale).add("weights", group.values.numel());
  for (const auto& buffer : state_->buffers) settings.add(buffer.name, buffer.values.numel());
  ranks.require_same(kFunction, "options and network", settings.hex());
  const std::vector<double> steps = ranks.of_all(kFunction, [&] { return static_cast<double>(load_checkpoint()); });
  for (std::size_t of = 1; of < steps.size(); ++of)
    if (steps[of] != steps[0])
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint,
           detail::concat("the checkpoint of step ", steps[0], " that rank 0 reads, on all ranks"),
           detail::concat("step ", steps[of], " on rank ", of));
  at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state_->saved()) ranks.take_first(*tensor);
  settle_buffers(true);
  return static_cast<std::int64_t>(steps[0]);
}

std::int64_t Trainer::load_checkpoint() try {
  constexpr const char* kFunction = "daug::Trainer::run";
  if (options_.checkpoint.empty() || !std::filesystem::exists(options_.checkpoint)) return 0;
  const SafetensorsFile file = read_safetensors(options_.checkpoint);
  const auto entry = [&](const char* key) {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (entry("format") != "daug-checkpoint-1" || entry("fingerprint") != options_.fingerprint)
    fail(ErrorCode::kMismatch, kFunction, options_.checkpoint, "a checkpoint of training " + options_.fingerprint,
         "one of " + entry("fingerprint"));
  const auto count = [&](const char* key) {
    const std::string text = entry(key);
    if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
      fail(ErrorCode::kFormat, kFunction, detail::concat(options_.checkpoint, ": ", key), "a count", "'" + text + "'");
    return static_cast<std::int64_t>(std::stoll(text));
  };
  const auto array = [&](const std::string& name) -> const Array& {
    if (!file.contains(name))
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint, "a tensor '" + name + "'", "none");
    return file.at(name);
  };
  const std::int64_t step = count("step"), skipped = count("skipped_steps");
  std::vector<float> losses = array("history.loss").to_float();
  if (static_cast<std::int64_t>(losses.size()) != step)
    fail(ErrorCode::kFormat, kFunction, options_.checkpoint + ": history.loss", detail::concat(step, " losses"),
         losses.size());
  std::vector<double> validations;
  std::int64_t best_step = 0;
  if (options_.validate_every > 0) {
    validations = array("history.validation").to_double();
    best_step = count("best_step");
    if (best_step > static_cast<std::int64_t>(validations.size()) * options_.validate_every)
      fail(ErrorCode::kFormat, kFunction, options_.checkpoint + ": best_step", "a step that was validated", best_step);
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // nothing changes before all of it fits
  for (const auto& [name, tensor] : state_->saved()) {
    copies.emplace_back(*tensor, tensor_from(array(name)));
    if (copies.back().second.sizes() != tensor->sizes())
      fail(ErrorCode::kMismatch, kFunction, detail::concat(options_.checkpoint, ": ", name), tensor->sizes(),
           copies.back().second.sizes());
  }
  at::NoGradGuard no_grad;
  if (state_->extra) {
    const at::Tensor extra = tensor_from(array("extra"));
    if (extra.sizes() != state_->extra->saved().sizes())
      fail(ErrorCode::kMismatch, kFunction, options_.checkpoint + ": extra", state_->extra->saved().sizes(),
           extra.sizes());
    try {
      state_->extra->restore(extra);
    } catch (const Error& error) {
      throw Error(error.code(), detail::concat(kFunction, ": ", options_.checkpoint, ": extra: ", error.what()));
    }
  }
  for (const auto& [tensor, saved] : copies) tensor.copy_(saved);
  settle_buffers(true);
  state_->history.loss = std::move(losses);
  state_->history.validation = std::move(validations);
  state_->history.best_step = best_step;
  state_->history.skipped_steps = skipped;
  return step;
} catch (const Error& error) {
  throw Error(error.code(),
              detail::concat(error.what(), "; without ", options_.checkpoint, " the training begins anew"));
}

SampleOrder::SampleOrder(std::size_t count, std::uint64_t seed, std::size_t batch)
    : count_(count), seed_(seed), batch_(batch) {
  constexpr const char* kName = "daug::SampleOrder";
  require(count >= 1 && count <= std::numeric_limits<std::uint32_t>::max(), kName, "count", "at least one sample",
          count);
  require(batch >= 1 && batch <= count, kName, "batch", detail::concat("1 to ", count, " samples"), batch);
  period_ = batch / std::gcd(count, batch);
}

/// `order_` is that of the epoch before, unless this one begins with a batch.
void SampleOrder::shuffle_epoch(std::uint64_t epoch) {
  // The batch across the beginning: how much of it lies in the epoch before, and which samples that is.
  const std::size_t before = epoch % period_ * count_ % batch_;
  std::vector<bool> taken(before > 0 ? count_ : 0);
  for (std::size_t i = count_ - before; i < count_; ++i) taken[order_[i]] = true;
  order_.resize(count_);
  std::iota(order_.begin(), order_.end(), 0U);
  RandomStream(seed_, epoch, "sample order").shuffle(order_.begin(), order_.end());
  if (before == 0) return;
  // The first batch_ places hold at least batch_ - before samples that are not taken, so `behind` stays within them.
  const std::size_t rest = batch_ - before;
  for (std::size_t i = 0, behind = rest; i < rest; ++i) {
    if (!taken[order_[i]]) continue;
    while (taken[order_[behind]]) ++behind;
    std::swap(order_[i], order_[behind++]);
  }
}

std::size_t SampleOrder::at(std::uint64_t position) {
  const std::uint64_t epoch = position / count_;
  if (epoch != epoch_) {
    // In small sets what moves at an epoch's beginning reaches its end, and so the next epoch.
    const std::uint64_t start = epoch - epoch % period_;
    for (std::uint64_t next = epoch_ >= start && epoch_ < epoch ? epoch_ + 1 : start; next <= epoch; ++next)
      shuffle_epoch(next);
    epoch_ = epoch;
  }
  return order_[position % count_];
}

MixedSampleOrder::MixedSampleOrder(std::vector<std::int64_t> first, std::vector<std::int64_t> second, double share,
                                   std::uint64_t seed)
    : first_(std::move(first)),
      second_(std::move(second)),
      share_(first_.empty()    ? 0
             : second_.empty() ? 1
                               : share),
      first_order_(std::max<std::size_t>(first_.size(), 1), seed),
      second_order_(std::max<std::size_t>(second_.size(), 1), seed) {
  constexpr const char* kName = "daug::MixedSampleOrder";
  require(!first_.empty() || !second_.empty(), kName, "first, second", "at least one row", "none");
  require_range(share, 0.0, 1.0, kName, "share");
}

std::int64_t MixedSampleOrder::at(std::uint64_t position) {
  const auto taken = [&](std::uint64_t count) {
    return static_cast<std::uint64_t>(std::floor(static_cast<double>(count) * share_));
  };
  const std::uint64_t before = taken(position);
  if (taken(position + 1) > before) return first_[first_order_.at(before)];
  return second_[second_order_.at(position - before)];
}

}  // namespace daug
