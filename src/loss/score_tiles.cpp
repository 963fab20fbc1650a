#include "loss/score_tiles.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/version.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "backend/device_kernels.h"
#include "kernels/cuda/launch_plan.h"

namespace daug::detail {
namespace {

/// Whether slabs have rows of their own, not views of the side's.
bool owns_rows(const ScoreSide& side) { return side.index.defined() || side.scale.defined(); }

/// The side in slabs of `most` items: views, made once for all tiles of a pass. Rows are missing, see take_rows.
std::vector<Slab> slabs_of(const ScoreSide& side, std::int64_t most) {
  std::vector<Slab> slabs;
  for (std::int64_t begin = 0; begin < side.count(); begin += most) {
    const std::int64_t count = std::min(most, side.count() - begin);
    const auto part = [&](const at::Tensor& tensor) {
      return tensor.defined() ? tensor.narrow(0, begin, count) : tensor;
    };
    slabs.push_back({begin, count, /*rows=*/{}, /*transposed=*/{}, part(side.index), part(side.factor),
                     part(side.positive), part(side.ignored), part(side.states), part(side.weight)});
  }
  return slabs;
}

/// Gives the slab its rows unless it has them.
void take_rows(const ScoreSide& side, Slab& s) {
  if (s.rows.defined()) return;
  const bool gathers = s.index.defined();
  const auto taken = [&](const at::Tensor& rows) {
    return gathers ? rows.index_select(0, s.index) : rows.narrow(0, s.begin, s.count);
  };
  s.rows = taken(side.rows);
  if (side.scale.defined()) {
    const at::Tensor scale = taken(side.scale).unsqueeze(1);
    s.rows = gathers ? s.rows.div_(scale) : s.rows / scale;  // gathered rows are a copy already
  }
  s.transposed = s.rows.t();
}

/// Frees rows that are the slab's own.
void drop_own_rows(const ScoreSide& side, Slab& s) {
  if (owns_rows(side)) s.rows = s.transposed = at::Tensor();
}

/// `most` rows of `width` numbers, or fewer where they would take more than `most` of 1024 numbers.
std::int64_t fitting_rows(std::int64_t most, std::int64_t width) {
  return width <= 1024 ? most : std::max<std::int64_t>(1, most * 1024 / width);
}

/// Rows whose gradients are gathered, and made of what points along them, at a time.
std::int64_t gathered_rows(const at::Tensor& rows) {
  return fitting_rows(rows.is_cpu() ? kTileRows : kDeviceTileRows, rows.size(1));
}

struct TileShape {
  std::int64_t rows, columns;
};

/// Of the largest tiles; of wide rows that are copied tile by tile they are smaller.
TileShape tile_shape(const ScoreSide& text, const ScoreSide& image) {
  std::int64_t rows = text.math->max_rows(), columns = text.math->max_columns();
  if (copies_slabs(text) || copies_slabs(image))
    rows = fitting_rows(rows, text.rows.size(1)), columns = fitting_rows(columns, image.rows.size(1));
  return {std::min(rows, text.count()), std::min(columns, image.count())};
}

/// Writes a_ij to `out`, see PairRules. The diagonal of own pairs is empty in a tile that has none.
void attract_by_states(const Slab& text, const Slab& image, double softness, std::int64_t own, const at::Tensor& out) {
  out.fill_(-1 / softness).addmm_(text.states, image.states.t(), 1, 1 / softness).exp_().clamp_max_(1);
  if (text.positive.defined()) out.masked_fill_(text.positive.unsqueeze(1) == image.positive.unsqueeze(0), 1);
  out.diagonal(own).fill_(1);
}

/// out = a b. Numbers of bfloat16 are multiplied as they are, and their products, which float32 holds, added up in it.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor out) {
  if (a.scalar_type() == out.scalar_type()) {
    at::mm_out(out, a, b);
    return;
  }
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 8)
  if (a.is_cuda()) {  // LibTorch has it nowhere else
    at::mm_out(out, a, b, out.scalar_type());
    return;
  }
#endif
  at::mm_out(out, a.to(out.scalar_type()), b.to(out.scalar_type()));
}

/// sum += a b, the same way.
void add_product(const at::Tensor& a, const at::Tensor& b, at::Tensor sum) {
  if (a.scalar_type() == sum.scalar_type()) {
    sum.addmm_(a, b);
    return;
  }
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 11)
  // Earlier versions want the sum in the factors' type. LibTorch takes a single row for a bias, which goes another way.
  if (a.is_cuda() && sum.size(0) > 1) {
    at::addmm_out(sum, sum, a, b, sum.scalar_type());
    return;
  }
#endif
  const at::Tensor product = at::empty_like(sum);
  multiply(a, b, product);
  sum.add_(product);
}

/// The memory of a tile, and views of it that tiles of one shape have in common.
class TileMemory {
 public:
  TileMemory(const ScoreSide& text, const TileShape& most)
      : numbers_(at::empty({most.rows * most.columns}, text.factor.options())),
        soft_numbers_(text.states.defined() ? at::empty_like(numbers_) : at::Tensor()) {}

  at::Tensor buffer, narrow, soft;  ///< see Tile

  void take_shape(const Slab& text, const Slab& image) {
    if (buffer.defined() && buffer.size(0) == text.count && buffer.size(1) == image.count) return;
    const auto tile_of = [&](const at::Tensor& memory) {
      return memory.defined() ? memory.narrow(0, 0, text.count * image.count).view({text.count, image.count}) : memory;
    };
    buffer = tile_of(numbers_), soft = tile_of(soft_numbers_);
    const bool bfloat16 = text.rows.scalar_type() == at::kBFloat16;
    narrow = bfloat16 ? buffer.view(at::kBFloat16).narrow(1, 0, image.count) : buffer;
  }

 private:
  at::Tensor numbers_, soft_numbers_;
};

/// body(tile) for every tile, its products yet to be made, and the numbers of its slabs, rows of tiles one after the
/// other; after(text slab) behind each row of tiles.
template <class Body, class After>
void for_each_tile(const ScoreSide& text, const ScoreSide& image, const Body& body, const After& after) {
  // Nothing is differentiated, and a call does not have to look for it.
  const at::AutoDispatchBelowADInplaceOrView undifferentiated;
  const TileShape most = tile_shape(text, image);
  TileMemory memory(text, most);
  std::vector<Slab> texts = slabs_of(text, most.rows), images = slabs_of(image, most.columns);
  std::int64_t number = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    Slab& t = texts[i];
    take_rows(text, t);
    for (std::size_t j = 0; j < images.size(); ++j) {
      Slab& v = images[j];
      take_rows(image, v);
      memory.take_shape(t, v);
      const std::int64_t own = text.first + t.begin - image.first - v.begin;
      if (memory.soft.defined()) attract_by_states(t, v, text.softness, own, memory.soft);
      Tile tile{t, v, own, number++, memory.buffer, memory.narrow, memory.soft, memory.buffer, /*scaled=*/false};
      body(tile, i, j);
      drop_own_rows(image, v);
    }
    after(t);
    drop_own_rows(text, t);
  }
}

void make_products(const Tile& tile) { multiply(tile.text.rows, tile.image.transposed, tile.products); }

/// The sums of each slab of `most` items, by its number.
std::vector<SideSums> parts_of(const SideSums& sums, std::int64_t most) {
  std::vector<SideSums> parts;
  const std::int64_t all = sums.max.size(0);
  for (std::int64_t begin = 0; begin < all; begin += most) {
    const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, begin, std::min(most, all - begin)); };
    parts.emplace_back(part(sums.max), part(sums.sum), part(sums.attraction));
  }
  return parts;
}

/// Gradients of a tile go to the reports' slab and the images' slab, whose rows may lie scattered.
class GradientSink {
 public:
  GradientSink(const at::Tensor& text, const at::Tensor& image) : text_(text), image_(image) {}

  /// `number`: of the tile's slab of images, which are met in their order.
  void add(const Tile& tile, std::size_t number, const at::Tensor& gradient) {
    const at::Tensor d = gradient.to(tile.text.rows.scalar_type());
    if (text_.defined()) {
      if (!slab_.defined())
        slab_ = tile.text.index.defined() ? at::zeros(tile.text.rows.sizes(), text_.options())
                                          : text_.narrow(0, tile.text.begin, tile.text.count);
      add_product(d, tile.image.rows, slab_);
    }
    if (!image_.defined()) return;
    if (!tile.image.index.defined()) {
      if (number == image_slabs_.size()) image_slabs_.push_back(image_.narrow(0, tile.image.begin, tile.image.count));
      add_product(d.t(), tile.text.rows, image_slabs_[number]);
      return;
    }
    const std::int64_t most = gathered_rows(image_);
    for (std::int64_t begin = 0; begin < tile.image.count; begin += most) {
      const std::int64_t count = std::min(most, tile.image.count - begin);
      const at::Tensor product = at::empty({count, image_.size(1)}, image_.options());
      multiply(d.narrow(1, begin, count).t(), tile.text.rows, product);
      image_.index_add_(0, tile.image.index.narrow(0, begin, count), product);
    }
  }

  void finish(const Slab& text) {
    if (text_.defined() && text.index.defined()) text_.index_add_(0, text.index, slab_);
    slab_ = at::Tensor();
  }

 private:
  at::Tensor text_, image_, slab_;
  std::vector<at::Tensor> image_slabs_;
};

const auto kNothing = [](const Slab&) {};

thread_local const TileMath* t_tile_math = nullptr;  ///< of a TileMathGuard

}  // namespace

const TileMath& tile_math(const at::Tensor& rows, Execution execution, const kernels::cuda::TileNeeds& needs) {
  static const auto by_kernels = kernel_tile_math(kTileRows, kTileColumns);
  static const auto by_aten = aten_tile_math(kTileRows, kTileColumns);
  static const auto on_device = aten_tile_math(kDeviceTileRows, kTileColumns);
  if (t_tile_math) return *t_tile_math;
  const bool single = rows.scalar_type() != at::kDouble;
  if (rows.is_cpu()) return single ? *by_kernels : *by_aten;
  const bool wanted =
      execution == Execution::kFused || (execution == Execution::kAuto && backend::ran_on_a_device("contrastive_tile"));
  if (!wanted || !single || !rows.is_cuda() || !kernels::device_kernels_compiled()) return *on_device;
  using namespace kernels::cuda;
  static const std::unique_ptr<const TileMath> by_doublings[] = {
      device_tile_math(kLeastTileRows, kMostTileColumns), device_tile_math(2 * kLeastTileRows, kMostTileColumns),
      device_tile_math(4 * kLeastTileRows, kMostTileColumns), device_tile_math(8 * kLeastTileRows, kMostTileColumns)};
  return *by_doublings[tile_doublings(rows.size(0), rows.size(1), needs)];
}

TileMathGuard::TileMathGuard(const TileMath& math) : before_(t_tile_math) { t_tile_math = &math; }
TileMathGuard::~TileMathGuard() { t_tile_math = before_; }

SideSums::SideSums(std::int64_t count, const at::Tensor& like)
    : max(at::full({count}, lowest_number(like), like.options())),
      sum(at::zeros({count}, like.options())),
      attraction(at::zeros({count}, like.options())) {}

SideSums::SideSums(at::Tensor max_, at::Tensor sum_, at::Tensor attraction_)
    : max(std::move(max_)), sum(std::move(sum_)), attraction(std::move(attraction_)) {}

bool copies_slabs(const ScoreSide& side) {
  const bool strided = side.rows.stride(0) != 1 && side.rows.stride(1) != 1;
  return side.index.defined() || side.scale.defined() || strided;
}

std::int64_t tile_numbers(const ScoreSide& text, const ScoreSide& image) {
  const auto [rows, columns] = tile_shape(text, image);
  return rows * columns * (text.states.defined() ? 2 : 1);
}

std::int64_t copied_numbers(const ScoreSide& text, const ScoreSide& image) {
  const auto [rows, columns] = tile_shape(text, image);
  // Gradients of gathered rows are made beside them, all of the reports' and some of the images' at a time.
  const std::int64_t gathered = text.index.defined() ? rows + std::min(columns, gathered_rows(image.rows)) : 0;
  return ((copies_slabs(text) ? rows : 0) + (copies_slabs(image) ? columns : 0) + gathered) * image.rows.size(1);
}

at::Tensor attraction_sums(const ScoreSide& text, const ScoreSide& image) {
  const at::Tensor sums = at::zeros({text.count()}, text.states.options());
  const auto body = [&](const Tile& tile, std::size_t, std::size_t) {
    sums.narrow(0, tile.text.begin, tile.text.count).add_(tile.soft.sum(1));
  };
  for_each_tile(text, image, body, kNothing);
  return sums;
}

void add_softmax_sums(const ScoreSide& text, const ScoreSide& image, SideSums& rows, SideSums& columns,
                      TileCache* cache) {
  const TileShape most = tile_shape(text, image);
  const auto row_parts = parts_of(rows, most.rows), column_parts = parts_of(columns, most.columns);
  const auto body = [&](Tile& tile, std::size_t i, std::size_t j) {
    const std::int64_t size = tile.buffer.numel();
    if (cache && static_cast<std::int64_t>(cache->tiles.size()) == tile.number && cache->room >= size) {
      tile.products = at::empty_like(tile.buffer);
      cache->tiles.push_back(tile.products);
      cache->room -= size;
    }
    make_products(tile);
    text.math->add_softmax_sums(tile, row_parts[i], column_parts[j]);
  };
  for_each_tile(text, image, body, kNothing);
}

void add_softmax_gradient(const ScoreSide& text, const ScoreSide& image, const SideSums& rows, const SideSums& columns,
                          const TileCache* cache, double scale, const at::Tensor& text_gradient,
                          const at::Tensor& image_gradient) {
  const TileShape most = tile_shape(text, image);
  const auto row_parts = parts_of(rows, most.rows), column_parts = parts_of(columns, most.columns);
  GradientSink sink(text_gradient, image_gradient);
  const auto body = [&](Tile& tile, std::size_t i, std::size_t j) {
    tile.scaled = cache && tile.number < static_cast<std::int64_t>(cache->tiles.size());
    if (tile.scaled)
      tile.products = cache->tiles[static_cast<std::size_t>(tile.number)];
    else
      make_products(tile);
    sink.add(tile, j, text.math->softmax_gradient(tile, row_parts[i], column_parts[j], scale));
  };
  for_each_tile(text, image, body, [&](const Slab& slab) { sink.finish(slab); });
}

at::Tensor sigmoid_loss(const ScoreSide& text, const ScoreSide& image, const at::Tensor& bias) {
  const at::Tensor total = at::zeros({}, text.factor.options().dtype(at::kDouble));
  const auto body = [&](const Tile& tile, std::size_t, std::size_t) {
    make_products(tile);
    text.math->add_sigmoid_loss(tile, bias, total);
  };
  for_each_tile(text, image, body, kNothing);
  return total;
}

at::Tensor add_sigmoid_gradient(const ScoreSide& text, const ScoreSide& image, const at::Tensor& bias, double scale,
                                const at::Tensor& text_gradient, const at::Tensor& image_gradient) {
  const at::Tensor total = at::zeros({}, text.factor.options().dtype(at::kDouble));
  GradientSink sink(text_gradient, image_gradient);
  const auto body = [&](const Tile& tile, std::size_t, std::size_t j) {
    make_products(tile);
    sink.add(tile, j, text.math->sigmoid_gradient(tile, bias, scale, total));
  };
  for_each_tile(text, image, body, [&](const Slab& slab) { sink.finish(slab); });
  return total;
}

at::Tensor remove_radial(const at::Tensor& rows, const at::Tensor& scale, const at::Tensor& inverse_norm,
                         const at::Tensor& index, const at::Tensor& gradient) {
  const at::Tensor total = at::zeros({}, gradient.options().dtype(at::kDouble));
  const std::int64_t all = index.defined() ? index.size(0) : rows.size(0);
  const std::int64_t most = gathered_rows(rows);
  for (std::int64_t begin = 0; begin < all; begin += most) {
    const std::int64_t count = std::min(most, all - begin);
    const at::Tensor here = index.defined() ? index.narrow(0, begin, count) : index;
    const auto part = [&](const at::Tensor& tensor) {
      return here.defined() ? tensor.index_select(0, here) : tensor.narrow(0, begin, count);
    };
    const at::Tensor x = scale.defined() ? part(rows) / part(scale).unsqueeze(1) : part(rows), g = part(gradient);
    const at::Tensor along = (x * g).sum(1, /*keepdim=*/true);
    total.add_(along.sum(at::kDouble));
    if (!inverse_norm.defined()) continue;
    g.sub_(x * (along * part(inverse_norm).square().unsqueeze(1)));
    if (here.defined()) gradient.index_copy_(0, here, g);
  }
  return total;
}

}  // namespace daug::detail
