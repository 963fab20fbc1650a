#include "loss/loss_inputs.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "backend/upload.h"
#include "daug/core/error.h"

namespace daug::detail {
namespace {

/// Above this sums of N^2 scores would overflow float32.
constexpr double kLargestTemperature = 1e20;

/// Refuses by `refuse`, which throws, unless `good`, a truth value []: at once, or when `checks` are settled.
template <class Refuse>
void require_good(const at::Tensor& good, DeferredChecks* checks, Refuse refuse) {
  if (checks)
    checks->see(good, std::move(refuse));
  else if (!good.item<bool>())
    refuse();
}

/// Largest number of the type of `like`, float32 or float64.
double largest_number(const at::Tensor& like) {
  return like.scalar_type() == at::kDouble ? std::numeric_limits<double>::max()
                                           : double{std::numeric_limits<float>::max()};
}

/// Largest magnitude of a number that is added up like `like`: sums of 1e10 of them stay finite.
double largest_term(const at::Tensor& like) { return largest_number(like) / 1e10; }

/// Throws kNumeric unless |value| <= bound, that of largest_term. Before a number is cast to the type that it is for,
/// where it could become infinite.
void require_term(double value, const char* argument, double bound) {
  if (!(std::abs(value) <= bound))
    fail(ErrorCode::kNumeric, kLossFunction, argument, concat("a finite number of magnitude ", bound, " at most"),
         value);
}

/// The same of a float64 number [] that nobody changes.
void require_term(const at::Tensor& value, const char* argument, double bound, DeferredChecks* checks) {
  require_good(value.abs() <= bound, checks,
               [value, argument, bound] { require_term(value.item<double>(), argument, bound); });
}

/// A copy of one number as float64 [], on the device of `like`.
at::Tensor number_beside(const at::Tensor& number, const at::Tensor& like) {
  return number.detach().reshape({}).to(like.device(), at::kDouble, /*non_blocking=*/false, /*copy=*/true);
}

/// Largest magnitude, float64 [], or not-a-number where there is one.
at::Tensor largest_magnitude(const at::Tensor& numbers) { return numbers.detach().abs().max().to(at::kDouble); }

/// Throws kNumeric unless scores of magnitude `bound` at most, of numbers like tau, can be added up.
void require_scores_below(double bound, double limit, const char* argument) {
  if (!(bound < limit))
    fail(ErrorCode::kNumeric, kLossFunction, concat("image and ", argument),
         concat("embeddings whose scores stay below ", limit), concat("scores up to ", bound));
}

at::Tensor norms(const at::Tensor& vectors) {
  return at::linalg_vector_norm(vectors, 2, at::IntArrayRef{1}, /*keepdim=*/true);
}

at::Tensor largest_of_rows(const at::Tensor& vectors) {
  return vectors.detach().abs().amax(at::IntArrayRef{1}, /*keepdim=*/true);
}

/// The largest powers of two up to positive finite numbers; made of others anything. Nothing is rounded on the way.
at::Tensor powers_of_two(const at::Tensor& numbers) { return numbers / (std::get<0>(at::frexp(numbers)) * 2); }

/// Rows whose squares neither overflow nor lose digits; `norm` as norms() returns.
at::Tensor exact_rows(const at::Tensor& norm) {
  const double least = norm.scalar_type() == at::kDouble ? 1e-140 : 1e-15;
  return at::isfinite(norm) & (norm > least);
}

/// The same vectors, whose gradient is divided by `scale` [N] (undefined: 1) and then held within half of the largest
/// number of its type, so that two of them add up to a number.
at::Tensor with_finite_gradient(const at::Tensor& vectors, const at::Tensor& scale) {
  if (!vectors.requires_grad() || !at::GradMode::is_enabled()) return vectors;
  const at::Tensor same = vectors.view_as(vectors);
  same.register_hook([scale](const at::Tensor& gradient) -> at::Tensor {
    if (!gradient.defined()) return gradient;
    const double most = largest_number(gradient) / 2;
    return scale.defined() ? (gradient / scale.unsqueeze(1)).clamp_(-most, most) : gradient.clamp(-most, most);
  });
  return same;
}

/// Throws unless every row's largest magnitude is finite and, when normalising, above 0.
void require_rows(const at::Tensor& largest, const char* argument, bool normalise, const at::Tensor& index,
                  DeferredChecks* checks) {
  const at::Tensor good = normalise ? at::isfinite(largest) & (largest > 0) : at::isfinite(largest);
  require_good(good.all(), checks, [good, largest, argument, normalise, index] {
    const auto bad = good.to(at::kByte).argmin(0).item<std::int64_t>();
    const std::int64_t row = index.defined() ? index[bad].item<std::int64_t>() : bad;
    fail(ErrorCode::kNumeric, kLossFunction, concat(argument, " row ", row),
         normalise ? "a finite vector with a norm above 0" : "a finite vector",
         concat("largest magnitude ", largest[bad].item<double>()));
  });
}

/// These rows of a tensor that may be undefined, where it lies.
at::Tensor rows_of(const at::Tensor& tensor, const at::Tensor& index) {
  return tensor.defined() ? tensor.index_select(0, index.to(tensor.device())) : tensor;
}

/// Group of every row: equal rows have equal numbers.
at::Tensor groups_of_rows(const at::Tensor& rows) {
  return std::get<1>(at::unique_dim(rows, 0, /*sorted=*/true, /*return_inverse=*/true));
}

/// State of every label, [B, 3K]: target, 1 - target, unknown.
at::Tensor label_states(const Targets& targets) {
  if (!targets.known.defined()) return at::cat({targets.labels, 1 - targets.labels, at::zeros_like(targets.labels)}, 1);
  const at::Tensor known = targets.known.to(targets.labels.scalar_type());
  return at::cat({targets.labels * known, (1 - targets.labels) * known, 1 - known}, 1);
}

}  // namespace

void require_tensor(bool condition, const char* argument, const std::string& expected, const at::Tensor& actual) {
  if (condition) return;
  if (!actual.defined()) fail(ErrorCode::kInvalidArgument, kLossFunction, argument, expected, "an undefined tensor");
  fail(ErrorCode::kMismatch, kLossFunction, argument, expected,
       concat("shape ", actual.sizes(), " of ", actual.scalar_type()));
}

void require_image(const at::Tensor& image) {
  require_tensor(image.defined() && image.dim() == 2 && image.size(0) > 0 && image.size(1) > 0 &&
                     at::isFloatingType(image.scalar_type()),
                 "image", "[B, D] floating point, B and D at least 1", image);
}

void require_like_image(const at::Tensor& other, std::int64_t rows, const char* argument, const at::Tensor& image) {
  require_tensor(other.defined() && other.dim() == 2 && other.size(0) == rows && other.size(1) == image.size(1) &&
                     other.scalar_type() == image.scalar_type(),
                 argument, concat("shape [", rows, ", ", image.size(1), "] of ", image.scalar_type(), " as the image"),
                 other);
}

at::Tensor items_with_text(const at::Tensor& text_mask, const at::Tensor& image) {
  if (!text_mask.defined()) return {};
  require_tensor(text_mask.dim() == 1 && text_mask.size(0) == image.size(0), "text_mask",
                 concat("[B] with B = ", image.size(0)), text_mask);
  return text_mask.nonzero().squeeze(1);
}

at::Tensor widened(const at::Tensor& embeddings) {
  const bool narrow = embeddings.defined() && at::isReducedFloatingType(embeddings.scalar_type());
  return narrow ? embeddings.to(at::kFloat) : embeddings;
}

HybridLossInputs widened(HybridLossInputs inputs) {
  for (at::Tensor* rows : {&inputs.image, &inputs.text, &inputs.class_prompts}) *rows = widened(*rows);
  return inputs;
}

at::Tensor embed(const at::Tensor& vectors, const char* argument, bool normalise, const at::Tensor& index,
                 DeferredChecks* checks) {
  const at::Tensor norm = norms(vectors), exact = exact_rows(norm);
  // One number a row tells whether all is well; elements are looked at where it does not, or where nobody may know.
  if (!checks && exact.all().item<bool>()) return normalise ? vectors / norm : vectors;
  const at::Tensor largest = largest_of_rows(vectors);
  require_rows(largest, argument, normalise, index, checks);
  if (!normalise) return vectors;
  const at::Tensor near_one = with_finite_gradient(vectors, {}) / at::where(exact, at::ones_like(largest), largest);
  return near_one / norms(near_one);
}

Embeddings read_embeddings(const at::Tensor& vectors, const char* argument, bool normalise, const at::Tensor& index,
                           DeferredChecks* checks, bool exact) {
  const at::Tensor norm = norms(vectors.detach());
  const auto used = [&](const at::Tensor& rows) { return index.defined() ? rows.index_select(0, index) : rows; };
  // Products of undivided rows must neither overflow nor vanish.
  const at::Tensor plain = (norm > 1e-8) & (norm < 1e8);
  // One number a row tells whether all is well; elements are looked at where it does not, or where nobody may know.
  at::Tensor largest;
  if (checks || !exact_rows(used(norm)).all().item<bool>()) {
    largest = largest_of_rows(vectors);
    require_rows(used(largest), argument, normalise, index, checks);
  }
  if (!normalise) return {vectors, {}, {}};
  if (!checks && used(plain).all().item<bool>()) return {vectors, {}, norm.squeeze(1).reciprocal()};
  if (!largest.defined()) largest = largest_of_rows(vectors);
  // What is not used may hold anything, and gets a gradient of 0 divided by this.
  const at::Tensor divided = plain.logical_not() & at::isfinite(largest) & (largest > 0);
  const at::Tensor scale = at::where(divided, exact ? powers_of_two(largest) : largest, at::ones_like(largest));
  return {with_finite_gradient(vectors, scale.squeeze(1)), scale.squeeze(1),
          norms(vectors.detach() / scale).squeeze(1).reciprocal()};
}

double longest_row(const at::Tensor& rows) {
  return rows.size(0) == 0 ? 0 : largest_magnitude(rows).item<double>() * std::sqrt(static_cast<double>(rows.size(1)));
}

void require_finite_scores(double longest_image, double longest_other, const char* argument, const at::Tensor& tau) {
  if (longest_image == 0 || longest_other == 0) return;
  const double bound = tau.item<double>() * longest_image * longest_other;  // |v.t| <= |v| |t|
  require_scores_below(bound, largest_term(tau), argument);
}

void require_finite_scores(const at::Tensor& image, const at::Tensor& other, const char* argument,
                           const at::Tensor& tau, DeferredChecks* checks) {
  if (!checks) return require_finite_scores(longest_row(image), longest_row(other), argument, tau);
  if (image.size(0) == 0 || other.size(0) == 0) return;
  const at::Tensor longest = largest_magnitude(image) * largest_magnitude(other) * static_cast<double>(image.size(1));
  const at::Tensor bound = tau.detach().to(at::kDouble) * longest;
  const double limit = largest_term(tau);
  checks->see(bound < limit, [=] { require_scores_below(bound.item<double>(), limit, argument); });
}

at::Tensor temperature(const at::Tensor& logit_scale, const at::Tensor& image, const HybridLossOptions& options,
                       DeferredChecks* checks) {
  const double low = options.min_logit_scale, high = options.max_logit_scale;
  if (!logit_scale.defined())
    return at::scalar_tensor(std::exp(std::min(std::max(options.logit_scale, low), high)), image.options());
  require_tensor(logit_scale.numel() == 1 && at::isFloatingType(logit_scale.scalar_type()), "logit_scale",
                 "one floating-point number", logit_scale);
  at::Tensor scale = logit_scale.reshape({}).to(image.options());
  if (std::isfinite(low) || std::isfinite(high)) scale = scale.clamp(low, high);
  const at::Tensor tau = scale.exp(), value = tau.detach().to(at::kDouble);
  // Gradients to it are divided by it.
  require_good((value > 0) & (value <= kLargestTemperature), checks, [given = number_beside(logit_scale, image)] {
    fail(ErrorCode::kNumeric, kLossFunction, "logit_scale",
         concat("an exponential above 0 and at most ", kLargestTemperature), given.item<double>());
  });
  return tau;
}

at::Tensor finite_scalar(const at::Tensor& given, double otherwise, const char* argument, const at::Tensor& image,
                         DeferredChecks* checks) {
  if (!given.defined()) {
    require_term(otherwise, argument, largest_term(image));
    return at::scalar_tensor(otherwise, image.scalar_type());  // on the CPU: the softmax form has no use for it
  }
  require_tensor(given.numel() == 1 && at::isFloatingType(given.scalar_type()), argument, "one floating-point number",
                 given);
  require_term(number_beside(given, image), argument, largest_term(image), checks);
  return given.reshape({}).to(image.options());
}

Targets read_targets(const HybridLossInputs& inputs, const HybridLossOptions& options) {
  const at::Tensor &image = inputs.image, &labels = inputs.labels, &mask = inputs.label_mask;
  require_tensor(labels.defined() && labels.dim() == 2 && labels.size(0) == image.size(0) && labels.size(1) > 0,
                 "labels", concat("[B, K] with B = ", image.size(0), ", K at least 1"), labels);
  Targets targets{labels.to(image.scalar_type()), {}};
  if (mask.defined()) {
    require_tensor(mask.sizes() == labels.sizes(), "label_mask", concat("shape ", labels.sizes()), mask);
    targets.known = mask.to(at::kBool);
  }
  if (options.uncertain == UncertainLabels::kSmoothed)
    targets.labels = targets.labels.masked_fill(targets.labels == -1, options.uncertain_target);
  if (options.uncertain == UncertainLabels::kMasked) {
    const at::Tensor certain = targets.labels != -1;
    targets.known = targets.known.defined() ? targets.known & certain : certain;
  }
  if (targets.known.defined()) targets.labels = targets.labels.masked_fill(targets.known.logical_not(), 0);
  const at::Tensor good = (targets.labels >= 0) & (targets.labels <= 1);
  if (!good.all().item<bool>()) {
    const at::Tensor where = good.logical_not().nonzero()[0];
    const auto row = where[0].item<std::int64_t>(), column = where[1].item<std::int64_t>();
    fail(ErrorCode::kInvalidArgument, kLossFunction, concat("labels[", row, ", ", column, "]"),
         options.uncertain == UncertainLabels::kRefused ? "a known label in [0, 1]" : "a known label in [0, 1], or -1",
         targets.labels[row][column].item<double>());
  }
  return targets;
}

ExchangedItems exchanged_items(const HybridLossInputs& local, const Targets& targets) {
  const at::Tensor items = items_with_text(local.text_mask, local.image);
  const c10::Device device = local.image.device();
  const auto taken = [&](const at::Tensor& rows) {
    return backend::upload(items.defined() ? rows_of(rows, items) : rows, device);
  };
  return {backend::upload(items, device), taken(local.study), {taken(targets.labels), taken(targets.known)}};
}

PairRules PairRules::select(const at::Tensor& index) const {
  return {rows_of(positive, index), rows_of(ignored, index), rows_of(states, index), softness};
}

PairRules PairRules::on(const c10::Device& device) const {
  return {backend::upload(positive, device), backend::upload(ignored, device), backend::upload(states, device),
          softness};
}

void require_study(const at::Tensor& study, const at::Tensor& image, const HybridLossOptions& options) {
  if (!study.defined()) return;
  require_tensor(study.dim() == 1 && study.size(0) == image.size(0) &&
                     at::isIntegralType(study.scalar_type(), /*includeBool=*/false),
                 "study", concat("integers [B] with B = ", image.size(0)), study);
  require(options.label_pairs != LabelPairs::kPositives, kLossFunction, "study",
          "no studies beside LabelPairs::kPositives", "both");
}

PairRules pair_rules(const at::Tensor& study, const Targets& targets, const HybridLossOptions& options) {
  PairRules rules;
  if (study.defined()) rules.positive = std::get<1>(at::_unique(study, /*sorted=*/true, /*return_inverse=*/true));
  if (options.label_pairs == LabelPairs::kNegatives) return rules;
  const at::Tensor states = label_states(targets);
  if (options.label_pairs == LabelPairs::kPositives) rules.positive = groups_of_rows(states);
  if (options.label_pairs == LabelPairs::kIgnored) rules.ignored = groups_of_rows(states);
  if (options.label_pairs == LabelPairs::kSoft) {
    rules.states = (states / norms(states)).detach();
    rules.softness = options.label_softness;
  }
  return rules;
}

at::Tensor class_directions(const at::Tensor& prompts, const at::Tensor& image, const HybridLossOptions& options,
                            DeferredChecks* checks) {
  const bool paired = options.class_form == ClassForm::kPaired;
  require_tensor(
      prompts.defined() && prompts.dim() == 2 && prompts.size(0) > 0 && (!paired || prompts.size(0) % 2 == 0),
      "class_prompts", paired ? "[2K, D], K at least 1" : "[K, D], K at least 1", prompts);
  require_like_image(prompts, prompts.size(0), "class_prompts", image);
  const at::Tensor directions = embed(prompts, "class_prompts", options.normalise, {}, checks);
  if (!paired) return directions;
  return directions.slice(0, 1, std::nullopt, 2) - directions.slice(0, 0, std::nullopt, 2);
}

at::Tensor class_logits(const at::Tensor& products, const at::Tensor& class_bias, const HybridLossOptions& options,
                        DeferredChecks* checks) {
  if (options.class_form == ClassForm::kPaired) {
    require(!class_bias.defined(), kLossFunction, "class_bias", "none with ClassForm::kPaired", "a tensor");
    return products;
  }
  if (!class_bias.defined()) {
    require_term(options.class_bias, "class_bias", largest_term(products));
    return products + options.class_bias;
  }
  const std::int64_t findings = products.size(1);
  require_tensor((class_bias.numel() == 1 || (class_bias.dim() == 1 && class_bias.size(0) == findings)) &&
                     at::isFloatingType(class_bias.scalar_type()),
                 "class_bias", concat("one floating-point number or [K] with K = ", findings), class_bias);
  require_term(number_beside(largest_magnitude(class_bias), products), "class_bias", largest_term(products), checks);
  return products + class_bias.reshape({-1}).to(products.options());
}

at::Tensor class_loss(const at::Tensor& logits, const Targets& targets, const at::Tensor& positive_weights, bool sum,
                      DeferredChecks* checks) {
  require_tensor(targets.labels.size(1) == logits.size(1), "labels", concat("[B, K] with K = ", logits.size(1)),
                 targets.labels);
  const auto there = [&](const at::Tensor& tensor) { return backend::upload(tensor, logits.device()); };
  std::optional<at::Tensor> positive;
  if (positive_weights.defined()) {
    require_tensor(positive_weights.dim() == 1 && positive_weights.size(0) == logits.size(1), "positive_weights",
                   concat("[K] with K = ", logits.size(1)), positive_weights);
    require((at::isfinite(positive_weights) & (positive_weights >= 0)).all().item<bool>(), kLossFunction,
            "positive_weights", "finite numbers >= 0", positive_weights);
    // They multiply terms as large as the log-odds.
    const at::Tensor magnitude = largest_magnitude(logits).clamp_min(1);
    const at::Tensor bound = at::full_like(magnitude, largest_term(logits)) / magnitude;
    const double largest = positive_weights.max().item<double>();
    require_good((bound < largest).logical_not(), checks, [bound, largest] {
      fail(ErrorCode::kNumeric, kLossFunction, "positive_weights",
           concat("weights of ", bound.item<double>(), " at most with these log-odds"), largest);
    });
    positive = there(positive_weights.to(logits.scalar_type()));
  }
  const at::Tensor labels = there(targets.labels);
  if (!targets.known.defined())
    return at::binary_cross_entropy_with_logits(logits, labels, {}, positive,
                                                sum ? at::Reduction::Sum : at::Reduction::Mean);
  const at::Tensor weight = there(targets.known).to(logits.scalar_type());
  const at::Tensor total = at::binary_cross_entropy_with_logits(logits, labels, weight, positive, at::Reduction::Sum);
  return sum ? total : total / weight.sum().clamp_min(1);
}

}  // namespace daug::detail
