#include "daug/heatmap/occlusion.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "daug/core/error.h"

namespace daug {

namespace {

constexpr const char* kFunction = "daug::occlusion_maps";

/// Where squares start along a side: every `stride` pixels, and once more to end at the border.
std::vector<std::int64_t> starts(std::int64_t side, const OcclusionOptions& options) {
  std::vector<std::int64_t> at;
  for (std::int64_t start = 0; start + options.window < side; start += options.stride) at.push_back(start);
  at.push_back(side - options.window);
  return at;
}

at::Tensor checked_scores(const ImageScores& scores, const at::Tensor& images) {
  const at::Tensor result = scores(images);
  if (result.dim() != 2 || result.size(0) != images.size(0))
    fail(ErrorCode::kMismatch, kFunction, "scores", detail::concat("shape [", images.size(0), ", K]"), result.sizes());
  return result;
}

}  // namespace

void OcclusionOptions::validate() const {
  constexpr const char* kName = "daug::OcclusionOptions";
  require_range(window, 1, 1 << 14, kName, "window");
  require_range(stride, 1, window, kName, "stride");
  require_range(max_batch, 1, 1 << 20, kName, "max_batch");
}

at::Tensor occlusion_maps(const at::Tensor& x, const ImageScores& scores, const OcclusionOptions& options) {
  options.validate();
  require(x.dim() == 4, kFunction, "x", "shape [B, C, H, W]", x.sizes());
  const std::int64_t height = x.size(2), width = x.size(3), window = options.window;
  require_range(window, 1, std::min(height, width), kFunction, "options.window");
  const at::Tensor mean = x.mean({2, 3}, true);
  std::vector<at::Tensor> per_batch;
  for (std::int64_t begin = 0; begin < x.size(0); begin += options.max_batch) {
    const std::int64_t count = std::min(options.max_batch, x.size(0) - begin);
    const at::Tensor images = x.narrow(0, begin, count), fill = mean.narrow(0, begin, count);
    const at::Tensor whole = checked_scores(scores, images);
    at::Tensor sum = at::zeros({count, whole.size(1), height, width}, x.options());
    at::Tensor covered = at::zeros({height, width}, x.options());
    for (const std::int64_t top : starts(height, options))
      for (const std::int64_t left : starts(width, options)) {
        const auto square = [&](const at::Tensor& plane) {
          return plane.narrow(-2, top, window).narrow(-1, left, window);
        };
        at::Tensor hidden = images.clone();
        square(hidden).copy_(fill.expand({-1, -1, window, window}));
        const at::Tensor fall = (whole - checked_scores(scores, hidden)).to(x.options());
        square(sum).add_(fall.unsqueeze(2).unsqueeze(3));
        square(covered).add_(1);
      }
    per_batch.push_back(sum / covered);
  }
  require(!per_batch.empty(), kFunction, "x", "at least one image", x.sizes());
  return at::cat(per_batch);
}

}  // namespace daug
