#pragma once
// What the tests of the group norm and of its gradient share.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/group_norm_silu.h"
#include "kernels/kernels.h"

namespace daug::test {

/// A group norm with its own arrays.
struct GroupNormCase {
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

  /// Of the last sample alone.
  GroupNormCase last_sample() const {
    GroupNormCase last = *this;
    last.batch = 1;
    last.x = end_of(x, positions * channels), last.offset = end_of(offset, channels);
    last.modulation = end_of(modulation, 2 * channels);
    return last;
  }

  kernels::GroupNormSilu problem() const {
    kernels::GroupNormSilu p;
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

  std::vector<float> run(const kernels::Parallel& parallel = {}) const {
    std::vector<float> y(x.size(), std::numeric_limits<float>::quiet_NaN());
    kernels::GroupNormSilu p = problem();
    p.output = y.data();
    kernels::group_norm_silu(p, parallel);
    return y;
  }

  std::size_t at(std::int64_t n, std::int64_t c, std::int64_t i) const {
    return static_cast<std::size_t>(n * channels * positions + (channels_last ? i * channels + c : c * positions + i));
  }

  /// The definition in float64, in two passes.
  std::vector<double> expected() const {
    const kernels::GroupNormSilu p = problem();
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

/// check(case, seed) of small cases of every size and kind: some in one group, the others in as many as they can have,
/// of a channel each where own_groups(seed) says so.
template <class OwnGroups, class Check>
void for_each_small_group_norm(const OwnGroups& own_groups, const Check& check) {
  std::uint64_t seed = 0;
  for (const bool channels_last : {false, true})
    for (const std::int64_t channels : {1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 33, 64})
      for (const std::int64_t positions : {1, 2, 5, 8, 16, 63, 64, 65, 131}) {
        ++seed;
        GroupNormCase c{1 + static_cast<std::int64_t>(seed % 3), positions, channels, 1};
        for (std::int64_t groups = 2; groups <= channels && seed % 2; ++groups)
          if (channels % groups == 0 && (groups < channels || own_groups(seed))) c.groups = groups;
        c.channels_last = channels_last;
        c.silu = seed % 4 != 0, c.affine = seed % 5 != 0, c.modulated = seed % 3 == 0, c.shifted = seed % 7 < 3;
        c.fill(seed);
        INFO("N " << c.batch << " P " << positions << " C " << channels << " G " << c.groups << " last "
                  << channels_last << " silu " << c.silu << " affine " << c.affine << " modulated " << c.modulated
                  << " shifted " << c.shifted);
        check(c, seed);
      }
}

}  // namespace daug::test
