#include "backend/fused_ops.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <type_traits>
#include <vector>

#include "backend/device_kernels.h"
#include "backend/large_pages.h"
#include "backend/threads.h"
#include "daug/core/error.h"
#include "kernels/cuda/launch_plan.h"
#include "kernels/group_norm_silu.h"
#include "kernels/residual_add.h"
#include "kernels/solver_update.h"

namespace daug::backend {

namespace {

constexpr const char* kGroupNorm = "daug::backend::group_norm_silu";
constexpr const char* kResidualAdd = "daug::backend::residual_add";
constexpr const char* kResidualAddDoubled = "daug::backend::residual_add_doubled";

template <class T>
const T* data(const at::Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  if constexpr (std::is_void_v<T>)
    return tensor.const_data_ptr();
  else
    return tensor.const_data_ptr<T>();
}

template <class T>
T* target(const at::Tensor& tensor) {
  if constexpr (std::is_void_v<T>)
    return tensor.mutable_data_ptr();
  else
    return tensor.mutable_data_ptr<T>();
}

/// [N, C] numbers whose rows have no gaps, of what has trailing 1s. The caller keeps it alive.
at::Tensor as_rows(const at::Tensor& tensor, std::int64_t batch, std::int64_t channels) {
  if (!tensor.defined()) return tensor;
  const at::Tensor rows = tensor.reshape({batch, channels});
  return channels == 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

/// [N, C] seen as [N, C, 1, ...] of as many dimensions as x.
at::Tensor spread(const at::Tensor& tensor, const at::Tensor& x) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  std::copy_n(x.sizes().begin(), tensor.numel() == x.size(0) ? 1 : 2, shape.begin());
  return tensor.reshape(shape);
}

/// How the kernels' results lie that are made of x.
at::MemoryFormat dense_format(const at::Tensor& x) {
  return lies_channels_last(x) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

/// P of [N, C, P].
std::int64_t positions_of(const at::Tensor& x) {
  const std::int64_t rows = x.size(0) * x.size(1);
  return rows == 0 ? 0 : x.numel() / rows;
}

void require_rows(const at::Tensor& tensor, const at::Tensor& x, const char* function, const char* argument) {
  require(!tensor.defined() || tensor.numel() == x.size(0) * x.size(1), function, argument,
          detail::concat("shape [", x.size(0), ", ", x.size(1), "]"),
          tensor.defined() ? tensor.sizes() : at::IntArrayRef{});
}

void require_like(const at::Tensor& tensor, const at::Tensor& x, const char* function, const char* argument) {
  require(!tensor.defined() || tensor.sizes() == x.sizes(), function, argument, x.sizes(),
          tensor.defined() ? tensor.sizes() : at::IntArrayRef{});
}

bool gradient_recorded(std::initializer_list<at::Tensor> tensors) {
  return at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) {
           return tensor.defined() && tensor.requires_grad();
         });
}

/// What a group norm is computed from.
struct NormArguments {
  at::Tensor x, weight, bias, offset, scale, shift;
  std::int64_t groups = 1;
  double eps = 0;
  bool silu = true;

  /// The same with rows that kernels can read; their description points into these.
  NormArguments with_rows() const {
    NormArguments result = *this;
    for (at::Tensor* tensor : {&result.offset, &result.scale, &result.shift})
      *tensor = as_rows(*tensor, x.size(0), x.size(1));
    return result;
  }

  /// All but the output.
  template <class T>
  kernels::GroupNormSiluOf<T> described() const {
    const auto stride = [](const at::Tensor& rows) { return rows.defined() ? rows.stride(0) : 0; };
    kernels::GroupNormSiluOf<T> p;
    p.batch = x.size(0);
    p.channels = x.size(1);
    p.positions = positions_of(x);
    p.groups = groups;
    p.channels_last = lies_channels_last(x);
    p.eps = eps;
    p.silu = silu;
    p.input = data<T>(x);
    p.weight = data<T>(weight);
    p.bias = data<T>(bias);
    p.offset = data<T>(offset);
    p.scale = data<T>(scale);
    p.shift = data<T>(shift);
    p.offset_stride = stride(offset);
    p.scale_stride = stride(scale);
    p.shift_stride = stride(shift);
    return p;
  }

  /// The same in float32.
  NormArguments widened() const {
    NormArguments result = *this;
    for (at::Tensor* tensor : {&result.x, &result.weight, &result.bias, &result.offset, &result.scale, &result.shift})
      if (tensor->defined()) *tensor = tensor->to(at::kFloat);
    return result;
  }

  /// The same with what layers computed in float32 where the weights are. LibTorch's autocast leaves these alone.
  NormArguments with_parameters_alike() const {
    NormArguments result = *this;
    const at::Tensor& learnt = weight.defined() ? weight : bias;
    if (!learnt.defined() || learnt.scalar_type() != at::kFloat) return result;
    for (at::Tensor* tensor : {&result.offset, &result.scale, &result.shift})
      if (tensor->defined() && at::isReducedFloatingType(tensor->scalar_type())) *tensor = tensor->to(at::kFloat);
    return result;
  }

  /// By LibTorch's operators.
  at::Tensor by_operators() const {
    at::Tensor h = x;
    if (offset.defined()) h = h + spread(offset, x);
    h = at::group_norm(h, groups, weight, bias, eps);
    if (scale.defined()) h = at::addcmul(spread(shift, x), h, spread(scale, x) + 1);
    return silu ? at::silu(h) : h;
  }

  /// What was computed of these widened, in x's type. LibTorch's norm for devices answers contiguous whatever it is
  /// given: channels that lay last would be moved twice.
  at::Tensor narrowed(const at::Tensor& wide) const {
    const auto kept = lies_channels_last(x) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Preserve;
    return wide.to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/false, kept);
  }
};

/// What kernels for devices with a gradient would read of values beside parameters, which may all be undefined, if they
/// can.
std::optional<kernels::MixedElements> mixed_elements(std::initializer_list<at::Tensor> values,
                                                     std::initializer_list<at::Tensor> parameters) {
  const auto of_values = device_element(values, /*has_gradient=*/true);
  if (!of_values) return {};
  const at::Tensor* some =
      std::find_if(parameters.begin(), parameters.end(), [](const at::Tensor& t) { return t.defined(); });
  if (some == parameters.end()) return kernels::MixedElements(*of_values);
  const auto of_parameters = device_element(parameters, /*has_gradient=*/true);
  if (!of_parameters || some->device() != values.begin()->device()) return {};
  if (*of_parameters != *of_values && *of_parameters != kernels::Element::kFloat32) return {};
  return kernels::MixedElements(*of_values, *of_parameters);
}

std::optional<kernels::MixedElements> elements_of(const NormArguments& a) {
  return mixed_elements({a.x}, {a.weight, a.bias, a.offset, a.scale, a.shift});
}

/// Whether kernels take these, for devices where there are `elements` that those read, else for the CPU.
bool kernels_take(const NormArguments& a, const std::optional<kernels::MixedElements>& elements) {
  const bool last = lies_channels_last(a.x);
  const bool dense = (last || a.x.is_contiguous()) && (!a.weight.defined() || a.weight.is_contiguous()) &&
                     (!a.bias.defined() || a.bias.is_contiguous());
  return dense && (elements ? kernels::cuda::fits_group_norm(a.x.size(0), a.x.size(1), a.groups, last)
                            : float_on_cpu({a.x, a.weight, a.bias, a.offset, a.scale, a.shift}));
}

void require_norm(const NormArguments& a, const char* function) {
  require(a.x.dim() >= 2, function, "x", "shape [N, C, ...]", a.x.sizes());
  const std::int64_t channels = a.x.size(1);
  require(a.groups >= 1 && channels % a.groups == 0, function, "groups",
          detail::concat("a divisor of the ", channels, " channels"), a.groups);
  for (const at::Tensor& tensor : {a.weight, a.bias})
    require(!tensor.defined() || tensor.numel() == channels, function, "weight or bias", channels,
            tensor.defined() ? tensor.numel() : 0);
}

at::Tensor norm_workspace(const at::Tensor& x, const kernels::GroupNormSiluOf<void>& p,
                          const kernels::MixedElements& elements) {
  return at::empty({kernels::group_norm_silu_workspace(p, elements)}, x.options().dtype(at::kFloat));
}

/// The kernel for devices, of rows as kernels read them. `moments` are for the gradient; undefined: there is none.
void norm_on_device(const NormArguments& rows, const kernels::MixedElements& elements, const at::Tensor& result,
                    const at::Tensor& moments) {
  auto p = rows.described<void>();
  p.output = target<void>(result);
  const at::Tensor workspace = norm_workspace(rows.x, p, elements);
  require_launched(kernels::group_norm_silu_device(p, elements, target<float>(workspace), stream_of(rows.x),
                                                   moments.defined() ? target<float>(moments) : nullptr),
                   kGroupNorm);
}

/// The kernel with its gradient, of float32 on the CPU or what kernels for devices read. A second derivative is the
/// operators': the first one is computed by them where it is to be differentiated.
class DifferentiableGroupNorm : public torch::autograd::Function<DifferentiableGroupNorm> {
 public:
  using Context = torch::autograd::AutogradContext;
  using Tensors = torch::autograd::variable_list;
  using Maybe = std::optional<at::Tensor>;  ///< of an undefined tensor where there is none

  static at::Tensor forward(Context* context, const at::Tensor& x, const Maybe& weight, const Maybe& bias,
                            const Maybe& offset, const Maybe& scale, const Maybe& shift, std::int64_t groups,
                            double eps, bool silu) {
    Tensors kept = {x, weight.value(), bias.value(), offset.value(), scale.value(), shift.value()};
    context->saved_data["groups"] = groups, context->saved_data["eps"] = eps, context->saved_data["silu"] = silu;
    const NormArguments arguments = arguments_of(context, kept).with_rows();
    const at::Tensor result = empty_in_large_pages(x, x.sizes(), dense_format(x));
    at::Tensor moments;
    if (const auto elements = elements_of(arguments)) {
      moments = at::empty({x.size(0), groups, 2}, x.options().dtype(at::kFloat));
      norm_on_device(arguments, *elements, result, moments);
    } else {
      moments = at::empty({2, x.size(0), groups}, x.options().dtype(at::kDouble));
      auto p = arguments.described<float>();
      p.output = target<float>(result);
      kernels::group_norm_silu(p, torch_threads(), {target<double>(moments[0]), target<double>(moments[1])});
    }
    kept.push_back(moments);
    context->save_for_backward(kept);
    return result;
  }

  static Tensors backward(Context* context, const Tensors& upstream) {
    const Tensors saved = context->get_saved_variables();
    std::array<bool, kArguments> wanted{};
    std::size_t edge = 0;  // LibTorch counts those alone that are there
    for (std::size_t i = 0; i < kArguments; ++i)
      if (saved[i].defined()) wanted[i] = context->needs_input_grad(edge++);
    return at::GradMode::is_enabled() ? by_operators(context, saved, wanted, upstream[0])
                                      : by_kernel(context, saved, wanted, upstream[0]);
  }

 private:
  static constexpr std::size_t kArguments = 6;  ///< tensors among the arguments
  static constexpr std::size_t kAll = kArguments + 3;

  static NormArguments arguments_of(Context* context, const Tensors& tensors) {
    return {tensors[0],
            tensors[1],
            tensors[2],
            tensors[3],
            tensors[4],
            tensors[5],
            context->saved_data["groups"].toInt(),
            context->saved_data["eps"].toDouble(),
            context->saved_data["silu"].toBool()};
  }

  static Tensors by_kernel(Context* context, const Tensors& saved, const std::array<bool, kArguments>& wanted,
                           const at::Tensor& upstream) {
    const NormArguments arguments = arguments_of(context, saved).with_rows();
    const at::Tensor& moments = saved[kArguments];
    const at::Tensor dy = upstream.resolve_neg().contiguous(dense_format(arguments.x));
    Tensors result(kAll);
    result[0] = empty_in_large_pages(saved[0], saved[0].sizes(), dense_format(saved[0]));
    // Zeros without values: kernels for devices write nothing then.
    for (std::size_t i = 1; i < kArguments; ++i)
      if (wanted[i])
        result[i] = dy.numel() == 0 ? at::zeros(saved[i].sizes(), saved[i].options())
                                    : at::empty(saved[i].sizes(), saved[i].options());
    if (const auto elements = elements_of(arguments)) {
      const auto forward = arguments.described<void>();
      kernels::GroupNormGradientsOf<void> g;
      describe(g, dy, result);
      const at::Tensor workspace = at::empty({kernels::group_norm_silu_gradient_workspace(forward, g, *elements)},
                                             dy.options().dtype(at::kFloat));
      require_launched(kernels::group_norm_silu_gradient_device(forward, g, *elements, data<float>(moments),
                                                                target<float>(workspace), stream_of(dy)),
                       detail::concat(kGroupNorm, ", its gradient"));
    } else {
      kernels::GroupNormSiluGradient g;
      describe<float>(g, dy, result);
      g.forward = arguments.described<float>();
      g.mean = data<double>(moments[0]);
      g.inverse_deviation = data<double>(moments[1]);
      kernels::group_norm_silu_gradient(g, torch_threads());
    }
    return result;
  }

  template <class T>
  static void describe(kernels::GroupNormGradientsOf<T>& g, const at::Tensor& dy, const Tensors& result) {
    const auto made = [&](std::size_t i) { return result[i].defined() ? target<T>(result[i]) : nullptr; };
    g.output_gradient = data<T>(dy);
    g.input_gradient = made(0);
    g.weight_gradient = made(1);
    g.bias_gradient = made(2);
    g.offset_gradient = made(3);
    g.scale_gradient = made(4);
    g.shift_gradient = made(5);
  }

  static Tensors by_operators(Context* context, const Tensors& saved, const std::array<bool, kArguments>& wanted,
                              const at::Tensor& upstream) {
    // Views, because an offset or a scale may itself have been made from x.
    Tensors inputs(kArguments), asked, result(kAll);
    for (std::size_t i = 0; i < kArguments; ++i) {
      if (saved[i].defined()) inputs[i] = saved[i].view_as(saved[i]);
      if (wanted[i]) asked.push_back(inputs[i]);
    }
    const NormArguments arguments = arguments_of(context, inputs);
    const bool half = at::isReducedFloatingType(saved[0].scalar_type());
    const at::Tensor output = half ? arguments.narrowed(arguments.widened().by_operators()) : arguments.by_operators();
    const Tensors found =
        torch::autograd::grad({output}, asked, {upstream}, /*retain_graph=*/true, /*create_graph=*/true);
    for (std::size_t i = 0, next = 0; i < kArguments; ++i)
      if (wanted[i]) result[i] = found[next++];
    return result;
  }
};

/// The shape of images in another size.
std::vector<std::int64_t> resized_shape(const at::Tensor& x, SizeChange change) {
  const auto side = [&](std::int64_t dimension) {
    return change == SizeChange::kHalved ? x.size(dimension) / 2 : 2 * x.size(dimension);
  };
  return {x.size(0), x.size(1), side(2), side(3)};
}

/// By the kernel for devices, where mixed_elements has an answer; `doubled`: into an image of twice the size.
at::Tensor residual_on_device(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place,
                              bool doubled = false) {
  const at::MemoryFormat format = dense_format(h);
  const at::Tensor dense = h.contiguous(format), beside = skip.contiguous(format);
  const at::Tensor numbers = bias.defined() ? bias.contiguous() : bias;
  const at::Tensor result = doubled
                                ? at::empty(resized_shape(h, SizeChange::kDoubled), h.options().memory_format(format))
                                : (in_place && dense.is_same(h) ? h : at::empty_like(dense, format));
  kernels::ResidualAdd p;
  p.batch = h.size(0);
  p.channels = h.size(1);
  p.positions = positions_of(h);
  p.channels_last = lies_channels_last(h);
  if (doubled) p.width = h.size(3);
  p.input = data<void>(dense);
  p.skip = data<void>(beside);
  p.bias = data<void>(numbers);
  p.output = target<void>(result);
  require_launched(kernels::residual_add_device(p, mixed_elements({h, skip}, {bias}).value(), stream_of(h)),
                   doubled ? kResidualAddDoubled : kResidualAdd);
  return result;
}

/// By LibTorch's operators, where no gradient is recorded.
at::Tensor residual_by_operators(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place) {
  at::Tensor sum = in_place ? h.add_(skip) : h + skip;
  if (!bias.defined()) return sum;
  std::vector<std::int64_t> shape(static_cast<std::size_t>(h.dim()) - 1, 1);
  shape[0] = h.size(1);
  return sum.add_(bias.reshape(shape));
}

/// Whether the kernel adds these, which are checked.
bool adds_by_kernel(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, Execution execution,
                    const char* function) {
  require(h.dim() >= 2, function, "h", "shape [N, C, ...]", h.sizes());
  require(skip.sizes() == h.sizes(), function, "skip", h.sizes(), skip.sizes());
  require(skip.scalar_type() == h.scalar_type(), function, "skip", h.scalar_type(), skip.scalar_type());
  require(!bias.defined() || (bias.dim() == 1 && bias.size(0) == h.size(1)), function, "bias",
          detail::concat("shape [", h.size(1), "]"), bias.defined() ? bias.sizes() : at::IntArrayRef{});
  return use_fused(
      execution, mixed_elements({h, skip}, {bias}).has_value(), function, ran_on_a_device("residual_add"),
      "kAuto or kReference for these tensors (the kernel takes float32, float16 and bfloat16 on a CUDA device, in "
      "builds for CUDA, with a bias of the same type or float32)");
}

/// The sum with a gradient, which is made of operators that have their own.
class DifferentiableResidualAdd : public torch::autograd::Function<DifferentiableResidualAdd> {
 public:
  using Context = torch::autograd::AutogradContext;
  using Tensors = torch::autograd::variable_list;
  using Maybe = std::optional<at::Tensor>;  ///< of an undefined tensor where there is none

  static at::Tensor forward(Context* context, const at::Tensor& h, const at::Tensor& skip, const Maybe& bias,
                            bool fused) {
    const at::Tensor& numbers = bias.value();
    const at::ScalarType type = numbers.defined() ? numbers.scalar_type() : at::ScalarType::Undefined;
    context->saved_data["type"] = static_cast<std::int64_t>(type);
    return fused ? residual_on_device(h, skip, numbers, false) : residual_by_operators(h, skip, numbers, false);
  }

  static Tensors backward(Context* context, const Tensors& upstream) {
    const at::Tensor& dy = upstream[0];
    Tensors result(4);  // of h, skip, bias and what is no tensor
    result[0] = result[1] = dy;
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    if (type == at::ScalarType::Undefined || !context->needs_input_grad(2)) return result;
    std::vector<std::int64_t> others(static_cast<std::size_t>(dy.dim()) - 1);  // all dimensions but the channels'
    std::iota(others.begin(), others.end(), 1);
    others[0] = 0;
    result[2] = at::sum(dy, at::IntArrayRef(others), /*keepdim=*/false, type);
    return result;
  }
};

at::Tensor clipped(const at::Tensor& x, const at::Tensor& estimate, const SolverStep& step) {
  if (!step.clip || !estimate.defined()) return estimate;
  const at::Tensor clean = at::add((1 / step.signal) * x, estimate, -step.deviation / step.signal).clamp(-1, 1);
  return at::add((1 / step.deviation) * x, clean, -step.signal / step.deviation);
}

at::Tensor reference_solver_update(const at::Tensor& x, const GuidedNoise& parts, const SolverStep& step) {
  const at::Tensor strength = parts.strength.defined() ? spread(parts.strength, x) : parts.strength;
  const auto scaled = [&](double factor, const at::Tensor& pull) {
    return strength.defined() ? factor * strength * pull : factor * pull;
  };
  at::Tensor noise = clipped(x, parts.first, step);
  if (parts.second.defined()) {
    const at::Tensor second = clipped(x, parts.second, step);
    noise = (parts.from_second ? second : noise) + scaled(parts.weight, noise - second);
  }
  if (parts.gradient.defined()) noise = noise - scaled(parts.gradient_weight, parts.gradient);
  const at::Tensor kept = step.keep == 0 ? at::zeros_like(x) : step.keep * x;
  const at::Tensor result = at::add(kept, noise, step.add);
  return step.previous.defined() ? at::add(result, step.previous, step.previous_weight) : result;
}

}  // namespace

bool lies_channels_last(const at::Tensor& x) {
  return x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && (x.numel() == 0 || !x.is_contiguous());
}

bool float_on_cpu(std::initializer_list<at::Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) {
    return !tensor.defined() || (tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat &&
                                 tensor.layout() == at::kStrided && !tensor.is_neg());
  });
}

bool plain_float(std::initializer_list<at::Tensor> tensors) {
  return float_on_cpu(tensors) && !gradient_recorded(tensors);
}

bool use_fused(Execution execution, bool possible, const char* function, bool trusted, const char* instead) {
  constexpr const char* kOfMost =
      "kAuto or kReference for these arguments (fused kernels take tensors without gaps and, but for group norms, "
      "without gradients: float32 on the CPU; on a CUDA device in builds for CUDA float32 and, but for maps and "
      "searches, float16 and bfloat16, within the limits of docs/architecture.md)";
  if (execution == Execution::kFused && !possible)
    fail(ErrorCode::kUnsupported, function, "execution", instead ? instead : kOfMost, "kFused");
  return possible && (execution == Execution::kFused || (execution == Execution::kAuto && trusted));
}

at::Tensor group_norm_silu(const at::Tensor& x, std::int64_t groups, const at::Tensor& weight, const at::Tensor& bias,
                           double eps, const GroupNormExtras& extras, Execution execution) {
  constexpr const char* kFunction = kGroupNorm;
  const NormArguments given{x, weight, bias, extras.offset, extras.scale, extras.shift, groups, eps, extras.silu};
  require_norm(given, kFunction);
  require(extras.scale.defined() == extras.shift.defined(), kFunction, "extras", "scale and shift, or neither", "one");
  require_rows(extras.offset, x, kFunction, "extras.offset");
  require_rows(extras.scale, x, kFunction, "extras.scale");
  require_rows(extras.shift, x, kFunction, "extras.shift");

  const bool half = at::isReducedFloatingType(x.scalar_type());
  const NormArguments arguments = half ? given.with_parameters_alike() : given;
  const auto elements = elements_of(arguments);
  const bool recorded = gradient_recorded({x, weight, bias, extras.offset, extras.scale, extras.shift});
  const bool trusted =
      !elements || (ran_on_a_device("group_norm_silu") && (!recorded || ran_on_a_device("group_norm_silu_gradient")));
  if (!use_fused(execution, kernels_take(arguments, elements), kFunction, trusted)) {
    if (!half || execution == Execution::kReference) return given.by_operators();
    // LibTorch's operator for devices rounds mean and deviation to a half type before it uses them, and there is no
    // kernel for half types on the CPU.
    const NormArguments wide = given.widened();
    const GroupNormExtras of_copy{wide.offset, wide.scale, wide.shift, wide.silu, /*in_place=*/true};
    return given.narrowed(group_norm_silu(wide.x, groups, wide.weight, wide.bias, eps, of_copy, execution));
  }
  if (recorded) {
    using Maybe = DifferentiableGroupNorm::Maybe;
    return DifferentiableGroupNorm::apply(x, Maybe(weight), Maybe(bias), Maybe(arguments.offset),
                                          Maybe(arguments.scale), Maybe(arguments.shift), groups, eps, extras.silu);
  }
  const NormArguments rows = arguments.with_rows();
  const at::Tensor result = extras.in_place ? x : empty_in_large_pages(x, x.sizes(), dense_format(x));
  if (elements) {
    norm_on_device(rows, *elements, result, {});
  } else {
    auto p = rows.described<float>();
    p.output = target<float>(result);
    kernels::group_norm_silu(p, torch_threads());
  }
  return result;
}

at::Tensor resized_by_two(const at::Tensor& x, SizeChange change) {
  return change == SizeChange::kHalved ? at::avg_pool2d(x, {2, 2})
                                       : at::upsample_nearest2d(x, {x.size(2) * 2, x.size(3) * 2});
}

std::pair<at::Tensor, at::Tensor> group_norm_silu_resized(const at::Tensor& x, std::int64_t groups,
                                                          const at::Tensor& weight, const at::Tensor& bias, double eps,
                                                          SizeChange change, Execution execution) {
  constexpr const char* kFunction = "daug::backend::group_norm_silu_resized";
  require(x.dim() == 4, kFunction, "x", "shape [N, C, H, W]", x.sizes());
  const std::int64_t least = change == SizeChange::kHalved ? 2 : 1;
  require(x.size(2) >= least && x.size(3) >= least, kFunction, "x",
          detail::concat("at least ", least, " x ", least, " pixels"), x.sizes());
  const NormArguments given{x, weight, bias, {}, {}, {}, groups, eps};
  require_norm(given, kFunction);
  const auto elements = elements_of(given);
  const bool possible = elements && kernels_take(given, elements) && !gradient_recorded({x, weight, bias});
  if (!possible || !use_fused(execution, possible, kFunction, ran_on_a_device("group_norm_silu"))) {
    at::Tensor normed = group_norm_silu(x, groups, weight, bias, eps, {}, execution);
    normed = resized_by_two(normed, change);
    return {normed, resized_by_two(x, change)};
  }
  const at::Tensor normed = at::empty(resized_shape(x, change), x.options().memory_format(dense_format(x)));
  const at::Tensor input = at::empty_like(normed, dense_format(x));
  kernels::ResizedGroupNormSilu p;
  p.norm = given.described<void>();
  p.norm.output = target<void>(normed);
  p.change = change;
  p.width = x.size(3);
  p.resized_input = target<void>(input);
  const at::Tensor workspace = norm_workspace(x, p.norm, *elements);
  require_launched(kernels::group_norm_silu_resized_device(p, *elements, target<float>(workspace), stream_of(x)),
                   kFunction);
  return {normed, input};
}

at::Tensor residual_add(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place,
                        Execution execution) {
  const bool fused = adds_by_kernel(h, skip, bias, execution, kResidualAdd);
  if (gradient_recorded({h, skip, bias}))
    return DifferentiableResidualAdd::apply(h, skip, DifferentiableResidualAdd::Maybe(bias), fused);
  return fused ? residual_on_device(h, skip, bias, in_place) : residual_by_operators(h, skip, bias, in_place);
}

at::Tensor residual_add_doubled(const at::Tensor& h, const at::Tensor& skip, const at::Tensor& bias, bool in_place,
                                Execution execution) {
  require(h.dim() == 4, kResidualAddDoubled, "h", "shape [N, C, H, W]", h.sizes());
  const bool fused = adds_by_kernel(h, skip, bias, execution, kResidualAddDoubled);
  if (fused && !gradient_recorded({h, skip, bias})) return residual_on_device(h, skip, bias, false, /*doubled=*/true);
  return resized_by_two(residual_add(h, skip, bias, in_place, execution), SizeChange::kDoubled);
}

bool fuses_residuals(const at::Tensor& x, Execution execution) {
  if (execution == Execution::kReference) return false;
  const bool on_device = device_element({x}, /*has_gradient=*/true).has_value();
  if (execution == Execution::kFused) return on_device || float_on_cpu({x});
  return on_device && ran_on_a_device("residual_add") && ran_on_a_device("group_norm_silu") &&
         (!at::GradMode::is_enabled() || ran_on_a_device("group_norm_silu_gradient"));
}

at::Tensor solver_update(const at::Tensor& x, const GuidedNoise& noise, const SolverStep& step, Execution execution) {
  constexpr const char* kFunction = "daug::backend::solver_update";
  require(x.dim() >= 1 && noise.first.defined(), kFunction, "x and noise.first", "tensors of one shape", x.sizes());
  require_like(noise.first, x, kFunction, "noise.first");
  require_like(noise.second, x, kFunction, "noise.second");
  require_like(noise.gradient, x, kFunction, "noise.gradient");
  require_like(step.previous, x, kFunction, "step.previous");
  require(!noise.strength.defined() || noise.strength.numel() == x.size(0), kFunction, "noise.strength", x.size(0),
          noise.strength.defined() ? noise.strength.numel() : 0);
  require(!step.clip || (step.signal > 0 && step.deviation > 0), kFunction, "step",
          "signal and deviation above 0 to clip with", detail::concat(step.signal, " and ", step.deviation));

  const auto all = {x, noise.first, noise.second, noise.gradient, step.previous};
  const auto element = device_element(all);
  const bool possible =
      (element ? x.size(0) <= kernels::cuda::kMostInGrid : plain_float(all)) && !gradient_recorded({noise.strength});
  if (!use_fused(execution, possible, kFunction, !element || ran_on_a_device("solver_update")))
    return reference_solver_update(x, noise, step);

  const at::MemoryFormat format = dense_format(x);
  // A network with learned sigma returns more channels than these: what is left of its output has gaps, and so has one
  // of several states in a latent. With one row neither has: which path is taken must not depend on the batch.
  const auto dense = [&](const at::Tensor& tensor) { return tensor.defined() ? tensor.contiguous(format) : tensor; };
  const at::Tensor state = dense(x), first = dense(noise.first), second = dense(noise.second),
                   gradient = dense(noise.gradient), previous = dense(step.previous),
                   result = at::empty_like(x, format);
  const at::Tensor strength =
      noise.strength.defined() ? noise.strength.to(x.device(), at::kFloat).reshape({-1}).contiguous() : noise.strength;
  const auto described = [&](auto u) {
    using T = std::remove_pointer_t<decltype(u.output)>;
    u.lanes = x.size(0);
    u.elements = u.lanes == 0 ? 0 : x.numel() / u.lanes;
    u.x = data<T>(state);
    u.first = data<T>(first);
    u.second = data<T>(second);
    u.gradient = data<T>(gradient);
    u.strength = data<float>(strength);
    u.previous = data<T>(previous);
    u.output = target<T>(result);
    u.weight = noise.weight;
    u.from_second = noise.from_second;
    u.gradient_weight = noise.gradient_weight;
    u.keep = step.keep;
    u.add = step.add;
    u.previous_weight = step.previous_weight;
    u.clip = step.clip;
    u.signal = step.signal;
    u.deviation = step.deviation;
    return u;
  };
  if (element)
    require_launched(kernels::solver_update_device(described(kernels::SolverUpdateOf<void>{}), *element, stream_of(x)),
                     kFunction);
  else
    kernels::solver_update(described(kernels::SolverUpdate{}), torch_threads());
  return result;
}

}  // namespace daug::backend
