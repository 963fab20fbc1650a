#pragma once
// Tensors in tests: from golden arrays, from reproducible random numbers, and the finite-difference check.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "daug/io/safetensors.h"
#include "support/catch.h"

namespace daug::test {

/// float64 copy of a golden array; `.to()` it to what the case computes in.
inline at::Tensor to_tensor(const Array& array) {
  const std::vector<double> values = array.to_double();
  return at::tensor(values, at::kDouble).reshape(array.shape);
}

/// Row-major values of a tensor of any dtype.
inline std::vector<double> to_doubles(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

/// Standard normal float64 tensor; the same for the same seed everywhere.
inline at::Tensor random_tensor(std::vector<std::int64_t> shape, std::uint64_t seed) {
  RandomStream stream(seed, 0, "test tensor");
  const at::Tensor tensor = at::empty(shape, at::kDouble);
  std::generate_n(tensor.data_ptr<double>(), tensor.numel(), [&] { return stream.normal(); });
  return tensor;
}

/// The same in float32.
inline at::Tensor float_tensor(std::vector<std::int64_t> shape, std::uint64_t seed) {
  return random_tensor(std::move(shape), seed).to(at::kFloat);
}

/// Whether two tensors of a type agree in every bit: at::equal takes -0 for 0 and no NaN for itself.
inline bool identical(const at::Tensor& a, const at::Tensor& b) {
  const auto bytes = [](const at::Tensor& tensor) {
    return tensor.detach().contiguous().reshape({-1}).view(at::kByte);
  };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && at::equal(bytes(a), bytes(b));
}

/// Checks the autograd gradient of `loss` (float64 scalar) to each leaf against central differences, at up to
/// `samples` elements of each: |difference| <= tolerance * (1 + |gradient|).
inline void check_gradients(const std::function<at::Tensor()>& loss, const std::vector<at::Tensor>& leaves,
                            int samples = 12, double tolerance = 1e-6) {
  for (const at::Tensor& leaf : leaves) leaf.mutable_grad() = at::Tensor();
  loss().backward();
  RandomStream stream(7, 0, "gradient check");
  constexpr double kStep = 1e-5;
  for (std::size_t index = 0; index < leaves.size(); ++index) {
    const at::Tensor& leaf = leaves[index];
    REQUIRE(leaf.scalar_type() == at::kDouble);
    const at::Tensor gradient =
        leaf.grad().defined() ? leaf.grad().reshape({-1}) : at::zeros({leaf.numel()}, at::kDouble);
    const at::Tensor values = leaf.detach().view({-1});
    const bool all = leaf.numel() <= samples;
    for (int i = 0; i < (all ? leaf.numel() : samples); ++i) {
      const std::int64_t element = all ? i : stream.below(static_cast<std::uint32_t>(leaf.numel()));
      const double value = values[element].item<double>();
      const auto loss_at = [&](double shifted) {
        values[element].fill_(shifted);
        return loss().item<double>();
      };
      const double numeric = (loss_at(value + kStep) - loss_at(value - kStep)) / (2 * kStep);
      values[element].fill_(value);
      const double analytic = gradient[element].item<double>();
      INFO("leaf " << index << " element " << element);
      CHECK(std::abs(analytic - numeric) <= tolerance * (1 + std::abs(numeric)));
    }
  }
}

}  // namespace daug::test
