// Device kernels against LibTorch's operators in float64 on the CPU. Says "no CUDA device" where there is none.

#include "daug/backend/cuda.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "backend/best_rows.h"
#include "backend/device_kernels.h"
#include "backend/fused_ops.h"
#include "backend/upload.h"
#include "daug/core/error.h"
#include "kernels/cuda/launch_check.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/device.h"
#include "support/other_stream.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::backend;
using namespace daug::test;

namespace {

double difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0) return a.sizes() == b.sizes() ? 0 : 1;
  const at::Tensor left = a.to(at::kCPU, at::kDouble), right = b.to(at::kCPU, at::kDouble);
  return ((left - right).abs() / (1 + right.abs())).max().item<double>();
}

struct Kind {
  at::ScalarType type;
  double tolerance;
};
constexpr Kind kKinds[] = {{at::kFloat, 1e-5}, {at::kHalf, 2e-2}, {at::kBFloat16, 2e-2}};

/// Values that the type can hold, on the device.
at::Tensor on_device(const std::vector<std::int64_t>& shape, std::uint64_t seed, at::ScalarType type) {
  return random_tensor(shape, seed).to(type).to(at::Device(at::kCUDA, 0));
}

at::Tensor wide(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kCPU, at::kDouble) : tensor; }

/// Compares the best rows of scores, which come in tiles of `tile` rows, with a sort of all of them. Bounds are whole
/// numbers, with many ties; `rising`: every row is better than nearly all before it.
void check_best_rows(const at::Device& device, bool fused, std::int64_t rows, std::int64_t tile, std::int64_t wanted,
                     bool rising) {
  constexpr std::int64_t kQueries = 3;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  INFO(rows << " rows by " << tile << ", " << wanted << " wanted, rising " << rising << ", fused " << fused);
  RandomStream random(17, static_cast<std::uint64_t>(rows + wanted), "best rows");
  const at::Tensor scores = at::zeros({kQueries, rows}), error = at::zeros({rows}), offset = at::zeros({rows});
  const at::Tensor inverse = at::arange(kQueries, at::kFloat), allowed = at::zeros({(rows + 31) / 32}, at::kInt);
  auto* words = allowed.mutable_data_ptr<std::int32_t>();
  using Bound = std::pair<float, std::int64_t>;
  std::vector<std::vector<Bound>> expected(kQueries);
  std::vector<std::vector<float>> bounds(kQueries);
  for (std::int64_t i = 0; i < rows; ++i) {
    const bool counts = random.below(8) != 0, anything = random.below(100) == 0;
    if (counts) words[i / 32] = static_cast<std::int32_t>(static_cast<std::uint32_t>(words[i / 32]) | 1U << (i % 32));
    const float e = anything ? kInfinity : static_cast<float>(random.below(3));
    const float o = anything ? 0.0F : static_cast<float>(random.below(4));
    error.mutable_data_ptr<float>()[i] = e;
    offset.mutable_data_ptr<float>()[i] = o;
    for (std::size_t q = 0; q < kQueries; ++q) {
      const float score = rising ? static_cast<float>(i / 3) : static_cast<float>(random.below(50));
      scores.mutable_data_ptr<float>()[static_cast<std::int64_t>(q) * rows + i] = score;
      bounds[q].push_back(score + e - o * static_cast<float>(q));
      if (counts) expected[q].emplace_back(bounds[q].back(), i);
    }
  }
  BestRows best(inverse.to(device), {}, wanted, fused);
  for (std::int64_t first = 0; first < rows; first += tile) {
    const std::int64_t count = std::min(tile, rows - first);
    ScoredRows added;
    added.scores = scores.narrow(1, first, count).clone(at::MemoryFormat::Contiguous).to(device);
    added.error = error.narrow(0, first, count).to(device);
    added.offset = offset.narrow(0, first, count).to(device);
    added.allowed = allowed.narrow(0, first / 32, (count + 31) / 32).unsqueeze(0).to(device);
    added.first_row = first;
    best.add(added);
  }
  const FoundRows found = best.found();
  const std::int64_t width = found.rows.size(1);
  REQUIRE(width >= std::min(wanted, rows));
  for (std::size_t q = 0; q < kQueries; ++q) {
    std::sort(expected[q].begin(), expected[q].end(), [](const Bound& a, const Bound& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    const float* actual = found.bounds.const_data_ptr<float>() + static_cast<std::int64_t>(q) * width;
    const std::int64_t* row = found.rows.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(q) * width;
    for (std::int64_t i = 0; i < width; ++i) {
      INFO("query " << q << " place " << i);
      if (i >= static_cast<std::int64_t>(expected[q].size())) {
        REQUIRE(actual[i] == -kInfinity);
        continue;
      }
      REQUIRE(actual[i] == expected[q][static_cast<std::size_t>(i)].first);
      REQUIRE(bounds[q][static_cast<std::size_t>(row[i])] == actual[i]);
      if (fused) REQUIRE(row[i] == expected[q][static_cast<std::size_t>(i)].second);
    }
  }
}

}  // namespace

TEST_CASE("a device is found by its name, or refused with the reason", "[backend][cuda]") {
  CHECK(device_called("cpu").is_cpu());
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000"})
    CHECK_THROWS_WITH(device_called(name), contains_text("device_called"));
  const CudaState& state = cuda_state();
  CHECK((state.devices > 0) == state.problem.empty());
  CHECK(device_called("auto").is_cuda() == (state.devices > 0));
  if (state.devices == 0) CHECK_THROWS_WITH(device_called("cuda"), contains_text(state.problem));
  CHECK_THROWS_AS(device_called("cuda:99"), Error);
  for (const char* name : {"cpu", "cuda", "cuda:0", "cuda:17"}) CHECK(is_device_name(name));
  for (const char* name : {"", "auto", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:100"})
    CHECK_FALSE(is_device_name(name));
}

TEST_CASE("a tensor that is where it is wanted is not copied", "[backend][cuda]") {
  const at::Tensor x = random_tensor({3, 5}, 1);
  CHECK(upload(x, at::kCPU).is_same(x));
}

TEST_CASE("a tensor may change as soon as it is on its way to a device", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  std::vector<at::Tensor> there, expected;
  for (std::uint64_t i = 0; i < 20; ++i)
    for (const at::Tensor& x : {random_tensor({300, 500}, i), random_tensor({300, 500}, i).t(),
                                random_tensor({7}, i).to(at::kHalf), at::arange(9), random_tensor({0, 3}, i)}) {
      expected.push_back(x.clone());
      there.push_back(upload(x, device));
      x.zero_();
    }
  for (std::size_t i = 0; i < there.size(); ++i) {
    CHECK(there[i].device() == device);
    CHECK(there[i].scalar_type() == expected[i].scalar_type());
    CHECK(at::equal(there[i].to(at::kCPU), expected[i]));
  }
}

TEST_CASE("group norm on a device agrees with float64", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  for (const Kind& kind : kKinds)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{
               {3, 24, 9, 7}, {2, 64, 16, 16}, {1, 128, 64, 64}, {1, 8, 1, 1}, {0, 8, 4, 4}, {2, 1040, 3, 5}}) {
        const std::int64_t batch = shape[0], channels = shape[1], groups = 8;
        const at::Tensor x = on_device(shape, 1, kind.type).contiguous(format);
        const at::Tensor weight = on_device({channels}, 2, kind.type), bias = on_device({channels}, 3, kind.type);
        const auto parts = on_device({batch, 2 * channels, 1, 1}, 4, kind.type).chunk(2, 1);
        std::vector<GroupNormExtras> cases(4);
        cases[0].silu = false;
        cases[1].offset = parts[0];
        cases[2].scale = parts[0], cases[2].shift = parts[1];
        cases[3].offset = parts[1], cases[3].in_place = true;
        for (std::size_t i = 0; i < cases.size(); ++i) {
          INFO(kind.type << " " << format << " " << x.sizes() << " case " << i);
          GroupNormExtras extras = cases[i], on_cpu = cases[i];
          for (at::Tensor* tensor : {&on_cpu.offset, &on_cpu.scale, &on_cpu.shift}) *tensor = wide(*tensor);
          on_cpu.in_place = false;
          const at::Tensor expected =
              group_norm_silu(wide(x), groups, wide(weight), wide(bias), 1e-5, on_cpu, Execution::kReference);
          const at::Tensor input = x.clone(), again = x.clone();
          const at::Tensor result = group_norm_silu(input, groups, weight, bias, 1e-5, extras, Execution::kFused);
          CHECK(result.is_contiguous(format));
          CHECK(difference(result, expected) <= kind.tolerance);
          CHECK(at::equal(result, group_norm_silu(again, groups, weight, bias, 1e-5, extras, Execution::kFused)));
          // LibTorch's operators, where they are taken, keep the layout of half types too.
          if (kind.type != at::kFloat && batch > 0) {
            const at::Tensor chosen = group_norm_silu(x.clone(), groups, weight, bias, 1e-5, extras);
            CHECK(chosen.is_contiguous(format));
            CHECK(difference(chosen, expected) <= kind.tolerance);
          }
          // What stands beside the values may be float32, all of it or the weights alone, as under autocast.
          if (kind.type != at::kFloat) {
            GroupNormExtras floats = extras;
            floats.in_place = false;
            for (at::Tensor* tensor : {&floats.offset, &floats.scale, &floats.shift})
              if (i % 2 && tensor->defined()) *tensor = tensor->to(at::kFloat);
            const at::Tensor mixed = group_norm_silu(x.clone(), groups, weight.to(at::kFloat), bias.to(at::kFloat),
                                                     1e-5, floats, Execution::kFused);
            CHECK(mixed.scalar_type() == kind.type);
            CHECK(mixed.is_contiguous(format));
            CHECK(difference(mixed, expected) <= kind.tolerance);
          }
          // A sample does not depend on its batch.
          if (batch > 1 && i == 0)
            CHECK(at::equal(result.narrow(0, 1, 1), group_norm_silu(x.narrow(0, 1, 1).clone(format), groups, weight,
                                                                    bias, 1e-5, extras, Execution::kFused)));
        }
      }
  // A mean far above the deviation, and a value that is not finite, which stays in its group.
  at::Tensor high = on_device({1, 8, 16, 16}, 5, at::kFloat) + 1000;
  CHECK(difference(group_norm_silu(high, 2, {}, {}, 1e-5, {}, Execution::kFused),
                   group_norm_silu(wide(high), 2, {}, {})) < 2e-3);
  high[0][0][3][3] = std::numeric_limits<float>::infinity();
  const at::Tensor broken = group_norm_silu(high, 2, {}, {}, 1e-5, {}, Execution::kFused);
  CHECK(broken.narrow(1, 0, 4).isnan().all().item<bool>());
  CHECK(broken.narrow(1, 4, 4).isfinite().all().item<bool>());
}

namespace {

/// What a group norm is made of, as leaves: x, weight, bias, offset, and scale and shift beside each other. With
/// `wide_weights` weight and bias hold as exact numbers in float32.
std::vector<at::Tensor> norm_leaves(const std::vector<std::int64_t>& shape, const Kind& kind, at::MemoryFormat format,
                                    bool wide_weights = false) {
  const std::int64_t batch = shape[0], channels = shape[1];
  std::vector<at::Tensor> leaves = {on_device(shape, 1, kind.type).contiguous(format),
                                    on_device({channels}, 2, kind.type), on_device({channels}, 3, kind.type),
                                    on_device({batch, channels, 1, 1}, 4, kind.type),
                                    on_device({batch, 2 * channels, 1, 1}, 5, kind.type)};
  if (wide_weights) leaves[1] = leaves[1].to(at::kFloat), leaves[2] = leaves[2].to(at::kFloat);
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(true);
  return leaves;
}

/// Its result; parts are bits: weight and bias; an offset; scale and shift; no SiLU.
at::Tensor normed(const std::vector<at::Tensor>& leaves, unsigned parts, Execution execution) {
  GroupNormExtras extras;
  if (parts & 2) extras.offset = leaves[3];
  if (parts & 4) {
    const auto halves = leaves[4].chunk(2, 1);
    extras.scale = halves[0], extras.shift = halves[1];
  }
  extras.silu = !(parts & 8);
  const bool affine = parts & 1;
  return group_norm_silu(leaves[0], 8, affine ? leaves[1] : at::Tensor(), affine ? leaves[2] : at::Tensor(), 1e-5,
                         extras, execution);
}

std::vector<at::Tensor> norm_gradients(const std::vector<at::Tensor>& leaves, unsigned parts, Execution execution,
                                       const at::Tensor& upstream) {
  std::vector<at::Tensor> asked = {leaves[0]};
  if (parts & 1) asked.insert(asked.end(), {leaves[1], leaves[2]});
  if (parts & 2) asked.push_back(leaves[3]);
  if (parts & 4) asked.push_back(leaves[4]);
  return torch::autograd::grad({normed(leaves, parts, execution)}, asked, {upstream});
}

}  // namespace

TEST_CASE("the gradient of the group norm on a device agrees with float64", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  for (const Kind& kind : kKinds)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{
               {3, 24, 9, 7}, {2, 64, 16, 16}, {1, 128, 64, 64}, {2, 64, 1, 1}, {2, 1040, 3, 5}})
        for (const unsigned parts : {0U, 1U, 2U, 4U, 7U, 8U, 15U}) {
          INFO(kind.type << " " << format << " " << at::IntArrayRef(shape) << " parts " << parts);
          const bool wide_weights = parts == 4 || parts == 15;  // whether or not there are weights
          const auto leaves = norm_leaves(shape, kind, format, wide_weights);
          std::vector<at::Tensor> exact;
          for (const at::Tensor& leaf : leaves) exact.push_back(wide(leaf.detach()).requires_grad_(true));
          const at::Tensor dy = on_device(shape, 6, kind.type);
          const auto expected = norm_gradients(exact, parts, Execution::kReference, wide(dy));
          const auto found = norm_gradients(leaves, parts, Execution::kFused, dy);
          // A layer behind may hand the upstream gradient back in another layout.
          const auto again = norm_gradients(leaves, parts, Execution::kFused, dy.contiguous(format));
          REQUIRE(found.size() == expected.size());
          CHECK(found[0].is_contiguous(format));
          for (std::size_t i = 0; i < found.size(); ++i) {
            INFO("gradient " << i);
            CHECK(found[i].scalar_type() == (wide_weights && parts & 1 && (i == 1 || i == 2) ? at::kFloat : kind.type));
            const double largest = expected[i].abs().max().item<double>();
            REQUIRE(largest > 0);
            CHECK((wide(found[i]) - expected[i]).abs().max().item<double>() <= kind.tolerance * std::max(1.0, largest));
            CHECK(at::equal(found[i], again[i]));
          }
          // The result is that of the kernel without a gradient, and a sample's gradient does not depend on its batch.
          at::Tensor plain;
          {
            const at::NoGradGuard no_grad;
            plain = normed(leaves, parts, Execution::kFused);
          }
          CHECK(at::equal(normed(leaves, parts, Execution::kFused).detach(), plain));
          std::vector<at::Tensor> last;
          for (std::size_t i = 0; i < leaves.size(); ++i) {
            const at::Tensor leaf = leaves[i].detach();
            const bool of_sample = i == 0 || i > 2;
            last.push_back((of_sample ? leaf.narrow(0, shape[0] - 1, 1) : leaf)
                               .clone(i == 0 ? format : at::MemoryFormat::Contiguous)
                               .requires_grad_(true));
          }
          const auto of_last = norm_gradients(last, parts, Execution::kFused, dy.narrow(0, shape[0] - 1, 1));
          CHECK(at::equal(of_last[0], found[0].narrow(0, shape[0] - 1, 1)));
        }
  for (const Kind& kind : kKinds)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const bool wide_weights : {false, true}) {
        INFO(kind.type << " " << format << ", no samples, wide weights " << wide_weights);
        const auto none = norm_leaves({0, 8, 4, 4}, kind, format, wide_weights);
        const auto found = norm_gradients(none, 7, Execution::kFused, at::empty_like(none[0].detach()));
        CHECK(found[0].sizes() == none[0].sizes());
        for (const std::size_t weights : {1U, 2U})
          CHECK(at::equal(found[weights].cpu(), at::zeros({8}, wide_weights ? at::kFloat : kind.type)));
        CHECK(found[3].sizes() == none[3].sizes());
        CHECK(found[4].sizes() == none[4].sizes());
      }
}

TEST_CASE("the gradient of the group norm on a device: streams, checked kernels, second derivatives",
          "[backend][gpu]") {
  if (no_device()) return;
  const auto leaves = norm_leaves({2, 32, 64, 64}, kKinds[0], at::MemoryFormat::ChannelsLast);
  const at::Tensor dy = on_device({2, 32, 64, 64}, 6, at::kFloat);
  const auto expected = norm_gradients(leaves, 7, Execution::kFused, dy);
  const auto there = on_another_stream([&] { return norm_gradients(leaves, 7, Execution::kFused, dy); });
  for (std::size_t i = 0; i < there.size(); ++i) CHECK(at::equal(there[i], expected[i]));
  {
    struct Checked {
      bool before = kernels::cuda::checks_kernels().exchange(true);
      ~Checked() { kernels::cuda::checks_kernels() = before; }
    } checked;
    const auto found = norm_gradients(leaves, 7, Execution::kFused, dy);
    for (std::size_t i = 0; i < found.size(); ++i) CHECK(at::equal(found[i], expected[i]));
  }
  // The operators', whose first derivative is that of the kernel.
  const auto differentiable = torch::autograd::grad({normed(leaves, 7, Execution::kFused)}, {leaves[0]}, {dy},
                                                    /*retain_graph=*/true, /*create_graph=*/true);
  CHECK(differentiable[0].requires_grad());
  CHECK(difference(differentiable[0].detach(), expected[0]) < 1e-4);
  // Without a run of its tests on a device it is not taken by itself.
  const bool fused =
      normed(leaves, 7, Execution::kAuto).grad_fn()->name() == normed(leaves, 7, Execution::kFused).grad_fn()->name();
  CHECK(fused == (ran_on_a_device("group_norm_silu") && ran_on_a_device("group_norm_silu_gradient")));
}

namespace {

/// check(kind, format, h, skip, bias) of what residual_add takes on a device, without a bias too.
template <class Check>
void for_each_residual(const Check& check) {
  for (const Kind& kind : kKinds)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{
               {3, 24, 9, 7}, {2, 64, 16, 16}, {1, 128, 64, 64}, {1, 8, 1, 1}, {0, 8, 4, 4}, {2, 2056, 3, 5}})
        for (const auto bias_type : {kind.type, at::kFloat})
          for (const bool biased : {false, true}) {
            INFO(kind.type << " and " << bias_type << " " << format << " " << at::IntArrayRef(shape) << " biased "
                           << biased);
            const at::Tensor h = on_device(shape, 1, kind.type).contiguous(format);
            const at::Tensor skip = on_device(shape, 2, kind.type);  // in its own layout
            const at::Tensor bias = biased ? on_device({shape[1]}, 3, bias_type) : at::Tensor();
            check(kind, format, h, skip, bias);
          }
}

}  // namespace

TEST_CASE("residual_add on a device agrees with float64, and so do its gradients", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  for_each_residual([](const Kind& kind, at::MemoryFormat format, const at::Tensor& h, const at::Tensor& skip,
                       const at::Tensor& bias) {
    const at::Tensor expected = residual_add(wide(h), wide(skip), wide(bias));
    const at::Tensor before = h.clone(), sum = residual_add(h, skip, bias, false, Execution::kFused);
    CHECK(at::equal(h, before));
    CHECK(sum.scalar_type() == kind.type);
    CHECK(sum.is_contiguous(format));
    CHECK(difference(sum, expected) <= kind.tolerance);
    CHECK(difference(residual_add(h, skip, bias, false, Execution::kReference), expected) <= kind.tolerance);
    const std::vector<at::Tensor> made = {h, skip, bias};
    std::vector<at::Tensor> leaves, exact;
    for (const at::Tensor& tensor : made) {
      if (!tensor.defined()) continue;
      leaves.push_back(tensor.detach().clone().requires_grad_(true));
      exact.push_back(wide(tensor).requires_grad_(true));
    }
    const auto differentiable = [&](const std::vector<at::Tensor>& from, Execution execution) {
      return residual_add(from[0], from[1], bias.defined() ? from[2] : at::Tensor(), true, execution);
    };
    const at::Tensor again = differentiable(leaves, Execution::kFused), dy = on_device(h.sizes().vec(), 4, kind.type);
    CHECK(at::equal(again.detach(), sum));
    const auto found = torch::autograd::grad({again}, leaves, {dy});
    const auto correct = torch::autograd::grad({differentiable(exact, Execution::kReference)}, exact, {wide(dy)});
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].scalar_type() == leaves[i].scalar_type());
      if (correct[i].numel() == 0) continue;
      const double largest = correct[i].abs().max().item<double>();
      CHECK((wide(found[i]) - correct[i]).abs().max().item<double>() <= kind.tolerance * std::max(1.0, largest));
    }
    CHECK(residual_add(h, skip, bias, true, Execution::kFused).is_same(h));
    CHECK(at::equal(h, sum));
  });
  // Gaps; a view that begins between two multiples of 16 bytes; a stream that is not the default.
  const at::Tensor large = on_device({2, 8, 5, 10}, 5, at::kBFloat16), bias = on_device({8}, 6, at::kBFloat16);
  const at::Tensor gaps = large.slice(3, 0, 10, 2), dense = gaps.contiguous();
  const at::Tensor expected = residual_add(dense, dense, bias, false, Execution::kFused);
  CHECK(at::equal(residual_add(gaps, dense, bias, false, Execution::kFused), expected));
  CHECK(at::equal(residual_add(dense, gaps, bias, false, Execution::kFused), expected));
  const at::Tensor odd =
      at::empty({dense.numel() + 1}, dense.options()).narrow(0, 1, dense.numel()).view(dense.sizes());
  odd.copy_(dense);
  CHECK(at::equal(residual_add(odd, dense, bias, false, Execution::kFused), expected));
  CHECK(at::equal(on_another_stream([&] { return residual_add(dense, dense, bias, false, Execution::kFused); }),
                  expected));
  CHECK_THROWS_WITH(residual_add(dense.to(at::kDouble), dense.to(at::kDouble), {}, false, Execution::kFused),
                    contains_text("kFused"));
  CHECK_THROWS_WITH(residual_add(dense, dense, bias.cpu(), false, Execution::kFused), contains_text("kFused"));
  // Blocks use it by themselves once all of it has run on a device.
  const at::NoGradGuard no_grad;
  CHECK(fuses_residuals(dense, Execution::kFused));
  CHECK(fuses_residuals(dense, Execution::kAuto) ==
        (ran_on_a_device("residual_add") && ran_on_a_device("group_norm_silu")));
}

TEST_CASE("residual_add on a device writes its sum to 2 x 2 pixels on request", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  for_each_residual([](const Kind& kind, at::MemoryFormat format, const at::Tensor& h, const at::Tensor& skip,
                       const at::Tensor& bias) {
    const at::Tensor before = h.clone(), sum = residual_add_doubled(h, skip, bias, true, Execution::kFused);
    CHECK(at::equal(h, before));
    CHECK(sum.scalar_type() == kind.type);
    if (h.size(2) > 1) CHECK(sum.is_contiguous(format));  // a single pixel lies both ways
    CHECK(difference(sum, residual_add_doubled(wide(h), wide(skip), wide(bias))) <= kind.tolerance);
    CHECK(at::equal(sum, resized_by_two(residual_add(h, skip, bias, false, Execution::kFused), SizeChange::kDoubled)));
    if (h.numel() == 0) return;
    // With a gradient the operator doubles the sum: each of its numbers counts four times.
    const at::Tensor leaf = h.clone().requires_grad_(true);
    const at::Tensor recorded = residual_add_doubled(leaf, skip, bias, true, Execution::kFused);
    CHECK(at::equal(recorded.detach(), sum));
    const auto found = torch::autograd::grad({recorded}, {leaf}, {at::ones_like(sum)});
    CHECK(at::equal(found[0], at::full_like(h, 4)));
  });
  // Gaps, and a view that begins between two multiples of 16 bytes.
  const at::Tensor large = on_device({2, 8, 4, 16}, 5, at::kBFloat16), bias = on_device({8}, 6, at::kBFloat16);
  const at::Tensor gaps = large.slice(3, 0, 16, 2), dense = gaps.contiguous();
  const at::Tensor expected = residual_add_doubled(dense, dense, bias, false, Execution::kFused);
  CHECK(at::equal(residual_add_doubled(gaps, gaps, bias, false, Execution::kFused), expected));
  const at::Tensor odd =
      at::empty({dense.numel() + 1}, dense.options()).narrow(0, 1, dense.numel()).view(dense.sizes());
  odd.copy_(dense);
  CHECK(at::equal(residual_add_doubled(odd, dense, bias, false, Execution::kFused), expected));
  CHECK_THROWS_WITH(residual_add_doubled(dense.to(at::kDouble), dense.to(at::kDouble), {}, false, Execution::kFused),
                    contains_text("kFused"));
}

TEST_CASE("group norm on a device makes its result halved or doubled, and its input beside it", "[backend][gpu]") {
  if (no_device()) return;
  REQUIRE(kernels::device_kernels_compiled());
  for (const Kind& kind : kKinds)
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
      for (const auto& shape : std::vector<std::vector<std::int64_t>>{
               {3, 24, 9, 7}, {2, 64, 16, 16}, {1, 128, 64, 64}, {1, 8, 2, 3}, {0, 8, 4, 4}, {2, 1040, 3, 5}})
        for (const auto weight_type : {kind.type, at::kFloat})
          for (const SizeChange change : {SizeChange::kHalved, SizeChange::kDoubled}) {
            INFO(kind.type << " and " << weight_type << " " << format << " " << at::IntArrayRef(shape) << " halved "
                           << (change == SizeChange::kHalved));
            const at::Tensor x = on_device(shape, 1, kind.type).contiguous(format), before = x.clone();
            const at::Tensor weight = on_device({shape[1]}, 2, weight_type);
            const at::Tensor bias = on_device({shape[1]}, 3, weight_type);
            const auto made = [&](const at::Tensor& of) {
              return group_norm_silu_resized(of, 8, weight, bias, 1e-5, change, Execution::kFused);
            };
            const auto expected =
                group_norm_silu_resized(wide(x), 8, wide(weight), wide(bias), 1e-5, change, Execution::kReference);
            const auto [normed, input] = made(x);
            const auto again = made(x);
            CHECK(at::equal(x, before));
            CHECK(difference(normed, expected.first) <= kind.tolerance);
            CHECK(difference(input, expected.second) <= kind.tolerance);
            CHECK(at::equal(again.first, normed));
            CHECK(at::equal(again.second, input));
            for (const at::Tensor& result : {normed, input}) {
              CHECK(result.scalar_type() == kind.type);
              CHECK(result.is_contiguous(format));
            }
            if (change == SizeChange::kDoubled) {
              CHECK(at::equal(
                  normed, resized_by_two(group_norm_silu(x, 8, weight, bias, 1e-5, {}, Execution::kFused), change)));
              CHECK(at::equal(input, resized_by_two(x, change)));
            }
            if (shape[0] == 0) continue;
            const auto of_last = made(x.narrow(0, shape[0] - 1, 1).clone(format));
            CHECK(at::equal(of_last.first, normed.narrow(0, shape[0] - 1, 1)));
            CHECK(at::equal(of_last.second, input.narrow(0, shape[0] - 1, 1)));
            // With a gradient the operators follow the norm.
            const auto recorded = made(x.clone().requires_grad_(true));
            CHECK(recorded.first.requires_grad());
            CHECK(recorded.second.requires_grad());
            CHECK(difference(recorded.first.detach(), expected.first) <= kind.tolerance);
            CHECK(difference(recorded.second.detach(), expected.second) <= kind.tolerance);
          }
  // A view that begins between two multiples of 16 bytes; gaps, as those of a norm that keeps its size.
  const at::Tensor large = on_device({2, 8, 4, 16}, 5, at::kFloat), gaps = large.slice(3, 0, 16, 2);
  const at::Tensor dense = gaps.contiguous();
  const at::Tensor odd =
      at::empty({dense.numel() + 1}, dense.options()).narrow(0, 1, dense.numel()).view(dense.sizes());
  odd.copy_(dense);
  for (const SizeChange change : {SizeChange::kHalved, SizeChange::kDoubled}) {
    const auto expected = group_norm_silu_resized(dense, 2, {}, {}, 1e-5, change, Execution::kFused);
    const auto found = group_norm_silu_resized(odd, 2, {}, {}, 1e-5, change, Execution::kFused);
    CHECK(difference(found.first, expected.first) < 1e-5);
    CHECK(at::equal(found.second, expected.second));
    CHECK_THROWS_WITH(group_norm_silu_resized(gaps, 2, {}, {}, 1e-5, change, Execution::kFused),
                      contains_text("kFused"));
  }
}

TEST_CASE("an error of a kernel names the operation, and says who may have caused it", "[backend][cuda]") {
  const auto told = [](kernels::Blame blame, const char* kernel, bool of_memory = false) {
    kernels::LaunchError error("out of luck");
    error.blame = blame, error.kernel = kernel, error.of_memory = of_memory;
    try {
      require_launched(error, "daug::operation");
    } catch (const Error& thrown) {
      return std::pair(thrown.code(), std::string(thrown.what()));
    }
    return std::pair(ErrorCode::kCancelled, std::string("nothing was thrown"));
  };
  CHECK_NOTHROW(require_launched({}, "daug::operation"));
  const auto refused = told(kernels::Blame::kCall, nullptr);
  CHECK(refused.first == ErrorCode::kUnsupported);
  CHECK(refused.second == "daug::operation: the kernel was not launched: out of luck");
  const auto left = told(kernels::Blame::kLeftBehind, nullptr);
  CHECK(left.first == ErrorCode::kUnsupported);
  CHECK_THAT(left.second,
             contains_text("daug::operation: no kernel was launched, as a call of this CUDA runtime before it"));
  CHECK_THAT(left.second, contains_text("left an error behind: out of luck"));
  // What makes batches smaller.
  const auto short_of_memory = told(kernels::Blame::kCall, "sum_planes", true);
  CHECK(short_of_memory.first == ErrorCode::kOutOfMemory);
  CHECK(short_of_memory.second == "daug::operation: kernel sum_planes was not launched: out of luck");
  CHECK(told(kernels::Blame::kLeftBehind, nullptr, true).first == ErrorCode::kUnsupported);  // another's shortage
  const auto failed = told(kernels::Blame::kKernel, "sum_planes");
  CHECK(failed.first == ErrorCode::kDevice);
  CHECK(failed.second == "daug::operation: kernel sum_planes failed on its device: out of luck");
  const auto earlier = told(kernels::Blame::kEarlier, nullptr);
  CHECK(earlier.first == ErrorCode::kDevice);
  for (const char* part : {"daug::operation: its device has failed: out of luck", "An earlier kernel may be to blame",
                           "DAUG_CHECK_KERNELS=1", "CUDA_LAUNCH_BLOCKING=1"})
    CHECK_THAT(earlier.second, contains_text(part));
}

TEST_CASE("an error of a captured graph is a fault's, one of memory or a refusal", "[backend][cuda]") {
  using kernels::Blame;
  const auto told = [](int error, Blame blame) {
    return caught([&] { throw_graph_error(error, "out of luck", "replaying a captured graph", blame); });
  };
  const std::string operation = "daug::backend::GraphCache: replaying a captured graph: ";
  const Error earlier = told(700, Blame::kEarlier);
  CHECK(earlier.code() == ErrorCode::kDevice);
  CHECK(mentions(earlier, operation + "its device has failed: out of luck", "An earlier kernel may be to blame"));
  const Error own = told(719, Blame::kKernel);
  CHECK(own.code() == ErrorCode::kDevice);
  CHECK(own.what() == operation + "kernel of the graph failed on its device: out of luck");
  for (const Blame blame : {Blame::kEarlier, Blame::kKernel}) {
    const Error shortage = told(2, blame);
    CHECK(shortage.code() == ErrorCode::kOutOfMemory);
    CHECK(shortage.what() == operation + "out of luck");
    for (const int refusal : {1, 801, 900, 901}) {  // a value; what is not supported, or not while work is captured
      const Error refused = told(refusal, blame);
      CHECK(refused.code() == ErrorCode::kUnsupported);
      CHECK(refused.what() == operation + "out of luck");
    }
  }
}

TEST_CASE("a solver step on a device agrees with float64", "[backend][gpu]") {
  if (no_device()) return;
  for (const Kind& kind : kKinds)
    for (const std::int64_t side : {1, 7, 16})
      for (unsigned bits = 0; bits < 32; ++bits) {
        INFO(kind.type << " " << side << " parts " << bits);
        const at::Tensor x = on_device({4, 2, side, side}, 1, kind.type);
        const at::Tensor both = on_device({8, 4, side, side}, 2, kind.type).narrow(1, 0, 2);
        GuidedNoise noise;
        noise.first = both.narrow(0, 0, 4);
        if (bits & 1) noise.second = both.narrow(0, 4, 4);
        if (bits & 2) noise.gradient = on_device({4, 2, side, side}, 3, kind.type);
        if (bits & 4) noise.strength = random_tensor({4, 1, 1, 1}, 4).abs();
        noise.weight = 2, noise.gradient_weight = 0.3, noise.from_second = bits & 8;
        SolverStep step;
        step.keep = 1.1, step.add = -0.2, step.signal = 0.6, step.deviation = 0.8, step.clip = bits & 16;
        if (bits & 1) step.previous = on_device({4, 2, side, side}, 5, kind.type), step.previous_weight = 0.5;
        GuidedNoise wide_noise = noise;
        for (at::Tensor* tensor : {&wide_noise.first, &wide_noise.second, &wide_noise.gradient})
          *tensor = wide(*tensor);
        SolverStep wide_step = step;
        wide_step.previous = wide(step.previous);
        const at::Tensor expected = solver_update(wide(x), wide_noise, wide_step, Execution::kReference);
        const at::Tensor result = solver_update(x, noise, step, Execution::kFused);
        CHECK(difference(result, expected) <= kind.tolerance);
        CHECK(at::equal(result, solver_update(x, noise, step, Execution::kFused)));
        const at::Tensor last = x.contiguous(at::MemoryFormat::ChannelsLast), gaps = at::cat({x, x}, 1).narrow(1, 0, 2);
        const at::Tensor from_last = solver_update(last, noise, step, Execution::kFused);
        CHECK(from_last.is_contiguous(at::MemoryFormat::ChannelsLast));
        CHECK(at::equal(from_last, result));
        CHECK(at::equal(solver_update(gaps, noise, step, Execution::kFused), result));
      }
  const at::Tensor none = at::zeros({0, 1, 4, 4}, at::Device(at::kCUDA, 0));
  CHECK(solver_update(none, {none}, {}, Execution::kFused).numel() == 0);
}

TEST_CASE("the best rows of scores in tiles are those of a sort", "[backend][cuda]") {
  for (const bool rising : {false, true})
    for (const std::int64_t rows : {1, 40, 1500})
      for (const std::int64_t tile : {32, 224, 4096})
        for (const std::int64_t wanted : {1, 32, 1200}) check_best_rows(at::kCPU, false, rows, tile, wanted, rising);
}

TEST_CASE("the best rows of scores on a device are those of a sort, of equal ones the first", "[backend][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  for (const bool rising : {false, true})
    for (const std::int64_t rows : {1, 40, 2049, 70000})
      for (const std::int64_t tile : {2048, 40000, 131072})
        for (const std::int64_t wanted : {1, 32, 128, 1024})
          for (const bool fused : {false, true}) check_best_rows(device, fused, rows, tile, wanted, rising);
}

TEST_CASE("a device kernel that no device has run is not chosen by itself", "[backend][cuda]") {
  CHECK_FALSE(ran_on_a_device("no_such_kernel"));
  CHECK_FALSE(ran_on_a_device(""));
  for (const char* kernel : {"adamw", "cuda_graph"}) CHECK(is_listed(kernel, ",adamw,cuda_graph,"));
  for (const char* other : {"adam", "damw", "cuda", "graph", ""}) CHECK_FALSE(is_listed(other, ",adamw,cuda_graph,"));
  CHECK_FALSE(is_listed("adamw", ","));
  CHECK_FALSE(device_element({at::zeros({2})}));
  if (no_device()) return;
  const at::Tensor gaps = on_device({2, 8, 5, 10}, 3, at::kFloat).slice(3, 0, 10, 2);
  CHECK_THROWS_WITH(group_norm_silu(gaps, 2, {}, {}, 1e-5, {}, Execution::kFused), contains_text("kFused"));
  // More than a launch takes goes to LibTorch's operators.
  const at::Tensor broad = on_device({1, 6146, 1, 2}, 4, at::kFloat).contiguous(at::MemoryFormat::ChannelsLast);
  CHECK_THROWS_WITH(group_norm_silu(broad, 7, {}, {}, 1e-5, {}, Execution::kFused), contains_text("kFused"));
  CHECK(difference(group_norm_silu(broad, 7, {}, {}), group_norm_silu(wide(broad), 7, {}, {})) < 1e-5);
  const at::Tensor many = on_device({65536, 1}, 5, at::kFloat);
  CHECK_THROWS_WITH(solver_update(many, {many}, {}, Execution::kFused), contains_text("kFused"));
  CHECK(difference(solver_update(many, {many}, {0.5, 0.5}), many) < 1e-6);
  CHECK_FALSE(device_element({gaps, gaps.to(at::kHalf)}));
  CHECK_FALSE(device_element({gaps, at::zeros({2})}));
}
