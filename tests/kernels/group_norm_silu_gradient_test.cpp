#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cuda/launch_plan.h"
#include "kernels/group_norm_on_device.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;
using Case = GroupNormCase;

namespace {

/// The gradient of a loss with respect to each thing that a result is made of, be it there or a 1 or 0 in its place.
template <class T>
struct Gradients {
  std::vector<T> x, weight, bias, offset, scale, shift;

  static Gradients filled(const Case& c, T value) {
    const auto some = [value](std::int64_t count) { return std::vector<T>(static_cast<std::size_t>(count), value); };
    const std::int64_t rows = c.batch * c.channels;
    return {some(rows * c.positions), some(c.channels), some(c.channels), some(rows), some(rows), some(rows)};
  }
  std::array<const std::vector<T>*, 6> all() const { return {&x, &weight, &bias, &offset, &scale, &shift}; }
  std::vector<T> joined() const {
    std::vector<T> result;
    for (const auto* values : all()) result.insert(result.end(), values->begin(), values->end());
    return result;
  }
};

/// Checks that the gradients of the last sample alone are bit for bit those that it has in its batch.
void check_last_sample(const Gradients<float>& alone, const Gradients<float>& all, const Case& c) {
  CHECK(alone.x == end_of(all.x, c.positions * c.channels));
  CHECK(alone.offset == end_of(all.offset, c.channels));
  CHECK(alone.scale == end_of(all.scale, c.channels));
  CHECK(alone.shift == end_of(all.shift, c.channels));
}

bool same_gradients(const Gradients<float>& a, const Gradients<float>& b) {
  for (std::size_t i = 0; i < a.all().size(); ++i)
    if (*a.all()[i] != *b.all()[i]) return false;
  return true;
}

double worst_error(const Gradients<float>& actual, const Gradients<double>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < actual.all().size(); ++i)
    largest = std::max(largest, largest_error(*actual.all()[i], *expected.all()[i]));
  return largest;
}

/// Of the kernel, with the moments that it keeps going forward.
Gradients<float> run_gradient(const Case& c, const std::vector<float>& dy, const Parallel& parallel = {}) {
  std::vector<float> y(c.x.size());
  std::vector<double> moments(static_cast<std::size_t>(2 * c.batch * c.groups));
  double* inverse = moments.data() + c.batch * c.groups;
  GroupNormSilu p = c.problem();
  p.output = y.data();
  group_norm_silu(p, parallel, {moments.data(), inverse});
  auto found = Gradients<float>::filled(c, std::numeric_limits<float>::quiet_NaN());
  GroupNormSiluGradient g;
  g.forward = c.problem();
  g.mean = moments.data(), g.inverse_deviation = inverse;
  g.output_gradient = dy.data(), g.input_gradient = found.x.data();
  g.weight_gradient = found.weight.data(), g.bias_gradient = found.bias.data();
  g.offset_gradient = found.offset.data();
  g.scale_gradient = found.scale.data(), g.shift_gradient = found.shift.data();
  group_norm_silu_gradient(g, parallel);
  return found;
}

/// In float64 back through one operation after the other, mean and variance among them.
Gradients<double> slow_gradient(const Case& c, const std::vector<float>& dy) {
  const GroupNormSilu p = c.problem();
  const std::int64_t width = c.channels / c.groups;
  const auto count = static_cast<double>(width * c.positions);
  auto d = Gradients<double>::filled(c, 0);
  for (std::int64_t n = 0; n < c.batch; ++n)
    for (std::int64_t first = 0; first < c.channels; first += width) {
      const auto each = [&](const auto& body) {
        for (std::int64_t k = first; k < first + width; ++k)
          for (std::int64_t i = 0; i < c.positions; ++i) body(k, c.at(n, k, i));
      };
      const auto h = [&](std::int64_t k, std::size_t at) {
        return static_cast<double>(c.x[at]) + (c.shifted ? p.offset[n * c.channels + k] : 0.0F);
      };
      double mean = 0, variance = 0;
      each([&](std::int64_t k, std::size_t at) { mean += h(k, at) / count; });
      each([&](std::int64_t k, std::size_t at) { variance += std::pow(h(k, at) - mean, 2) / count; });
      const double deviation = std::sqrt(variance + p.eps);
      double by_mean = 0, by_variance = 0;
      each([&](std::int64_t k, std::size_t at) {
        const auto channel = static_cast<std::size_t>(k), row = static_cast<std::size_t>(n * c.channels + k);
        const double weight = c.affine ? p.weight[k] : 1.0, bias = c.affine ? p.bias[k] : 0.0;
        const double factor = c.modulated ? 1.0 + p.scale[n * p.scale_stride + k] : 1.0;
        const double shift = c.modulated ? p.shift[n * p.shift_stride + k] : 0.0;
        const double normed = (h(k, at) - mean) / deviation, affine = normed * weight + bias;
        const double t = affine * factor + shift, s = 1 / (1 + std::exp(-t));
        const double by_t = dy[at] * (c.silu ? s + t * s * (1 - s) : 1.0);
        d.shift[row] += by_t;
        d.scale[row] += by_t * affine;
        d.bias[channel] += by_t * factor;
        d.weight[channel] += by_t * factor * normed;
        const double by_normed = by_t * factor * weight;
        by_mean -= by_normed / deviation;
        by_variance -= by_normed * normed / (2 * deviation * deviation);
        d.x[at] = by_normed / deviation;
      });
      each([&](std::int64_t k, std::size_t at) {
        d.x[at] += by_mean / count + by_variance * 2 * (h(k, at) - mean) / count;
        d.offset[static_cast<std::size_t>(n * c.channels + k)] += d.x[at];
      });
    }
  return d;
}

}  // namespace

TEST_CASE("the slow gradient of a group norm is that of finite differences", "[kernels]") {
  for (const bool channels_last : {false, true})
    for (const bool silu : {false, true}) {
      Case c{2, 5, 6, 3};
      c.channels_last = channels_last, c.silu = silu, c.modulated = c.shifted = true;
      c.fill(21);
      const std::vector<float> dy = random_floats(2 * 5 * 6, 22);
      const Gradients<double> expected = slow_gradient(c, dy);
      const auto loss = [&] {
        const std::vector<double> y = c.expected();
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
        return sum;
      };
      const auto agrees = [&](float& value, double derivative) {
        const float kept = value;
        value = kept + 1e-3F;
        const double above = value, high = loss();
        value = kept - 1e-3F;
        const double numeric = (high - loss()) / (above - value);
        value = kept;
        return std::abs(numeric - derivative) < 1e-4 * (1 + std::abs(derivative));
      };
      INFO("last " << channels_last << " silu " << silu);
      for (std::size_t i = 0; i < c.x.size(); ++i) CHECK(agrees(c.x[i], expected.x[i]));
      for (std::size_t k = 0; k < 6; ++k) {
        CHECK(agrees(c.weight[k], expected.weight[k]));
        CHECK(agrees(c.bias[k], expected.bias[k]));
        for (std::size_t n = 0; n < 2; ++n) {
          CHECK(agrees(c.offset[6 * n + k], expected.offset[6 * n + k]));
          CHECK(agrees(c.modulation[12 * n + k], expected.scale[6 * n + k]));
          CHECK(agrees(c.modulation[12 * n + 6 + k], expected.shift[6 * n + k]));
        }
      }
    }
}

TEST_CASE("the gradient of group_norm_silu agrees with the slow one in float64", "[kernels]") {
  for_each_instruction_set([] {
    for_each_small_group_norm([](std::uint64_t seed) { return seed % 5 < 2; },
                              [](const Case& c, std::uint64_t seed) {
                                const std::vector<float> dy =
                                    random_floats(c.batch * c.positions * c.channels, seed + 1000);
                                // Few values: see the forward pass.
                                CHECK(worst_error(run_gradient(c, dy), slow_gradient(c, dy)) <
                                      (c.channels / c.groups * c.positions < 8 ? 3e-3 : 1e-4));
                              });
  });
}

TEST_CASE("the gradient of group_norm_silu keeps its accuracy with large means and in long rows", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true})
      for (const double mean : {1e2, -1e4, 1e6}) {
        Case c{2, 1500, 16, 4};
        c.channels_last = channels_last, c.modulated = true, c.shifted = true;
        c.mean = mean;
        c.fill(11);
        for (float& value : c.offset) value += static_cast<float>(mean / 3);
        const std::vector<float> dy = random_floats(2 * 1500 * 16, 12);
        INFO("mean " << mean << " last " << channels_last);
        CHECK(worst_error(run_gradient(c, dy), slow_gradient(c, dy)) < 1e-4);
      }
    // All of one sign, so that sums grow with the number of positions.
    Case c{1, 20000, 6, 3};
    c.fill(13);
    const std::vector<float> dy(c.x.size(), 1.0F);
    CHECK(worst_error(run_gradient(c, dy), slow_gradient(c, dy)) < 1e-4);
  });
}

TEST_CASE("to keep the moments changes no bit, and the gradient none with the threads", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true})
      for (const std::int64_t batch : {1, 2, 3, 8}) {
        Case c{batch, 5000, 24, 8};
        c.channels_last = channels_last, c.modulated = c.shifted = true;
        c.fill(3);
        std::vector<float> y(c.x.size());
        std::vector<double> moments(static_cast<std::size_t>(2 * batch * 8));
        GroupNormSilu p = c.problem();
        p.output = y.data();
        group_norm_silu(p, {}, {moments.data(), moments.data() + batch * 8});
        CHECK(y == c.run());
        const std::vector<float> dy = random_floats(batch * 5000 * 24, 4);
        const Gradients<float> alone = run_gradient(c, dy);
        for (const int threads : {2, 3, 7}) CHECK(same_gradients(run_gradient(c, dy, odd_threads(threads)), alone));
      }
  });
}

TEST_CASE("a sample's gradient does not depend on the batch around it", "[kernels]") {
  constexpr std::int64_t kChannels = 12, kSize = 700 * kChannels;
  for (const bool channels_last : {false, true}) {
    Case c{5, 700, kChannels, 3};
    c.channels_last = channels_last, c.modulated = c.shifted = true;
    c.fill(8);
    const std::vector<float> dy = random_floats(5 * kSize, 9);
    const Gradients<float> all = run_gradient(c, dy, odd_threads(2));
    check_last_sample(run_gradient(c.last_sample(), end_of(dy, kSize)), all, c);
  }
}

TEST_CASE("the derivative of SiLU is right over the whole range", "[kernels]") {
  for_each_instruction_set([] {
    // With a weight of 0 the bias is what SiLU is of, and gets its derivative twice.
    for (const double at :
         {-1e30, -1e4, -200.0, -90.0, -88.0, -20.0, -5.0, -1.28, -1.0, -1e-3, 0.0, 1e-3, 1.0, 10.0, 16.5, 50.0, 1e30}) {
      Case c{1, 2, 1, 1};
      c.fill(1);
      c.x = {-1, 1};
      c.weight = {0};
      c.bias = {static_cast<float>(at)};
      const double t = c.bias[0], s = 1 / (1 + std::exp(-t));
      const double got = run_gradient(c, {0.5F, 0.5F}).bias[0], expected = s + t * s * (1 - s);
      INFO("at " << at << " got " << got << " expected " << expected);
      CHECK(std::abs(got - expected) <= 1e-6);
    }
    // And where the values before SiLU are large everywhere, as a network's may become.
    for (const bool channels_last : {false, true}) {
      Case c{2, 70, 8, 2};
      c.channels_last = channels_last;
      c.fill(6);
      for (std::size_t k = 0; k < 8; ++k) c.bias[k] = k % 2 ? 100 : -100;
      const std::vector<float> dy = random_floats(2 * 70 * 8, 7);
      CHECK(worst_error(run_gradient(c, dy), slow_gradient(c, dy)) < 1e-4);
    }
  });
}

TEST_CASE("the gradient of group_norm_silu: empty batches, no positions, constant groups and NaN", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true}) {
      for (const std::int64_t batch : {0, 2}) {
        Case empty{batch, batch == 0 ? 9 : 0, 8, 2};
        empty.channels_last = channels_last;
        empty.fill(1);
        CHECK(same_gradients(run_gradient(empty, {}, odd_threads(2)), Gradients<float>::filled(empty, 0)));
      }
      Case c{1, 20, 4, 2};
      c.channels_last = channels_last;
      c.fill(1);
      for (std::int64_t i = 0; i < 20; ++i) c.x[c.at(0, 0, i)] = c.x[c.at(0, 1, i)] = 0.1F;
      c.x[c.at(0, 3, 7)] = std::numeric_limits<float>::quiet_NaN();
      const Gradients<float> found = run_gradient(c, random_floats(80, 2));
      for (std::int64_t i = 0; i < 20; ++i) {
        CHECK(std::isfinite(found.x[c.at(0, 0, i)]));
        CHECK(std::isnan(found.x[c.at(0, 2, i)]));
      }
      CHECK(std::isnan(found.weight[2]));
      CHECK(std::isnan(found.bias[3]));
    }
  });
}

namespace {

/// Of the device kernels, with the moments that they keep going forward, from arrays that begin `skipped` bytes behind
/// a multiple of 16; of one with `wanted` unset the gradients of all but x are left NaN.
Gradients<float> run_gradient_on_device(const Case& c, const std::vector<float>& dy, const MixedElements& elements,
                                        std::size_t skipped = 0, bool wanted = true) {
  GroupNormOnDevice on(c, elements, skipped);
  DeviceMemory output(c.x.size() * bytes_of(elements.values), skipped);
  DeviceMemory moments(static_cast<std::size_t>(2 * c.batch * c.groups) * sizeof(float));
  on.problem.output = output.data();
  on.normalise(moments.floats());
  DeviceMemory upstream = on_device(dy, elements.values, skipped);
  const std::int64_t rows = c.batch * c.channels;
  DeviceMemory x(c.x.size() * bytes_of(elements.values), skipped);
  const auto room = [&](std::int64_t count) {
    return DeviceMemory(static_cast<std::size_t>(count) * bytes_of(elements.parameters), skipped);
  };
  DeviceMemory weight = room(c.channels), bias = room(c.channels), offset = room(rows), scale = room(rows),
               shift = room(rows);
  GroupNormGradientsOf<void> g;
  g.output_gradient = upstream.data(), g.input_gradient = x.data();
  if (wanted) {
    g.weight_gradient = weight.data(), g.bias_gradient = bias.data();
    g.offset_gradient = offset.data(), g.scale_gradient = scale.data(), g.shift_gradient = shift.data();
  }
  DeviceMemory workspace(static_cast<std::size_t>(group_norm_silu_gradient_workspace(on.problem, g, elements)) *
                         sizeof(float));
  const Launched launched;
  launched.check(
      group_norm_silu_gradient_device(on.problem, g, elements, moments.floats(), workspace.floats(), launched.where));
  const auto read = [&](const DeviceMemory& memory) { return from_device(memory, elements.parameters); };
  return {from_device(x, elements.values), read(weight), read(bias), read(offset), read(scale), read(shift)};
}

/// Of each kind of gradient the largest error, as a part of 1 and the largest value of that kind: sums that come out
/// near 0 are no more exact than others.
double error_by_kind(const Gradients<float>& actual, const Gradients<double>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < actual.all().size(); ++i) {
    const std::vector<float>& a = *actual.all()[i];
    const std::vector<double>& e = *expected.all()[i];
    REQUIRE(a.size() == e.size());
    double error = 0, size = 1;
    for (std::size_t k = 0; k < a.size(); ++k) {
      const double apart = std::abs(a[k] - e[k]);
      error = std::isnan(apart) ? HUGE_VAL : std::max(error, apart);
      size = std::max(size, std::abs(e[k]));
    }
    largest = std::max(largest, error / size);
  }
  return largest;
}

/// An upstream gradient, what the device kernels make of it, the same bits in both orders of threads, and what they
/// should.
struct Compared {
  std::vector<float> dy;
  Gradients<float> found;
  Gradients<double> expected;

  Compared(const Case& c, const MixedElements& elements, std::uint64_t seed)
      : dy(random_floats(c.batch * c.positions * c.channels, seed)) {
    round_to(elements.values, dy);
    in_both_orders([&] {
      found = run_gradient_on_device(c, dy, elements);
      return found.joined();
    });
    expected = slow_gradient(c, dy);
  }

  void check_last(const Case& c, const MixedElements& elements) const {
    const std::vector<float> of_last = end_of(dy, c.positions * c.channels);
    check_last_sample(run_gradient_on_device(c.last_sample(), of_last, elements), found, c);
  }
};

}  // namespace

TEST_CASE("the gradient of group_norm_silu of a device, emulated, agrees with the slow one in float64",
          "[kernels][emulated]") {
  for_each_device_group_norm(
      group_norm_sizes(), /*large_step=*/14,
      [](const Case& c, const MixedElements& elements, unsigned parts, std::uint64_t seed) {
        const Compared compared(c, elements, seed + 1000);
        const std::vector<float>& dy = compared.dy;
        const Gradients<double>& expected = compared.expected;
        // Few values may lie close together, and what is divided by their deviation is as inexact.
        const double tolerance = (c.channels / c.groups * c.positions < 8 ? 1e-3 : 1e-5) + rounding(elements.values);
        CHECK(error_by_kind(compared.found, expected) < tolerance);
        if (parts < 10) return;
        // One element at a time, and dx alone.
        CHECK(error_by_kind(run_gradient_on_device(c, dy, elements, bytes_of(elements.values)), expected) < tolerance);
        const Gradients<float> alone = run_gradient_on_device(c, dy, elements, 0, /*wanted=*/false);
        CHECK(alone.x == compared.found.x);
        for (const auto* values : {&alone.weight, &alone.bias, &alone.offset, &alone.scale, &alone.shift})
          CHECK(std::all_of(values->begin(), values->end(), [](float value) { return std::isnan(value); }));
        compared.check_last(c, elements);
      });
}

TEST_CASE("the gradient of group_norm_silu of a device, emulated, joins the sums of many chunks",
          "[kernels][emulated]") {
  for (const ManyChunks& many : many_chunks())
    for (const MixedElements& elements : few_elements()) {
      const Case c = case_of(many, 2, elements);
      INFO(c.positions << " positions, elements " << static_cast<int>(elements.values));
      CHECK(group_norm_silu_gradient_workspace(GroupNormOnDevice(c, elements, 0).problem, {}, elements) ==
            c.batch * c.channels * (2 + 5 + 3 * many.gradient));
      const Compared compared(c, elements, 77);
      CHECK(error_by_kind(compared.found, compared.expected) < 1e-5 + rounding(elements.values));
      compared.check_last(c, elements);
    }
}

TEST_CASE("the gradient of group_norm_silu of a device, emulated: means far away, steep places, NaN, limits",
          "[kernels][emulated]") {
  for (const bool channels_last : {false, true}) {
    for (const double mean : {1e2, -1e4, 1e6}) {
      Case c{2, 1500, 16, 4};
      c.channels_last = channels_last, c.modulated = true, c.mean = mean;
      c.fill(11);
      const std::vector<float> dy = random_floats(2 * 1500 * 16, 12);
      INFO("mean " << mean << " last " << channels_last);
      CHECK(error_by_kind(run_gradient_on_device(c, dy, Element::kFloat32), slow_gradient(c, dy)) < 1e-4);
    }
    // As large before SiLU as a network's values may become.
    Case steep{2, 70, 8, 2};
    steep.channels_last = channels_last;
    steep.fill(6);
    for (std::size_t k = 0; k < 8; ++k) steep.bias[k] = k % 2 ? 100 : -100;
    const std::vector<float> of_steep = random_floats(2 * 70 * 8, 7);
    CHECK(error_by_kind(run_gradient_on_device(steep, of_steep, Element::kFloat32), slow_gradient(steep, of_steep)) <
          1e-5);
    Case c{1, 20, 4, 2};
    c.channels_last = channels_last;
    c.fill(1);
    for (std::int64_t i = 0; i < 20; ++i) c.x[c.at(0, 0, i)] = c.x[c.at(0, 1, i)] = 0.1F;
    c.x[c.at(0, 3, 7)] = std::numeric_limits<float>::quiet_NaN();
    const Gradients<float> found = run_gradient_on_device(c, random_floats(80, 2), Element::kFloat32);
    for (std::int64_t i = 0; i < 20; ++i) {
      CHECK(std::isfinite(found.x[c.at(0, 0, i)]));
      CHECK(std::isnan(found.x[c.at(0, 2, i)]));
    }
    CHECK(std::isnan(found.weight[2]));
    CHECK(std::isnan(found.bias[3]));
  }
  // With a weight of 0 the bias is what SiLU is of, and gets its derivative twice.
  for (const double at : {-1e30, -200.0, -88.0, -20.0, -1.28, 0.0, 1.0, 16.5, 88.0, 1e30}) {
    Case c{1, 2, 1, 1};
    c.fill(1);
    c.x = {-1, 1}, c.weight = {0}, c.bias = {static_cast<float>(at)};
    const double t = c.bias[0], s = 1 / (1 + std::exp(-t));
    INFO("at " << at);
    CHECK(std::abs(run_gradient_on_device(c, {0.5F, 0.5F}, Element::kFloat32).bias[0] - (s + t * s * (1 - s))) <= 2e-6);
  }
  Case most{1, 2, cuda::kMostChannels, 2};
  most.fill(2);
  const std::vector<float> dy = random_floats(2 * cuda::kMostChannels, 3);
  CHECK(error_by_kind(run_gradient_on_device(most, dy, Element::kFloat32), slow_gradient(most, dy)) < 1e-5);
  GroupNormSiluOf<void> p;
  CHECK(group_norm_silu_gradient_device(p, {}, Element::kFloat32, nullptr, nullptr, {}).problem == nullptr);
  p.batch = p.positions = 1, p.channels = cuda::kMostChannels + 1, p.channels_last = true;
  CHECK(group_norm_silu_gradient_device(p, {}, Element::kFloat32, nullptr, nullptr, {}).problem != nullptr);
}
