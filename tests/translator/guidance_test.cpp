#include "daug/translator/guidance.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backend/fitting_rows.h"
#include "daug/data/labels.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/full_device.h"
#include "support/memory_count.h"
#include "support/tensor.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("targets become ternary conditions", "[guidance]") {
  using States = std::vector<float>;
  const std::vector<std::string> findings = {"Edema", "Nodule", "Device"};
  CHECK(target_condition(toward("Nodule"), findings) == States{0, 1, 0});
  CHECK(target_condition(away_from("Nodule"), findings) == States{0, -1, 0});
  CHECK(target_condition(toward("Device"), findings, true) == States{0, 0, -1});
  CHECK(target_condition(away_from("Device"), findings, true) == States{0, 0, 1});
  CHECK(target_condition(toward(kNoFinding), findings) == States{-1, -1, -1});
  CHECK(target_condition(toward(kNoFinding), findings, true) == States{1, 1, 1});
  CHECK(target_condition(away_from(kNoFinding), findings) == States{1, 1, 1});
  const Error error = caught([&] { target_condition(toward("Fracture"), findings); });
  CHECK(error.code() == ErrorCode::kNotFound);
  for (const char* name : {"No Finding", "Edema", "Nodule", "Device", "Fracture"}) CHECK(mentions(error, name));

  const FindingGroup group{"opacity", {"Device", "Edema"}};
  CHECK(target_condition(toward(group), findings) == States{1, 0, 1});
  CHECK(target_condition(away_from(group), findings) == States{-1, 0, -1});
  CHECK(target_condition(away_from(group), findings, true) == States{1, 0, 1});
  const Error no_member = caught([&] {
    target_condition(toward(FindingGroup{"bone", {"Edema", "Fracture"}}), findings);
  });
  CHECK(no_member.code() == ErrorCode::kNotFound);
  for (const char* name : {"bone", "Fracture", "Nodule"}) CHECK(mentions(no_member, name));
}

TEST_CASE("guidance is the gradient of the log-likelihood of the target states", "[guidance]") {
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAttention));
  randomise(*network, 21, 0.3);
  network->to(at::kDouble);
  const auto schedule = NoiseSchedule::linear(1000);
  const auto head = GENERATE(GuidanceHead::kSigmoid, GuidanceHead::kSoftmax);
  const auto guide = make_guidance_classifier(network, schedule, head);
  const std::int64_t level = 137;
  const at::Tensor condition = rows({{1, 0, 0}, {0, -1, 0}, {1, -1, 1}, {0, 0, 0}});
  const at::Tensor x = random_tensor({4, 1, 8, 8}, 14);
  const at::Tensor gradient = guide->gradient(x, level, condition);
  REQUIRE(gradient.sizes() == x.sizes());
  CHECK(gradient[3].abs().max().item<double>() == 0);

  const auto log_likelihood = [&](const at::Tensor& image) {
    at::NoGradGuard no_grad;
    const at::Tensor logits = network->forward(image, at::full({4}, level - 1, at::kLong));
    double sum = 0;
    for (int i = 0; i < 4; ++i)
      for (int f = 0; f < 3; ++f) {
        const double e = std::exp(logits[i][f].item<double>()), state = condition[i][f].item<double>();
        const double p = e / (head == GuidanceHead::kSigmoid ? 1 + e : logits[i].exp().sum().item<double>());
        if (state > 0) sum += std::log(p);
        if (state < 0) sum += std::log(1 - p);
      }
    return sum;
  };
  constexpr double kStep = 1e-5;
  for (int i = 0; i < 3; ++i)
    for (const int pixel : {0, 19, 42, 63}) {
      at::Tensor up = x.clone(), down = x.clone();
      up[i].view({-1})[pixel].add_(kStep);
      down[i].view({-1})[pixel].sub_(kStep);
      const double numeric = (log_likelihood(up) - log_likelihood(down)) / (2 * kStep);
      const double analytic = gradient[i].view({-1})[pixel].item<double>();
      CHECK(std::abs(numeric - analytic) <= 1e-7 * (1 + std::abs(numeric)));
    }
  // One signed state, both signs: log p and log(1 - p) pull in opposite directions.
  CHECK((guide->gradient(x, level, at::eye(3, at::kDouble)[0].expand({4, 3})) *
         guide->gradient(x, level, -at::eye(3, at::kDouble)[0].expand({4, 3})))
            .sum()
            .item<double>() < 0);

  // Callers without gradients, and in inference mode, get the same.
  at::Tensor inside;
  {
    c10::InferenceMode inference;
    inside = guide->gradient(x.clone(), level, condition.clone()).clone();
  }
  CHECK(same_bits(inside.clone(), gradient));

  CHECK(guide->num_findings() == 3);
  auto one_logit = tiny_classifier_options(ClassifierPool::kAttention);
  one_logit.out_channels = 1;
  const auto narrow = make_guidance_classifier(NoiseAwareClassifier(one_logit), schedule);
  const at::Tensor small = x.to(at::kFloat);
  for (const auto& [asked, of] : std::vector<std::pair<decltype(guide), at::Tensor>>{
           {guide, condition.narrow(1, 0, 1)}, {guide, condition.narrow(0, 0, 1)}, {guide, {}}, {narrow, condition}})
    CHECK(caught([&, asked = asked, of = of] { asked->gradient(asked == guide ? x : small, level, of); }).code() ==
          ErrorCode::kMismatch);
}

TEST_CASE("guidance in half precision neither vanishes nor overflows", "[guidance]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::int64_t level = 300;
  // One classifier, rounded to float16, in float64 and in float16. Sure of finding 0 (logit near 18), its likelihood's
  // slope is e^-18 = 1.5e-8, less than half of float16's least number.
  NoiseAwareClassifier exact(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*exact, 4, 0.3);
  {
    at::NoGradGuard no_grad;
    exact->named_parameters()["out.3.bias"][0].fill_(18);
    exact->to(at::kHalf);
  }
  NoiseAwareClassifier half(tiny_classifier_options(ClassifierPool::kAdaptive));
  half->to(at::kHalf);
  {
    at::NoGradGuard no_grad;
    const auto from = exact->parameters(), to = half->parameters();
    for (std::size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
  }
  exact->to(at::kDouble);
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 5).to(at::kHalf),
                   condition = at::tensor({1.F, 0.F, 0.F}).repeat({2, 1});

  const at::Tensor input = x.clone().requires_grad_(true);
  const at::Tensor logits = half->forward(input, longs({level - 1, level - 1}));
  CHECK(logits.scalar_type() == at::kHalf);
  at::log_sigmoid(logits.select(1, 0).to(at::kFloat)).sum().backward();
  CHECK(input.grad().abs().max().item<double>() == 0);  // what guidance would be without the scale

  const at::Tensor expected = make_guidance_classifier(exact, schedule)->gradient(x.to(at::kDouble), level, condition);
  const at::Tensor scaled = make_guidance_classifier(half, schedule)->gradient(x, level, condition);
  CHECK(scaled.scalar_type() == at::kFloat);
  CHECK(expected.abs().max().item<double>() > 0);
  // Its size goes with exp(-logit): what float16's rounding adds up to in a logit of 18, a quarter, is a quarter of it.
  const double along = (scaled * expected).sum().item<double>(), size = expected.norm().item<double>();
  CHECK(along / (scaled.norm().item<double>() * size) > 0.9);
  CHECK(scaled.norm().item<double>() / size == Approx(1).margin(0.35));
  // Unsure, the same network has gradients that a scale of 65,536 would take beyond float16's largest number.
  {
    at::NoGradGuard no_grad;
    for (auto network : {exact, half}) network->named_parameters()["out.3.bias"].zero_();
    for (auto network : {exact, half}) network->named_parameters()["out.3.weight"].mul_(20);
  }
  const at::Tensor steep = make_guidance_classifier(exact, schedule)->gradient(x.to(at::kDouble), level, -condition);
  CHECK(largest_difference(make_guidance_classifier(half, schedule)->gradient(x, level, -condition), steep) <
        0.05 * steep.abs().max().item<double>());
}

TEST_CASE("guidance in half precision does not depend on the batch", "[guidance]") {
  // Of finding 0 the network is wildly unsure, so that only a small scale keeps its gradients from overflowing; on that
  // scale nothing would be left of those of finding 1, of which it is sure (slope e^-18).
  NoiseAwareClassifier network(tiny_classifier_options(ClassifierPool::kAdaptive));
  randomise(*network, 4, 0.3);
  {
    at::NoGradGuard no_grad;
    network->named_parameters()["out.3.weight"][0].mul_(500);
    network->named_parameters()["out.3.bias"][1].fill_(18);
  }
  network->to(at::kHalf);
  const std::int64_t level = 300;
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 5).to(at::kHalf);
  at::Tensor condition = at::zeros({2, 3});
  {
    at::NoGradGuard no_grad;
    const at::Tensor logits = network->forward(x, longs({level - 1, level - 1}));
    condition[0][0] = logits[0][0].item<double>() > 0 ? -1.0 : 1.0;  // what it thinks wrong: a slope of 1
  }
  condition[1][1] = 1.0;
  const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(1000));
  const at::Tensor both = guide->gradient(x, level, condition);
  CHECK(both.isfinite().all().item<bool>());
  for (std::int64_t i = 0; i < 2; ++i) {
    const at::Tensor alone = guide->gradient(x.narrow(0, i, 1), level, condition.narrow(0, i, 1))[0];
    const double size = alone.abs().max().item<double>();
    CHECK(size > 0);
    CHECK(largest_difference(both[i], alone) <= 0.05 * size);
  }
  CHECK(both[0].abs().max().item<double>() > 1e6 * both[1].abs().max().item<double>());
}

TEST_CASE("gradient_bytes bounds what a gradient of the classifier holds, and not loosely", "[guidance]") {
  // The head and the levels add up: each head and each stack of levels twice, not each with each.
  const std::vector<std::pair<ClassifierPool, std::vector<double>>> networks = {
      {ClassifierPool::kAttention, {1, 2}},
      {ClassifierPool::kAttention, {1, 1, 2, 3}},
      {ClassifierPool::kAdaptive, {2}},
      {ClassifierPool::kSpatialV2, {1, 2}}};
  for (const bool updown : {false, true})
    for (const auto& [pool, mult] : networks) {
      NoiseAwareClassifierOptions options;
      options.image_size = 32, options.model_channels = 32, options.channel_mult = mult, options.pool = pool;
      options.num_res_blocks = 1 + static_cast<std::int64_t>(mult.size()) % 2, options.norm_groups = 8;
      options.attention_downsample = {2}, options.num_head_channels = 32, options.out_channels = 3;
      options.resblock_updown = updown, options.use_scale_shift_norm = updown;
      const NoiseAwareClassifier network(options);
      const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(1000));
      const auto held = [&](std::int64_t batch) {
        const at::Tensor x = at::zeros({batch, 1, 32, 32}), condition = at::ones({batch, 3});
        guide->gradient(x, 100, condition);  // what LibTorch makes once
        MemoryCount count;
        guide->gradient(x, 100, condition);
        return static_cast<double>(count.peak());
      };
      const double each = (held(6) - held(2)) / 4, bound = static_cast<double>(guide->bytes_per_item(32, 32));
      INFO("levels " << mult.size() << " pool " << static_cast<int>(pool) << " updown " << updown << ": " << each
                     << " of " << bound);
      CHECK(each <= bound);
      CHECK(each >= 0.5 * bound);
    }
}

TEST_CASE("a guide's gradients are halved on a device that others have left little of", "[guidance][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  constexpr std::int64_t kImages = 512;  // features of the first level alone take 17 MB each time
  auto options = tiny_classifier_options(ClassifierPool::kAdaptive, Execution::kReference);
  options.image_size = 32;
  NoiseAwareClassifier network(options);
  randomise(*network, 21, 0.3);
  network->to(device, at::kFloat);
  const auto schedule = NoiseSchedule::linear(1000);
  const at::Tensor x = random_tensor({kImages, 1, 32, 32}, 14).to(device, at::kFloat);
  const auto answer = [&](std::int64_t images) {  // by a guide of its own: one that was short of memory stays so
    return make_guidance_classifier(network, schedule, GuidanceHead::kSigmoid, {}, NetworkPrecision::kFull,
                                    Execution::kReference)
        ->gradient(x.narrow(0, 0, images), 137, at::ones({images, 3}))
        .cpu();
  };
  // What libraries and kernels of all sizes of batches take for themselves.
  for (std::int64_t images = 1; images < kImages; images *= 2) (void)answer(images);
  const at::Tensor expected = answer(kImages);
  const FullDevice full(std::int64_t{48} << 20);
  backend::told_of_halving() = false;
  constexpr double kOtherKernels = 1e-2;  // smaller batches may get others, which round to TF32 or do not
  CHECK(largest_difference(answer(kImages), expected) <= kOtherKernels * expected.abs().max().item<double>());
  CHECK(backend::told_of_halving());
}
