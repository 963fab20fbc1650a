#include "backend/best_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "backend/device_kernels.h"
#include "kernels/cuda/launch_plan.h"

namespace daug::backend {

namespace {

constexpr float kNoRow = -std::numeric_limits<float>::infinity();

const float* floats_of(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; }
const std::int32_t* words_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<std::int32_t>() : nullptr;
}

/// [1 or Q, count]: whether each row does not count.
at::Tensor left_out(const at::Tensor& allowed, std::int64_t count) {
  const at::Tensor bits = at::bitwise_right_shift(allowed.unsqueeze(2), at::arange(32, allowed.options()));
  return bits.bitwise_and(1).eq(0).flatten(1).narrow(1, 0, count);
}

}  // namespace

bool BestRows::has_kernel(const c10::Device& device, std::int64_t wanted) {
  return device.is_cuda() && kernels::device_kernels_compiled() && wanted <= kernels::cuda::kMostWanted;
}

BestRows::BestRows(at::Tensor inverse, at::Tensor factor, std::int64_t wanted, bool fused)
    : inverse_(std::move(inverse)), factor_(std::move(factor)), wanted_(wanted) {
  if (fused) keys_ = at::zeros({inverse_.size(0), wanted_}, inverse_.options().dtype(at::kLong));
}

void BestRows::add(const ScoredRows& tile) {
  if (!keys_.defined()) {
    at::Tensor bounds = tile.scores;
    if (!bounds.defined())
      bounds = tile.high.mul_(256).add_(tile.low).to(at::kFloat).mul_(tile.scale).mul_(factor_.unsqueeze(1));
    bounds.add_(tile.error);
    if (tile.offset.defined()) bounds.addcmul_(tile.offset.unsqueeze(0), inverse_.unsqueeze(1), -1);
    if (tile.allowed.defined()) bounds.masked_fill_(left_out(tile.allowed, bounds.size(1)), kNoRow);
    at::Tensor rows;
    std::tie(bounds, rows) = bounds.topk(std::min(wanted_, bounds.size(1)), 1);
    rows = rows + tile.first_row;
    if (bounds_.defined()) {
      at::Tensor order;
      std::tie(bounds, order) =
          at::cat({bounds_, bounds}, 1).topk(std::min(wanted_, bounds_.size(1) + bounds.size(1)), 1);
      rows = at::cat({rows_, rows}, 1).gather(1, order);
    }
    bounds_ = bounds;
    rows_ = rows;
    return;
  }
  kernels::SearchTile t;
  const at::Tensor& any = tile.scores.defined() ? tile.scores : tile.high;
  t.queries = any.size(0);
  t.rows = any.size(1);
  t.first_row = tile.first_row;
  t.scores = floats_of(tile.scores);
  t.high = words_of(tile.high);
  t.low = words_of(tile.low);
  t.scale = floats_of(tile.scale);
  t.factor = floats_of(factor_);
  t.error = floats_of(tile.error);
  t.offset = floats_of(tile.offset);
  t.inverse = floats_of(inverse_);
  t.allowed = words_of(tile.allowed);
  t.allowed_stride = tile.allowed.defined() && tile.allowed.size(0) > 1 ? tile.allowed.size(1) : 0;
  t.wanted = static_cast<int>(wanted_);
  t.best = reinterpret_cast<std::uint64_t*>(keys_.mutable_data_ptr<std::int64_t>());
  const at::Tensor workspace = at::empty({kernels::search_select_workspace(t)}, keys_.options());
  require_launched(kernels::search_select_device(
                       t, reinterpret_cast<std::uint64_t*>(workspace.mutable_data_ptr<std::int64_t>()), stream_of(any)),
                   "daug::backend::BestRows");
}

FoundRows BestRows::found() const {
  if (!keys_.defined()) return {bounds_.cpu(), rows_.cpu()};
  const at::Tensor keys = keys_.cpu();
  FoundRows result{at::empty(keys.sizes(), at::kFloat), at::empty_like(keys)};
  const std::int64_t* key = keys.const_data_ptr<std::int64_t>();
  float* bounds = result.bounds.mutable_data_ptr<float>();
  std::int64_t* rows = result.rows.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < keys.numel(); ++i) {
    const auto bits = static_cast<kernels::cuda::SearchKey>(key[i]);
    bounds[i] = bits == 0 ? kNoRow : kernels::cuda::score_of(bits);
    rows[i] = kernels::cuda::row_of(bits);
  }
  return result;
}

}  // namespace daug::backend
