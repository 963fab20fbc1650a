#include "daug/translator/noise_predictor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>

#include "backend/fitting_rows.h"
#include "backend/fused_ops.h"
#include "backend/graph_cache.h"
#include "backend/upload.h"
#include "daug/translator/denoiser_unet.h"
#include "half_network.h"
#include "replayed_networks.h"

namespace daug {

namespace {

void require_classes(const StateClasses& classes, std::int64_t num_classes) {
  constexpr const char* kFunction = "daug::make_noise_predictor";
  require(classes.present.empty() == (num_classes == 0), kFunction, "classes.present",
          num_classes == 0 ? "none for a network without classes" : "a class for each finding", classes.present.size());
  std::vector<std::int64_t> all = classes.present;
  for (const auto& one : {classes.healthy, classes.unknown})
    if (one) all.push_back(*one);
  for (const std::int64_t one : all)
    require(one >= 0 && one < num_classes, kFunction, "classes", detail::concat("below ", num_classes), one);
}

constexpr const char* kNoise = "daug::NoisePredictor::noise";

/// The class that stands for no present finding, with absent ones or without.
std::int64_t class_without(const StateClasses& classes, bool absent) {
  const auto& one = absent ? classes.healthy : classes.unknown;
  require(one.has_value(), kNoise, "condition",
          absent ? "a present finding, as no class is healthy" : "a known state, as no class stands for unknown",
          absent ? "absent ones" : "none");
  return *one;
}

/// Whether a condition holds the items' classes, not states of findings.
bool are_classes(const at::Tensor& condition) {
  return condition.defined() && condition.dim() == 1 && condition.scalar_type() == at::kLong;
}

/// Whether a condition is what `embedded` made, [rows, 1, columns].
bool are_embedded(const at::Tensor& condition) { return condition.defined() && condition.dim() == 3; }

/// Most that the rows of a walk may take: guided-diffusion's own network for 256 pixels makes 67 MB of bfloat16 in 50
/// steps to 13 targets with contrast, and twice as much of float32.
constexpr std::int64_t kMostEmbeddedBytes = std::int64_t{256} << 20;

/// The rows of states that differ, on the CPU and in their type, and int64 [rows], which of them each is. Undefined
/// states are one row for all.
std::pair<at::Tensor, at::Tensor> distinct_rows(const at::Tensor& states, std::int64_t rows) {
  if (!states.defined()) return {at::Tensor(), at::zeros({rows}, at::kLong)};
  const auto found = at::unique_dim(states.to(at::kCPU, at::kDouble), 0, /*sorted=*/true, /*return_inverse=*/true);
  return {std::get<0>(found).to(states.scalar_type()), std::get<1>(found)};
}

/// int64 [rows] on the CPU, the class of each row of states [rows, F].
at::Tensor classes_of(const StateClasses& classes, const at::Tensor& states, std::int64_t rows) {
  const auto findings = static_cast<std::int64_t>(classes.present.size());
  require(states.sizes() == at::IntArrayRef({rows, findings}), kNoise, "condition",
          detail::concat("shape [", rows, ", ", findings, "]"), states.sizes());
  const at::Tensor known = states.to(at::kCPU, at::kDouble).contiguous();
  std::vector<std::int64_t> result;
  for (const auto* state = known.const_data_ptr<double>(); rows > 0; --rows, state += findings) {
    const auto* end = state + findings;
    const auto first = std::find_if(state, end, [](double one) { return one > 0; });
    if (first != end) {
      require(std::none_of(first + 1, end, [](double one) { return one > 0; }), kNoise, "condition",
              "one present finding, as classes exclude each other", "several");
      result.push_back(classes.present[static_cast<std::size_t>(first - state)]);
      continue;
    }
    result.push_back(class_without(classes, std::any_of(state, end, [](double one) { return one < 0; })));
  }
  return at::tensor(result, at::kLong);
}

class UNetNoisePredictor final : public NoisePredictor {
 public:
  UNetNoisePredictor(DenoiserUNet network, NoiseSchedule schedule, Prediction kind, StateClasses classes,
                     std::unique_ptr<backend::GraphCache> graphs, Execution embeddings)
      : network_(std::move(network)),
        schedule_(std::move(schedule)),
        kind_(kind),
        classes_(std::move(classes)),
        embeddings_(embeddings),
        graphs_(std::move(graphs)) {
    require_predictable(schedule_, kind_, "daug::make_noise_predictor");
    require_classes(classes_, network_->options().num_classes);
    network_->eval();
    half_ = detail::half_type(*network_);
  }

  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    at::NoGradGuard no_grad;  // or a graph through every step of a translation would be kept
    std::vector<at::Tensor> all = {half_ ? x.to(*half_) : x};
    if (are_embedded(condition)) {
      require(condition.size(0) == x.size(0), kNoise, "condition", detail::concat(x.size(0), " rows"),
              condition.sizes());
      all.push_back(condition.squeeze(1));
    } else {
      all.push_back(at::full({x.size(0)}, schedule_.timestep(level), x.options().dtype(at::kLong)));
      all.push_back(asked_of_network(condition, x.size(0), x.device()));
    }
    const auto forward = [this](const std::vector<at::Tensor>& given) {
      // TORCH_MODULE holders are not const-callable; forward changes no state.
      auto& network = const_cast<DenoiserUNet&>(network_);
      return given.size() == 2 ? network->forward_embedded(given[0], given[1])
                               : network->forward(given[0], given[1], given[2]);
    };
    at::Tensor output = rows_.join(x.size(0), [&](std::int64_t begin, std::int64_t count) {
      c10::InferenceMode inference;
      std::vector<at::Tensor> given = all;
      for (at::Tensor& one : given)
        if (one.defined()) one = one.narrow(0, begin, count);
      // A network that somebody trains again draws other masks in every call.
      return graphs_ && !network_->is_training() ? graphs_->call(given, forward) : forward(given);
    });
    if (output.size(1) != x.size(1)) output = output.narrow(1, 0, x.size(1));
    if (half_) output = output.to(x.scalar_type());
    // Level 0 asks the network of level 1, so its output is read with that level's factors.
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const double signal = schedule_.signal(asked), deviation = schedule_.noise(asked);
    switch (kind_) {
      case Prediction::kEps:  // what is computed from it below is a plain tensor by itself
        return c10::InferenceMode::is_enabled() ? output : output.clone();
      case Prediction::kV:
        return backend::solver_update(x, output, {deviation, signal});
      case Prediction::kPreviousX: {  // (output - of_x x) / of_clean is the clean image
        const auto timestep = static_cast<std::size_t>(asked - 1);
        const double of_clean = schedule_.posterior_mean_coef1()[timestep];
        const double of_x = schedule_.posterior_mean_coef2()[timestep];
        return backend::solver_update(x, output,
                                      {(1 + signal * of_x / of_clean) / deviation, -signal / (of_clean * deviation)});
      }
      case Prediction::kX0:
        break;
    }
    return backend::solver_update(x, output, {1 / deviation, -signal / deviation});
  }

  at::Tensor prepared(const at::Tensor& condition) const override {
    const std::int64_t num_classes = network_->options().num_classes;
    if (num_classes > 0 && are_classes(condition)) {
      const at::Tensor outside = condition.lt(0).logical_or(condition.ge(num_classes));
      if (outside.any().item<bool>())
        fail(ErrorCode::kInvalidArgument, kNoise, "condition", detail::concat("classes from 0 to ", num_classes - 1),
             condition.masked_select(outside)[0].item<std::int64_t>());
    }
    if (condition.defined()) return asked_of_network(condition, condition.size(0), condition.device());
    (void)asked_of_network(condition, 1, at::kCPU);
    return condition;  // as many rows as there will be images
  }

  LevelCondition embedded(const at::Tensor& prepared, std::int64_t rows,
                          const std::vector<std::int64_t>& levels) const override {
    at::NoGradGuard no_grad;
    const at::Tensor weight = network_->parameters().front();
    const at::Device device = weight.device();
    const bool ahead = embeddings_ == Execution::kFused || (embeddings_ == Execution::kAuto && device.is_cuda());
    if (!ahead || rows == 0 || levels.empty()) return NoisePredictor::embedded(prepared, rows, levels);
    const auto [distinct, which] = distinct_rows(asked_of_network(prepared, rows, device), rows);
    const auto count = static_cast<std::int64_t>(levels.size());
    const std::int64_t each = distinct.defined() ? distinct.size(0) : 1;
    const std::int64_t row_bytes = network_->embedded_channels() * static_cast<std::int64_t>(weight.element_size());
    if (each > kMostEmbeddedBytes / (count * row_bytes)) return NoisePredictor::embedded(prepared, rows, levels);
    // The conditions at the first level, then those at the second, and so on.
    std::vector<std::int64_t> steps;
    for (const std::int64_t level : levels) steps.push_back(schedule_.timestep(level));
    const at::Tensor timesteps = backend::upload(at::tensor(steps, at::kLong).repeat_interleave(each, 0), device);
    const at::Tensor conditions =
        distinct.defined() ? backend::upload(at::cat(std::vector<at::Tensor>(levels.size(), distinct)), device)
                           : distinct;
    const at::Tensor made = embedded_rows_.join(count * each, [&](std::int64_t begin, std::int64_t part) {
      return network_->embedded(timesteps.narrow(0, begin, part),
                                conditions.defined() ? conditions.narrow(0, begin, part) : conditions);
    });
    return [prepared, levels, table = made.unflatten(0, {count, each}),
            row = backend::upload(which, device)](std::int64_t level) {
      const auto found = std::find(levels.begin(), levels.end(), level);
      if (found == levels.end()) return prepared;
      return table.select(0, found - levels.begin()).index_select(0, row).unsqueeze(1);
    };
  }

  std::int64_t channels() const override { return network_->options().in_channels; }
  const NoiseSchedule* schedule() const override { return &schedule_; }

  std::int64_t bytes_per_item(std::int64_t height, std::int64_t width) const override {
    return network_->inference_bytes(height, width);
  }

 private:
  /// The network's third argument for so many items on a device.
  at::Tensor asked_of_network(const at::Tensor& condition, std::int64_t rows, const at::Device& device) const {
    const auto& options = network_->options();
    if (options.num_classes > 0) {
      if (!condition.defined())
        return at::full({rows}, class_without(classes_, false), at::TensorOptions(at::kLong).device(device));
      const bool classes = are_classes(condition);
      require(!classes || condition.size(0) == rows, kNoise, "condition", detail::concat("a class for each of ", rows),
              condition.sizes());
      return backend::upload(classes ? condition : classes_of(classes_, condition, rows), device);
    }
    if (!condition.defined()) return condition;
    if (options.num_findings > 0) {
      require(condition.sizes() == at::IntArrayRef({rows, options.num_findings}), kNoise, "condition",
              detail::concat("shape [", rows, ", ", options.num_findings, "]"), condition.sizes());
      return backend::upload(condition, device);
    }
    // A network without a condition knows only the unconditional estimate, which is what "all unknown" asks for.
    require(!condition.any().item<bool>(), kNoise, "condition", "only unknown states for a network without findings",
            "a known state");
    return {};
  }

  DenoiserUNet network_;
  NoiseSchedule schedule_;
  Prediction kind_;
  StateClasses classes_;
  std::optional<at::ScalarType> half_;  ///< the network's type, if it is one of the half types
  backend::FittingRows rows_{kNoise, "one image"};
  backend::FittingRows embedded_rows_{"daug::NoisePredictor::embedded", "the embedding of one level"};
  Execution embeddings_;
  std::unique_ptr<backend::GraphCache> graphs_;  ///< null: none
};

class ClippingPredictor final : public NoisePredictor {
 public:
  ClippingPredictor(std::shared_ptr<const NoisePredictor> inner, NoiseSchedule schedule)
      : inner_(std::move(inner)), schedule_(std::move(schedule)) {
    require_schedule(inner_->schedule(), schedule_, "daug::make_clipping_predictor", "predictor");
  }

  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const at::Tensor eps = inner_->noise(x, level, condition);
    backend::SolverStep clipping{0, 1};  // nothing but the estimate
    clipping.clip = true, clipping.signal = schedule_.signal(level), clipping.deviation = schedule_.noise(level);
    if (clipping.signal == 0 || clipping.deviation == 0) return eps;
    return backend::solver_update(x, eps, clipping);
  }

  at::Tensor prepared(const at::Tensor& condition) const override { return inner_->prepared(condition); }

  LevelCondition embedded(const at::Tensor& prepared, std::int64_t rows,
                          const std::vector<std::int64_t>& levels) const override {
    return inner_->embedded(prepared, rows, levels);
  }

  std::int64_t channels() const override { return inner_->channels(); }
  const NoiseSchedule* schedule() const override { return &schedule_; }

  std::int64_t bytes_per_item(std::int64_t height, std::int64_t width) const override {
    return inner_->bytes_per_item(height, width);
  }

 private:
  std::shared_ptr<const NoisePredictor> inner_;
  NoiseSchedule schedule_;
};

}  // namespace

Prediction prediction(std::string_view name) {
  if (name == "eps") return Prediction::kEps;
  if (name == "x0") return Prediction::kX0;
  if (name == "v") return Prediction::kV;
  if (name == "previous_x") return Prediction::kPreviousX;
  fail(ErrorCode::kInvalidArgument, "daug::prediction", "name", "\"eps\", \"x0\", \"v\" or \"previous_x\"", name);
}

at::Tensor NoisePredictor::prepared(const at::Tensor& condition) const { return condition; }

LevelCondition NoisePredictor::embedded(const at::Tensor& prepared, std::int64_t /*rows*/,
                                        const std::vector<std::int64_t>& /*levels*/) const {
  return [prepared](std::int64_t) { return prepared; };
}

void require_predictable(const NoiseSchedule& schedule, Prediction kind, const char* function) {
  const bool tells_of_image = kind == Prediction::kX0 || kind == Prediction::kV;
  require(tells_of_image || schedule.abar(schedule.steps()) > 0, function, "prediction",
          "\"v\" or \"x0\" on a schedule that ends without signal, where noise tells nothing of the image",
          kind == Prediction::kEps ? "eps" : "previous_x");
}

void require_images(const NoisePredictor& predictor, const at::Tensor& x, const char* function) {
  require_images(x, predictor.channels(), function, "x");
}

void require_images(const at::Tensor& x, std::int64_t channels, const char* function, const char* argument) {
  require(x.defined() && x.dim() == 4 && (channels == 0 || x.size(1) == channels), function, argument,
          channels == 0 ? "shape [B, C, H, W]" : detail::concat("shape [B, ", channels, ", H, W]"),
          x.defined() ? x.sizes() : at::IntArrayRef{});
  const auto require_floating = [&] {
    require(at::isFloatingType(x.scalar_type()), function, argument, "floating-point values", x.scalar_type());
  };
  if (x.numel() == 0 || at::isComplexType(x.scalar_type())) return require_floating();
  const auto range = at::aminmax(x);  // not a number where any value is
  const double low = std::get<0>(range).item<double>(), high = std::get<1>(range).item<double>();
  constexpr double kSlack = 1e-3;  // resampling may overshoot by rounding
  const bool bytes = low >= 0 && high <= 255;
  require(low >= -1 - kSlack && high <= 1 + kSlack, function, argument, "finite values in [-1, 1]",
          detail::concat("values from ", low, " to ", high, bytes ? ", like pixels in 0..255" : ""));
  require_floating();
}

void require_schedule(const NoiseSchedule* models, const NoiseSchedule& schedule, const char* function,
                      const char* argument) {
  if (models == nullptr || *models == schedule) return;
  const std::int64_t shared = std::min(models->steps(), schedule.steps());
  std::int64_t level = 1;  // the first that is not the same, or the last that both have
  while (level < shared && models->abar(level) == schedule.abar(level) &&
         models->timestep(level) == schedule.timestep(level))
    ++level;
  const auto described = [level](const NoiseSchedule& one) {
    return detail::concat("one of schedule ", one.name(), ", ", one.steps(), " steps, level ", level, " with abar ",
                          one.abar(level), " at timestep ", one.timestep(level));
  };
  fail(ErrorCode::kMismatch, function, argument, described(schedule), described(*models));
}

void require_states(const at::Tensor& states, const char* function, const char* argument) {
  const at::Tensor numbers = states.to(at::kFloat), known = numbers.eq(0) | numbers.abs().eq(1);
  if (known.all().item<bool>()) return;
  fail(ErrorCode::kInvalidArgument, function, argument, "1 (present), -1 (absent) or 0 (unknown)",
       numbers.masked_select(known.logical_not())[0].item<double>());
}

void require_finite(const at::Tensor& x, const char* function, const std::string& where) {
  // One reduction: the sum of a tensor with an infinite or undefined entry is never finite. That of finite halves may
  // be more than a half can hold.
  if (!std::isfinite(x.sum(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).item<double>()))
    throw Error(ErrorCode::kNumeric, detail::concat(function, ": non-finite value at ", where));
}

std::int64_t rows_within(std::int64_t budget, std::int64_t each, std::int64_t most) {
  return budget > 0 && each > 0 ? std::clamp<std::int64_t>(budget / each, 1, most) : most;
}

std::shared_ptr<const NoisePredictor> make_noise_predictor(const DenoiserUNet& network, const NoiseSchedule& schedule,
                                                           Prediction kind, const StateClasses& classes,
                                                           NetworkPrecision precision, Execution graphs) {
  const DenoiserUNet answering = detail::in_precision(network, precision);
  return detail::replayed_predictor(
      answering, schedule, kind, classes,
      backend::make_graph_cache(graphs, answering->parameters(), "daug::make_noise_predictor"));
}

std::shared_ptr<const NoisePredictor> detail::replayed_predictor(const DenoiserUNet& network,
                                                                 const NoiseSchedule& schedule, Prediction kind,
                                                                 const StateClasses& classes,
                                                                 std::unique_ptr<backend::GraphCache> graphs,
                                                                 Execution embeddings) {
  return std::make_shared<UNetNoisePredictor>(network, schedule, kind, classes, std::move(graphs), embeddings);
}

std::shared_ptr<const NoisePredictor> make_clipping_predictor(std::shared_ptr<const NoisePredictor> predictor,
                                                              const NoiseSchedule& schedule) {
  require(predictor != nullptr, "daug::make_clipping_predictor", "predictor", "a noise predictor", "null");
  return std::make_shared<ClippingPredictor>(std::move(predictor), schedule);
}

}  // namespace daug
