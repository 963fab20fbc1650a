#include "loss/score_tiles.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "backend/threads.h"
#include "kernels/contrastive_tile.h"

namespace daug::detail {
namespace {

/// Items [begin, begin + count) of one side.
struct Slab {
  std::int64_t begin, count;
  at::Tensor rows, index, factor, positive, ignored, states, weight;
};

Slab slab(const ScoreSide& side, std::int64_t begin, std::int64_t count) {
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, begin, count) : tensor;
  };
  Slab s{begin,
         count,
         {},
         part(side.index),
         part(side.factor),
         part(side.positive),
         part(side.ignored),
         part(side.states),
         part(side.weight)};
  s.rows = s.index.defined() ? side.rows.index_select(0, s.index) : side.rows.narrow(0, begin, count);
  return s;
}

bool through_kernels(const at::Tensor& rows) { return rows.is_cpu() && rows.scalar_type() == at::kFloat; }

/// One tile of products with the slabs it comes from; `number` counts tiles.
struct Tile {
  const Slab& text;
  const Slab& image;
  std::int64_t own;  ///< column of row 0's own pair
  std::int64_t number;
  at::Tensor products;  ///< [rows, columns], a buffer that may be written over
  at::Tensor soft;      ///< [rows, columns] by how much pairs attract, apart from weights; undefined: by groups
};

/// Writes a_ij to `out`, see PairRules. The diagonal of own pairs is empty in a tile that has none.
void attract_by_states(const Slab& text, const Slab& image, double softness, std::int64_t own, const at::Tensor& out) {
  out.fill_(-1 / softness).addmm_(text.states, image.states.t(), 1, 1 / softness).exp_().clamp_max_(1);
  if (text.positive.defined()) out.masked_fill_(text.positive.unsqueeze(1) == image.positive.unsqueeze(0), 1);
  out.diagonal(own).fill_(1);
}

/// body(tile) for every tile, rows of tiles one after the other; after(text slab) behind each row of tiles. A tile for
/// which `known(number)` returns a tensor has no products computed.
template <class Known, class Body, class After>
void for_each_tile(const ScoreSide& text, const ScoreSide& image, const Known& known, const Body& body,
                   const After& after) {
  const std::int64_t rows = text.count(), columns = image.count();
  const at::Tensor buffer =
      at::empty({std::min(rows, kTileRows) * std::min(columns, kTileColumns)}, text.rows.options());
  const at::Tensor second = text.states.defined() ? at::empty_like(buffer) : at::Tensor();
  std::int64_t number = 0;
  for (std::int64_t i = 0; i < rows; i += kTileRows) {
    const Slab t = slab(text, i, std::min(kTileRows, rows - i));
    for (std::int64_t j = 0; j < columns; j += kTileColumns) {
      const Slab v = slab(image, j, std::min(kTileColumns, columns - j));
      const auto tile_of = [&](const at::Tensor& memory) {
        return memory.defined() ? memory.narrow(0, 0, t.count * v.count).view({t.count, v.count}) : memory;
      };
      const std::int64_t own = text.first + i - image.first - j;
      at::Tensor products = tile_of(buffer);
      const at::Tensor soft = tile_of(second);
      if (!known(number)) at::mm_out(products, t.rows, v.rows.t());
      if (soft.defined()) attract_by_states(t, v, text.softness, own, soft);
      body(Tile{t, v, own, number, products, soft});
      ++number;
    }
    after(t);
  }
}

kernels::ScoreTile kernel_tile(const Tile& tile, const at::Tensor& products, bool scaled) {
  const auto data = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
  };
  kernels::ScoreTile t;
  t.rows = tile.text.count, t.columns = tile.image.count;
  t.products = data(products), t.scaled = scaled;
  t.row_factor = data(tile.text.factor), t.column_factor = data(tile.image.factor);
  t.own = tile.own;
  t.row_positive = data(tile.text.positive), t.column_positive = data(tile.image.positive);
  t.row_ignored = data(tile.text.ignored), t.column_ignored = data(tile.image.ignored);
  t.row_weight = data(tile.text.weight);
  t.soft = data(tile.soft), t.column_weight = data(tile.image.weight);
  return t;
}

/// What the kernels do, in ATen operations: scores, by how much pairs attract apart from weights, which are left out
/// (bool or undefined).
struct Pairs {
  at::Tensor scores, attraction, left_out;
};

Pairs pairs_of(const Tile& tile, const at::Tensor& products, bool scaled) {
  const auto equal = [](const at::Tensor& rows, const at::Tensor& columns) {
    return rows.unsqueeze(1) == columns.unsqueeze(0);
  };
  Pairs p;
  p.scores = scaled ? products : products * (tile.text.factor.unsqueeze(1) * tile.image.factor.unsqueeze(0));
  p.attraction = tile.soft;
  if (p.attraction.defined()) return p;
  const auto options = products.options().dtype(at::kLong);
  at::Tensor attracts =
      equal(at::arange(tile.own, tile.own + tile.text.count, options), at::arange(tile.image.count, options));
  if (tile.text.positive.defined()) attracts = attracts | equal(tile.text.positive, tile.image.positive);
  if (tile.text.ignored.defined()) {
    p.left_out = equal(tile.text.ignored, tile.image.ignored) & attracts.logical_not();
    if (!scaled) p.scores.masked_fill_(p.left_out, -1e38);
  }
  p.attraction = attracts.to(products.scalar_type());
  return p;
}

at::Tensor weighted_attraction(const Tile& tile, const Pairs& pairs) {
  if (!tile.text.weight.defined()) return pairs.attraction;
  return (tile.text.weight.unsqueeze(1) + tile.image.weight.unsqueeze(0)).div_(2).mul_(pairs.attraction);
}

/// d of every pair times both factors and the scale, 0 where left out, in place.
at::Tensor scaled_gradient(const Tile& tile, const Pairs& pairs, const at::Tensor& d, double scale) {
  d.mul_(tile.text.factor.unsqueeze(1) * tile.image.factor.unsqueeze(0)).mul_(scale);
  return pairs.left_out.defined() ? d.masked_fill_(pairs.left_out, 0) : d;
}

SideSums part_of(const SideSums& sums, const Slab& slab) {
  const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, slab.begin, slab.count); };
  return {part(sums.max), part(sums.sum), part(sums.attraction)};
}

void add_line_sums(const at::Tensor& scores, std::int64_t dimension, const SideSums& sums) {
  const at::Tensor top = at::maximum(sums.max, scores.amax(dimension));
  const at::Tensor here = (scores - top.unsqueeze(dimension)).exp_().sum(dimension);
  sums.sum.copy_(sums.sum * (sums.max - top).exp() + here);
  sums.max.copy_(top);
}

/// Gradients of a tile go to the reports' slab and the images' slab, whose rows may lie scattered.
class GradientSink {
 public:
  GradientSink(const at::Tensor& text, const at::Tensor& image) : text_(text), image_(image) {}

  void add(const Tile& tile, const at::Tensor& gradient) {
    if (text_.defined()) {
      if (!slab_.defined())
        slab_ = tile.text.index.defined() ? at::zeros_like(tile.text.rows)
                                          : text_.narrow(0, tile.text.begin, tile.text.count);
      slab_.addmm_(gradient, tile.image.rows);
    }
    if (!image_.defined()) return;
    if (tile.image.index.defined())
      image_.index_add_(0, tile.image.index, gradient.t().mm(tile.text.rows));
    else
      image_.narrow(0, tile.image.begin, tile.image.count).addmm_(gradient.t(), tile.text.rows);
  }

  void finish(const Slab& text) {
    if (text_.defined() && text.index.defined()) text_.index_add_(0, text.index, slab_);
    slab_ = at::Tensor();
  }

 private:
  at::Tensor text_, image_, slab_;
};

const auto kNoneKnown = [](std::int64_t) { return false; };
const auto kAllKnown = [](std::int64_t) { return true; };
const auto kNothing = [](const Slab&) {};

}  // namespace

SideSums::SideSums(std::int64_t count, const at::Tensor& like)
    : max(at::full({count},
                   like.scalar_type() == at::kDouble ? std::numeric_limits<double>::lowest()
                                                     : double{std::numeric_limits<float>::lowest()},
                   like.options())),
      sum(at::zeros({count}, like.options())),
      attraction(at::zeros({count}, like.options())) {}

SideSums::SideSums(at::Tensor max_, at::Tensor sum_, at::Tensor attraction_)
    : max(std::move(max_)), sum(std::move(sum_)), attraction(std::move(attraction_)) {}

at::Tensor attraction_sums(const ScoreSide& text, const ScoreSide& image) {
  const at::Tensor sums = at::zeros({text.count()}, text.states.options());
  const auto body = [&](const Tile& tile) { sums.narrow(0, tile.text.begin, tile.text.count).add_(tile.soft.sum(1)); };
  for_each_tile(text, image, kAllKnown, body, kNothing);
  return sums;
}

void add_softmax_sums(const ScoreSide& text, const ScoreSide& image, SideSums& rows, SideSums& columns,
                      TileCache* cache) {
  const auto body = [&](const Tile& tile) {
    const SideSums row = part_of(rows, tile.text), column = part_of(columns, tile.image);
    at::Tensor scores = tile.products;
    const bool keep =
        cache && static_cast<std::int64_t>(cache->tiles.size()) == tile.number && cache->room >= tile.products.numel();
    if (through_kernels(tile.products)) {
      if (keep) scores = at::empty_like(tile.products);
      kernels::add_softmax_sums(kernel_tile(tile, tile.products, false), scores.mutable_data_ptr<float>(),
                                {row.max.mutable_data_ptr<float>(), row.sum.mutable_data_ptr<float>(),
                                 row.attraction.mutable_data_ptr<float>(), column.max.mutable_data_ptr<float>(),
                                 column.sum.mutable_data_ptr<float>()},
                                backend::torch_threads());
    } else {
      const Pairs pairs = pairs_of(tile, tile.products, false);
      scores = pairs.scores;
      add_line_sums(scores, 1, row);
      add_line_sums(scores, 0, column);
      row.attraction.add_((weighted_attraction(tile, pairs) * scores).sum(1));
    }
    if (!keep) return;
    cache->tiles.push_back(scores);
    cache->room -= scores.numel();
  };
  for_each_tile(text, image, kNoneKnown, body, kNothing);
}

void add_softmax_gradient(const ScoreSide& text, const ScoreSide& image, const SideSums& rows, const SideSums& columns,
                          const TileCache* cache, double scale, const at::Tensor& text_gradient,
                          const at::Tensor& image_gradient) {
  const at::Tensor row_logs = rows.sum.log(), column_logs = columns.sum.log();
  GradientSink sink(text_gradient, image_gradient);
  const auto known = [&](std::int64_t number) {
    return cache && number < static_cast<std::int64_t>(cache->tiles.size());
  };
  const auto body = [&](const Tile& tile) {
    const bool scaled = known(tile.number);
    const at::Tensor products = scaled ? cache->tiles[static_cast<std::size_t>(tile.number)] : tile.products;
    const SideSums row = part_of(rows, tile.text), column = part_of(columns, tile.image);
    const at::Tensor row_log = row_logs.narrow(0, tile.text.begin, tile.text.count),
                     column_log = column_logs.narrow(0, tile.image.begin, tile.image.count);
    if (through_kernels(products)) {
      kernels::softmax_gradient(kernel_tile(tile, products, scaled),
                                {row.max.const_data_ptr<float>(), row_log.const_data_ptr<float>(),
                                 column.max.const_data_ptr<float>(), column_log.const_data_ptr<float>()},
                                static_cast<float>(scale), tile.products.mutable_data_ptr<float>(),
                                backend::torch_threads());
      sink.add(tile, tile.products);
    } else {
      const Pairs pairs = pairs_of(tile, products, scaled);
      // In place: no more than kAtenTiles tiles at a time.
      const at::Tensor d = (pairs.scores - row.max.unsqueeze(1)).sub_(row_log.unsqueeze(1)).exp_();
      d.add_((pairs.scores - column.max.unsqueeze(0)).sub_(column_log.unsqueeze(0)).exp_()).div_(2);
      d.sub_(weighted_attraction(tile, pairs));
      sink.add(tile, scaled_gradient(tile, pairs, d, scale));
    }
  };
  for_each_tile(text, image, known, body, [&](const Slab& slab) { sink.finish(slab); });
}

double sigmoid_loss(const ScoreSide& text, const ScoreSide& image, double bias) {
  double total = 0;
  const auto body = [&](const Tile& tile) {
    if (through_kernels(tile.products)) {
      std::vector<double> rows(static_cast<std::size_t>(tile.text.count));
      kernels::add_sigmoid_loss(kernel_tile(tile, tile.products, false), static_cast<float>(bias), rows.data(),
                                backend::torch_threads());
      for (const double row : rows) total += row;
      return;
    }
    const Pairs pairs = pairs_of(tile, tile.products, false);
    const at::Tensor x = pairs.scores.add_(bias);  // in place, as all that follows: see kAtenTiles
    const at::Tensor logs = at::log_sigmoid(x).mul_(pairs.attraction);
    const at::Tensor apart = at::log_sigmoid(x.neg_());
    logs.add_(apart.mul_(1 - pairs.attraction));
    if (pairs.left_out.defined()) logs.masked_fill_(pairs.left_out, 0);
    total -= logs.sum().item<double>();
  };
  for_each_tile(text, image, kNoneKnown, body, kNothing);
  return total;
}

double add_sigmoid_gradient(const ScoreSide& text, const ScoreSide& image, double bias, double scale,
                            const at::Tensor& text_gradient, const at::Tensor& image_gradient) {
  double total = 0;
  GradientSink sink(text_gradient, image_gradient);
  const auto body = [&](const Tile& tile) {
    if (through_kernels(tile.products)) {
      std::vector<double> rows(static_cast<std::size_t>(tile.text.count));
      kernels::sigmoid_gradient(kernel_tile(tile, tile.products, false), static_cast<float>(bias),
                                static_cast<float>(scale), tile.products.mutable_data_ptr<float>(), rows.data(),
                                backend::torch_threads());
      for (const double row : rows) total += row;
      sink.add(tile, tile.products);
      return;
    }
    const Pairs pairs = pairs_of(tile, tile.products, false);
    const at::Tensor x = pairs.scores.add_(bias);
    const at::Tensor d = x.sigmoid().mul_(1 - pairs.attraction);
    d.sub_(x.neg_().sigmoid_().mul_(pairs.attraction));
    if (pairs.left_out.defined()) d.masked_fill_(pairs.left_out, 0);
    total += d.sum().item<double>();
    sink.add(tile, scaled_gradient(tile, pairs, d, scale));
  };
  for_each_tile(text, image, kNoneKnown, body, [&](const Slab& slab) { sink.finish(slab); });
  return total;
}

double remove_radial(const at::Tensor& rows, const at::Tensor& inverse_norm, const at::Tensor& index,
                     const at::Tensor& gradient) {
  double total = 0;
  const std::int64_t all = index.defined() ? index.size(0) : rows.size(0);
  for (std::int64_t begin = 0; begin < all; begin += kTileRows) {
    const std::int64_t count = std::min(kTileRows, all - begin);
    const at::Tensor here = index.defined() ? index.narrow(0, begin, count) : index;
    const auto part = [&](const at::Tensor& tensor) {
      return here.defined() ? tensor.index_select(0, here) : tensor.narrow(0, begin, count);
    };
    const at::Tensor x = part(rows), g = part(gradient);
    const at::Tensor along = (x * g).sum(1, /*keepdim=*/true);
    total += along.sum(at::kDouble).item<double>();
    if (!inverse_norm.defined()) continue;
    g.sub_(x * (along * part(inverse_norm).square().unsqueeze(1)));
    if (here.defined()) gradient.index_copy_(0, here, g);
  }
  return total;
}

}  // namespace daug::detail
