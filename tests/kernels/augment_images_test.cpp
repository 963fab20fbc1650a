// augment_images of devices, emulated on the CPU.

#include "kernels/augment_images.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

using Affine = std::array<float, 6>;
constexpr Affine kUnmoved = {1, 0, 0, 0, 1, 0};

/// A batch with its changes.
struct AugmentCase {
  AugmentImages p;
  std::vector<float> images, maps;
  std::vector<Affine> affines;
  std::vector<float> gains, offsets;

  AugmentCase(std::int64_t batch, std::int64_t channels, std::int64_t map_channels, std::int64_t height,
              std::int64_t width, bool shades) {
    p.batch = batch, p.image_channels = channels, p.map_channels = map_channels;
    p.height = height, p.width = width, p.shades = shades;
    RandomStream stream(static_cast<std::uint64_t>(height * width), 0, "augment case");
    images.resize(static_cast<std::size_t>(batch * channels * height * width));
    std::generate(images.begin(), images.end(), [&] { return static_cast<float>(stream.uniform(-1, 1)); });
    maps = random_floats(batch * map_channels * height * width, 5);
    for (std::int64_t i = 0; i < batch; ++i) {
      const double angle = stream.uniform(-3, 3), zoom = stream.uniform(0.7, 1.4), mirror = i % 2 ? -1 : 1;
      const double aspect = static_cast<double>(height) / static_cast<double>(width);
      affines.push_back({static_cast<float>(zoom * mirror * std::cos(angle)),
                         static_cast<float>(-zoom * mirror * std::sin(angle) * aspect),
                         static_cast<float>(stream.uniform(-0.3, 0.3)),
                         static_cast<float>(zoom * std::sin(angle) / aspect),
                         static_cast<float>(zoom * std::cos(angle)), static_cast<float>(stream.uniform(-0.3, 0.3))});
      gains.push_back(static_cast<float>(stream.uniform(0.7, 1.3)));
      offsets.push_back(static_cast<float>(stream.uniform(-0.2, 0.2)));
    }
  }

  /// A plane of item i by the definition in float64: normalised coordinates, and 0 beyond the borders of what lies
  /// above `outside`.
  void add_moved(std::vector<double>& to, const float* plane, std::size_t i, double outside) const {
    const Affine& a = affines[i];
    const double h = static_cast<double>(p.height), w = static_cast<double>(p.width);
    for (std::int64_t y = 0; y < p.height; ++y)
      for (std::int64_t x = 0; x < p.width; ++x) {
        const double u = (2 * static_cast<double>(x) + 1) / w - 1, v = (2 * static_cast<double>(y) + 1) / h - 1;
        const double column = ((a[0] * u + a[1] * v + a[2] + 1) * w - 1) / 2;
        const double row = ((a[3] * u + a[4] * v + a[5] + 1) * h - 1) / 2;
        double value = outside;
        for (std::int64_t r = 0; r < p.height; ++r) {
          const double of_row = 1 - std::abs(row - static_cast<double>(r));
          for (std::int64_t c = 0; of_row > 0 && c < p.width; ++c) {
            const double of_column = std::max(0.0, 1 - std::abs(column - static_cast<double>(c)));
            value += of_row * of_column * (static_cast<double>(plane[r * p.width + c]) - outside);
          }
        }
        to.push_back(value);
      }
  }

  /// Images, then maps.
  std::vector<double> expected() const {
    const std::int64_t pixels = p.height * p.width;
    std::vector<double> all;
    for (std::int64_t plane = 0; plane < p.batch * p.image_channels; ++plane)
      add_moved(all, images.data() + plane * pixels, static_cast<std::size_t>(plane / p.image_channels), -1);
    for (std::size_t at = 0; p.shades && at < all.size(); ++at) {
      const std::size_t i = at / static_cast<std::size_t>(p.image_channels * pixels);
      all[at] = std::clamp(all[at] * gains[i] + offsets[i], -1.0, 1.0);
    }
    for (std::int64_t plane = 0; plane < p.batch * p.map_channels; ++plane)
      add_moved(all, maps.data() + plane * pixels, static_cast<std::size_t>(plane / p.map_channels), 0);
    return all;
  }

  std::vector<float> run(Element element = Element::kFloat32, std::size_t skipped = 0) const {
    DeviceMemory from = on_device(images, element, skipped), maps_from = on_device(maps, element, skipped);
    DeviceMemory to(images.size() * daug::test::bytes_of(element), skipped),
        maps_to(maps.size() * daug::test::bytes_of(element), skipped);
    std::vector<ImageChange> changes;
    for (std::size_t i = 0; i < affines.size(); ++i)
      changes.push_back(image_change(affines[i].data(), p.height, p.width, gains[i], offsets[i]));
    DeviceMemory there(changes);
    AugmentImages problem = p;
    problem.images = from.data(), problem.maps = maps_from.data();
    problem.new_images = to.data(), problem.new_maps = maps_to.data();
    problem.changes = static_cast<const ImageChange*>(there.data());
    const Launched launched;
    launched.check(augment_images_device(problem, element, launched.where));
    std::vector<float> all = from_device(to, element);
    const std::vector<float> moved_maps = from_device(maps_to, element);
    all.insert(all.end(), moved_maps.begin(), moved_maps.end());
    return all;
  }
};

}  // namespace

TEST_CASE("augment_images of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  struct Size {
    std::int64_t batch, channels, maps, height, width;
  };
  for (const Size s : std::vector<Size>{
           {1, 1, 0, 1, 1}, {2, 1, 3, 5, 7}, {3, 2, 1, 33, 47}, {1, 0, 2, 40, 31}, {2, 3, 0, 70, 9}, {1, 1, 1, 1, 65}})
    for (const bool shades : {false, true}) {
      INFO(s.batch << " x (" << s.channels << " + " << s.maps << ") x " << s.height << " x " << s.width << " shades "
                   << shades);
      const AugmentCase c(s.batch, s.channels, s.maps, s.height, s.width, shades);
      const auto result = in_both_orders([&] { return c.run(); });
      CHECK(largest_error(result, c.expected()) < 2e-6);
      CHECK(c.run(Element::kFloat32, 4) == result);
      for (const Element element : {Element::kFloat16, Element::kBfloat16}) {
        AugmentCase halves = c;
        round_to(element, halves.images), round_to(element, halves.maps);
        CHECK(largest_error(halves.run(element), halves.expected()) < rounding(element) + 2e-6);
      }
    }
}

TEST_CASE("augment_images of a device, emulated: positions by hand, mirrors, what lies outside, an item alone",
          "[kernels][emulated]") {
  // A quarter turn of 4 rows of 8: columns from right to left down the rows, about the centre.
  const Affine turn = {0, -0.5F, 0, 2, 0, 0};
  const ImageChange turned = image_change(turn.data(), 4, 8, 1.5F, 0.25F);
  constexpr std::int64_t kPixel = std::int64_t{1} << 32;
  CHECK(turned.column[0] == 0);
  CHECK(turned.column[1] == -kPixel);
  CHECK(turned.column[2] == 5 * kPixel);
  CHECK(turned.row[0] == kPixel);
  CHECK(turned.row[1] == 0);
  CHECK(turned.row[2] == -2 * kPixel);
  CHECK(turned.gain == 1.5F);
  CHECK(turned.offset == 0.25F);

  // Values in 256ths, which x + 1 keeps.
  AugmentCase c(3, 1, 1, 19, 37, false);
  for (std::vector<float>* values : {&c.images, &c.maps})
    for (float& value : *values) value = std::round(64 * value) / 256;
  c.affines = {kUnmoved, Affine{-1, 0, 0, 0, 1, 0}, Affine{1, 0, 3, 0, 1, 0}};
  const auto result = c.run();
  constexpr std::size_t kPlane = 19 * 37;
  const auto check_planes = [&](std::size_t first, const std::vector<float>& values, float outside) {
    for (std::size_t i = 0; i < kPlane; ++i) {
      const std::size_t mirrored = i / 37 * 37 + 36 - i % 37;
      REQUIRE(result[first + i] == values[i]);
      REQUIRE(result[first + kPlane + i] == values[kPlane + mirrored]);
      REQUIRE(result[first + 2 * kPlane + i] == outside);
    }
  };
  check_planes(0, c.images, -1);
  check_planes(3 * kPlane, c.maps, 0);

  // Near pixel 3000 positions in float32 would have steps of 2e-4 pixels.
  AugmentCase far(1, 1, 1, 1, 3000, false);
  far.affines = {Affine{0.9F, 0, 0.1F, 0, 1, 0}};
  CHECK(largest_error(far.run(), far.expected()) < 2e-6);

  AugmentCase last(3, 2, 1, 21, 34, true);
  const auto all = last.run();
  constexpr std::int64_t kPixels = 21 * 34;
  last.p.batch = 1;
  last.images = end_of(last.images, 2 * kPixels), last.maps = end_of(last.maps, kPixels);
  last.affines = {last.affines.back()}, last.gains = {last.gains.back()}, last.offsets = {last.offsets.back()};
  const auto alone = last.run();
  CHECK(std::equal(alone.begin(), alone.begin() + 2 * kPixels, all.begin() + 4 * kPixels));
  CHECK(std::equal(alone.begin() + 2 * kPixels, alone.end(), all.begin() + 8 * kPixels));

  // A pixel that is no number stays none, and leaves those alone that are not made of it.
  AugmentCase spoiled(1, 1, 0, 8, 8, true);
  spoiled.affines = {kUnmoved};
  spoiled.images[27] = std::numeric_limits<float>::quiet_NaN();
  const auto kept = spoiled.run();
  CHECK(std::isnan(kept[27]));
  CHECK(std::count_if(kept.begin(), kept.end(), [](float value) { return std::isnan(value); }) <= 4);
}

TEST_CASE("augment_images of a device: nothing to do, limits", "[kernels][emulated]") {
  const std::int64_t before = emulation::launches;
  AugmentImages p;
  p.height = p.width = 4;
  p.image_channels = 1;
  CHECK(augment_images_device(p, Element::kFloat32, {}).problem == nullptr);
  p.batch = 2, p.image_channels = 0;
  CHECK(augment_images_device(p, Element::kFloat32, {}).problem == nullptr);
  p.batch = cuda::kMostInGrid + 1, p.map_channels = 1;
  CHECK(std::string(augment_images_device(p, Element::kFloat32, {}).problem) == "more images than a launch takes");
  CHECK(emulation::launches == before);
}
