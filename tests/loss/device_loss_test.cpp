// The loss on a CUDA device, which takes tiles by itself, beside whole matrices in float64 on the CPU.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <string>
#include <vector>

#include "daug/loss/hybrid_contrastive_loss.h"
#include "loss/problems.h"
#include "support/device.h"

using namespace daug;
using namespace daug::test;

namespace {

struct LossOnDevice {
  HybridLossOutput output;
  std::vector<at::Tensor> gradients;

  LossOnDevice(HybridLossInputs inputs, HybridLossOptions options, Execution execution,
               const at::TensorOptions& where) {
    options.execution = execution;
    for (at::Tensor* leaf :
         {&inputs.image, &inputs.text, &inputs.class_prompts, &inputs.logit_scale, &inputs.logit_bias})
      *leaf = leaf->to(where, /*non_blocking=*/false, /*copy=*/true).requires_grad_(true);
    for (at::Tensor* given : {&inputs.labels, &inputs.text_mask, &inputs.study})
      if (given->defined()) *given = given->to(where.device());
    output = hybrid_contrastive_loss(inputs, options);
    output.total.backward();
    gradients = {inputs.image.grad(), inputs.text.grad(), inputs.class_prompts.grad(), inputs.logit_scale.grad()};
    if (options.contrastive_form == ContrastiveForm::kSigmoid) gradients.push_back(inputs.logit_bias.grad());
  }

  bool tiled() const { return output.clip.grad_fn()->name().find("TiledContrastive") != std::string::npos; }
};

/// In numbers that bfloat16 holds.
HybridLossInputs device_problem(std::int64_t items) {
  HybridLossInputs inputs;
  inputs.image = random_tensor({items, 6}, 1);
  inputs.text = 0.5 * inputs.image + random_tensor({items, 6}, 2);
  inputs.class_prompts = random_tensor({3, 6}, 3);
  for (at::Tensor* rows : {&inputs.image, &inputs.text, &inputs.class_prompts})
    *rows = rows->to(at::kBFloat16).to(at::kDouble);
  inputs.labels = (random_tensor({items, 3}, 4) > 0.3).to(at::kLong);
  inputs.logit_scale = at::tensor({3.0}, at::kDouble), inputs.logit_bias = at::tensor({-4.0}, at::kDouble);
  return inputs;
}

}  // namespace

TEST_CASE("the CPU takes tiles from 1024 items on, and whole matrices below", "[loss][tiled]") {
  for (const std::int64_t items : {1023, 1024}) {
    const LossOnDevice loss(device_problem(items), options_for(0.7), Execution::kAuto,
                            at::TensorOptions(at::kFloat).device(at::kCPU));
    CHECK(loss.tiled() == (items == 1024));
  }
}

TEST_CASE("the loss on a device is that of whole matrices on the CPU, in tiles where these would take more", "[gpu]") {
  if (no_device()) return;
  for (const std::int64_t items : {300, 2500})  // six matrices of 2500 x 2500 are more than eight tiles of 2048 x 2048
    for (const auto form : {ContrastiveForm::kSoftmax, ContrastiveForm::kSigmoid})
      for (const auto pairs : {LabelPairs::kNegatives, LabelPairs::kIgnored, LabelPairs::kPositives, LabelPairs::kSoft})
        for (const bool masked : {false, true}) {
          HybridLossInputs inputs = device_problem(items);
          if (masked) inputs.text_mask = random_tensor({items}, 5) > -1;
          if (masked && pairs != LabelPairs::kPositives) inputs.study = at::arange(items, at::kLong).div(3, "floor");
          HybridLossOptions options = options_for(0.7);
          options.contrastive_form = form, options.label_pairs = pairs;
          const LossOnDevice whole(inputs, options, Execution::kReference,
                                   at::TensorOptions(at::kDouble).device(at::kCPU));
          for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{
                   {at::kDouble, 1e-10}, {at::kFloat, 1e-4}, {at::kBFloat16, 2e-2}}) {
            INFO(items << " items, form " << static_cast<int>(form) << " pairs " << static_cast<int>(pairs)
                       << " masked " << masked << " " << type);
            const LossOnDevice there(inputs, options, Execution::kAuto,
                                     at::TensorOptions(type).device(at::Device(at::kCUDA, 0)));
            CHECK(there.tiled() == (items == 2500));
            CHECK(value(there.output.total) == Approx(value(whole.output.total)).epsilon(tolerance));
            for (std::size_t i = 0; i < whole.gradients.size(); ++i) {
              INFO("gradient " << i);
              const at::Tensor expected = whole.gradients[i],
                               actual = there.gradients[i].to(expected.options(), /*non_blocking=*/false);
              const double size = value(expected.abs().max());  // single numbers may come to next to nothing
              CHECK(value((actual - expected).abs().max()) <= tolerance * (expected.numel() == 1 ? 1 + size : size));
            }
          }
        }
}
