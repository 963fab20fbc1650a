// residual_add of devices, emulated on the CPU.

#include "kernels/residual_add.h"

#include <limits>
#include <string>

#include "kernels/emulation.h"
#include "kernels/half_size.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// A problem with its own arrays.
struct ResidualCase {
  std::int64_t batch, channels, positions;
  bool channels_last = false, biased = true;
  std::vector<float> x = {}, skip = {}, bias = {};
  std::int64_t width = 0;  ///< pixels of a row: the sum is doubled; 0: it is not

  void fill(std::uint64_t seed, const MixedElements& elements) {
    x = random_floats(batch * channels * positions, seed), skip = random_floats(batch * channels * positions, seed + 1);
    bias = random_floats(channels, seed + 2);
    round_to(elements.values, x), round_to(elements.values, skip), round_to(elements.parameters, bias);
  }

  /// The definition in float64.
  std::vector<double> expected() const {
    std::vector<double> result;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const auto channel = static_cast<std::size_t>(channels_last ? at % channels : at / positions % channels);
      result.push_back(static_cast<double>(x[i]) + skip[i] + (biased ? bias[channel] : 0.0F));
    }
    return result;
  }
};

/// Where the result goes.
enum class To { kOutput, kInput, kSkip };

/// Of arrays of values that begin `skipped` bytes behind a multiple of 16.
std::vector<float> run_on_device(const ResidualCase& c, const MixedElements& elements, std::size_t skipped = 0,
                                 To to = To::kOutput) {
  DeviceMemory x = on_device(c.x, elements.values, skipped), skip = on_device(c.skip, elements.values, skipped),
               bias = on_device(c.bias, elements.parameters),
               output((c.width > 0 ? 4 : 1) * c.x.size() * bytes_of(elements.values), skipped);
  DeviceMemory& result = to == To::kInput ? x : to == To::kSkip ? skip : output;
  ResidualAdd p;
  p.batch = c.batch, p.channels = c.channels, p.positions = c.positions, p.channels_last = c.channels_last;
  p.width = c.width;
  p.input = x.data(), p.skip = skip.data(), p.output = result.data();
  if (c.biased) p.bias = bias.data();
  const Launched launched;
  launched.check(residual_add_device(p, elements, launched.where));
  return from_device(result, elements.values);
}

}  // namespace

TEST_CASE("residual_add of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  struct Size {
    std::int64_t channels, positions;
  };
  std::uint64_t seed = 0;
  // Among them rows of more packs, and of more elements, than a block has threads, and more rows than a chunk.
  for (const Size& s : std::vector<Size>{{1, 1},
                                         {3, 5},
                                         {7, 8},
                                         {8, 7},
                                         {16, 64},
                                         {24, 63},
                                         {40, 9},
                                         {1, 2600},
                                         {2600, 1},
                                         {3, 2056},
                                         {2056, 3},
                                         {264, 261}})
    for (const bool channels_last : {false, true})
      for (const MixedElements& elements : mixed_elements())
        for (const bool biased : {false, true}) {
          ++seed;
          ResidualCase c{1 + static_cast<std::int64_t>(seed % 3), s.channels, s.positions, channels_last, biased};
          c.fill(seed, elements);
          INFO("elements " << static_cast<int>(elements.values) << " and " << static_cast<int>(elements.parameters)
                           << " N " << c.batch << " C " << c.channels << " P " << c.positions << " last "
                           << channels_last << " biased " << biased);
          const auto result = in_both_orders([&] { return run_on_device(c, elements); });
          CHECK(largest_error(result, c.expected()) < 2e-6 + rounding(elements.values));
          CHECK(run_on_device(c, elements, bytes_of(elements.values)) == result);
          CHECK(run_on_device(c, elements, 0, To::kInput) == result);
          CHECK(run_on_device(c, elements, 0, To::kSkip) == result);
        }
}

TEST_CASE("residual_add of a device, emulated, writes each sum to 2 x 2 pixels on request", "[kernels][emulated]") {
  struct Size {
    std::int64_t channels, height, width;
  };
  std::uint64_t seed = 0;
  // Among them rows of whole loads and of odd lengths, and more of them than a block has threads.
  for (const Size& s : std::vector<Size>{{1, 1, 1},
                                         {3, 5, 3},
                                         {7, 1, 8},
                                         {8, 8, 1},
                                         {16, 6, 24},
                                         {24, 7, 9},
                                         {40, 3, 3},
                                         {1, 3, 1304},
                                         {2056, 1, 3},
                                         {264, 9, 29}})
    for (const bool channels_last : {false, true})
      for (const MixedElements& elements : mixed_elements())
        for (const bool biased : {false, true}) {
          ++seed;
          ResidualCase c{1 + static_cast<std::int64_t>(seed % 3), s.channels, s.height * s.width, channels_last,
                         biased};
          c.fill(seed, elements);
          const ImageShape shape{c.batch, s.channels, s.height, s.width, channels_last};
          INFO("elements " << static_cast<int>(elements.values) << " and " << static_cast<int>(elements.parameters)
                           << " N " << c.batch << " C " << c.channels << " H " << s.height << " W " << s.width
                           << " last " << channels_last << " biased " << biased);
          const auto plain = run_on_device(c, elements);
          c.width = s.width;
          const auto result = in_both_orders([&] { return run_on_device(c, elements); });
          CHECK(largest_error(result, doubled(c.expected(), shape)) < 2e-6 + rounding(elements.values));
          CHECK(result == doubled(plain, shape));
          CHECK(run_on_device(c, elements, bytes_of(elements.values)) == result);
        }
}

TEST_CASE("residual_add of a device, emulated: rounded once, NaN, a sample alone", "[kernels][emulated]") {
  // Of 256 + 1 + 1 bfloat16 holds 258; rounded after each sum it stays at 256.
  ResidualCase once{1, 1, 8, false, true, std::vector<float>(8, 256.0F), std::vector<float>(8, 1.0F), {1.0F}};
  CHECK(run_on_device(once, Element::kBfloat16) == std::vector<float>(8, 258.0F));

  ResidualCase c{2, 24, 20, true};
  c.fill(7, Element::kFloat32);
  c.x[13] = std::numeric_limits<float>::quiet_NaN();
  const auto result = run_on_device(c, Element::kFloat32);
  for (std::size_t i = 0; i < result.size(); ++i) CHECK(std::isnan(result[i]) == (i == 13));
  ResidualCase last = c;
  last.batch = 1;
  last.x = end_of(c.x, 24 * 20), last.skip = end_of(c.skip, 24 * 20);
  CHECK(run_on_device(last, Element::kFloat32) == end_of(result, 24 * 20));
}

TEST_CASE("residual_add of a device, emulated: nothing to do, other elements, another device", "[kernels][emulated]") {
  const std::int64_t before = emulation::launches;
  for (const int empty : {0, 1, 2})
    for (const std::int64_t width : {0, 1}) {
      ResidualAdd p;
      p.batch = empty != 0, p.channels = empty != 1, p.positions = empty != 2, p.width = width;
      CHECK(residual_add_device(p, Element::kFloat32, {}).problem == nullptr);
    }
  ResidualAdd p;
  p.batch = p.channels = p.positions = 1;
  CHECK(std::string(residual_add_device(p, {Element::kFloat32, Element::kBfloat16}, {}).problem) ==
        "parameters of a type that is neither the values' nor float32");
  CHECK(std::string(residual_add_device(p, {Element::kFloat16, Element::kBfloat16}, {}).problem) ==
        "parameters of a type that is neither the values' nor float32");
  CHECK(std::string(residual_add_device(p, Element::kFloat32, {7, nullptr}).problem) == "invalid device ordinal");
  CHECK(emulation::launches == before);
}
