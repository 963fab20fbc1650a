#include "backend/fused_ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "backend/threads.h"
#include "daug/core/error.h"
#include "support/catch.h"
#include "support/tensor.h"
#include "train/autocast.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).abs() / (1 + b.to(at::kDouble).abs())).max().item<double>();
}

GroupNormExtras wide(const GroupNormExtras& extras) {
  const auto to_double = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kDouble) : tensor; };
  return {to_double(extras.offset), to_double(extras.scale), to_double(extras.shift), extras.silu};
}

}  // namespace

TEST_CASE("the fused group norm agrees with LibTorch's operators in float64, in both layouts", "[backend]") {
  const at::Tensor weight = float_tensor({24}, 1), bias = float_tensor({24}, 2),
                   embedding = float_tensor({3, 48, 1, 1}, 3);
  const auto parts = embedding.chunk(2, 1);  // as a residual block gets them: rows with a stride
  std::vector<GroupNormExtras> cases(3);
  cases[0].silu = false;
  cases[1].offset = parts[0];
  cases[2].scale = parts[0], cases[2].shift = parts[1];
  for (const GroupNormExtras& extras : cases)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor x = float_tensor({3, 24, 9, 7}, 4).contiguous(format);
      const at::Tensor fused = group_norm_silu(x, 8, weight, bias, 1e-5, extras, Execution::kFused);
      CHECK(fused.is_contiguous(format));
      const at::Tensor reference = group_norm_silu(x.to(at::kDouble), 8, weight.to(at::kDouble), bias.to(at::kDouble),
                                                   1e-5, wide(extras), Execution::kReference);
      CHECK(difference(fused, reference) < 1e-5);
      CHECK(at::equal(fused, group_norm_silu(x, 8, weight, bias, 1e-5, extras)));
      GroupNormExtras given_up = extras;
      given_up.in_place = true;
      const at::Tensor copy = x.clone();
      CHECK(at::equal(fused, group_norm_silu(copy, 8, weight, bias, 1e-5, given_up, Execution::kFused)));
      CHECK(at::equal(fused, copy));
    }
  // Three dimensions, as attention has them, no affine part, an empty batch.
  const at::Tensor flat = float_tensor({2, 6, 11}, 5);
  CHECK(difference(group_norm_silu(flat, 3, {}, {}, 1e-3, {}, Execution::kFused),
                   group_norm_silu(flat.to(at::kDouble), 3, {}, {}, 1e-3)) < 1e-5);
  CHECK(group_norm_silu(float_tensor({0, 6, 4, 4}, 5), 3, {}, {}).sizes() == at::IntArrayRef({0, 6, 4, 4}));
  const at::Tensor none = float_tensor({0, 6, 4, 4}, 5).contiguous(at::MemoryFormat::ChannelsLast);
  CHECK(group_norm_silu(none, 3, {}, {}, 1e-5, {}, Execution::kFused).is_contiguous(at::MemoryFormat::ChannelsLast));
  CHECK(solver_update(none, {none}, {}, Execution::kFused).is_contiguous(at::MemoryFormat::ChannelsLast));
}

TEST_CASE("what the fused kernels cannot take goes to LibTorch's operators, or is refused", "[backend]") {
  const at::Tensor weight = float_tensor({8}, 1).requires_grad_(true), bias = float_tensor({8}, 2);
  const at::Tensor x = float_tensor({2, 8, 5, 5}, 3);
  const at::Tensor y = group_norm_silu(x, 2, weight, bias);
  CHECK(y.requires_grad());
  y.sum().backward();
  CHECK(weight.grad().defined());
  {
    at::NoGradGuard no_grad;
    CHECK_FALSE(group_norm_silu(x, 2, weight, bias, 1e-5, {}, Execution::kFused).requires_grad());
  }
  const at::Tensor gaps = float_tensor({2, 8, 5, 10}, 3).slice(3, 0, 10, 2);
  CHECK(difference(group_norm_silu(gaps, 2, {}, bias), group_norm_silu(gaps.contiguous(), 2, {}, bias)) < 1e-5);
  for (const at::Tensor& refused : {gaps, x.to(at::kDouble)})
    CHECK_THROWS_WITH(group_norm_silu(refused, 2, {}, {}, 1e-5, {}, Execution::kFused), contains_text("kFused"));
  CHECK(group_norm_silu(x, 2, weight, bias, 1e-5, {}, Execution::kFused).requires_grad());
  const at::Tensor recorded = float_tensor({2, 8, 5, 5}, 3).requires_grad_(true);
  CHECK_THROWS_WITH(solver_update(recorded, {x}, {}, Execution::kFused), contains_text("kFused"));
  CHECK_THROWS_AS(group_norm_silu(x, 3, {}, {}), Error);
  CHECK_THROWS_AS(group_norm_silu(x, 2, float_tensor({4}, 1), {}), Error);
  GroupNormExtras half;
  half.scale = float_tensor({2, 8}, 1);
  CHECK_THROWS_AS(group_norm_silu(x, 2, {}, {}, 1e-5, half), Error);
  half.shift = float_tensor({2, 4}, 1);
  CHECK_THROWS_AS(group_norm_silu(x, 2, {}, {}, 1e-5, half), Error);
  CHECK_THROWS_AS(solver_update(x, {float_tensor({2, 8, 5, 4}, 1)}, {}), Error);
}

namespace {

/// A group norm as a residual block trains it: [3, 24, 9, 7] in 8 groups, modulated by rows with a stride.
struct TrainedNorm {
  at::ScalarType type = at::kFloat;
  Execution execution = Execution::kFused;
  at::MemoryFormat format = at::MemoryFormat::ChannelsLast;
  unsigned parts = 7;  ///< bits: weight and bias; an offset; scale and shift; in place; without SiLU

  /// Leaves; undefined ones are left out.
  at::Tensor x = {}, weight = {}, bias = {}, offset = {}, embedding = {};

  TrainedNorm& made() {
    const auto leaf = [&](std::vector<std::int64_t> shape, std::uint64_t seed) {
      return float_tensor(std::move(shape), seed).to(type).requires_grad_(true);
    };
    x = float_tensor({3, 24, 9, 7}, 4).to(type).contiguous(format).requires_grad_(true);
    if (parts & 1) weight = leaf({24}, 1), bias = leaf({24}, 2);
    if (parts & 2) offset = leaf({3, 24, 1, 1}, 3);
    if (parts & 4) embedding = leaf({3, 48}, 5);
    return *this;
  }
  at::Tensor forward() const {
    GroupNormExtras extras;
    extras.offset = offset, extras.in_place = parts & 8, extras.silu = !(parts & 16);
    if (embedding.defined()) {
      const auto halves = embedding.chunk(2, 1);
      extras.scale = halves[0], extras.shift = halves[1];
    }
    return group_norm_silu(x, 8, weight, bias, 1e-5, extras, execution);
  }
  /// What gets a gradient.
  std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> result;
    for (const at::Tensor& tensor : {x, weight, bias, offset, embedding})
      if (tensor.defined() && tensor.requires_grad()) result.push_back(tensor);
    return result;
  }
  std::vector<at::Tensor> gradients(const at::Tensor& upstream, bool create_graph = false) const {
    return torch::autograd::grad({forward()}, leaves(), {upstream.to(type)}, create_graph, create_graph);
  }
};

void check_agreement(const std::vector<at::Tensor>& actual, const std::vector<at::Tensor>& exact, double tolerance) {
  REQUIRE(actual.size() == exact.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    INFO("gradient " << i);
    REQUIRE(actual[i].sizes() == exact[i].sizes());
    CHECK(exact[i].abs().max().item<double>() > 0.1);
    CHECK(difference(actual[i], exact[i]) < tolerance);
  }
}

}  // namespace

TEST_CASE("the fused group norm's gradient agrees with the operators' in float64", "[backend]") {
  const at::Tensor dy = float_tensor({3, 24, 9, 7}, 6), one_for_all = at::full({1}, 0.5).expand({3, 24, 9, 7});
  for (const unsigned parts : {0U, 1U, 2U, 4U, 7U, 15U, 23U})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      INFO("parts " << parts << " " << format);
      const TrainedNorm exact = TrainedNorm{at::kDouble, Execution::kReference, format, parts}.made();
      const TrainedNorm fused = TrainedNorm{at::kFloat, Execution::kFused, format, parts}.made();
      const at::Tensor before = fused.x.detach().clone(), y = fused.forward();
      CHECK(y.requires_grad());
      CHECK(y.is_contiguous(format));
      CHECK(at::equal(fused.x, before));  // which the backward pass wants again, whatever `in_place` says
      {
        const at::NoGradGuard no_grad;
        TrainedNorm apart = fused;
        apart.parts &= ~8U;
        CHECK(at::equal(apart.forward(), y));
      }
      // As whatever comes next hands them back: in either layout, or one number for all.
      const auto expected = exact.gradients(dy);
      for (const auto laid : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
        check_agreement(fused.gradients(dy.contiguous(laid)), expected, 1e-4);
      const at::Tensor marked = at::_neg_view(dy.contiguous(format).neg());  // a mark in place of a changed sign
      check_agreement(fused.gradients(marked), expected, 1e-4);
      check_agreement(fused.gradients(one_for_all), exact.gradients(one_for_all), 1e-4);
      CHECK(fused.gradients(dy)[0].is_contiguous(format));
      TrainedNorm chosen = fused;
      chosen.execution = Execution::kAuto;
      const auto once = fused.gradients(dy), automatic = chosen.gradients(dy);
      for (std::size_t i = 0; i < once.size(); ++i) CHECK(at::equal(once[i], automatic[i]));
    }
  // As attention has them, and no sample.
  const at::Tensor flat = float_tensor({2, 6, 11}, 5).requires_grad_(true), none = float_tensor({0, 6, 4, 4}, 5);
  const at::Tensor wide_flat = flat.detach().to(at::kDouble).requires_grad_(true);
  group_norm_silu(flat, 3, {}, {}, 1e-3, {}, Execution::kFused).square().sum().backward();
  group_norm_silu(wide_flat, 3, {}, {}, 1e-3).square().sum().backward();
  CHECK(difference(flat.grad(), wide_flat.grad()) < 2e-5);
  const at::Tensor weight = float_tensor({6}, 1).requires_grad_(true);
  group_norm_silu(none, 3, weight, {}, 1e-5, {}, Execution::kFused).sum().backward();
  CHECK(at::equal(weight.grad(), at::zeros({6})));
}

TEST_CASE("the fused group norm gives gradients to what asks for them alone", "[backend]") {
  const at::Tensor dy = float_tensor({3, 24, 9, 7}, 6);
  // Bits: which of x, weight, bias, offset and embedding are frozen.
  for (const unsigned frozen : {1U, 2U, 4U, 6U, 8U, 16U, 25U, 30U}) {
    // LibTorch's operator crashes where x is frozen and its channels lie last.
    TrainedNorm exact{at::kDouble, Execution::kReference, at::MemoryFormat::Contiguous}, fused;
    for (TrainedNorm* norm : {&exact, &fused}) {
      norm->made();
      unsigned bit = 1;
      for (at::Tensor* tensor : {&norm->x, &norm->weight, &norm->bias, &norm->offset, &norm->embedding}) {
        tensor->set_requires_grad(!(frozen & bit));
        bit *= 2;
      }
    }
    INFO("frozen " << frozen);
    check_agreement(fused.gradients(dy), exact.gradients(dy), 1e-4);
    const at::Tensor y = fused.forward();
    y.backward(dy);
    for (const at::Tensor& tensor : {fused.x, fused.weight, fused.bias, fused.offset, fused.embedding})
      CHECK(tensor.grad().defined() == tensor.requires_grad());
  }
  // One leaf alone of all that could have a gradient.
  const TrainedNorm all = TrainedNorm{}.made();
  const auto only = torch::autograd::grad({all.forward()}, {all.offset}, {dy});
  CHECK(at::equal(only[0], all.gradients(dy)[3]));
}

TEST_CASE("the fused group norm is differentiable twice, also where its arguments depend on each other", "[backend]") {
  const at::Tensor dy = float_tensor({3, 24, 9, 7}, 6), across = float_tensor({3, 24, 9, 7}, 7);
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const auto twice = [&](TrainedNorm norm) {
      const auto first = norm.gradients(dy, true);
      const at::Tensor sum = (first[0] * across.to(norm.type)).sum() + first[1].sum();
      auto result = torch::autograd::grad({sum}, {norm.x, norm.weight, norm.offset, norm.embedding});
      result.push_back(first[0].detach());
      return result;
    };
    check_agreement(twice(TrainedNorm{at::kFloat, Execution::kFused, format}.made()),
                    twice(TrainedNorm{at::kDouble, Execution::kReference, format}.made()), 1e-3);
    // An offset that is made from x: the gradient of x has two ways.
    const auto joined = [&](TrainedNorm norm, bool create_graph) {
      GroupNormExtras extras;
      extras.offset = norm.x.mean({2, 3}).square();
      const at::Tensor y = group_norm_silu(norm.x, 8, norm.weight, norm.bias, 1e-5, extras, norm.execution);
      return torch::autograd::grad({y}, {norm.x, norm.weight}, {dy.to(norm.type)}, create_graph, create_graph);
    };
    for (const bool create_graph : {false, true})
      check_agreement(joined(TrainedNorm{at::kFloat, Execution::kFused, format}.made(), create_graph),
                      joined(TrainedNorm{at::kDouble, Execution::kReference, format}.made(), false), 1e-4);
  }
}

TEST_CASE("half types, beside weights of float32 too, are normed and differentiated in float32", "[backend]") {
  const at::Tensor dy = float_tensor({3, 24, 9, 7}, 6).to(at::kBFloat16);
  for (const bool wide_weights : {false, true})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      INFO("wide weights " << wide_weights << " " << format);
      TrainedNorm half = TrainedNorm{at::kBFloat16, Execution::kAuto, format}.made();
      TrainedNorm exact{at::kDouble, Execution::kReference, format}, single{at::kFloat, Execution::kFused, format};
      const auto as = [](const at::Tensor& leaf, at::ScalarType type) {
        return leaf.detach().to(type).requires_grad_(true);
      };
      for (const auto part :
           {&TrainedNorm::x, &TrainedNorm::weight, &TrainedNorm::bias, &TrainedNorm::offset, &TrainedNorm::embedding}) {
        exact.*part = as(half.*part, at::kDouble);
        single.*part = as(half.*part, at::kFloat);
      }
      if (wide_weights) half.weight = as(half.weight, at::kFloat), half.bias = as(half.bias, at::kFloat);
      const at::Tensor y = half.forward();
      CHECK(y.is_contiguous(format));
      CHECK(at::equal(y, single.forward().to(at::kBFloat16)));
      const auto found = half.gradients(dy), leaves = half.leaves();
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(found[i].scalar_type() == leaves[i].scalar_type());
      check_agreement(found, exact.gradients(dy), 5e-3);
    }
}

TEST_CASE("group norms that are trained go to the operators on request, and not for autocast", "[backend]") {
  TrainedNorm norm = TrainedNorm{}.made();
  const auto first_node = [](const at::Tensor& y) { return y.grad_fn()->name(); };
  const std::string fused = first_node(norm.forward());
  norm.execution = Execution::kReference;
  const std::string reference = first_node(norm.forward());
  CHECK(reference.find("Silu") != std::string::npos);
  CHECK(fused != reference);
  const Autocast autocast(TrainingPrecision::kBfloat16, at::kCPU);
  for (const Execution execution : {Execution::kFused, Execution::kAuto}) {
    norm.execution = execution;
    CHECK(first_node(norm.forward()) == fused);
  }
  const at::NoGradGuard no_grad;
  norm.execution = Execution::kFused;
  CHECK_FALSE(norm.forward().requires_grad());
}

TEST_CASE("half types are normed in float32 and rounded once", "[backend]") {
  struct Kind {
    at::ScalarType type;
    double rounding;  ///< of a number, a part of it at most
  };
  for (const Kind& kind : {Kind{at::kBFloat16, 0x1p-8}, Kind{at::kHalf, 0x1p-11}})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      INFO(kind.type << " " << format);
      // A mean far above the deviation: to add the offset or to keep a mean in these types would change all.
      const at::Tensor x = (float_tensor({2, 8, 6, 5}, 1) + 20).to(kind.type).contiguous(format);
      const at::Tensor weight = float_tensor({8}, 2).to(kind.type), bias = float_tensor({8}, 3).to(kind.type);
      GroupNormExtras extras;
      extras.offset = float_tensor({2, 8}, 4).to(kind.type);
      extras.scale = float_tensor({2, 8}, 5).to(kind.type), extras.shift = float_tensor({2, 8}, 6).to(kind.type);
      const at::Tensor result = group_norm_silu(x, 4, weight, bias, 1e-5, extras);
      CHECK(result.scalar_type() == kind.type);
      CHECK(result.is_contiguous(format));
      CHECK(difference(result, group_norm_silu(x.to(at::kDouble), 4, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5,
                                               wide(extras), Execution::kReference)) <= kind.rounding + 1e-4);
    }
}

TEST_CASE("residual_add is the sum of h, skip and a bias of the channels, in h's layout", "[backend]") {
  struct Types {
    at::ScalarType values, bias;
    double tolerance;
  };
  for (const Types& types : {Types{at::kDouble, at::kDouble, 1e-14}, Types{at::kFloat, at::kFloat, 1e-6},
                             Types{at::kBFloat16, at::kBFloat16, 2e-2}, Types{at::kBFloat16, at::kFloat, 2e-2}})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const bool biased : {false, true}) {
        INFO(types.values << " and " << types.bias << " " << format << " biased " << biased);
        const at::Tensor h = random_tensor({3, 6, 5, 7}, 1).to(types.values).contiguous(format);
        const at::Tensor skip = random_tensor({3, 6, 5, 7}, 2).to(types.values);  // in its own layout
        const at::Tensor bias = biased ? random_tensor({6}, 3).to(types.bias) : at::Tensor();
        at::Tensor expected = h.to(at::kDouble) + skip.to(at::kDouble);
        if (biased) expected = expected + bias.to(at::kDouble).view({1, 6, 1, 1});
        const at::Tensor before = h.clone();
        const at::Tensor sum = residual_add(h, skip, bias);
        CHECK(at::equal(h, before));
        CHECK(sum.scalar_type() == types.values);
        CHECK(sum.is_contiguous(format));
        CHECK(difference(sum, expected) <= types.tolerance);
        CHECK(at::equal(sum, residual_add(h, skip, bias, false, Execution::kReference)));
        CHECK(residual_add(h, skip, bias, /*in_place=*/true).is_same(h));
        CHECK(at::equal(h, sum));
      }
  // Other dimensions, no samples.
  const at::Tensor bias = float_tensor({4}, 3);
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{3, 4}, {2, 4, 11}, {1, 4, 2, 3, 2}}) {
    const at::Tensor h = float_tensor(shape, 1), skip = float_tensor(shape, 2);
    const at::Tensor rows = h.reshape({shape[0], 4, -1}) + skip.reshape({shape[0], 4, -1}) + bias.view({4, 1});
    CHECK(difference(residual_add(h, skip, bias), rows.reshape(shape)) < 1e-6);
  }
  const at::Tensor none = at::zeros({0, 4, 3, 3});
  CHECK(residual_add(none, none, bias).sizes() == none.sizes());
}

TEST_CASE("residual_add has gradients, and they have", "[backend]") {
  const std::vector<std::int64_t> shape = {3, 6, 5, 7};
  struct Types {
    at::ScalarType values, bias;
    double tolerance;  ///< of the bias's gradient
  };
  for (const Types& types : {Types{at::kDouble, at::kDouble, 1e-13}, Types{at::kFloat, at::kFloat, 1e-5},
                             Types{at::kBFloat16, at::kFloat, 1e-5}, Types{at::kBFloat16, at::kBFloat16, 4e-3}})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const bool biased : {false, true}) {
        INFO(types.values << " and " << types.bias << " " << format << " biased " << biased);
        const at::Tensor h = random_tensor(shape, 1).to(types.values).contiguous(format).requires_grad_(true);
        const at::Tensor skip = random_tensor(shape, 2).to(types.values).requires_grad_(true);
        const at::Tensor bias = random_tensor({6}, 3).to(types.bias).requires_grad_(true);
        const at::Tensor dy = random_tensor(shape, 4).to(types.values);
        const at::Tensor given = biased ? bias : at::Tensor(), before = h.detach().clone();
        std::vector<at::Tensor> leaves = {h, skip};
        if (biased) leaves.push_back(bias);
        const at::Tensor sum = residual_add(h, skip, given, /*in_place=*/true);  // which waits for no gradient
        CHECK(at::equal(h, before));
        {
          const at::NoGradGuard no_grad;
          CHECK(at::equal(sum, residual_add(h, skip, given)));
        }
        const auto found = torch::autograd::grad({sum}, leaves, {dy});
        CHECK(at::equal(found[0], dy));
        CHECK(at::equal(found[1], dy));
        if (!biased) continue;
        CHECK(found[2].scalar_type() == types.bias);
        CHECK(difference(found[2], dy.to(at::kDouble).sum({0, 2, 3})) <= types.tolerance);
        // One of them alone.
        for (const at::Tensor& wanted : leaves) {
          const at::Tensor again = residual_add(h.detach().set_requires_grad(wanted.is_same(h)),
                                                skip.detach().set_requires_grad(wanted.is_same(skip)),
                                                bias.detach().set_requires_grad(wanted.is_same(bias)));
          CHECK(again.requires_grad());
        }
        const auto alone = torch::autograd::grad({residual_add(h.detach(), skip.detach(), bias)}, {bias}, {dy});
        CHECK(at::equal(alone[0], found[2]));
      }
  // Of y = x^2 + x + b, upstream dy: the gradients (2 x + 1) dy and sum dy; with v and w before these, 2 v dy by x and
  // v (2 x + 1) + w by dy.
  const at::Tensor x = random_tensor({2, 3, 4}, 1).requires_grad_(true), b = random_tensor({3}, 2).requires_grad_(true);
  const at::Tensor dy = random_tensor({2, 3, 4}, 3).requires_grad_(true);
  const at::Tensor v = random_tensor({2, 3, 4}, 4), w = random_tensor({3}, 5);
  const auto first = torch::autograd::grad({residual_add(x * x, x, b)}, {x, b}, {dy}, /*retain_graph=*/true,
                                           /*create_graph=*/true);
  CHECK(difference(first[0], (2 * x + 1) * dy) < 1e-14);
  const auto second = torch::autograd::grad({(first[0] * v).sum() + (first[1] * w).sum()}, {x, dy});
  CHECK(difference(second[0], 2 * v * dy) < 1e-14);
  CHECK(difference(second[1], v * (2 * x + 1) + w.view({3, 1})) < 1e-14);
}

TEST_CASE("residual_add refuses what does not fit, and the kernel on the CPU", "[backend]") {
  const at::Tensor h = float_tensor({2, 6, 4, 5}, 1), bias = float_tensor({6}, 2);
  CHECK_THROWS_WITH(residual_add(bias, bias, {}),
                    contains_text("daug::backend::residual_add: h: expected shape [N, C"));
  CHECK_THROWS_WITH(residual_add(h, h.narrow(3, 0, 4), bias), contains_text("skip: expected [2, 6, 4, 5]"));
  CHECK_THROWS_WITH(residual_add(h, h.to(at::kHalf), bias), contains_text("skip: expected Float, got Half"));
  CHECK_THROWS_WITH(residual_add(h, h, float_tensor({5}, 2)), contains_text("bias: expected shape [6], got [5]"));
  CHECK_THROWS_WITH(residual_add(h, h, bias.view({1, 6})), contains_text("bias: expected shape [6]"));
  CHECK_THROWS_WITH(residual_add(h, h, bias, false, Execution::kFused),
                    contains_text("daug::backend::residual_add: execution: expected kAuto or kReference"));
  // Blocks leave biases out for kernels of devices, and here on request.
  CHECK_FALSE(fuses_residuals(h, Execution::kAuto));
  CHECK_FALSE(fuses_residuals(h, Execution::kReference));
  CHECK(fuses_residuals(h, Execution::kFused));
  for (const auto type : {at::kDouble, at::kBFloat16}) CHECK_FALSE(fuses_residuals(h.to(type), Execution::kFused));
}

TEST_CASE("residual_add_doubled is the sum at 2 x 2 pixels each, and has a gradient", "[backend]") {
  const std::vector<std::int64_t> shape = {3, 6, 5, 7};
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const bool biased : {false, true}) {
        INFO(type << " " << format << " biased " << biased);
        const at::Tensor h = random_tensor(shape, 1).to(type).contiguous(format);
        const at::Tensor skip = random_tensor(shape, 2).to(type);  // in its own layout
        const at::Tensor bias = biased ? random_tensor({6}, 3).to(type) : at::Tensor();
        const at::Tensor before = h.clone(), sum = residual_add(h, skip, bias);
        const at::Tensor large = residual_add_doubled(h, skip, bias);
        CHECK(at::equal(h, before));
        REQUIRE(large.sizes() == at::IntArrayRef({3, 6, 10, 14}));
        CHECK(large.is_contiguous(format));
        for (const std::int64_t y : {0, 1})
          for (const std::int64_t x : {0, 1}) CHECK(at::equal(large.slice(2, y, 10, 2).slice(3, x, 14, 2), sum));
        CHECK(at::equal(residual_add_doubled(h.clone(), skip, bias, /*in_place=*/true), large));
        const at::Tensor leaf = h.clone().requires_grad_(true);
        const at::Tensor recorded = residual_add_doubled(leaf, skip, bias, /*in_place=*/true);
        CHECK(at::equal(recorded.detach(), large));
        const auto found = torch::autograd::grad({recorded}, {leaf}, {at::ones_like(large)});
        CHECK(at::equal(found[0], at::full_like(h, 4)));
      }
  const at::Tensor h = float_tensor({2, 6, 4, 5}, 1), none = at::zeros({0, 6, 4, 5});
  CHECK(residual_add_doubled(none, none, {}).sizes() == at::IntArrayRef({0, 6, 8, 10}));
  CHECK_THROWS_WITH(residual_add_doubled(h[0], h[0], {}),
                    contains_text("daug::backend::residual_add_doubled: h: expected shape [N, C, H, W]"));
  CHECK_THROWS_WITH(residual_add_doubled(h, h.narrow(3, 0, 4), {}),
                    contains_text("daug::backend::residual_add_doubled: skip: expected [2, 6, 4, 5]"));
  CHECK_THROWS_WITH(residual_add_doubled(h, h, {}, false, Execution::kFused),
                    contains_text("daug::backend::residual_add_doubled: execution: expected kAuto or kReference"));
}

TEST_CASE("group_norm_silu_resized halves or doubles the norm's result, and its input beside it", "[backend]") {
  const at::Tensor weight = float_tensor({24}, 1), bias = float_tensor({24}, 2);
  // Pixels from row y and column x on, every other one, without those that halves leave out.
  const auto every_other = [](const at::Tensor& image, std::int64_t y, std::int64_t x) {
    return image.slice(2, y, image.size(2) / 2 * 2, 2).slice(3, x, image.size(3) / 2 * 2, 2);
  };
  for (const Execution execution : {Execution::kAuto, Execution::kFused, Execution::kReference})
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      INFO("execution " << static_cast<int>(execution) << " " << format);
      const at::Tensor x = float_tensor({3, 24, 9, 7}, 4).contiguous(format), leaf = x.clone().requires_grad_(true);
      const at::Tensor whole = group_norm_silu(x, 8, weight, bias, 1e-5, {}, execution);
      const auto resized = [&](const at::Tensor& from, SizeChange change) {
        return group_norm_silu_resized(from, 8, weight, bias, 1e-5, change, execution);
      };
      const auto [half, half_input] = resized(x, SizeChange::kHalved);
      const auto [large, large_input] = resized(x, SizeChange::kDoubled);
      const std::pair<at::Tensor, at::Tensor> halves[] = {{half, whole}, {half_input, x}};
      for (const auto& [result, from] : halves) {
        REQUIRE(result.sizes() == at::IntArrayRef({3, 24, 4, 3}));
        CHECK(result.is_contiguous(format));
        const at::Tensor sum =
            every_other(from, 0, 0) + every_other(from, 0, 1) + every_other(from, 1, 0) + every_other(from, 1, 1);
        CHECK(difference(result, sum / 4) < 1e-6);
      }
      const std::pair<at::Tensor, at::Tensor> doubles[] = {{large, whole}, {large_input, x}};
      for (const auto& [result, from] : doubles) {
        REQUIRE(result.sizes() == at::IntArrayRef({3, 24, 18, 14}));
        CHECK(result.is_contiguous(format));
        for (const std::int64_t row : {0, 1})
          for (const std::int64_t column : {0, 1}) CHECK(at::equal(every_other(result, row, column), from));
      }
      // With a gradient it is the same; a pixel is a quarter of one in half the size, or none, and four in twice the
      // size.
      const auto recorded_half = resized(leaf, SizeChange::kHalved),
                 recorded_large = resized(leaf, SizeChange::kDoubled);
      CHECK(difference(recorded_half.first.detach(), half) < 1e-5);
      CHECK(difference(recorded_large.first.detach(), large) < 1e-5);
      CHECK(recorded_half.first.requires_grad());
      at::Tensor shares = at::zeros_like(x);
      shares.narrow(2, 0, 8).narrow(3, 0, 6).fill_(0.25);
      CHECK(at::equal(torch::autograd::grad({recorded_half.second.sum()}, {leaf})[0], shares));
      CHECK(at::equal(torch::autograd::grad({recorded_large.second.sum()}, {leaf})[0], at::full_like(x, 4)));
    }
  const at::Tensor x = float_tensor({2, 24, 6, 5}, 3);
  for (const SizeChange change : {SizeChange::kHalved, SizeChange::kDoubled}) {
    const auto exact =
        group_norm_silu_resized(x.to(at::kDouble), 8, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5, change);
    const auto rounded = group_norm_silu_resized(x.to(at::kBFloat16), 8, weight, bias, 1e-5, change);
    CHECK(rounded.first.scalar_type() == at::kBFloat16);
    CHECK(difference(rounded.first, exact.first) < 2e-2);
    CHECK(difference(rounded.second, exact.second) < 2e-2);
    const std::int64_t height = change == SizeChange::kHalved ? 3 : 12, width = change == SizeChange::kHalved ? 2 : 10;
    const auto none = group_norm_silu_resized(x.narrow(0, 0, 0), 8, weight, bias, 1e-5, change);
    for (const at::Tensor& result : {none.first, none.second})
      CHECK(result.sizes() == at::IntArrayRef({0, 24, height, width}));
    for (const at::Tensor& refused : {float_tensor({2, 24, 6, 10}, 3).slice(3, 0, 10, 2), x.to(at::kDouble)})
      CHECK_THROWS_WITH(group_norm_silu_resized(refused, 8, {}, {}, 1e-5, change, Execution::kFused),
                        contains_text("kFused"));
    CHECK_THROWS_WITH(group_norm_silu_resized(x[0], 8, {}, {}, 1e-5, change),
                      contains_text("group_norm_silu_resized: x: expected shape [N, C, H, W]"));
    CHECK_THROWS_WITH(group_norm_silu_resized(x, 7, {}, {}, 1e-5, change),
                      contains_text("group_norm_silu_resized: groups: expected a divisor of the 24 channels"));
    CHECK_THROWS_WITH(group_norm_silu_resized(x, 8, float_tensor({4}, 1), {}, 1e-5, change),
                      contains_text("group_norm_silu_resized: weight or bias: expected 24, got 4"));
  }
  CHECK_THROWS_WITH(group_norm_silu_resized(x.narrow(2, 0, 1), 8, {}, {}, 1e-5, SizeChange::kHalved),
                    contains_text("x: expected at least 2 x 2 pixels, got [2, 24, 1, 5]"));
}

TEST_CASE("the fused solver update agrees with LibTorch's operators in float64", "[backend]") {
  const at::Tensor x = float_tensor({4, 2, 9, 7}, 1);
  // As a network with learned sigma returns them: half of its channels, two estimates in one batch.
  const at::Tensor both = float_tensor({8, 4, 9, 7}, 2).narrow(1, 0, 2);
  for (unsigned bits = 0; bits < 32; ++bits)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      GuidedNoise noise;
      noise.first = both.narrow(0, 0, 4);
      if (bits & 1) noise.second = both.narrow(0, 4, 4);
      if (bits & 2) noise.gradient = float_tensor({4, 2, 9, 7}, 3);
      if (bits & 4) noise.strength = random_tensor({4, 1, 1, 1}, 4).abs();
      noise.weight = 2, noise.gradient_weight = 0.3, noise.from_second = bits & 8;
      SolverStep step;
      step.keep = 1.1, step.add = -0.2, step.signal = 0.6, step.deviation = 0.8;
      step.clip = bits & 16;
      if (bits & 1) step.previous = float_tensor({4, 2, 9, 7}, 5), step.previous_weight = 0.5;
      const at::Tensor input = x.contiguous(format);
      const at::Tensor fused = solver_update(input, noise, step, Execution::kFused);
      CHECK(fused.is_contiguous(format));
      const auto to_double = [](const at::Tensor& tensor) {
        return tensor.defined() ? tensor.to(at::kDouble) : tensor;
      };
      SolverStep wide_step = step;
      wide_step.previous = to_double(step.previous);
      GuidedNoise wide_noise = noise;
      for (at::Tensor* tensor : {&wide_noise.first, &wide_noise.second, &wide_noise.gradient})
        *tensor = to_double(*tensor);
      const at::Tensor reference = solver_update(to_double(x), wide_noise, wide_step);
      INFO("parts " << bits);
      CHECK(difference(fused, reference) < 5e-6);
    }
  CHECK(solver_update(float_tensor({0, 1, 4, 4}, 1), {float_tensor({0, 1, 4, 4}, 1)}, {}).numel() == 0);
}

TEST_CASE("a step that keeps nothing of a state takes none of its infinities, and clips those of an estimate",
          "[backend]") {
  for (const auto type : {at::kFloat, at::kDouble}) {  // the kernel, and LibTorch's operators
    INFO(type);
    const at::Tensor estimate = random_tensor({2, 1, 3, 4}, 2).to(type), zeros = at::zeros_like(estimate);
    const at::Tensor infinite = at::full_like(estimate, std::numeric_limits<double>::infinity());
    const at::Tensor nan = at::full_like(estimate, std::numeric_limits<double>::quiet_NaN());
    SolverStep step{0, 1};
    for (const at::Tensor& state : {infinite, nan}) CHECK(at::equal(solver_update(state, {estimate}, step), estimate));
    step.clip = true, step.signal = 0.6, step.deviation = 0.8;
    CHECK(difference(solver_update(zeros, {infinite}, step), zeros + 0.75) < 1e-6);
    CHECK(at::equal(solver_update(infinite, {estimate}, step), infinite));
    CHECK(solver_update(nan, {estimate}, step).isnan().all().item<bool>());
    CHECK(solver_update(zeros, {nan}, step).isnan().all().item<bool>());
  }
}

TEST_CASE("a state with gaps is stepped in the bits of one without, in a batch and alone", "[backend]") {
  const at::Tensor latent = float_tensor({3, 4, 9, 7}, 1), noise = float_tensor({3, 2, 9, 7}, 2);
  const SolverStep step{1.1, -0.7};
  const auto states = latent.chunk(2, 1);  // as a solver that carries two finds them
  for (const at::Tensor& state : states) {
    REQUIRE_FALSE(state.is_contiguous());
    const at::Tensor expected = solver_update(state.contiguous(), noise, step, Execution::kFused);
    CHECK(at::equal(solver_update(state, noise, step, Execution::kFused), expected));
    CHECK(at::equal(solver_update(state, noise, step), expected));
    const at::Tensor alone = state.narrow(0, 1, 1);
    CHECK(at::equal(solver_update(alone, noise.narrow(0, 1, 1), step), expected.narrow(0, 1, 1)));
  }
  CHECK(at::equal(solver_update(noise[0].expand({3, 2, 9, 7}), noise, step)[0],
                  solver_update(noise.narrow(0, 0, 1), noise.narrow(0, 0, 1), step)[0]));
  CHECK_THROWS_WITH(solver_update(states[0].to(at::kDouble), noise.to(at::kDouble), step, Execution::kFused),
                    contains_text("kFused"));
}

TEST_CASE("fused results do not depend on LibTorch's threads", "[backend]") {
  const CallersThreads kept;
  const at::Tensor x = float_tensor({3, 16, 64, 64}, 1);
  const auto run = [&] {
    std::vector<at::Tensor> results;
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      results.push_back(group_norm_silu(x.contiguous(format), 4, {}, {}, 1e-5, {}, Execution::kFused));
    results.push_back(solver_update(x, {float_tensor({3, 16, 64, 64}, 2)}, {0.9, 0.3}, Execution::kFused));
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor leaf = x.contiguous(format).detach().requires_grad_(true);
      const at::Tensor weight = at::ones({16}).requires_grad_(true), bias = at::zeros({16}).requires_grad_(true);
      const at::Tensor y = group_norm_silu(leaf, 4, weight, bias, 1e-5, {}, Execution::kFused);
      for (const at::Tensor& gradient : torch::autograd::grad({y}, {leaf, weight, bias}, {x}))
        results.push_back(gradient);
    }
    return results;
  };
  at::set_num_threads(1);
  const auto alone = run();
  at::set_num_threads(2);
  const auto together = run();
  for (std::size_t i = 0; i < alone.size(); ++i) CHECK(at::equal(alone[i], together[i]));
}
