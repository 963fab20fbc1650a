#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <utility>

#include "backend/upload.h"
#include "daug/core/error.h"
#include "loss/contrastive.h"
#include "loss/score_tiles.h"

namespace daug::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What does not take part in differentiation. Groups, states and weights are those of the whole batch.
struct Constants : torch::CustomClassHolder {
  const TileMath* math = nullptr;
  at::ScalarType multiplied = at::kFloat;            ///< type that embeddings are multiplied in
  at::Tensor image_scale, text_scale;                ///< [N] or undefined, see Embeddings
  at::Tensor image_inverse_norm, text_inverse_norm;  ///< [N] or undefined
  at::Tensor index;                                  ///< [n] or undefined
  at::Tensor positive, ignored, states, weight;      ///< [all items, ...] like the embeddings, or undefined
  double softness = 1;
  bool sigmoid = false;
  bool reads = false;  ///< the gradient of the loss is looked at, for which a device would be waited for
  GlobalBatch batch;
};

/// Called in a backward pass, which is not differentiable itself.
void require_first_derivative() {
  if (at::GradMode::is_enabled())
    fail(ErrorCode::kUnsupported, kLossFunction, "execution",
         "kReference for gradients that are differentiated again (create_graph)", "tiles");
}

at::Tensor factors(const at::Tensor& rows, const at::Tensor& inverse_norm, const at::Tensor& index) {
  if (!inverse_norm.defined()) return at::ones({index.defined() ? index.size(0) : rows.size(0)}, rows.options());
  return index.defined() ? inverse_norm.index_select(0, index) : inverse_norm;
}

/// What attracts the items [first, first + count) of the batch and what they ignore, as one side of the scores.
ScoreSide rules_of(std::int64_t first, std::int64_t count, const Constants& c) {
  const auto part = [&](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.narrow(0, first, count) : tensor;
  };
  ScoreSide side;
  side.math = c.math;
  side.positive = part(c.positive), side.ignored = part(c.ignored), side.weight = part(c.weight);
  side.states = part(c.states), side.softness = c.softness;
  side.first = first;
  return side;
}

/// The items of rank `of` as one side of the scores.
ScoreSide side_of(std::int64_t of, const at::Tensor& rows, const at::Tensor& scale, const at::Tensor& factor,
                  const Constants& c) {
  ScoreSide side = rules_of(c.batch.first[GlobalBatch::index(of)], c.batch.count(of), c);
  side.rows = rows.to(c.multiplied), side.scale = scale, side.index = c.index, side.factor = factor.contiguous();
  // Slabs that were divided one by one would be float32.
  if (scale.defined() && c.multiplied == at::kBFloat16)
    side.rows.div_(std::exchange(side.scale, at::Tensor()).to(at::kBFloat16).unsqueeze(1));
  return side;
}

/// Numbers of scores that may be kept from the first pass for the second. The bound on memory is 4 N D and what tiles
/// hold; 2 N D are the gradients, N D that of the class term, the last N D are for scores, less what the tiles' room
/// has no place for: half of it is for tiles, which may be larger on a device, a quarter for copies and states.
std::int64_t cache_room(const at::Tensor& image, const ScoreSide& reports, const ScoreSide& images,
                        const Constants& c) {
  const std::int64_t states = c.states.defined() ? c.states.numel() : 0;
  const std::int64_t held = c.math->held(), larger = tile_numbers(reports, images) - held / 2;
  const std::int64_t beyond = copied_numbers(reports, images) + states + std::max<std::int64_t>(larger, 0) - held / 4;
  return std::max<std::int64_t>(image.numel() - std::max<std::int64_t>(beyond, 0), 0);
}

/// What tiles need of a device's memory beside their products. The labels that ranks have of each other are not
/// counted.
kernels::cuda::TileNeeds tile_needs(const Embeddings& image, const Embeddings& text, const at::Tensor& index,
                                    const PairRules& rules, bool alone, bool bfloat16) {
  const auto copied = [&](const Embeddings& embeddings) {
    ScoreSide side;
    side.rows = embeddings.rows, side.index = index;
    if (!bfloat16) side.scale = embeddings.scale;  // bfloat16 is divided at once
    return copies_slabs(side);
  };
  kernels::cuda::TileNeeds needs;
  needs.soft = rules.states.defined();
  if (needs.soft && alone) needs.states = rules.states.numel();
  if (copied(image) || copied(text)) needs.copied = image.rows.size(1) * (index.defined() ? 2 : 1);
  return needs;
}

/// 1 / sum_j a_ij of all items, [all items]: each rank adds up the lines of its own items. The a_ij are symmetric, so
/// these are the sums over columns as well.
at::Tensor soft_weights(const Constants& c) {
  const std::int64_t rank = c.batch.rank(), all = c.batch.first.back();
  ScoreSide mine = rules_of(c.batch.first[GlobalBatch::index(rank)], c.batch.count(rank), c);
  ScoreSide others = rules_of(0, all, c);
  // For their number and type; no score is made.
  mine.rows = mine.factor = mine.states, others.rows = others.factor = others.states;
  const at::Tensor sums = at::zeros({all}, c.states.options());
  sums.narrow(0, mine.first, mine.count()).copy_(attraction_sums(mine, others));
  if (c.batch.size() > 1) c.batch.ring->add_up(sums);
  return sums.reciprocal();
}

/// A block of images on its way round the ranks, with what is known of it.
struct Visitor {
  std::int64_t home;
  ScoreSide side;
  SideSums sums;
  at::Tensor gradient;
};

class TiledContrastive : public torch::autograd::Function<TiledContrastive> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image, const at::Tensor& text,
                            const at::Tensor& tau, const at::Tensor& bias,
                            const c10::intrusive_ptr<Constants>& shared) {
    const Constants& c = *shared;
    const ScoreSide reports = text_side(text, tau, c);
    SideSums rows(reports.count(), reports.factor);
    Visitor visitor = own_images(image, c);
    const bool differentiable = image.requires_grad() || text.requires_grad() || tau.requires_grad();
    // Scores are kept where all are met in one go.
    TileCache cache{differentiable && c.batch.size() == 1 ? cache_room(image, reports, visitor.side, c) : 0, {}};
    at::Tensor loss = number_like(reports);
    for (std::int64_t step = 0; step < c.batch.size(); ++step) {
      if (c.sigmoid)
        loss.add_(sigmoid_loss(reports, visitor.side, bias));
      else
        add_softmax_sums(reports, visitor.side, rows, visitor.sums, &cache);
      travel(visitor, c);
    }
    variable_list saved = {image, text, tau, bias};
    if (!c.sigmoid) {
      // The attraction lies near the largest score: taken from it first, the digits of a small loss survive. Rows and
      // columns add up to the same attraction, since a pair counts for both with the mean of its items' weights.
      const at::Tensor attraction = rows.attraction.to(at::kDouble);
      const auto half = [&](const SideSums& side) {
        return ((side.max.to(at::kDouble) - attraction) + side.sum.to(at::kDouble).log()).sum() / 2;
      };
      loss = half(rows) + half(visitor.sums);
      saved.insert(saved.end(), {rows.max, rows.sum, visitor.sums.max, visitor.sums.sum});
      saved.insert(saved.end(), cache.tiles.begin(), cache.tiles.end());
    }
    context->save_for_backward(saved);
    context->saved_data["constants"] = at::IValue::make_capsule(shared);
    return (sum_over_ranks(loss, c) / static_cast<double>(c.batch.first.back())).to(image.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    require_first_derivative();
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &image = saved[0], &text = saved[1], &tau = saved[2], &bias = saved[3];
    const auto shared = context->saved_data["constants"].toCapsule();
    const Constants& c = static_cast<const Constants&>(*shared);
    const ScoreSide reports = text_side(text, tau, c);
    const bool alone = c.batch.size() == 1;
    const bool by_image = !alone || context->needs_input_grad(0);
    const bool by_text = !alone || context->needs_input_grad(1) || context->needs_input_grad(2);
    const double whole = (c.reads ? upstream[0].item<double>() : 1) / static_cast<double>(c.batch.first.back());
    const double scale = whole * c.batch.embedding_scale;
    const at::Tensor text_gradient = by_text ? at::zeros(text.sizes(), text.options()) : at::Tensor();
    Visitor visitor = own_images(image, c);
    if (by_image) visitor.gradient = at::zeros(image.sizes(), image.options());
    TileCache cache;
    SideSums rows(0, reports.factor);
    if (!c.sigmoid) {
      rows = SideSums(saved[4], saved[5], saved[4]);
      visitor.sums = SideSums(saved[6], saved[7], saved[6]);
      cache.tiles.assign(saved.begin() + 8, saved.end());
    }
    at::Tensor by_bias = number_like(reports);
    for (std::int64_t step = 0; step < c.batch.size(); ++step) {
      if (c.sigmoid)
        by_bias.add_(add_sigmoid_gradient(reports, visitor.side, bias, scale, text_gradient, visitor.gradient));
      else
        add_softmax_gradient(reports, visitor.side, rows, visitor.sums, &cache, scale, text_gradient, visitor.gradient);
      travel(visitor, c);
    }
    if (!c.reads)
      for (const at::Tensor& gradient : {text_gradient, visitor.gradient, by_bias})
        if (gradient.defined()) gradient.mul_(upstream[0]);
    at::Tensor tau_gradient, bias_gradient;
    if (by_text) {
      const at::Tensor along = remove_radial(text, c.text_scale, c.text_inverse_norm, c.index, text_gradient);
      const at::Tensor total = sum_over_ranks(along / c.batch.embedding_scale, c) * c.batch.shared_scale;
      tau_gradient = (total / tau.to(at::kDouble)).to(image.scalar_type());
    }
    if (c.sigmoid) bias_gradient = (sum_over_ranks(by_bias, c) * whole * c.batch.shared_scale).to(image.scalar_type());
    if (by_image) remove_radial(image, c.image_scale, c.image_inverse_norm, c.index, visitor.gradient);
    return {visitor.gradient, text_gradient, tau_gradient, bias_gradient, at::Tensor()};
  }

 private:
  static ScoreSide text_side(const at::Tensor& text, const at::Tensor& tau, const Constants& c) {
    return side_of(c.batch.rank(), text, c.text_scale, factors(text, c.text_inverse_norm, c.index) * tau, c);
  }

  static Visitor own_images(const at::Tensor& image, const Constants& c) {
    ScoreSide side = side_of(c.batch.rank(), image, c.image_scale, factors(image, c.image_inverse_norm, c.index), c);
    if (side.scale.defined() && c.batch.size() > 1)  // rows that travel are divided before
      side.rows = side.rows / std::exchange(side.scale, at::Tensor()).unsqueeze(1);
    SideSums sums(side.count(), side.factor);
    return {c.batch.rank(), std::move(side), std::move(sums), {}};
  }

  /// Exchanges the visitor for the one of the rank before.
  static void travel(Visitor& visitor, const Constants& c) {
    if (c.batch.size() == 1) return;
    const std::int64_t home = c.batch.before(visitor.home);
    std::vector<at::Tensor> luggage = {visitor.side.rows, visitor.side.factor, visitor.sums.max, visitor.sums.sum};
    if (visitor.gradient.defined()) luggage.push_back(visitor.gradient);
    const auto arrived = c.batch.ring->pass_on(luggage, c.batch.count(home));
    visitor.home = home;
    visitor.side = side_of(home, arrived[0], /*scale=*/{}, arrived[1], c);
    visitor.sums = SideSums(arrived[2], arrived[3], at::zeros_like(arrived[2]));
    if (visitor.gradient.defined()) visitor.gradient = arrived[4];
  }

  /// 0 as float64, on the device of the scores.
  static at::Tensor number_like(const ScoreSide& side) {
    return at::zeros({}, side.factor.options().dtype(at::kDouble));
  }

  /// The number, replaced by its sum over ranks.
  static at::Tensor sum_over_ranks(const at::Tensor& number, const Constants& c) {
    if (c.batch.size() > 1) c.batch.ring->add_up(number.view({1}));
    return number;
  }
};

/// body(number of the first row, rows divided by their scale [N]), block by block; of all at once without a scale.
template <class Body>
void for_each_block(const at::Tensor& rows, const at::Tensor& scale, const Body& body) {
  if (!scale.defined()) {
    body(std::int64_t{0}, rows);
    return;
  }
  for (std::int64_t begin = 0; begin < rows.size(0); begin += kTileRows) {
    const std::int64_t count = std::min(kTileRows, rows.size(0) - begin);
    body(begin, rows.narrow(0, begin, count) / scale.narrow(0, begin, count).unsqueeze(1));
  }
}

class TiledProducts : public torch::autograd::Function<TiledProducts> {
 public:
  /// `scale` and `inverse_norm` are empty where there are none: LibTorch takes no undefined arguments here.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image, const at::Tensor& directions,
                            const at::Tensor& tau, const at::Tensor& scale, const at::Tensor& inverse_norm) {
    const at::Tensor factor = factors(image, present(inverse_norm), {}) * tau;
    const at::Tensor products = at::empty({image.size(0), directions.size(0)}, image.options());
    for_each_block(image, present(scale), [&](std::int64_t begin, const at::Tensor& rows) {
      at::Tensor here = products.narrow(0, begin, rows.size(0));
      at::mm_out(here, rows, directions.t());
    });
    products.mul_(factor.unsqueeze(1));
    context->save_for_backward({image, directions, tau, scale, inverse_norm, products});
    return products;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    require_first_derivative();
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &image = saved[0], &directions = saved[1], &tau = saved[2];
    const at::Tensor scale = present(saved[3]), inverse_norm = present(saved[4]);
    const at::Tensor weighted = upstream[0] * (factors(image, inverse_norm, {}) * tau).unsqueeze(1);
    at::Tensor by_image, by_directions, by_tau;
    if (context->needs_input_grad(0)) {
      by_image = weighted.mm(directions);
      if (inverse_norm.defined()) remove_radial(image, scale, inverse_norm, {}, by_image);
    }
    if (context->needs_input_grad(1)) {
      by_directions = at::zeros(directions.sizes(), directions.options());
      for_each_block(image, scale, [&](std::int64_t begin, const at::Tensor& rows) {
        by_directions.addmm_(weighted.narrow(0, begin, rows.size(0)).t(), rows);
      });
    }
    if (context->needs_input_grad(2)) by_tau = (upstream[0] * saved[5]).sum() / tau;
    return {by_image, by_directions, by_tau, at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor present(const at::Tensor& tensor) { return tensor.numel() > 0 ? tensor : at::Tensor(); }
};

}  // namespace

bool multiplies_bfloat16(const at::Tensor& image, const at::Tensor& text, Execution execution) {
  const auto came = [](const at::Tensor& rows) { return rows.defined() && rows.scalar_type() == at::kBFloat16; };
  return came(image) && came(text) && tile_math(image, execution).takes_bfloat16();
}

at::Tensor tiled_contrastive(const Embeddings& image, const Embeddings& text, const at::Tensor& index,
                             const at::Tensor& tau, const at::Tensor& bias, const PairRules& rules,
                             ContrastiveForm form, Execution execution, const GlobalBatch* batch, bool bfloat16,
                             bool deferred) {
  const auto c = c10::make_intrusive<Constants>();
  c->image_scale = image.scale, c->text_scale = text.scale, c->index = index;
  c->image_inverse_norm = image.inverse_norm, c->text_inverse_norm = text.inverse_norm;
  c->sigmoid = form == ContrastiveForm::kSigmoid;
  c->reads = image.rows.is_cpu() && !deferred;
  if (batch)
    c->batch = *batch;
  else
    c->batch.first = {0, index.defined() ? index.size(0) : image.rows.size(0)};
  const auto type = image.rows.scalar_type();
  c->math = &tile_math(image.rows, execution, tile_needs(image, text, index, rules, !batch, bfloat16));
  c->multiplied = bfloat16 ? at::kBFloat16 : type;
  const auto there = [&](const at::Tensor& tensor) { return backend::upload(tensor, image.rows.device()); };
  if (rules.positive.defined()) {
    c->positive = there(rules.positive.to(type));
    if (!c->sigmoid)
      c->weight = there(at::bincount(rules.positive).to(type).reciprocal().index_select(0, rules.positive));
  }
  if (rules.ignored.defined()) c->ignored = there(rules.ignored.to(type));
  if (rules.states.defined()) {
    c->states = there(rules.states), c->softness = rules.softness;
    if (!c->sigmoid) c->weight = soft_weights(*c);
  }
  const at::Tensor read_by_tiles = c->sigmoid ? there(bias) : bias;
  return TiledContrastive::apply(image.rows, text.rows, tau, read_by_tiles, c);
}

at::Tensor tiled_products(const Embeddings& image, const at::Tensor& directions, const at::Tensor& tau) {
  const at::Tensor none = at::empty({0}, image.rows.options());
  const auto given = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor : none; };
  return TiledProducts::apply(image.rows, directions, tau, given(image.scale), given(image.inverse_norm));
}

}  // namespace daug::detail
