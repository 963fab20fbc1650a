// Whole networks as they are trained in float32, with the kernels in them that have gradients of their own, beside
// the same networks in float64 and, where masks are drawn, by LibTorch's operators.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daug/translator/denoiser_unet.h"
#include "daug/translator/noise_aware_classifier.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/tensor.h"
#include "train/autocast.h"
#include "translator/golden_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// How a network is trained.
struct TrainedAs {
  at::ScalarType type = at::kFloat;
  Execution execution = Execution::kAuto;
  double dropout = 0;
  bool checkpoint = false;
  at::Device device = at::kCPU;
  bool autocast = false;  ///< to bfloat16
};

struct TrainedPass {
  std::map<std::string, at::Tensor> values;  ///< the output, and the gradients to x and to every parameter
  std::string nodes;                         ///< what computes the gradients, one name a line
};

std::string nodes_behind(const at::Tensor& output) {
  std::set<const torch::autograd::Node*> seen;
  std::set<std::string> names;
  std::vector<const torch::autograd::Node*> open = {output.grad_fn().get()};
  while (!open.empty()) {
    const torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    names.insert(node->name());
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  std::string text;
  for (const auto& name : names) text += name + "\n";
  return text;
}

/// A pass there and back of a network with these options, of the same weights and masks every time.
template <class Network, class Options, class Forward>
TrainedPass trained_pass(Options options, const TrainedAs& as, const at::Tensor& x, const Forward& forward) {
  options.execution = as.execution, options.dropout = as.dropout, options.use_checkpoint = as.checkpoint;
  Network network(options);
  randomise(*network, 5);
  network->to(as.type);
  network->to(as.device);
  network->seed_dropout(17);
  const at::Tensor input = x.to(as.device, as.type, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
  at::Tensor output;
  {
    const Autocast autocast(as.autocast ? TrainingPrecision::kBfloat16 : TrainingPrecision::kFloat32, as.device);
    output = forward(network, input);
  }
  TrainedPass pass{{}, nodes_behind(output)};
  (output * random_tensor(output.sizes().vec(), 3).to(as.device, as.type)).sum().backward();
  pass.values = {{"output", output.detach().cpu()}, {"x", input.grad().cpu()}};
  for (const auto& [name, parameter] : parameters_of(*network)) {
    const at::Tensor& gradient = parameter.grad();
    pass.values.emplace(name, gradient.defined() ? gradient.cpu() : gradient);
  }
  return pass;
}

/// Whether each value is within `tolerance` of the largest of its kind, and of this part of the largest of all: a
/// gradient that is small because it cancels has the rounding of what cancels.
void check_same_pass(const TrainedPass& actual, const TrainedPass& expected, double tolerance = 1e-3) {
  REQUIRE(actual.values.size() == expected.values.size());
  double largest = 0;
  for (const auto& item : expected.values) {
    INFO(item.first);
    REQUIRE(item.second.defined());
    largest = std::max(largest, item.second.abs().max().item<double>());
  }
  CHECK(largest > 1e-2);
  for (const auto& [name, value] : expected.values) {
    INFO(name);
    REQUIRE(actual.values.count(name) == 1);
    REQUIRE(actual.values.at(name).defined());
    const double size = value.abs().max().item<double>();
    CHECK(largest_difference(actual.values.at(name), value) <= tolerance * (size + tolerance * largest));
  }
}

/// Compares a network's passes: as it is in float64 for all that is not random, by operators with masks.
template <class Network, class Options, class Forward>
void check_trained(const Options& options, const at::Tensor& x, const Forward& forward) {
  const auto pass = [&](const TrainedAs& as) { return trained_pass<Network>(options, as, x, forward); };
  const TrainedPass exact = pass({at::kDouble, Execution::kReference}), plain = pass({});
  CHECK(mentions(plain.nodes, "Conv3x3Backward", "DifferentiableGroupNorm"));
  CHECK_FALSE(mentions(exact.nodes, "Conv3x3Backward"));
  CHECK_FALSE(mentions(plain.nodes, "DifferentiableResidualAdd"));
  {
    INFO("float32");
    check_same_pass(plain, exact);
  }
  {
    INFO("float32, activations computed again");
    check_same_pass(pass({at::kFloat, Execution::kAuto, 0, true}), exact);
  }
  for (const bool checkpoint : {false, true}) {
    INFO("float32, biases left to norms and residual sums" << (checkpoint ? ", activations computed again" : ""));
    const TrainedPass fused = pass({at::kFloat, Execution::kFused, 0, checkpoint});
    if (!checkpoint)
      CHECK(mentions(fused.nodes, "Conv3x3Backward", "DifferentiableGroupNorm", "DifferentiableResidualAdd"));
    check_same_pass(fused, exact);
  }
  const double dropout = 0.4;
  const TrainedPass masked = pass({at::kFloat, Execution::kReference, dropout});
  CHECK_FALSE(mentions(masked.nodes, "Conv3x3Backward"));
  CHECK(largest_difference(masked.values.at("output"), exact.values.at("output")) >
        1e-2 * exact.values.at("output").abs().max().item<double>());
  for (const bool checkpoint : {false, true}) {
    INFO("float32 with dropout" << (checkpoint ? ", activations computed again" : ""));
    check_same_pass(pass({at::kFloat, Execution::kAuto, dropout, checkpoint}), masked);
  }
}

/// Channels enough for the kernels, several of them a group of a norm, and three levels.
void widen(UNetOptions& options) {
  options.image_size = 16, options.model_channels = 16, options.channel_mult = {1, 2, 2};
}

/// With a condition on so many findings; `updown`: with scale-shift norm, and resampling in residual blocks.
DenoiserUNetOptions wide_denoiser(std::int64_t findings, bool updown) {
  DenoiserUNetOptions options = tiny_options(findings);
  widen(options);
  options.num_heads = 2;
  options.use_scale_shift_norm = options.resblock_updown = updown;
  return options;
}

/// Answers without gradients are those of the float64 twin: of networks whose images change their size in convolutions,
/// by themselves and within residual blocks.
void check_inferred(const at::Device& device, Execution execution) {
  const at::Tensor x = random_tensor({3, 1, 12, 20}, 4), t = longs({3, 90, 640});
  for (const bool updown : {false, true})
    for (const bool convolved : {false, true}) {
      INFO("resampling in residual blocks: " << updown << ", convolutions beside it: " << convolved);
      DenoiserUNetOptions options = wide_denoiser(0, updown);
      options.conv_resample = convolved;
      const auto answer = [&](const at::Device& where, at::ScalarType type, Execution chosen) {
        const at::NoGradGuard no_grad;
        options.execution = chosen;
        DenoiserUNet network(options);
        randomise(*network, 5);
        network->to(type);
        network->to(where);
        return network->forward(x.to(where, type), t).cpu();
      };
      const at::Tensor exact = answer(at::kCPU, at::kDouble, Execution::kReference);
      const double largest = exact.abs().max().item<double>();
      CHECK(largest > 1e-2);
      CHECK(largest_difference(answer(device, at::kFloat, execution), exact) <= 1e-3 * largest);
    }
}

}  // namespace

TEST_CASE("a denoiser's float32 gradients are those of its float64 twin, parameter by parameter", "[denoiser_unet]") {
  // Levels of 12 x 20, 6 x 10 and 3 x 5 pixels.
  const at::Tensor x = random_tensor({3, 1, 12, 20}, 4), t = longs({3, 90, 640});
  const at::Tensor condition = rows({{1, 0, -1}, {0, 0, 0}, {-1, 1, 1}});
  for (const bool updown : {false, true}) {
    INFO("scale-shift norm and resampling in residual blocks: " << updown);
    const DenoiserUNetOptions options = wide_denoiser(3, updown);
    check_trained<DenoiserUNet>(options, x, [&](DenoiserUNet& network, const at::Tensor& input) {
      return network->forward(input, t, condition);
    });
  }
}

TEST_CASE("a pass under autocast whose activations are computed again answers as one that keeps them",
          "[denoiser_unet]") {
  const at::Tensor x = random_tensor({3, 1, 12, 20}, 4), t = longs({3, 90, 640});
  for (const bool updown : {false, true}) {
    INFO("scale-shift norm and resampling in residual blocks: " << updown);
    const DenoiserUNetOptions options = wide_denoiser(0, updown);
    const auto output = [&](bool checkpoint) {
      const TrainedAs as{at::kFloat, Execution::kAuto, 0, checkpoint, at::kCPU, /*autocast=*/true};
      const auto forward = [&](DenoiserUNet& network, const at::Tensor& input) { return network->forward(input, t); };
      return trained_pass<DenoiserUNet>(options, as, x, forward).values.at("output");
    };
    CHECK(at::equal(output(true), output(false)));
  }
}

TEST_CASE("a denoiser's answers without gradients are those of its float64 twin", "[denoiser_unet]") {
  for (const Execution execution : {Execution::kAuto, Execution::kFused}) check_inferred(at::kCPU, execution);
}

TEST_CASE("a classifier's float32 gradients are those of its float64 twin, parameter by parameter",
          "[noise_aware_classifier]") {
  const at::Tensor t = longs({3, 640});
  for (const auto pool : {ClassifierPool::kAdaptive, ClassifierPool::kAttention, ClassifierPool::kSpatialV2})
    for (const bool updown : {false, true}) {
      INFO("pool " << static_cast<int>(pool) << ", scale-shift norm and resampling in residual blocks: " << updown);
      NoiseAwareClassifierOptions options = tiny_classifier_options(pool);
      widen(options);
      options.use_scale_shift_norm = options.resblock_updown = updown;
      // Attention has positions of the built size alone; 13 x 22 pixels become 3 x 5 or, by convolutions, 4 x 6.
      const at::Tensor x =
          pool == ClassifierPool::kAttention ? random_tensor({2, 1, 16, 16}, 4) : random_tensor({2, 1, 13, 22}, 4);
      check_trained<NoiseAwareClassifier>(options, x, [&](NoiseAwareClassifier& network, const at::Tensor& input) {
        return network->forward(input, t);
      });
    }
}

TEST_CASE("a denoiser's answers on a device, with sizes changed by fused kernels, are those of its float64 twin",
          "[denoiser_unet][gpu]") {
  if (!no_device()) check_inferred(at::Device(at::kCUDA, 0), Execution::kFused);
}

TEST_CASE("a denoiser's gradients on a device, with biases left to fused kernels, are those of its float64 twin",
          "[denoiser_unet][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  const at::Tensor x = random_tensor({3, 1, 12, 20}, 4), t = longs({3, 90, 640});
  for (const bool updown : {false, true}) {
    INFO("scale-shift norm and resampling in residual blocks: " << updown);
    const DenoiserUNetOptions options = wide_denoiser(0, updown);
    const auto pass = [&](const TrainedAs& as) {
      return trained_pass<DenoiserUNet>(
          options, as, x, [&](DenoiserUNet& network, const at::Tensor& input) { return network->forward(input, t); });
    };
    const TrainedPass exact = pass({at::kDouble, Execution::kReference});
    for (const bool autocast : {false, true}) {
      INFO("autocast " << autocast);
      const TrainedPass fused = pass({at::kFloat, Execution::kFused, 0, false, device, autocast});
      CHECK(mentions(fused.nodes, "DifferentiableGroupNorm", "DifferentiableResidualAdd"));
      check_same_pass(fused, exact, autocast ? 0.1 : 1e-3);
    }
  }
}
