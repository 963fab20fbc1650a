#include "kernels/group_norm_silu.h"

#include <array>
#include <cstring>
#include <limits>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// A problem with its own arrays.
struct Case {
  std::int64_t batch, positions, channels, groups;
  bool channels_last = true, silu = true, affine = true, modulated = false, shifted = false;
  double mean = 0, deviation = 1;
  std::vector<float> x = {}, weight = {}, bias = {}, offset = {}, modulation = {};

  void fill(std::uint64_t seed) {
    x = random_floats(batch * positions * channels, seed, mean, deviation);
    weight = random_floats(channels, seed + 1, 1, 0.3);
    bias = random_floats(channels, seed + 2);
    offset = random_floats(batch * channels, seed + 3, 0, deviation);
    modulation = random_floats(batch * 2 * channels, seed + 4, 0, 0.5);  // rows of scale and shift side by side
  }

  GroupNormSilu problem() const {
    GroupNormSilu p;
    p.batch = batch, p.positions = positions, p.channels = channels, p.groups = groups;
    p.channels_last = channels_last, p.silu = silu, p.input = x.data();
    if (affine) p.weight = weight.data(), p.bias = bias.data();
    if (shifted) p.offset = offset.data(), p.offset_stride = channels;
    if (modulated) {
      p.scale = modulation.data(), p.shift = modulation.data() + channels;
      p.scale_stride = p.shift_stride = 2 * channels;
    }
    return p;
  }

  std::vector<float> run(const Parallel& parallel = {}) const {
    std::vector<float> y(x.size(), std::numeric_limits<float>::quiet_NaN());
    GroupNormSilu p = problem();
    p.output = y.data();
    group_norm_silu(p, parallel);
    return y;
  }

  std::size_t at(std::int64_t n, std::int64_t c, std::int64_t i) const {
    return static_cast<std::size_t>(n * channels * positions + (channels_last ? i * channels + c : c * positions + i));
  }

  /// The definition in float64, in two passes.
  std::vector<double> expected() const {
    const GroupNormSilu p = problem();
    const std::int64_t width = channels / groups;
    std::vector<double> y(x.size());
    const auto h = [&](std::int64_t n, std::int64_t c, std::int64_t i) {
      return static_cast<double>(x[at(n, c, i)]) + (shifted ? p.offset[n * channels + c] : 0.0F);
    };
    for (std::int64_t n = 0; n < batch; ++n)
      for (std::int64_t c = 0; c < channels; ++c) {
        const std::int64_t first = c / width * width;
        double sum = 0, square = 0;
        const auto count = static_cast<double>(width * positions);
        for (std::int64_t k = first; k < first + width; ++k)
          for (std::int64_t i = 0; i < positions; ++i) sum += h(n, k, i);
        for (std::int64_t k = first; k < first + width; ++k)
          for (std::int64_t i = 0; i < positions; ++i) square += std::pow(h(n, k, i) - sum / count, 2);
        for (std::int64_t i = 0; i < positions; ++i) {
          double v = (h(n, c, i) - sum / count) / std::sqrt(square / count + p.eps);
          if (affine) v = v * p.weight[c] + p.bias[c];
          if (modulated) v = v * (1.0 + p.scale[n * 2 * channels + c]) + p.shift[n * 2 * channels + c];
          y[at(n, c, i)] = silu ? v / (1 + std::exp(-v)) : v;
        }
      }
    return y;
  }
};

}  // namespace

TEST_CASE("group_norm_silu agrees with its definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    std::uint64_t seed = 0;
    for (const bool channels_last : {false, true})
      for (const std::int64_t channels : {1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 33, 64})
        for (const std::int64_t positions : {1, 2, 5, 8, 16, 63, 64, 65, 131}) {
          ++seed;
          Case c{1 + static_cast<std::int64_t>(seed % 3), positions, channels, 1};
          for (std::int64_t groups = 2; groups <= channels && seed % 2; ++groups)
            if (channels % groups == 0) c.groups = groups;
          c.channels_last = channels_last;
          c.silu = seed % 4 != 0, c.affine = seed % 5 != 0, c.modulated = seed % 3 == 0, c.shifted = seed % 7 < 3;
          c.fill(seed);
          INFO("N " << c.batch << " P " << positions << " C " << channels << " G " << c.groups << " last "
                    << channels_last << " silu " << c.silu << " modulated " << c.modulated << " shifted " << c.shifted);
          // A group of one or two values has next to no variance: eps keeps it finite, rounding is magnified by
          // 1/sqrt(eps).
          CHECK(largest_error(c.run(), c.expected()) < (channels / c.groups * positions < 8 ? 3e-4 : 1e-5));
        }
  });
}

TEST_CASE("group_norm_silu keeps its accuracy when the mean is far above the deviation", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true})
      for (const double mean : {1e2, -1e4, 1e6}) {
        Case c{2, 1500, 16, 4};
        c.channels_last = channels_last, c.modulated = true, c.shifted = true;
        c.mean = mean;
        c.fill(11);
        // The time embedding alone may be what is large.
        for (float& value : c.offset) value += static_cast<float>(mean / 3);
        INFO("mean " << mean << " last " << channels_last);
        CHECK(largest_error(c.run(), c.expected()) < 1e-5);
      }
  });
}

TEST_CASE("group_norm_silu keeps its accuracy when its probes meet outliers", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true}) {
      Case c{1, 4096, 8, 4};
      c.channels_last = channels_last;
      c.fill(5);
      for (std::int64_t k = 0; k < 8; ++k) c.x[c.at(0, k, 0)] = 300;  // position 0 is always probed
      CHECK(largest_error(c.run(), c.expected()) < 1e-5);
    }
  });
}

TEST_CASE("group_norm_silu is bit-equal in place, and whatever threads there are", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true})
      for (const std::int64_t batch : {1, 2, 3, 8}) {
        Case c{batch, 5000, 24, 8};
        c.channels_last = channels_last, c.modulated = true;
        c.fill(3);
        const std::vector<float> alone = c.run();
        for (const int threads : {2, 3, 7}) CHECK(c.run(odd_threads(threads)) == alone);
        GroupNormSilu p = c.problem();
        p.output = c.x.data();
        group_norm_silu(p, odd_threads(2));
        CHECK(c.x == alone);
      }
  });
}

TEST_CASE("a result larger than caches is the same bits, wherever it lies", "[kernels]") {
  constexpr std::int64_t kFloats = 1 << 20;
  for (const std::int64_t channels : {48, 72, 80, 128}) {
    Case c{1, kFloats / channels + 3, channels, 8};
    c.fill(static_cast<std::uint64_t>(channels));
    std::vector<float> in_place = c.x, memory(c.x.size() + 32);
    GroupNormSilu p = c.problem();
    for_each_instruction_set([&] {
      in_place = c.x;
      p.input = p.output = in_place.data();
      group_norm_silu(p, {});
      p.input = c.x.data();
      const auto beyond = reinterpret_cast<std::uintptr_t>(memory.data()) % 64 / sizeof(float);
      float* const line = memory.data() + (16 - beyond) % 16;  // a multiple of 64 bytes, and no such
      for (float* const output : {line, line + 3}) {
        std::fill(memory.begin(), memory.end(), std::numeric_limits<float>::quiet_NaN());
        p.output = output;
        group_norm_silu(p, odd_threads(3));
        CHECK(std::memcmp(output, in_place.data(), in_place.size() * sizeof(float)) == 0);
        CHECK(std::isnan(output[in_place.size()]));
      }
    });
  }
}

TEST_CASE("a sample's result does not depend on the batch around it", "[kernels]") {
  for (const bool channels_last : {false, true}) {
    Case c{5, 700, 12, 3};
    c.channels_last = channels_last;
    c.fill(8);
    const std::vector<float> all = c.run(odd_threads(2));
    Case last = c;
    last.batch = 1;
    last.x.assign(c.x.end() - 700 * 12, c.x.end());
    CHECK(last.run() == std::vector<float>(all.end() - 700 * 12, all.end()));
  }
}

TEST_CASE("SiLU is right over the whole range of float32", "[kernels]") {
  for_each_instruction_set([] {
    // With a weight of 0 the result is SiLU of the bias.
    for (const double at :
         {-1e30, -1e4, -200.0, -104.5, -90.0, -88.0, -20.0, -5.0, -1.0, -1e-3, 1e-3, 1.0, 50.0, 1e30}) {
      Case c{1, 2, 1, 1};
      c.fill(1);
      c.x = {-1, 1};
      c.weight = {0};
      c.bias = {static_cast<float>(at)};
      const double v = c.bias[0], expected = v / (1 + std::exp(-v));
      for (const float y : c.run()) {
        INFO("at " << at << " got " << y << " expected " << expected);
        CHECK(std::abs(y - expected) <= 5e-7 * std::abs(expected) + 1e-37 * std::abs(v));
      }
    }
  });
}

TEST_CASE("group_norm_silu: empty batches, constant groups and NaN", "[kernels]") {
  for_each_instruction_set([] {
    for (const bool channels_last : {false, true}) {
      Case empty{0, 9, 8, 2};
      empty.channels_last = channels_last;
      empty.fill(1);
      CHECK(empty.run(odd_threads(2)).empty());

      Case c{1, 20, 4, 2};
      c.channels_last = channels_last, c.silu = false, c.affine = false;
      c.fill(1);
      for (std::int64_t i = 0; i < 20; ++i) c.x[c.at(0, 0, i)] = c.x[c.at(0, 1, i)] = 0.1F;
      c.x[c.at(0, 3, 7)] = std::numeric_limits<float>::quiet_NaN();
      const std::vector<float> y = c.run();
      for (std::int64_t i = 0; i < 20; ++i) {
        CHECK(std::abs(y[c.at(0, 0, i)]) < 1e-5);
        CHECK(std::isnan(y[c.at(0, 2, i)]));  // the whole group, as everything in it was divided by NaN
      }
    }
  });
}

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
};

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
    std::uint64_t seed = 0;
    for (const bool channels_last : {false, true})
      for (const std::int64_t channels : {1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 33, 64})
        for (const std::int64_t positions : {1, 2, 5, 8, 16, 63, 64, 65, 131}) {
          ++seed;
          Case c{1 + static_cast<std::int64_t>(seed % 3), positions, channels, 1};
          for (std::int64_t groups = 2; groups <= channels && seed % 2; ++groups)
            if (channels % groups == 0 && (groups < channels || seed % 5 < 2)) c.groups = groups;
          c.channels_last = channels_last;
          c.silu = seed % 4 != 0, c.affine = seed % 5 != 0, c.modulated = seed % 3 == 0, c.shifted = seed % 7 < 3;
          c.fill(seed);
          const std::vector<float> dy = random_floats(c.batch * positions * channels, seed + 1000);
          INFO("N " << c.batch << " P " << positions << " C " << channels << " G " << c.groups << " last "
                    << channels_last << " silu " << c.silu << " affine " << c.affine << " modulated " << c.modulated
                    << " shifted " << c.shifted);
          // Few values: see the forward pass.
          CHECK(worst_error(run_gradient(c, dy), slow_gradient(c, dy)) <
                (channels / c.groups * positions < 8 ? 3e-3 : 1e-4));
        }
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
    const auto end_of = [](const std::vector<float>& values, std::int64_t count) {
      return std::vector<float>(values.end() - count, values.end());
    };
    const std::vector<float> dy = random_floats(5 * kSize, 9);
    const Gradients<float> all = run_gradient(c, dy, odd_threads(2));
    Case last = c;
    last.batch = 1;
    last.x = end_of(c.x, kSize), last.offset = end_of(c.offset, kChannels);
    last.modulation = end_of(c.modulation, 2 * kChannels);
    const Gradients<float> alone = run_gradient(last, end_of(dy, kSize));
    CHECK(alone.x == end_of(all.x, kSize));
    CHECK(alone.offset == end_of(all.offset, kChannels));
    CHECK(alone.scale == end_of(all.scale, kChannels));
    CHECK(alone.shift == end_of(all.shift, kChannels));
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

/// group_norm_silu_device of arrays in an element type, which begin `skipped` bytes behind a multiple of 16.
std::vector<float> run_on_device(const Case& c, Element element, std::size_t skipped = 0, bool in_place = false) {
  const auto put = [&](const std::vector<float>& values) { return on_device(values, element, skipped); };
  DeviceMemory x = put(c.x), weight = put(c.weight), bias = put(c.bias), offset = put(c.offset),
               modulation = put(c.modulation), output(c.x.size() * bytes_of(element), skipped);
  const GroupNormSilu p = c.problem();
  GroupNormSiluOf<void> d;
  d.batch = p.batch, d.positions = p.positions, d.channels = p.channels, d.groups = p.groups;
  d.channels_last = p.channels_last, d.eps = p.eps, d.silu = p.silu;
  d.input = x.data(), d.output = in_place ? x.data() : output.data();
  if (p.weight) d.weight = weight.data(), d.bias = bias.data();
  if (p.offset) d.offset = offset.data(), d.offset_stride = p.offset_stride;
  if (p.scale) {
    d.scale = modulation.data();
    d.shift = static_cast<char*>(modulation.data()) + static_cast<std::size_t>(p.channels) * bytes_of(element);
    d.scale_stride = p.scale_stride, d.shift_stride = p.shift_stride;
  }
  DeviceMemory workspace(static_cast<std::size_t>(group_norm_silu_workspace(d, element)) * sizeof(float));
  const Launched launched;
  launched.check(group_norm_silu_device(d, element, workspace.floats(), launched.where));
  return from_device(in_place ? x : output, element);
}

void round_all(Element element, Case& c) {
  for (auto* values : {&c.x, &c.weight, &c.bias, &c.offset, &c.modulation}) round_to(element, *values);
}

}  // namespace

TEST_CASE("group_norm_silu of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  struct Size {
    std::int64_t channels, groups, positions;
  };
  std::uint64_t seed = 0;
  for (const Size s : std::vector<Size>{{1, 1, 1},
                                        {3, 1, 5},
                                        {7, 7, 16},
                                        {8, 2, 8},
                                        {16, 4, 64},
                                        {24, 3, 131},
                                        {33, 11, 63},
                                        {32, 2, 2056},
                                        {255, 5, 9},
                                        {257, 1, 3},
                                        {1028, 4, 2},
                                        {2056, 8, 4},
                                        {520, 8, 40},
                                        {4, 2, 40000}})
    for (const bool channels_last : {false, true})
      for (const Element element : kElements)
        for (unsigned parts = 0; parts<16; parts += s.positions * s.channels> 3000 ? 7 : 5) {
          ++seed;
          Case c{1 + static_cast<std::int64_t>(seed % 3), s.positions, s.channels, s.groups};
          if (s.positions > 10000) c.batch = 1, c.silu = false;
          c.channels_last = channels_last;
          c.silu = !(parts & 1), c.affine = !(parts & 2), c.modulated = parts & 4, c.shifted = parts & 8;
          c.fill(seed);
          round_all(element, c);
          INFO("element " << static_cast<int>(element) << " N " << c.batch << " P " << c.positions << " C "
                          << c.channels << " G " << c.groups << " last " << channels_last << " parts " << parts);
          const auto result = in_both_orders([&] { return run_on_device(c, element); });
          const bool few = s.channels / s.groups * s.positions < 8;
          CHECK(largest_error(result, c.expected()) < (few ? 3e-4 : 1e-5) + rounding(element));
          if (parts < 12) continue;
          CHECK(run_on_device(c, element, 0, true) == result);
          // One element at a time, which are added up in another order.
          CHECK(largest_error(run_on_device(c, element, bytes_of(element)), c.expected()) <
                (few ? 3e-4 : 1e-5) + rounding(element));
          Case last = c;
          last.batch = 1;
          const auto keep = [&](std::vector<float>& values, std::int64_t count) {
            values.erase(values.begin(), values.end() - count);
          };
          keep(last.x, s.positions * s.channels), keep(last.offset, s.channels), keep(last.modulation, 2 * s.channels);
          CHECK(run_on_device(last, element) ==
                std::vector<float>(result.end() - s.positions * s.channels, result.end()));
        }
}

TEST_CASE("group_norm_silu of a device, emulated: means far away, outliers, NaN, limits", "[kernels][emulated]") {
  for (const bool channels_last : {false, true}) {
    for (const double mean : {1e2, -1e4, 1e6}) {
      Case c{2, 1500, 16, 4};
      c.channels_last = channels_last, c.modulated = true, c.shifted = true, c.mean = mean;
      c.fill(11);
      for (float& value : c.offset) value += static_cast<float>(mean / 3);
      INFO("mean " << mean << " last " << channels_last);
      // The product with the factor and what is added to it are far from the result.
      CHECK(largest_error(run_on_device(c, Element::kFloat32), c.expected()) < 3e-7 * std::abs(mean));
    }
    Case c{1, 20, 4, 2};
    c.channels_last = channels_last, c.silu = false, c.affine = false;
    c.fill(1);
    for (std::int64_t i = 0; i < 20; ++i) c.x[c.at(0, 0, i)] = c.x[c.at(0, 1, i)] = 0.1F;
    c.x[c.at(0, 3, 7)] = std::numeric_limits<float>::quiet_NaN();
    const auto y = run_on_device(c, Element::kFloat32);
    for (std::int64_t i = 0; i < 20; ++i) {
      CHECK(std::abs(y[c.at(0, 0, i)]) < 1e-5);
      CHECK(std::isnan(y[c.at(0, 2, i)]));
    }
    Case outlier{1, 4096, 8, 4};
    outlier.channels_last = channels_last;
    outlier.fill(5);
    for (std::int64_t k = 0; k < 8; ++k) outlier.x[outlier.at(0, k, 0)] = 300;
    // Squares are of distances to the first value.
    CHECK(largest_error(run_on_device(outlier, Element::kFloat32), outlier.expected()) < 300 * 300 * 6e-8);
  }
  Case most{1, 2, cuda::kMostChannels, 2};
  most.fill(2);
  CHECK(largest_error(run_on_device(most, Element::kFloat32), most.expected()) < 1e-5);
  GroupNormSiluOf<void> p;
  CHECK(group_norm_silu_device(p, Element::kFloat32, nullptr, {}) == nullptr);
  p.batch = p.positions = 1, p.channels = cuda::kMostChannels + 1, p.channels_last = true;
  CHECK(group_norm_silu_device(p, Element::kFloat32, nullptr, {}) != nullptr);
}
