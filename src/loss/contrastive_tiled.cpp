#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "loss/contrastive.h"
#include "loss/score_tiles.h"

namespace daug::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What does not take part in differentiation.
struct Constants {
  at::Tensor image_inverse_norm, text_inverse_norm;  ///< [N] or undefined
  at::Tensor index;                                  ///< [n] or undefined
  PairRules rules;
  bool sigmoid = false;
};

at::Tensor factors(const at::Tensor& rows, const at::Tensor& inverse_norm, const at::Tensor& index) {
  if (!inverse_norm.defined())
    return at::ones({index.defined() ? index.size(0) : rows.size(0)}, rows.options());
  return index.defined() ? inverse_norm.index_select(0, index) : inverse_norm;
}

struct Sides {
  ScoreSide text, image;
};

Sides sides(const at::Tensor& image, const at::Tensor& text, const at::Tensor& tau, const Constants& c) {
  Sides s;
  s.image.rows = image.contiguous(), s.text.rows = text.contiguous();
  s.image.index = s.text.index = c.index;
  s.image.factor = factors(image, c.image_inverse_norm, c.index).contiguous();
  s.text.factor = (factors(text, c.text_inverse_norm, c.index) * tau).contiguous();
  const auto numbers = [&](const at::Tensor& groups) {
    return groups.defined() ? groups.to(image.scalar_type()).contiguous() : groups;
  };
  s.image.positive = s.text.positive = numbers(c.rules.positive);
  s.image.ignored = s.text.ignored = numbers(c.rules.ignored);
  if (c.rules.positive.defined() && !c.sigmoid)
    s.text.weight = at::bincount(c.rules.positive).to(image.scalar_type()).reciprocal().index_select(0, c.rules.positive);
  return s;
}

/// Gradients by image, text, tau and bias of a loss whose gradient by the rows' side `add` leaves in its arguments.
class TiledContrastive : public torch::autograd::Function<TiledContrastive> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image, const at::Tensor& text,
                            const at::Tensor& tau, const at::Tensor& bias, const Constants& c) {
    const Sides s = sides(image, text, tau, c);
    const std::int64_t n = s.text.count();
    const bool differentiable = image.requires_grad() || text.requires_grad() || tau.requires_grad();
    variable_list saved = {image, text, tau, bias, c.image_inverse_norm, c.text_inverse_norm, c.index,
                           c.rules.positive, c.rules.ignored};
    double loss = 0;
    if (c.sigmoid) {
      loss = sigmoid_loss(s.text, s.image, bias.item<double>());
    } else {
      SideSums rows(n, s.text.rows), columns(n, s.text.rows);
      // Half of what the bound on memory leaves beside the gradients.
      TileCache cache{differentiable ? image.numel() : 0, {}};
      add_softmax_sums(s.text, s.image, rows, columns, &cache);
      // The attraction lies near the largest score: taken from it first, the digits of a small loss survive. Rows and
      // columns add up to the same attraction, since a group has as many of either.
      const at::Tensor attraction = rows.attraction.to(at::kDouble);
      const auto half = [&](const SideSums& side) {
        return ((side.max.to(at::kDouble) - attraction) + side.sum.to(at::kDouble).log()).sum().item<double>() / 2;
      };
      loss = half(rows) + half(columns);
      saved.insert(saved.end(), {rows.max, rows.sum, columns.max, columns.sum});
      saved.insert(saved.end(), cache.tiles.begin(), cache.tiles.end());
    }
    context->save_for_backward(saved);
    context->saved_data["sigmoid"] = c.sigmoid;
    return at::scalar_tensor(loss / static_cast<double>(n), image.options());
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    variable_list saved = context->get_saved_variables();
    const at::Tensor &image = saved[0], &text = saved[1], &tau = saved[2];
    Constants c{saved[4], saved[5], saved[6], {saved[7], saved[8], {}}, context->saved_data["sigmoid"].toBool()};
    const Sides s = sides(image, text, tau, c);
    const bool by_image = context->needs_input_grad(0), by_tau = context->needs_input_grad(2),
               by_text = context->needs_input_grad(1) || by_tau;
    const double scale = upstream[0].item<double>() / static_cast<double>(s.text.count());
    const at::Tensor text_gradient = by_text ? at::zeros_like(s.text.rows) : at::Tensor(),
                     image_gradient = by_image ? at::zeros_like(s.image.rows) : at::Tensor();
    at::Tensor bias_gradient, tau_gradient;
    if (c.sigmoid) {
      const double d = add_sigmoid_gradient(s.text, s.image, saved[3].item<double>(), scale, text_gradient, image_gradient);
      bias_gradient = at::scalar_tensor(scale * d, image.options());
    } else {
      const SideSums rows(saved[9], saved[10], saved[9]), columns(saved[11], saved[12], saved[11]);
      const TileCache cache{0, {saved.begin() + 13, saved.end()}};
      add_softmax_gradient(s.text, s.image, rows, columns, &cache, scale, text_gradient, image_gradient);
    }
    if (by_text) {
      const double along = remove_radial(s.text.rows, c.text_inverse_norm, c.index, text_gradient);
      tau_gradient = at::scalar_tensor(along / tau.item<double>(), image.options());
    }
    if (by_image) remove_radial(s.image.rows, c.image_inverse_norm, c.index, image_gradient);
    return {image_gradient, text_gradient, tau_gradient, bias_gradient, at::Tensor()};
  }
};

class TiledProducts : public torch::autograd::Function<TiledProducts> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& image, const at::Tensor& directions,
                            const at::Tensor& tau, const Constants& c) {
    const at::Tensor factor = factors(image, c.image_inverse_norm, {}) * tau;
    const at::Tensor products = image.mm(directions.t()).mul_(factor.unsqueeze(1));
    context->save_for_backward({image, directions, tau, c.image_inverse_norm, products});
    return products;
  }

  static variable_list backward(AutogradContext* context, const variable_list& upstream) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &image = saved[0], &directions = saved[1], &tau = saved[2], &inverse_norm = saved[3];
    const at::Tensor weighted = upstream[0] * (factors(image, inverse_norm, {}) * tau).unsqueeze(1);
    at::Tensor by_image, by_directions, by_tau;
    if (context->needs_input_grad(0)) {
      by_image = weighted.mm(directions);
      if (inverse_norm.defined()) remove_radial(image, inverse_norm, {}, by_image);
    }
    if (context->needs_input_grad(1)) by_directions = weighted.t().mm(image);
    if (context->needs_input_grad(2)) by_tau = (upstream[0] * saved[4]).sum() / tau;
    return {by_image, by_directions, by_tau, at::Tensor()};
  }
};

}  // namespace

at::Tensor tiled_contrastive(const Embeddings& image, const Embeddings& text, const at::Tensor& index,
                             const at::Tensor& tau, const at::Tensor& bias, const PairRules& rules,
                             ContrastiveForm form) {
  return TiledContrastive::apply(image.rows, text.rows, tau, bias,
                                 Constants{image.inverse_norm, text.inverse_norm, index, rules,
                                           form == ContrastiveForm::kSigmoid});
}

at::Tensor tiled_products(const Embeddings& image, const at::Tensor& directions, const at::Tensor& tau) {
  return TiledProducts::apply(image.rows, directions, tau, Constants{image.inverse_norm, {}, {}, {}, false});
}

}  // namespace daug::detail
