#include "daug/image/tensor_resize.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "daug/core/error.h"
#include "daug/image/preprocess.h"
#include "image/golden_resize.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden_device.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Height and width before and after: both sides smaller, one of them, both larger, one untouched, all in one pixel, a
/// quarter, and much narrower.
const std::vector<std::array<std::int64_t, 4>> kResizes = {{517, 1023, 193, 224}, {64, 63, 57, 101}, {5, 7, 40, 31},
                                                           {33, 64, 33, 48},      {17, 33, 1, 1},    {96, 256, 24, 64},
                                                           {40, 1200, 20, 30}};

at::Tensor batch_of(std::int64_t height, std::int64_t width) {
  return random_tensor({2, 2, height, width}, 1).clamp(-1, 1).to(at::kFloat);
}

/// Every plane by the library's `resize`, which knows no tensors.
at::Tensor resized_one_by_one(const at::Tensor& images, std::int64_t height, std::int64_t width) {
  const at::Tensor planes = images.flatten(0, 1).contiguous();
  std::vector<at::Tensor> results;
  for (std::int64_t i = 0; i < planes.size(0); ++i) {
    const at::Tensor plane = planes[i];
    const float* pixels = plane.const_data_ptr<float>();
    const GrayImage picture{static_cast<int>(plane.size(1)), static_cast<int>(plane.size(0)),
                            std::vector<float>(pixels, pixels + plane.numel())};
    const GrayImage result = resize(picture, static_cast<int>(width), static_cast<int>(height));
    results.push_back(at::tensor(result.pixels).reshape({height, width}));
  }
  return at::stack(results).unflatten(0, {images.size(0), images.size(1)});
}

}  // namespace

TEST_CASE("a batch is resized as every picture by itself, whatever its layout", "[image]") {
  for (const auto& [height, width, to_height, to_width] : kResizes) {
    INFO(height << " x " << width << " to " << to_height << " x " << to_width);
    const at::Tensor images = batch_of(height, width);
    const at::Tensor result = resized(images, to_height, to_width);
    CHECK(result.scalar_type() == at::kFloat);
    CHECK(largest_difference(result, resized_one_by_one(images, to_height, to_width)) < 1e-6);
    CHECK(largest_difference(resized(images.transpose(2, 3), to_width, to_height).transpose(2, 3), result) < 1e-6);
    CHECK(largest_difference(resized(images.contiguous(at::MemoryFormat::ChannelsLast), to_height, to_width), result) <
          1e-6);
    CHECK(same_bits(resized(images.narrow(0, 1, 1), to_height, to_width), result.narrow(0, 1, 1)));
    CHECK(largest_difference(resized(images.to(at::kHalf), to_height, to_width).to(at::kFloat), result) < 1e-3);
  }
}

TEST_CASE("a resized batch by hand, without antialiasing, and without pixels to resize", "[image]") {
  const at::Tensor row = at::tensor({0.0, 1.0, 2.0, 9.0}, at::kDouble).reshape({1, 1, 1, 4});
  // Pixels 0, 1, 2 weigh 3, 3, 1 on the first of two, and 1, 2, 3 weigh 1, 3, 3 on the second.
  CHECK(largest_difference(resized(row, 1, 2), at::tensor({5.0 / 7, 34.0 / 7}, at::kDouble).reshape({1, 1, 1, 2})) <
        1e-12);
  CHECK(largest_difference(resized(row, 1, 2, false), at::tensor({0.5, 5.5}, at::kDouble).reshape({1, 1, 1, 2})) <
        1e-12);
  CHECK(resized(row, 1, 4).is_same(row));
  CHECK(resized(at::zeros({0, 1, 8, 8}), 4, 5).sizes() == at::IntArrayRef({0, 1, 4, 5}));
  CHECK(resized(at::zeros({2, 0, 8, 8}), 4, 5).sizes() == at::IntArrayRef({2, 0, 4, 5}));
  at::Tensor spoiled = at::zeros({1, 1, 16, 16});
  spoiled[0][0][0][0] = std::nan("");
  CHECK(resized(spoiled, 8, 8).narrow(2, 4, 4).narrow(3, 4, 4).abs().max().item<float>() == 0);
}

TEST_CASE("resizing refuses what is no batch of images, and what a device cannot do", "[image]") {
  const at::Tensor images = at::zeros({1, 1, 8, 8});
  check_refused(ErrorCode::kInvalidArgument, "resized: images", [&] { resized(images[0], 4, 4); });
  check_refused(ErrorCode::kInvalidArgument, "resized: images", [&] { resized(images.to(at::kByte), 4, 4); });
  check_refused(ErrorCode::kInvalidArgument, "resized: images", [&] { resized(images.narrow(3, 0, 0), 4, 4); });
  check_refused(ErrorCode::kInvalidArgument, "resized: height", [&] { resized(images, 0, 4); });
  check_refused(ErrorCode::kInvalidArgument, "resized: width", [&] { resized(images, 4, 16385); });
  const at::Tensor elsewhere = at::empty({1, 1, 8, 81}, at::TensorOptions(at::kFloat).device(at::kMeta));
  check_refused(ErrorCode::kUnsupported, "resized: images", [&] { resized(elsewhere, 8, 2); });
  CHECK(largest_difference(resized(at::ones({1, 1, 8, 81}), 8, 2), at::ones({1, 1, 8, 2})) < 1e-6);
  check_refused(ErrorCode::kUnsupported, "kFused", [&] { resized(images, 4, 4, true, Execution::kFused); });
}

TEST_CASE("a batch is resized on a device as on the CPU", "[image][gpu]") {
  if (no_device()) return;
  const at::Device device(at::kCUDA, 0);
  for (const auto& [height, width, to_height, to_width] : kResizes) {
    INFO(height << " x " << width << " to " << to_height << " x " << to_width);
    const at::Tensor images = batch_of(height, width), there = images.to(device);
    const auto operators = [](const at::Tensor& some, std::int64_t rows, std::int64_t columns, bool antialias) {
      return resized(some, rows, columns, antialias, Execution::kReference);
    };
    const at::Tensor result = operators(there, to_height, to_width, true);
    CHECK(result.is_cuda());
    CHECK(largest_difference(result.cpu(), resized_one_by_one(images, to_height, to_width)) < 1e-6);
    CHECK(largest_difference(operators(there.transpose(2, 3), to_width, to_height, true).transpose(2, 3).cpu(),
                             result.cpu()) < 1e-6);
    CHECK(same_bits(operators(there.narrow(0, 1, 1), to_height, to_width, true), result.narrow(0, 1, 1)));
    CHECK(largest_difference(operators(there, to_height, to_width, false).cpu(),
                             resized(images, to_height, to_width, false)) < 1e-6);
    CHECK(largest_difference(resized(there, to_height, to_width).cpu(), result.cpu()) < 1e-5);  // whichever it takes
    // The kernel, whether or not kAuto takes it.
    for (const bool antialias : {true, false}) {
      const auto kernel = [&](const at::Tensor& some) {
        return resized(some, to_height, to_width, antialias, Execution::kFused);
      };
      const at::Tensor fused = kernel(there);
      CHECK(largest_difference(fused.cpu(), resized(images, to_height, to_width, antialias)) < 1e-5);
      CHECK(same_bits(kernel(there), fused));
      CHECK(same_bits(kernel(there.narrow(0, 1, 1)), fused.narrow(0, 1, 1)));
      CHECK(same_bits(kernel(there.contiguous(at::MemoryFormat::ChannelsLast)), fused));
      const at::Tensor beside = at::zeros({there.numel() + 1}, there.options()).narrow(0, 1, there.numel());
      CHECK(same_bits(kernel(beside.view_as(there).copy_(there)), fused));  // not at 16 bytes
      for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
        const at::Tensor half = kernel(there.to(type));
        CHECK(half.scalar_type() == type);
        CHECK(largest_difference(half.cpu().to(at::kFloat), resized(images.to(type).to(at::kFloat), to_height, to_width,
                                                                    antialias)) < (type == at::kHalf ? 5e-4 : 4e-3));
      }
    }
    check_refused(ErrorCode::kUnsupported, "kFused",
                  [&] { resized(there.to(at::kDouble), to_height, to_width, true, Execution::kFused); });
  }
  // As far as a device goes.
  const at::Tensor most = random_tensor({1, 1, 80, 2 * kLargestDeviceShrink}, 2);
  CHECK(largest_difference(resized(most.to(device), 2, 2).cpu(), resized(most, 2, 2)) < 1e-12);
}

namespace {

/// With and without antialiasing, as torch.nn.functional.interpolate.
void check_resize_sets(const at::Device& device, Execution execution) {
  for (const bool antialias : {true, false})
    for_each_golden("resize_torch", [&](const GoldenSet& set) {
      const auto by_tensor = [&](const GrayImage& image, int width, int height, ResizeFilter) {
        const at::Tensor plane = at::tensor(image.pixels).reshape({1, 1, image.height, image.width}).to(device);
        const at::Tensor result = resized(plane, height, width, antialias, execution).cpu();
        const float* pixels = result.const_data_ptr<float>();
        return GrayImage{width, height, std::vector<float>(pixels, pixels + result.numel())};
      };
      const ResizeForm form;  // bilinear, of real numbers
      return check_resize(set, {{antialias ? "torch_bilinear_antialias" : "torch_bilinear", form}}, "float32: atol ",
                          by_tensor);
    });
}

}  // namespace

TEST_CASE("a batch is resized as torch resizes it", "[image][golden]") {
  check_resize_sets(at::kCPU, Execution::kAuto);
}

TEST_CASE("golden resized pictures on a device", "[gpu]") {
  if (no_golden_on_device()) return;
  for (const auto execution : {Execution::kReference, Execution::kFused})
    check_resize_sets(at::Device(at::kCUDA, 0), execution);
}
