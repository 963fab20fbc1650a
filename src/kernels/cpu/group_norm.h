#pragma once
// What the group norm and its gradient share: how the work is cut up, and what becomes of a channel.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/group_norm_silu.h"

namespace daug::kernels::group_norm {

/// Rows (or, of one channel, vectors) whose sums are kept in float32 before they are added up in float64.
constexpr std::int64_t kFloatRows = 64;
/// Most blocks of rows of a sample: bounds the memory for their sums and the threads that one sample can occupy.
constexpr std::int64_t kMostBlocks = 64;
/// Elements that are worth a thread.
constexpr std::int64_t kGrain = 16384;

/// What becomes of one channel of a sample: (x - center) * gain + bias. `center` is the mean in float32, near enough
/// for the subtraction to be exact where it matters; what it lacks is in `bias`.
struct Affine {
  float* center;
  float* gain;
  float* bias;

  Affine from(std::int64_t channel) const { return {center + channel, gain + channel, bias + channel}; }
};

/// Memory that a thread keeps from call to call, so that a sampling loop allocates in its first step alone.
struct Scratch {
  std::vector<double> doubles;
  std::vector<float> floats;

  double* get_doubles(std::int64_t count) { return room(doubles, count); }
  float* get_floats(std::int64_t count) { return room(floats, count); }

 private:
  template <class T>
  static T* room(std::vector<T>& values, std::int64_t count) {
    if (values.size() < static_cast<std::size_t>(count)) values.resize(static_cast<std::size_t>(count));
    return values.data();
  }
};

/// A sample's modulation, with defaults filled in.
struct Sample {
  const GroupNormSilu& p;
  std::int64_t index;

  static double value(const float* row, std::int64_t stride, std::int64_t n, std::int64_t c) {
    return row ? row[n * stride + c] : 0.0;
  }
  double weight(std::int64_t c) const { return p.weight ? p.weight[c] : 1.0; }
  double bias(std::int64_t c) const { return p.bias ? p.bias[c] : 0.0; }
  double offset(std::int64_t c) const { return value(p.offset, p.offset_stride, index, c); }
  double factor(std::int64_t c) const { return 1 + value(p.scale, p.scale_stride, index, c); }
  double shift(std::int64_t c) const { return value(p.shift, p.shift_stride, index, c); }
};

/// What becomes of the channels of the group that starts at channel `first`, from its mean and 1 / deviation.
inline void set_affine(const Sample& sample, std::int64_t first, double mean, double inverse, const Affine& affine) {
  const std::int64_t width = sample.p.channels / sample.p.groups;
  for (std::int64_t c = 0; c < width; ++c) {
    const double factor = sample.factor(first + c);
    const double gain = sample.weight(first + c) * inverse * factor;
    const double center = mean - sample.offset(first + c);
    const double added = sample.bias(first + c) * factor + sample.shift(first + c);
    affine.center[c] = static_cast<float>(center);
    affine.gain[c] = static_cast<float>(gain);
    affine.bias[c] = static_cast<float>(added + (affine.center[c] - center) * gain);
  }
}

/// How a sample that lies channels last is cut up, whoever works on it: `count` blocks of `rows` rows, the last one
/// perhaps of fewer; `grain` of them are worth a thread.
struct Blocks {
  std::int64_t rows, count, grain;
};

inline Blocks blocks_of(const GroupNormSilu& p) {
  const std::int64_t chunks = (p.positions + kFloatRows - 1) / kFloatRows;
  const std::int64_t rows = (chunks + kMostBlocks - 1) / kMostBlocks * kFloatRows;
  return {rows, (p.positions + rows - 1) / rows, std::max<std::int64_t>(1, kGrain / (rows * p.channels))};
}

/// of_group(sample, group) of all where channels lie apart; else of_sample(sample, parallel) of all, with the threads
/// that each is to use. Positions and channels are not 0.
template <class OfGroup, class OfSample>
void share_out(const GroupNormSilu& p, const Parallel& parallel, const OfGroup& of_group, const OfSample& of_sample) {
  const std::int64_t sample_size = p.positions * p.channels;
  if (!p.channels_last) {
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain * p.groups / sample_size);
    parallel(p.batch * p.groups, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) of_group(i / p.groups, i % p.groups);
    });
  } else if (p.batch % parallel.threads == 0 || p.batch >= 4 * parallel.threads) {
    // A sample to a thread: its second reading finds more in that thread's cache.
    const std::int64_t grain = std::max<std::int64_t>(1, kGrain / sample_size);
    parallel(p.batch, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) of_sample(n, Parallel{});
    });
  } else {
    for (std::int64_t n = 0; n < p.batch; ++n) of_sample(n, parallel);
  }
}

}  // namespace daug::kernels::group_norm
