// Walks of half networks, beside a guide whose gradients are float32: what pulls is what pulls a float32 network, and
// no state leaves the images' type.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "daug/translator/diffusion_translator.h"
#include "daug/translator/network_precision.h"
#include "daug/translator/published_loop.h"
#include "daug/translator/translation.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/tensor.h"
#include "translator/half_network.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A network all of whose layers LibTorch has in halves on the CPU.
std::shared_ptr<const NoisePredictor> network_of(const NoiseSchedule& schedule, at::ScalarType type) {
  DenoiserUNetOptions options = tiny_options();
  options.channel_mult = {1}, options.attention_downsample = {};
  DenoiserUNet network(options);
  randomise(*network, 71, 0.1);
  network->to(type);
  return make_noise_predictor(network, schedule, Prediction::kEps);
}

/// The same slope everywhere, float32 whatever the images are, as the guide of a network has it.
class SteadyGuide : public GuidanceClassifier {
 public:
  explicit SteadyGuide(double slope) : slope_(slope) {}
  std::int64_t num_findings() const override { return 3; }
  at::Tensor gradient(const at::Tensor& x, std::int64_t, const at::Tensor& condition) const override {
    const at::Tensor states = condition.to(at::kFloat).sum(1).reshape({-1, 1, 1, 1});
    return slope_ * states * at::ones(x.sizes(), at::kFloat);
  }

 private:
  double slope_;
};

/// Hands questions on and keeps them with their answers. Single-threaded.
class Recorder : public NoisePredictor {
 public:
  struct Call {
    at::Tensor x;
    std::int64_t level;
    at::Tensor condition, estimate;
  };
  explicit Recorder(std::shared_ptr<const NoisePredictor> inner) : inner_(std::move(inner)) {}
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const at::Tensor estimate = inner_->noise(x, level, condition);
    calls.push_back({x, level, condition, estimate});
    return estimate;
  }
  mutable std::vector<Call> calls;

 private:
  std::shared_ptr<const NoisePredictor> inner_;
};

/// A walk of float32 images by a network and by its copy in bfloat16, on a device.
void check_bfloat16_walk(at::Device device) {
  constexpr std::int64_t kLevel = 250;
  const auto schedule = NoiseSchedule::linear(1000);
  DenoiserUNet network(tiny_options());  // attention, and a smaller level
  randomise(*network, 71, 0.1);
  network->to(device);
  const auto predictor = [&](NetworkPrecision precision) {
    return std::make_shared<const Recorder>(make_noise_predictor(network, schedule, Prediction::kEps, {}, precision));
  };
  const auto full = predictor(NetworkPrecision::kFull), half = predictor(NetworkPrecision::kBFloat16);
  for (const auto& parameter : network->parameters()) CHECK(parameter.scalar_type() == at::kFloat);

  const TranslatorOptions options = path_options(kLevel, 5);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 1)).clamp(-1, 1).to(at::kFloat).to(device);
  const auto translated = [&](const std::shared_ptr<const Recorder>& by) {
    const DiffusionTranslator translator(by, schedule, {"Edema", "Nodule", "Device"}, options);
    return translator.translate(x, {toward("Edema"), away_from("Nodule")});
  };
  const Translation exact = translated(full), rounded = translated(half);
  for (const at::Tensor& state : {rounded.latent, rounded.reconstruction, rounded.images}) {
    CHECK(state.scalar_type() == at::kFloat);
    CHECK_FALSE(at::equal(state.to(at::kBFloat16).to(at::kFloat), state));  // it has digits that bfloat16 lacks
  }
  for (const auto& call : half->calls) {
    CHECK(call.x.scalar_type() == at::kFloat);
    CHECK(call.estimate.scalar_type() == at::kFloat);
  }

  // Rounding changes a number by a part of 2^-8 at most. What a pixel becomes passes some 65 operators, each with
  // weights that are rounded too: as errors that know nothing of each other, 2^-8 sqrt(2 * 65). Three times that for
  // the worst of all pixels.
  double error = 0, largest = 0;
  for (const auto& call : full->calls) {
    error = std::max(error, largest_difference(half->noise(call.x, call.level, call.condition), call.estimate));
    largest = std::max(largest, call.estimate.abs().max().item<double>());
  }
  CHECK(error > 0);
  CHECK(error <= 3 * 0x1p-8 * std::sqrt(2 * 65.0) * largest);
  // x / signal moves by the estimate times what noise / signal grows by, up and down again; down, contrast makes 1 + w
  // of one estimate less w of another. The states that it leads to differ as well: three times that.
  const double each = error * schedule.noise(kLevel) / schedule.signal(kLevel), weight = options.guidance.weight;
  CHECK(largest_difference(rounded.reconstruction, exact.reconstruction) <= 3 * 2 * each);
  CHECK(largest_difference(rounded.images, exact.images) <= 3 * (2 + 2 * weight) * each);
}

}  // namespace

TEST_CASE("precisions have names", "[translator]") {
  CHECK(network_precision("float32") == NetworkPrecision::kFull);
  CHECK(network_precision("bfloat16") == NetworkPrecision::kBFloat16);
  CHECK(network_precision("float16") == NetworkPrecision::kFloat16);
  CHECK(caught([] { network_precision("half"); }).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("filters of rounded copies lie channels last", "[translator]") {
  const auto check = [](const torch::nn::Module& network, const torch::nn::Module& copy, at::ScalarType type) {
    const auto from = network.parameters(), to = copy.parameters();
    REQUIRE(to.size() == from.size());
    int told_apart = 0;
    for (std::size_t i = 0; i < to.size(); ++i) {
      CHECK(at::equal(to[i], from[i].to(type)));
      CHECK_FALSE(to[i].requires_grad());
      if (to[i].dim() != 4) continue;
      CHECK(to[i].is_contiguous(at::MemoryFormat::ChannelsLast));
      told_apart += !to[i].is_contiguous();
    }
    CHECK(told_apart > 3);  // a single channel and a filter of one pixel lie both ways
  };
  const DenoiserUNet denoiser(tiny_options());
  const NoiseAwareClassifier classifier(tiny_classifier_options(ClassifierPool::kAdaptive));
  for (const auto& [precision, type] :
       {std::pair{NetworkPrecision::kBFloat16, at::kBFloat16}, std::pair{NetworkPrecision::kFloat16, at::kHalf}}) {
    check(*denoiser, *daug::detail::in_precision(denoiser, precision), type);
    check(*classifier, *daug::detail::in_precision(classifier, precision), type);
  }
}

TEST_CASE("a walk in bfloat16 ends where one in float32 does, with states in float32", "[translator]") {
  check_bfloat16_walk(at::Device(at::kCPU));
}

TEST_CASE("a walk in bfloat16 on a device ends where one in float32 does", "[gpu]") {
  if (!no_device()) check_bfloat16_walk(at::Device(at::kCUDA, 0));
}

TEST_CASE("guides in half types pull float32 states as one in float32 does", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*network, 4, 0.3);
  {
    at::NoGradGuard no_grad;
    network->named_parameters()["out.3.bias"][0].fill_(18);  // sure: a slope of 1.5e-8, which float16 takes for 0
  }
  const at::Tensor x = random_tensor({1, 1, 8, 8}, 5).to(at::kFloat),
                   condition = at::tensor({1.F, 0.F, 0.F}).unsqueeze(0);
  const at::Tensor exact = make_guidance_classifier(network, schedule)->gradient(x, 300, condition);
  const double size = exact.norm().item<double>();
  REQUIRE(size > 0);
  for (const auto precision : {NetworkPrecision::kBFloat16, NetworkPrecision::kFloat16}) {
    INFO("precision " << static_cast<int>(precision));
    const at::Tensor made =
        make_guidance_classifier(network, schedule, GuidanceHead::kSigmoid, {}, precision)->gradient(x, 300, condition);
    CHECK(made.scalar_type() == at::kFloat);
    CHECK(made.isfinite().all().item<bool>());
    const double found = made.norm().item<double>();
    CHECK((made * exact).sum().item<double>() > 0.9 * found * size);
    // Its size goes with exp(-logit), and bfloat16's numbers near 18 are an eighth apart.
    CHECK(std::abs(std::log(found / size)) < 1);
  }
  CHECK(network->parameters().front().scalar_type() == at::kFloat);
}

TEST_CASE("a half walk is pulled by gradients that a half holds only with their weight", "[guidance][translator]") {
  const auto schedule = NoiseSchedule::linear(1000);
  // Of images around 0 the walk stays at 0, where halves are fine enough, until something pulls.
  const auto predictor = std::make_shared<GaussianPredictor>(schedule, 0.0, 0.5);
  struct Pull {
    double slope, scale;
  };
  for (const auto& [slope, scale] : {Pull{1.5e-8, 1e4}, Pull{1e5, 1e-6}}) {  // 0 and infinite as halves
    INFO("slope " << slope);
    TranslatorOptions options = path_options(250, 5);
    options.guidance.kind = GuidanceKind::kClassifier;
    options.guidance.classifier_scale = scale;
    const DiffusionTranslator translator(predictor, schedule, {"Edema", "Nodule", "Device"}, options,
                                         std::make_shared<SteadyGuide>(slope));
    const auto moved = [&](at::ScalarType type) {
      const at::Tensor x = at::zeros({2, 1, 4, 4}, type);
      const at::Tensor images = translator.translate(x, {toward("Edema"), away_from("Edema")}).images;
      CHECK(images.scalar_type() == type);
      return images.select(1, 0).to(at::kDouble);
    };
    const at::Tensor exact = moved(at::kFloat), half = moved(at::kHalf);
    CHECK(exact.min().item<double>() > 1e-5);  // uphill
    CHECK(largest_difference(half, exact) < 0.03 * exact.max().item<double>());
  }
}

TEST_CASE("the published loop walks half networks in halves", "[published_loop]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const SteadyGuide guide(1e5);
  const at::Tensor x = (0.3 * random_tensor({2, 1, 8, 8}, 1)).clamp(-1, 1);
  const at::Tensor fresh = 0.1 * random_tensor({2, 1, 8, 8}, 2).to(at::kFloat);  // whatever the images are
  const at::Tensor condition = at::tensor({1.0F, 0.0F, 0.0F}).repeat({2, 1});
  const auto walked = [&](at::ScalarType type, double scale) {
    PublishedLoopOptions options;
    options.noise_level = 12;
    options.classifier_scale = scale;
    std::int64_t steps = 0;
    const StepDone done = [&](std::int64_t, std::int64_t, const at::Tensor& state) {
      CHECK(state.scalar_type() == type);
      ++steps;
    };
    const at::Tensor image = published_translation(*network_of(schedule, type), schedule, guide, x.to(type), fresh,
                                                   condition, options, done);
    CHECK(steps == 22);
    return image.to(at::kDouble);
  };
  // The pull is scale * slope * noise(l), and moves a state against what a step from level l to l - 1 takes off the
  // noise: all in all about scale * slope * noise(11)^2 / 2 = 0.11.
  const at::Tensor exact = walked(at::kFloat, 1e-3);
  CHECK(largest_difference(walked(at::kHalf, 1e-3), exact) < 0.015);
  CHECK(largest_difference(walked(at::kFloat, 0), exact) > 0.05);
}
