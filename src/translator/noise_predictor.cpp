#include "daug/translator/noise_predictor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "daug/translator/denoiser_unet.h"

namespace daug {

namespace {

class UNetNoisePredictor final : public NoisePredictor {
 public:
  UNetNoisePredictor(DenoiserUNet network, NoiseSchedule schedule, Prediction kind)
      : network_(std::move(network)), schedule_(std::move(schedule)), kind_(kind) {}

  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    at::NoGradGuard no_grad;  // or a graph through every step of a translation would be kept
    const auto timesteps = at::full({x.size(0)}, schedule_.timestep(level), x.options().dtype(at::kLong));
    // A network without a condition knows only the unconditional estimate, which is what "all unknown" asks for.
    const auto& options = network_->options();
    const bool conditional = options.num_findings > 0 || options.num_classes > 0 || !condition.defined();
    require(conditional || !condition.any().item<bool>(), "daug::NoisePredictor::noise", "condition",
            "only unknown states for a network without findings", "a known state");
    // TORCH_MODULE holders are not const-callable; forward changes no state.
    at::Tensor output =
        const_cast<DenoiserUNet&>(network_)->forward(x, timesteps, conditional ? condition : at::Tensor());
    if (output.size(1) != x.size(1)) output = output.narrow(1, 0, x.size(1));
    // Level 0 asks the network of level 1, so its output is read with that level's factors.
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const double signal = schedule_.signal(asked), deviation = schedule_.noise(asked);
    switch (kind_) {
      case Prediction::kEps:
        return output;
      case Prediction::kX0:
        return (x - signal * output) / deviation;
      case Prediction::kV:
        break;
    }
    return signal * output + deviation * x;
  }

 private:
  DenoiserUNet network_;
  NoiseSchedule schedule_;
  Prediction kind_;
};

class ClippingPredictor final : public NoisePredictor {
 public:
  ClippingPredictor(std::shared_ptr<const NoisePredictor> inner, NoiseSchedule schedule)
      : inner_(std::move(inner)), schedule_(std::move(schedule)) {}

  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const at::Tensor eps = inner_->noise(x, level, condition);
    const double signal = schedule_.signal(level), deviation = schedule_.noise(level);
    if (deviation == 0) return eps;
    const at::Tensor clean = ((x - deviation * eps) / signal).clamp(-1, 1);
    return (x - signal * clean) / deviation;
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
  fail(ErrorCode::kInvalidArgument, "daug::prediction", "name", "\"eps\", \"x0\" or \"v\"", name);
}

at::Tensor prediction_target(Prediction kind, const at::Tensor& x0, const at::Tensor& noise,
                             const at::Tensor& signal_factor, const at::Tensor& noise_factor) {
  switch (kind) {
    case Prediction::kEps:
      return noise;
    case Prediction::kX0:
      return x0;
    case Prediction::kV:
      break;
  }
  return signal_factor * noise - noise_factor * x0;
}

std::shared_ptr<const NoisePredictor> make_noise_predictor(const DenoiserUNet& network, const NoiseSchedule& schedule,
                                                           Prediction kind) {
  return std::make_shared<UNetNoisePredictor>(network, schedule, kind);
}

std::shared_ptr<const NoisePredictor> make_clipping_predictor(std::shared_ptr<const NoisePredictor> predictor,
                                                              const NoiseSchedule& schedule) {
  require(predictor != nullptr, "daug::make_clipping_predictor", "predictor", "a noise predictor", "null");
  return std::make_shared<ClippingPredictor>(std::move(predictor), schedule);
}

}  // namespace daug
