#include "daug/translator/noise_aware_classifier.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "daug/io/weights.h"
#include "daug/translator/guidance.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "support/tensor.h"
#include "translator/golden_networks.h"
#include "translator/tiny_networks.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("every pooling head gives one logit a finding and follows its input", "[noise_aware_classifier]") {
  for (const char* pool : {"adaptive", "attention", "spatial", "spatial_v2"}) {
    INFO(pool);
    auto options = tiny_classifier_options(classifier_pool(pool));
    NoiseAwareClassifier network(options);
    randomise(*network, 3, 0.1);
    network->to(at::kDouble);
    const at::Tensor x = random_tensor({3, 1, 8, 8}, 1), t = longs({0, 3, 800});
    const at::Tensor logits = network->forward(x, t);
    REQUIRE(logits.sizes() == at::IntArrayRef({3, 3}));
    CHECK(largest_difference(network->forward(x.narrow(0, 1, 1), longs({3})), logits.narrow(0, 1, 1)) < 1e-12);
    CHECK(largest_difference(network->forward(x, longs({500, 500, 500})), logits) > 1e-6);
    x.requires_grad_(true);
    check_gradients([&] { return (network->forward(x, t) * logits.detach()).sum(); }, {x}, 6);

    CHECK_THROWS_AS(network->forward(x[0], t), Error);
    CHECK_THROWS_AS(network->forward(at::cat({x, x}, 1), t), Error);
    CHECK_THROWS_AS(network->forward(x, longs({1})), Error);
    CHECK_THROWS_AS(network->forward(x.to(at::kFloat), t), Error);
  }
  CHECK_THROWS_AS(classifier_pool("max"), Error);
  auto options = tiny_classifier_options(ClassifierPool::kAttention);
  NoiseAwareClassifier square(options);
  CHECK_THROWS_AS(square->forward(at::zeros({1, 1, 16, 16}), longs({1})), Error);  // its positions are for 8 pixels
  options.num_head_channels = -1;
  CHECK_THROWS_AS(NoiseAwareClassifier(options), Error);
  options.num_head_channels = 32;  // wider than the network
  options.attention_downsample = {};
  CHECK_THROWS_AS(NoiseAwareClassifier(options), Error);
}

TEST_CASE("a classifier takes images of any size that its levels leave something of, in its parameters' precision",
          "[noise_aware_classifier]") {
  for (const char* pool : {"adaptive", "spatial", "spatial_v2"})
    for (const bool updown : {true, false}) {
      INFO(pool << " " << updown);
      auto options = tiny_classifier_options(classifier_pool(pool));
      options.resblock_updown = updown;
      NoiseAwareClassifier network(options);
      randomise(*network, 3, 0.1);
      for (const auto type : {at::kFloat, at::kDouble}) {
        network->to(type);
        const at::Tensor x = random_tensor({2, 1, 7, 11}, 1).to(type), t = longs({3, 800});
        const at::Tensor logits = network->forward(x, t);
        CHECK(logits.sizes() == at::IntArrayRef({2, 3}));
        CHECK(logits.scalar_type() == type);
        CHECK(logits.isfinite().all().item<bool>());
        CHECK(at::equal(network->forward(x, t), logits));
        CHECK(network->forward(x.narrow(2, 0, 2), t).isfinite().all().item<bool>());
        for (const auto& [side, size] : {std::pair{2, 1}, std::pair{3, 1}, std::pair{2, 0}})
          check_refused(ErrorCode::kInvalidArgument, "NoiseAwareClassifier::forward: x: expected at least 2 pixels",
                        [&, side = side, size = size] { network->forward(x.narrow(side, 0, size), t); });
      }
    }
  auto odd = tiny_classifier_options(ClassifierPool::kAdaptive);
  odd.image_size = 9;
  CHECK_THROWS_AS(NoiseAwareClassifier(odd), Error);
}

TEST_CASE("golden: classifier logits and gradients", "[noise_aware_classifier][golden]") {
  for_each_golden("classifier_", [](const GoldenSet& set) {
    const auto& tolerance = set.settings.at("tolerance");
    const at::Tensor target = tensor_from(set.at("target")), timesteps = tensor_from(set.at("t"));
    double worst = 0;
    for (const bool twice : {false, true}) {
      const auto type = twice ? at::kDouble : at::kFloat;
      const std::string suffix = twice ? "_f64" : "";
      const double largest_logits = twice ? kFloat64Tolerance : tolerance.at("logits").get<double>();
      const double largest_gradient = twice ? kFloat64Tolerance : tolerance.at("gradients").get<double>();
      auto network = golden_classifier(set, type);
      const at::Tensor x = to_tensor(set.at("x")).to(type).requires_grad_(true);
      const auto check_gradient = [&](const std::string& name, const at::Tensor& gradient) {
        worst = std::max(worst, check_close(gradient, set.at(name + suffix), largest_gradient, name + suffix));
      };

      const at::Tensor logits = network->forward(x, timesteps);
      worst = std::max(worst, check_close(logits, set.at("logits" + suffix), largest_logits, "logits" + suffix));
      at::log_softmax(logits, 1).gather(1, target.unsqueeze(1)).sum().backward();
      check_gradient("grad_log_softmax", x.grad());

      // Both gradients through the guidance interface, whose level is shared by a batch.
      for (const auto head : {GuidanceHead::kSigmoid, GuidanceHead::kSoftmax}) {
        const char* const name = head == GuidanceHead::kSigmoid ? "grad_logsigmoid" : "grad_log_softmax";
        // By the network alone between two levels, and for a softmax of one logit, which pulls nowhere.
        if (timesteps.scalar_type() != at::kLong || (head == GuidanceHead::kSoftmax && logits.size(1) == 1)) {
          const at::Tensor leaf = x.detach().clone().requires_grad_(true);
          const at::Tensor found = network->forward(leaf, timesteps);
          const at::Tensor all = head == GuidanceHead::kSigmoid ? at::log_sigmoid(found) : at::log_softmax(found, 1);
          all.gather(1, target.unsqueeze(1)).sum().backward();
          check_gradient(name, leaf.grad());
          continue;
        }
        const auto steps = std::max<std::int64_t>(1000, timesteps.max().item<std::int64_t>() + 1);
        const auto guide = make_guidance_classifier(network, NoiseSchedule::linear(steps), head);
        std::vector<at::Tensor> gradients;
        for (std::int64_t i = 0; i < x.size(0); ++i) {
          at::Tensor condition = at::zeros({1, logits.size(1)});
          condition[0][target[i].item<std::int64_t>()] = 1;
          const std::int64_t level = timesteps[i].item<std::int64_t>() + 1;
          gradients.push_back(guide->gradient(x.detach().narrow(0, i, 1), level, condition));
        }
        check_gradient(name, at::cat(gradients));
      }
      if (!twice || !set.file.contains("param_grad_norm")) continue;
      network->zero_grad();
      at::cross_entropy_loss(network->forward(x, timesteps), target).backward();
      check_gradient_norms(*network, set);
    }
    check_outputs_read(set);
    return worst;
  });
}
