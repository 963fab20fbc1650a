#include "kernels/group_norm_silu.h"

#include <array>
#include <cstring>
#include <limits>
#include <map>

#include "kernels/cuda/launch_plan.h"
#include "kernels/group_norm_on_device.h"
#include "kernels/half_size.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;
using Case = GroupNormCase;

TEST_CASE("group_norm_silu agrees with its definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    for_each_small_group_norm(
        [](std::uint64_t) { return true; },
        [](const Case& c, std::uint64_t) {
          // A group of one or two values has next to no variance: eps keeps it finite, rounding
          // is magnified by 1/sqrt(eps).
          CHECK(largest_error(c.run(), c.expected()) < (c.channels / c.groups * c.positions < 8 ? 3e-4 : 1e-5));
        });
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
    CHECK(c.last_sample().run() == end_of(all, 700 * 12));
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

/// group_norm_silu_device of arrays in an element type, which begin `skipped` bytes behind a multiple of 16.
std::vector<float> run_on_device(const Case& c, const MixedElements& elements, std::size_t skipped = 0,
                                 bool in_place = false) {
  GroupNormOnDevice on(c, elements, skipped);
  DeviceMemory output(c.x.size() * bytes_of(elements.values), skipped);
  on.problem.output = in_place ? on.x.data() : output.data();
  on.normalise();
  return from_device(in_place ? on.x : output, elements.values);
}

}  // namespace

TEST_CASE("group_norm_silu of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  std::vector<GroupNormSize> sizes = group_norm_sizes();
  sizes.insert(sizes.end(), {{32, 2, 2056}, {1028, 4, 2}, {520, 8, 40}});
  for_each_device_group_norm(
      sizes, /*large_step=*/7, [](const Case& c, const MixedElements& elements, unsigned parts, std::uint64_t) {
        const auto result = in_both_orders([&] { return run_on_device(c, elements); });
        const bool few = c.channels / c.groups * c.positions < 8;
        CHECK(largest_error(result, c.expected()) < (few ? 3e-4 : 1e-5) + rounding(elements.values));
        if (parts < 12) return;
        CHECK(run_on_device(c, elements, 0, true) == result);
        // One element at a time, which are added up in another order.
        CHECK(largest_error(run_on_device(c, elements, bytes_of(elements.values)), c.expected()) <
              (few ? 3e-4 : 1e-5) + rounding(elements.values));
        CHECK(run_on_device(c.last_sample(), elements) == end_of(result, c.positions * c.channels));
      });
}

TEST_CASE("group_norm_silu of a device, emulated, joins the sums of many chunks", "[kernels][emulated]") {
  for (const ManyChunks& many : many_chunks())
    for (const MixedElements& elements : few_elements()) {
      const Case c = case_of(many, 2, elements);
      INFO(c.positions << " positions, elements " << static_cast<int>(elements.values));
      CHECK(group_norm_silu_workspace(GroupNormOnDevice(c, elements, 0).problem, elements) ==
            2 * c.batch * (c.groups * many.forward + c.channels));
      const auto result = in_both_orders([&] { return run_on_device(c, elements); });
      CHECK(largest_error(result, c.expected()) < 1e-5 + rounding(elements.values));
      CHECK(run_on_device(c.last_sample(), elements) == end_of(result, c.positions * c.channels));
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
  CHECK(group_norm_silu_device(p, Element::kFloat32, nullptr, {}).problem == nullptr);
  p.batch = p.positions = 1, p.channels = cuda::kMostChannels + 1, p.channels_last = true;
  CHECK(group_norm_silu_device(p, Element::kFloat32, nullptr, {}).problem != nullptr);
  p.channels = 1;
  CHECK(group_norm_silu_device(p, {Element::kFloat32, Element::kFloat16}, nullptr, {}).problem != nullptr);
  CHECK(group_norm_silu_device(p, {Element::kBfloat16, Element::kFloat16}, nullptr, {}).problem != nullptr);
}

TEST_CASE("SiLU of a device, emulated, is right over the whole range, and of what is not finite as by division",
          "[kernels][emulated]") {
  // With a weight of 0 the result is SiLU of the bias.
  const auto silu = [](float t) {
    Case c{1, 2, 1, 1};
    c.fill(1);
    c.x = {-1, 1}, c.weight = {0}, c.bias = {t};
    return run_on_device(c, Element::kFloat32)[0];
  };
  for (const float t : {-1e30F, -200.0F, -90.0F, -88.0F, -87.4F, -87.3F, -20.0F, -1.28F, -1e-3F, 0.0F, 1.0F, 16.5F,
                        87.0F, 90.0F, 1e30F}) {
    const double expected = t / (1 + std::exp(-double{t}));
    // The exponential is as inexact as t, of which it is computed; beyond divisors of 2^126 the result is 0.
    const double relative = 1e-7 * (3 + std::min(100.0, std::abs(double{t}))), absolute = t < -87.33F ? 1.1e-36 : 0;
    INFO("at " << t << " expected " << expected);
    CHECK(std::abs(silu(t) - expected) <= relative * std::abs(expected) + absolute);
  }
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK(silu(kInfinity) == kInfinity);
  CHECK(std::isnan(silu(-kInfinity)));
  CHECK(std::isnan(silu(std::numeric_limits<float>::quiet_NaN())));
}

namespace {

/// group_norm_silu_resized_device: the normed images and, behind them, what their input has become.
std::vector<float> resized_on_device(const Case& c, std::int64_t width, SizeChange change,
                                     const MixedElements& elements, std::size_t skipped = 0) {
  const GroupNormOnDevice on(c, elements, skipped);
  const std::int64_t pixels = change == SizeChange::kHalved ? (c.positions / width / 2) * (width / 2) : 4 * c.positions;
  const std::size_t bytes = static_cast<std::size_t>(c.batch * c.channels * pixels) * bytes_of(elements.values);
  DeviceMemory normed(bytes, skipped), input(bytes, skipped);
  ResizedGroupNormSilu p;
  p.norm = on.problem, p.norm.output = normed.data();
  p.change = change, p.width = width, p.resized_input = input.data();
  DeviceMemory workspace(static_cast<std::size_t>(group_norm_silu_workspace(p.norm, elements)) * sizeof(float));
  const Launched launched;
  launched.check(group_norm_silu_resized_device(p, elements, workspace.floats(), launched.where));
  std::vector<float> results = from_device(normed, elements.values);
  const std::vector<float> beside = from_device(input, elements.values);
  results.insert(results.end(), beside.begin(), beside.end());
  return results;
}

/// Of what resized_on_device returns: each half's last `count` numbers.
std::vector<float> ends_of_halves(const std::vector<float>& results, std::size_t count) {
  std::vector<float> ends;
  for (const std::size_t end : {results.size() / 2, results.size()})
    for (std::size_t i = end - count; i < end; ++i) ends.push_back(results[i]);
  return ends;
}

}  // namespace

TEST_CASE("group_norm_silu of a device, emulated, is halved or doubled on the way, and its input beside it",
          "[kernels][emulated]") {
  // Odd heights and widths, whole loads in one size alone and in both, more channels or pixels than a block has
  // threads.
  const std::vector<GroupNormSize> sizes = {{1, 1, 4},   {3, 1, 15},   {10, 5, 36}, {12, 3, 28},  {6, 3, 112},
                                            {16, 4, 96}, {33, 11, 63}, {257, 1, 6}, {2056, 8, 4}, {4, 2, 6400}};
  const std::map<std::int64_t, std::int64_t> widths = {{4, 2},  {15, 3}, {36, 9}, {28, 4},    {112, 16},
                                                       {96, 8}, {63, 7}, {6, 2},  {6400, 160}};
  for_each_device_group_norm(
      sizes, /*large_step=*/7, [&](const Case& c, const MixedElements& elements, unsigned parts, std::uint64_t) {
        const std::int64_t width = widths.at(c.positions);
        const ImageShape shape{c.batch, c.channels, c.positions / width, width, c.channels_last};
        const std::vector<double> input(c.x.begin(), c.x.end());
        const double tolerance = (c.channels / c.groups * c.positions < 8 ? 3e-4 : 1e-5) + rounding(elements.values);
        for (const SizeChange change : {SizeChange::kHalved, SizeChange::kDoubled}) {
          INFO("width " << width << " halved " << (change == SizeChange::kHalved));
          const auto resized = [&](const std::vector<double>& values) {
            return change == SizeChange::kHalved ? halved(values, shape) : doubled(values, shape);
          };
          std::vector<double> expected = resized(c.expected());
          const std::vector<double> beside = resized(input);
          expected.insert(expected.end(), beside.begin(), beside.end());
          const auto results = in_both_orders([&] { return resized_on_device(c, width, change, elements); });
          CHECK(largest_error(results, expected) < tolerance);
          if (change == SizeChange::kDoubled) {
            std::vector<float> same = doubled(run_on_device(c, elements), shape);
            const std::vector<float> copied = doubled(c.x, shape);
            same.insert(same.end(), copied.begin(), copied.end());
            CHECK(results == same);
          }
          if (parts < 12) continue;
          // One element at a time, which are added up in another order.
          CHECK(largest_error(resized_on_device(c, width, change, elements, bytes_of(elements.values)), expected) <
                tolerance);
          CHECK(resized_on_device(c.last_sample(), width, change, elements) ==
                ends_of_halves(results, results.size() / 2 / static_cast<std::size_t>(c.batch)));
        }
      });
}

TEST_CASE("group_norm_silu of a device that changes its size, emulated: NaN, nothing to do, limits",
          "[kernels][emulated]") {
  for (const bool channels_last : {false, true}) {
    Case c{1, 24, 4, 2};  // of 4 x 6 pixels
    c.channels_last = channels_last;
    c.fill(1);
    c.x[c.at(0, 3, 7)] = std::numeric_limits<float>::quiet_NaN();  // row 1, column 1
    const auto results = resized_on_device(c, 6, SizeChange::kHalved, Element::kFloat32);
    const ImageShape half{1, 4, 2, 3, channels_last};
    for (std::int64_t channel = 0; channel < 4; ++channel)
      for (std::int64_t y = 0; y < 2; ++y)
        for (std::int64_t x = 0; x < 3; ++x) {
          const std::size_t at = half.at(0, channel, y, x);
          CHECK(std::isnan(results[at]) == (channel >= 2));
          CHECK(std::isnan(results[24 + at]) == (channel == 3 && y == 0 && x == 0));
        }
  }
  const std::int64_t before = emulation::launches;
  const auto problem = [](const ResizedGroupNormSilu& p, const MixedElements& elements = Element::kFloat32) {
    return group_norm_silu_resized_device(p, elements, nullptr, {}).problem;
  };
  ResizedGroupNormSilu p;
  for (const SizeChange change : {SizeChange::kHalved, SizeChange::kDoubled}) {
    p.change = change;
    CHECK(problem(p) == nullptr);  // no sample
  }
  p.change = SizeChange::kHalved;
  p.norm.batch = p.norm.channels = 1, p.norm.positions = p.width = 5;
  CHECK(problem(p) == nullptr);  // a single row
  p.norm.positions = 10;
  CHECK(problem(p, {Element::kFloat32, Element::kFloat16}) != nullptr);
  CHECK(problem(p, {Element::kBfloat16, Element::kFloat16}) != nullptr);
  p.norm.channels = cuda::kMostChannels + 1, p.norm.channels_last = true;
  CHECK(problem(p) != nullptr);
  CHECK(emulation::launches == before);
}
