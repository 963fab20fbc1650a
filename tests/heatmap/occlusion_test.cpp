#include "daug/heatmap/occlusion.h"

#include <ATen/ATen.h>

#include "daug/core/error.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// The same by loops over pixels, for scores that are weighted sums of pixels.
at::Tensor by_hand(const at::Tensor& x, const at::Tensor& weights, const std::vector<std::int64_t>& tops,
                   const std::vector<std::int64_t>& lefts, std::int64_t window) {
  at::Tensor maps = at::zeros({x.size(0), weights.size(0), x.size(2), x.size(3)}, at::kDouble);
  const at::Tensor mean = x.mean({2, 3});
  for (std::int64_t b = 0; b < x.size(0); ++b)
    for (std::int64_t k = 0; k < weights.size(0); ++k)
      for (std::int64_t h = 0; h < x.size(2); ++h)
        for (std::int64_t w = 0; w < x.size(3); ++w) {
          double sum = 0;
          int squares = 0;
          for (const std::int64_t top : tops)
            for (const std::int64_t left : lefts) {
              if (h < top || h >= top + window || w < left || w >= left + window) continue;
              ++squares;
              for (std::int64_t c = 0; c < x.size(1); ++c)
                for (std::int64_t i = top; i < top + window; ++i)
                  for (std::int64_t j = left; j < left + window; ++j)
                    sum +=
                        weights[k][c][i][j].item<double>() * (x[b][c][i][j].item<double>() - mean[b][c].item<double>());
            }
          maps[b][k][h][w] = sum / squares;
        }
  return maps;
}

}  // namespace

TEST_CASE("occlusion of a weighted sum of pixels, by hand", "[heatmap]") {
  const at::Tensor x = random_tensor({3, 2, 6, 7}, 1), weights = random_tensor({2, 2, 6, 7}, 2);
  const ImageScores scores = [&](const at::Tensor& images) { return images.flatten(1).matmul(weights.flatten(1).t()); };
  OcclusionOptions options;
  options.window = 3;
  options.stride = 2;
  // Squares of 3 every 2 pixels: 6 rows end with one more at 3, 7 columns with the one at 4.
  const at::Tensor expected = by_hand(x, weights, {0, 2, 3}, {0, 2, 4}, 3);
  CHECK(largest_difference(occlusion_maps(x, scores, options), expected) < 1e-12);
  options.max_batch = 2;
  CHECK(largest_difference(occlusion_maps(x, scores, options), expected) < 1e-12);
  options.window = 6;
  CHECK(largest_difference(occlusion_maps(x, scores, options), by_hand(x, weights, {0}, {0, 1}, 6)) < 1e-12);
}

TEST_CASE("occlusion finds the square that a score looks at", "[heatmap]") {
  at::Tensor x = at::full({1, 1, 16, 16}, -1.0, at::kFloat);
  x.narrow(2, 4, 3).narrow(3, 9, 3).fill_(1);
  const ImageScores brightest = [](const at::Tensor& images) { return images.amax({1, 2, 3}).unsqueeze(1); };
  const at::Tensor map = occlusion_maps(x, brightest, {4, 1})[0][0];
  const std::int64_t peak = map.argmax().item<std::int64_t>();
  CHECK((peak / 16 >= 4 && peak / 16 < 7));
  CHECK((peak % 16 >= 9 && peak % 16 < 12));
  CHECK(map[15][0].item<float>() == 0);
}

TEST_CASE("occlusion maps stay where the images are when scores come from another device", "[heatmap]") {
  // A meta tensor is on a device of its own and has a shape alone.
  const at::Tensor x = at::empty({2, 1, 8, 8}, at::TensorOptions(at::kFloat).device(at::kMeta));
  const at::Tensor maps = occlusion_maps(x,
                                         [](const at::Tensor& images) {
                                           return at::zeros({images.size(0), 3});
                                         },
                                         {4, 2});
  CHECK(maps.is_meta());
  CHECK(maps.sizes() == at::IntArrayRef({2, 3, 8, 8}));
}

TEST_CASE("what occlusion refuses", "[heatmap]") {
  const at::Tensor x = random_tensor({2, 1, 8, 8}, 1);
  const ImageScores scores = [](const at::Tensor& images) { return images.mean({2, 3}); };
  check_refused(ErrorCode::kInvalidArgument, "occlusion_maps: x", [&] { occlusion_maps(x[0], scores); });
  check_refused(ErrorCode::kInvalidArgument, "occlusion_maps: options.window", [&] {
    occlusion_maps(x, scores, {9, 1});
  });
  check_refused(ErrorCode::kInvalidArgument, "OcclusionOptions: stride", [&] { occlusion_maps(x, scores, {4, 5}); });
  check_refused(ErrorCode::kInvalidArgument, "OcclusionOptions: stride", [&] { occlusion_maps(x, scores, {4, 0}); });
  check_refused(ErrorCode::kInvalidArgument, "occlusion_maps: x", [&] { occlusion_maps(x.narrow(0, 0, 0), scores); });
  check_refused(ErrorCode::kMismatch, "occlusion_maps: scores",
                [&] { occlusion_maps(x, [](const at::Tensor& images) { return images.mean(); }); });
}
