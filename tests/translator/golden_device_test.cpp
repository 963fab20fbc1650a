// Networks of other implementations in float32: on a CUDA device, and with the fused kernels in them.

#include "support/golden_device.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include <algorithm>

#include "support/catch.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"

using namespace daug;
using namespace daug::test;

namespace {

// A device adds up in another order than the CPU; the sets' own tolerances are for that of one machine.
constexpr double kLeast = 1e-4;

double device_tolerance(const GoldenSet& set, const char* name) {
  return std::max(kLeast, set.settings.at("tolerance").at(name).get<double>());
}

const at::Device kDevice(at::kCUDA, 0);

/// Without gradients, which would keep the kernels out.
void check_fused_unets(at::Device device) {
  for_each_golden("unet_", [device](const GoldenSet& set) {
    const at::NoGradGuard no_grad;
    auto network = golden_unet(set, at::kFloat, Execution::kFused);
    network->to(device);
    const at::Tensor x = to_tensor(set.at("x")).to(device, at::kFloat);
    const at::Tensor condition = set.file.contains("y") ? tensor_from(set.at("y")) : at::Tensor();
    const double tolerance =
        device.is_cpu() ? set.settings.at("tolerance").at("out").get<double>() : device_tolerance(set, "out");
    return check_close(network->forward(x, tensor_from(set.at("t")), condition), set.at("out"), tolerance, "out");
  });
}

}  // namespace

TEST_CASE("golden UNets and classifiers answer the same on a device", "[gpu]") {
  if (no_golden_on_device()) return;
  for_each_golden("unet_", [](const GoldenSet& set) {
    auto network = golden_unet(set);
    network->to(kDevice);
    const at::Tensor x = to_tensor(set.at("x")).to(kDevice, at::kFloat).requires_grad_(true);
    const at::Tensor condition = set.file.contains("y") ? tensor_from(set.at("y")) : at::Tensor();
    const at::Tensor out = network->forward(x, tensor_from(set.at("t")), condition);
    (out * to_tensor(set.at("r")).to(kDevice, at::kFloat)).sum().backward();
    return std::max(check_close(out, set.at("out"), device_tolerance(set, "out"), "out"),
                    check_close(x.grad(), set.at("grad_x"), device_tolerance(set, "grad_x"), "grad_x"));
  });
  for_each_golden("classifier_", [](const GoldenSet& set) {
    auto network = golden_classifier(set);
    network->to(kDevice);
    const at::Tensor x = to_tensor(set.at("x")).to(kDevice, at::kFloat).requires_grad_(true);
    const at::Tensor target = tensor_from(set.at("target")).to(kDevice);
    const at::Tensor logits = network->forward(x, tensor_from(set.at("t")));
    at::log_softmax(logits, 1).gather(1, target.unsqueeze(1)).sum().backward();
    return std::max(check_close(logits, set.at("logits"), device_tolerance(set, "logits"), "logits"),
                    check_close(x.grad(), set.at("grad_log_softmax"), device_tolerance(set, "gradients"), "gradient"));
  });
}

TEST_CASE("golden UNets answer the same with fused kernels in them", "[denoiser_unet][golden]") {
  check_fused_unets(at::Device(at::kCPU));
}

TEST_CASE("golden UNets answer the same on a device with fused kernels in them", "[gpu]") {
  if (!no_golden_on_device()) check_fused_unets(kDevice);
}
