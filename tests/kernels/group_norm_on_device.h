#pragma once
// Group norms for the device kernels, emulated on the CPU.

#include "kernels/emulation.h"
#include "kernels/group_norm_case.h"

namespace daug::test {

/// The nearest numbers that elements can hold.
inline void round_to(const kernels::MixedElements& elements, GroupNormCase& c) {
  round_to(elements.values, c.x);
  for (auto* values : {&c.weight, &c.bias, &c.offset, &c.modulation}) round_to(elements.parameters, *values);
}

struct GroupNormSize {
  std::int64_t channels, groups, positions;
};

/// Of result and gradient: single values, odd rows, whole loads, more channels or positions than a block has threads.
inline std::vector<GroupNormSize> group_norm_sizes() {
  return {{1, 1, 1},    {3, 1, 5},   {7, 7, 16},  {8, 2, 8},    {16, 4, 64},  {24, 3, 131},
          {33, 11, 63}, {255, 5, 9}, {257, 1, 3}, {2056, 8, 4}, {4, 2, 40000}};
}

/// For cases that are too large for all types.
inline std::vector<kernels::MixedElements> few_elements() {
  return {kernels::Element::kFloat32, {kernels::Element::kBfloat16, kernels::Element::kFloat32}};
}

struct ManyChunks {
  std::int64_t positions;
  int forward, gradient;  ///< chunks of the sums
};

/// Of kManyChannels that lie last, which are more than half of a block's threads and read one by one: a block takes a
/// position at a time, eight or more of them.
constexpr std::int64_t kManyChannels = 255;
inline std::vector<ManyChunks> many_chunks() { return {{2049, 257, 228}, {4096, 512, 256}, {4999, 500, 250}}; }

/// A case of many chunks, all arguments given.
inline GroupNormCase case_of(const ManyChunks& many, std::int64_t batch, const kernels::MixedElements& elements) {
  GroupNormCase c{batch, many.positions, kManyChannels, kManyChannels / 3};
  c.modulated = c.shifted = true;
  c.fill(static_cast<std::uint64_t>(many.positions));
  round_to(elements, c);
  return c;
}

/// check(case, elements, parts, seed) of every size in both layouts, in all types and with the optional arguments that
/// the bits of `parts` stand for: of every fifth of their 16 combinations, and of large sizes of every `large_step`th.
template <class Check>
void for_each_device_group_norm(const std::vector<GroupNormSize>& sizes, unsigned large_step, const Check& check) {
  std::uint64_t seed = 0;
  for (const GroupNormSize& s : sizes)
    for (const bool channels_last : {false, true})
      for (const kernels::MixedElements& elements : mixed_elements()) {
        const unsigned step = s.positions * s.channels > 3000 ? large_step : 5;
        for (unsigned parts = 0; parts < 16; parts += step) {
          ++seed;
          GroupNormCase c{1 + static_cast<std::int64_t>(seed % 3), s.positions, s.channels, s.groups};
          if (s.positions > 10000) c.batch = 1;
          c.channels_last = channels_last;
          c.silu = !(parts & 1), c.affine = !(parts & 2), c.modulated = parts & 4, c.shifted = parts & 8;
          c.fill(seed);
          round_to(elements, c);
          INFO("elements " << static_cast<int>(elements.values) << " and " << static_cast<int>(elements.parameters)
                           << " N " << c.batch << " P " << c.positions << " C " << c.channels << " G " << c.groups
                           << " last " << channels_last << " parts " << parts);
          check(c, elements, parts, seed);
        }
      }
}

/// The arrays of a case as elements, which begin `skipped` bytes behind a multiple of 16, and what kernels are told.
struct GroupNormOnDevice {
  kernels::MixedElements elements;
  DeviceMemory x, weight, bias, offset, modulation;
  kernels::GroupNormSiluOf<void> problem;  ///< without an output

  GroupNormOnDevice(const GroupNormCase& c, const kernels::MixedElements& of, std::size_t skipped)
      : elements(of),
        x(on_device(c.x, of.values, skipped)),
        weight(on_device(c.weight, of.parameters, skipped)),
        bias(on_device(c.bias, of.parameters, skipped)),
        offset(on_device(c.offset, of.parameters, skipped)),
        modulation(on_device(c.modulation, of.parameters, skipped)) {
    const kernels::GroupNormSilu p = c.problem();
    problem.batch = p.batch, problem.positions = p.positions, problem.channels = p.channels, problem.groups = p.groups;
    problem.channels_last = p.channels_last, problem.eps = p.eps, problem.silu = p.silu;
    problem.input = x.data();
    if (p.weight) problem.weight = weight.data(), problem.bias = bias.data();
    if (p.offset) problem.offset = offset.data(), problem.offset_stride = p.offset_stride;
    if (p.scale) {
      problem.scale = modulation.data();
      problem.shift =
          static_cast<char*>(modulation.data()) + static_cast<std::size_t>(p.channels) * bytes_of(of.parameters);
      problem.scale_stride = p.scale_stride, problem.shift_stride = p.shift_stride;
    }
  }

  /// To the output, and to the moments unless they are null.
  void normalise(float* moments = nullptr) const {
    DeviceMemory workspace(static_cast<std::size_t>(kernels::group_norm_silu_workspace(problem, elements)) *
                           sizeof(float));
    const Launched launched;
    launched.check(group_norm_silu_device(problem, elements, workspace.floats(), launched.where, moments));
  }
};

}  // namespace daug::test
