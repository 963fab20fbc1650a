#include <ATen/ATen.h>

#include <algorithm>

#include "loss/tile_math.h"

namespace daug::detail {
namespace {

at::Tensor equal_groups(const at::Tensor& rows, const at::Tensor& columns) {
  return rows.unsqueeze(1) == columns.unsqueeze(0);
}

/// Makes scores of the products unless they are, those left out so low that nothing comes of them. Returns by how much
/// pairs attract, apart from weights; undefined: own pairs by 1, all others not at all.
at::Tensor score(const Tile& tile) {
  const Slab &text = tile.text, &image = tile.image;
  if (!tile.scaled) tile.products.mul_(text.factor.unsqueeze(1)).mul_(image.factor.unsqueeze(0));
  if (tile.soft.defined()) return tile.soft;
  at::Tensor attracts;
  if (text.positive.defined()) attracts = equal_groups(text.positive, image.positive);
  if (text.ignored.defined() && !tile.scaled) {
    at::Tensor left_out = equal_groups(text.ignored, image.ignored);
    if (attracts.defined()) left_out = left_out & attracts.logical_not();
    left_out.diagonal(tile.own).fill_(false);
    tile.products.masked_fill_(left_out, lowest_number(tile.products) / 4);
  }
  return attracts.defined() ? attracts.to(tile.products.scalar_type()) : attracts;
}

at::Tensor weighted_attraction(const Tile& tile, const at::Tensor& attraction) {
  if (!tile.text.weight.defined()) return attraction;
  return (tile.text.weight.unsqueeze(1) + tile.image.weight.unsqueeze(0)).div_(2).mul_(attraction);
}

void add_line_sums(const at::Tensor& scores, std::int64_t dimension, const SideSums& sums) {
  const at::Tensor top = at::maximum(sums.max, scores.amax(dimension));
  const at::Tensor here = (scores - top.unsqueeze(dimension)).exp_().sum(dimension);
  sums.sum.copy_(sums.sum * (sums.max - top).exp() + here);
  sums.max.copy_(top);
}

/// 1 / (2 sum), [n]: makes halves of probabilities of exponentials.
at::Tensor half_inverse(const SideSums& sums) { return (sums.sum * 2).reciprocal_(); }

at::Tensor scaled_by_factors(const Tile& tile, const at::Tensor& d, double scale) {
  return d.mul_((tile.text.factor * scale).unsqueeze(1)).mul_(tile.image.factor.unsqueeze(0));
}

/// log(1 + e^x) to the last digit: LibTorch's threshold of 20 is one for float32.
constexpr double kExactSoftplus = 40;

/// Tiles that are held at a time, at most; hence all that is in place.
constexpr std::int64_t kAtenTiles = 8;

class AtenTileMath final : public TileMath {
 public:
  using TileMath::TileMath;

  void add_softmax_sums(const Tile& tile, const SideSums& rows, const SideSums& columns) const override {
    const at::Tensor attraction = score(tile);
    add_line_sums(tile.products, 1, rows);
    add_line_sums(tile.products, 0, columns);
    if (attraction.defined()) {
      rows.attraction.add_((weighted_attraction(tile, attraction) * tile.products).sum(1));
      return;
    }
    const at::Tensor own = tile.products.diagonal(tile.own);
    const std::int64_t first = std::min(std::max<std::int64_t>(-tile.own, 0), tile.text.count);
    rows.attraction.narrow(0, first, own.size(0)).add_(own);
  }

  at::Tensor softmax_gradient(const Tile& tile, const SideSums& rows, const SideSums& columns,
                              double scale) const override {
    const at::Tensor attraction = score(tile);
    const at::Tensor d = (tile.products - rows.max.unsqueeze(1)).exp_().mul_(half_inverse(rows).unsqueeze(1));
    at::Tensor by_columns = tile.buffer;  // where the products may lie
    at::sub_out(by_columns, tile.products, columns.max.unsqueeze(0));
    d.addcmul_(by_columns.exp_(), half_inverse(columns).unsqueeze(0));
    if (attraction.defined())
      d.sub_(weighted_attraction(tile, attraction));
    else
      d.diagonal(tile.own).sub_(1);
    return scaled_by_factors(tile, d, scale);
  }

  void add_sigmoid_loss(const Tile& tile, const at::Tensor& bias, const at::Tensor& total) const override {
    const at::Tensor attraction = score(tile);
    at::Tensor x = tile.products.add_(bias);
    if (attraction.defined()) {
      total.add_(at::softplus(x, 1, kExactSoftplus).mul_(1 - attraction).sum());
      total.add_(at::softplus(x.neg_(), 1, kExactSoftplus).mul_(attraction).sum());
    } else {
      x.diagonal(tile.own).neg_();
      total.add_(at::softplus_out(x, x, 1, kExactSoftplus).sum());
    }
  }

  at::Tensor sigmoid_gradient(const Tile& tile, const at::Tensor& bias, double scale,
                              const at::Tensor& total) const override {
    const at::Tensor attraction = score(tile);
    const at::Tensor x = tile.products.add_(bias);
    at::Tensor d;
    if (attraction.defined()) {
      d = x.sigmoid().mul_(1 - attraction);
      d.sub_(x.neg_().sigmoid_().mul_(attraction));
    } else {  // of own pairs -s(-x), in which no digits cancel as in s(x) - 1
      x.diagonal(tile.own).neg_();
      d = x.sigmoid_();
      d.diagonal(tile.own).neg_();
    }
    total.add_(d.sum());
    return scaled_by_factors(tile, d, scale);
  }
};

}  // namespace

std::unique_ptr<const TileMath> aten_tile_math(std::int64_t max_rows, std::int64_t max_columns) {
  return std::make_unique<AtenTileMath>(max_rows, max_columns, kAtenTiles * max_rows * max_columns, /*bfloat16=*/true);
}

}  // namespace daug::detail
