#pragma once
// Trainings of a regression, and what is asked of them.

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daug/train/trainer.h"
#include "support/tensor.h"
#include "translator/toys.h"

namespace daug::test {

/// y = x W^T + b with a matrix, which is decayed, and a vector, which is not.
struct Regression : torch::nn::Module {
  explicit Regression(at::ScalarType type = at::kDouble, std::int64_t inputs = 3) {
    weight = register_parameter("weight", random_tensor({1, inputs}, 1).to(type));
    bias = register_parameter("bias", random_tensor({1}, 2).to(type));
  }
  at::Tensor error(const at::Tensor& x, const at::Tensor& y) const {
    return (at::linear(x, weight, bias) - y).square().mean();
  }
  at::Tensor weight, bias;
};

inline std::vector<std::shared_ptr<torch::nn::Module>> modules(
    const std::vector<std::shared_ptr<Regression>>& replicas) {
  return {replicas.begin(), replicas.end()};
}

inline std::vector<std::shared_ptr<Regression>> regressions(std::size_t count, at::ScalarType type = at::kDouble) {
  std::vector<std::shared_ptr<Regression>> replicas;
  for (std::size_t i = 0; i < count; ++i) replicas.push_back(std::make_shared<Regression>(type));
  return replicas;
}

/// A batch of 8 for each step, split over the workers.
struct RegressionProblem {
  at::Tensor x = random_tensor({64, 3}, 5), y = random_tensor({64, 1}, 6);

  StepLoss loss(std::vector<std::shared_ptr<Regression>> replicas) const {
    const auto type = replicas[0]->weight.scalar_type();
    return [replicas, x = x.to(type), y = y.to(type)](std::size_t worker, std::int64_t step) {
      const auto share = static_cast<std::int64_t>(8 / replicas.size());
      const std::int64_t first = step * 8 % 64 + static_cast<std::int64_t>(worker) * share;
      return replicas[worker]->error(x.narrow(0, first, share), y.narrow(0, first, share));
    };
  }
};

inline TrainerOptions rich_options(std::int64_t steps) {
  TrainerOptions options;
  options.steps = steps;
  options.learning_rate = 0.05;
  options.warmup_steps = 4;
  options.final_rate = 0.1;
  options.weight_decay = 0.3;
  options.beta1 = 0.8;
  options.beta2 = 0.95;
  options.epsilon = 1e-6;
  return options;
}

inline std::vector<at::Tensor> weights_of(torch::nn::Module& module) {
  std::vector<at::Tensor> weights;
  for (const auto& parameter : module.parameters()) weights.push_back(parameter.detach().clone());
  return weights;
}

inline bool same_weights(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

}  // namespace daug::test
