#include "backend/conv3x3.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

#include "backend/fused_ops.h"
#include "backend/large_pages.h"
#include "backend/threads.h"
#include "daug/io/fingerprint.h"
#include "kernels/winograd.h"

namespace daug::backend {

namespace {
std::atomic<std::uint64_t> steady_times{0};
thread_local std::uint64_t steady = 0;  // the number of the outermost SteadyFilters, 0 among none
}  // namespace

SteadyFilters::SteadyFilters() : before_(steady) {
  if (steady == 0) steady = ++steady_times;
}

SteadyFilters::~SteadyFilters() { steady = before_; }

namespace {

/// Those of the convolution, or of its adjoint: transposed, and upside down from the last tap on.
at::Tensor transformed(const at::Tensor& filters, bool adjoint) {
  const float* values = filters.const_data_ptr<float>();
  std::int64_t out = filters.size(0), in = filters.size(1);
  std::array<std::int64_t, 4> strides = {filters.stride(0), filters.stride(1), filters.stride(2), filters.stride(3)};
  if (adjoint) {
    values += 2 * (strides[2] + strides[3]);
    strides = {strides[1], strides[0], -strides[2], -strides[3]};
    std::swap(in, out);
  }
  const at::Tensor result = at::empty({kernels::winograd_filter_floats(in, out)}, at::kFloat);
  kernels::winograd_filters(values, strides.data(), in, out, result.mutable_data_ptr<float>(), torch_threads());
  return result;
}

}  // namespace

at::Tensor WinogradFilters::prepared(Prepared& kept, const at::Tensor& filters, bool adjoint) {
  std::vector<std::int64_t> layout = filters.sizes().vec();
  layout.insert(layout.end(), filters.strides().begin(), filters.strides().end());
  const std::lock_guard lock(mutex_);
  if (steady != 0 && steady == kept.steady && layout == kept.layout) return kept.transformed;
  const std::uint64_t hash = checksum64(filters.const_data_ptr(), filters.nbytes());
  if (!kept.transformed.defined() || hash != kept.hash || layout != kept.layout)
    kept = Prepared{std::move(layout), hash, 0, transformed(filters, adjoint)};
  kept.steady = steady;
  return kept.transformed;
}

bool takes_conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias) {
  constexpr std::int64_t kLeastChannels = 16;
  return float_on_cpu({x, filters, bias}) && lies_channels_last(x) && x.numel() > 0 && filters.dim() == 4 &&
         filters.size(1) == x.size(1) && filters.size(2) == 3 && filters.size(3) == 3 &&
         filters.size(0) >= kLeastChannels && filters.size(1) >= kLeastChannels &&
         filters.is_non_overlapping_and_dense() &&
         (!bias.defined() || (bias.numel() == filters.size(0) && bias.is_contiguous())) &&
         !at::autocast::is_autocast_enabled(at::kCPU);
}

namespace {

/// x [N, in, H, W] with transformed filters to `out` channels; both channels last.
at::Tensor convolved(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias, std::int64_t out) {
  const at::Tensor result =
      empty_in_large_pages(x, {x.size(0), out, x.size(2), x.size(3)}, at::MemoryFormat::ChannelsLast);
  kernels::WinogradConv conv;
  conv.batch = x.size(0), conv.height = x.size(2), conv.width = x.size(3);
  conv.in = x.size(1), conv.out = out;
  conv.input = x.const_data_ptr<float>();
  conv.filters = filters.const_data_ptr<float>();
  if (bias.defined()) conv.bias = bias.const_data_ptr<float>();
  conv.output = result.mutable_data_ptr<float>();
  kernels::winograd_conv(conv, torch_threads());
  return result;
}

/// The gradients to the filters, in their layout, and to the bias.
std::pair<at::Tensor, at::Tensor> filter_gradient(const at::Tensor& x, const at::Tensor& filters,
                                                  const at::Tensor& gradient) {
  const std::int64_t out = filters.size(0), in = filters.size(1);
  const at::Tensor result = at::empty_like(filters), bias = at::empty({out}, filters.options());
  const at::Tensor sums = at::empty({kernels::winograd_filter_floats(in, out)}, filters.options());
  kernels::WinogradFilterGradient conv;
  conv.batch = x.size(0), conv.height = x.size(2), conv.width = x.size(3);
  conv.in = in, conv.out = out;
  conv.input = x.const_data_ptr<float>();
  conv.output_gradient = gradient.const_data_ptr<float>();
  conv.sums = sums.mutable_data_ptr<float>();
  conv.gradient = result.mutable_data_ptr<float>();
  std::copy(result.strides().begin(), result.strides().end(), conv.strides);
  conv.bias_gradient = bias.mutable_data_ptr<float>();
  kernels::winograd_filter_gradient(conv, torch_threads());
  return {result, bias};
}

class Conv3x3Backward final : public torch::autograd::Node {
 public:
  Conv3x3Backward(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias,
                  std::shared_ptr<WinogradFilters> prepared)
      : Node(torch::autograd::collect_next_edges(x, filters, bias)),
        x_(x, false),
        filters_(filters, false),
        prepared_(std::move(prepared)) {}

  std::string name() const override { return "Conv3x3Backward"; }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    const std::lock_guard lock(mutex_);  // several threads may go back through one graph
    torch::autograd::variable_list result(3);
    if (!gradients[0].defined()) return result;
    const at::Tensor x = x_.unpack(), filters = filters_.unpack();
    const bool of_x = task_should_compute_output(0), of_filters = task_should_compute_output(1);
    const bool of_bias = task_should_compute_output(2);
    if (at::GradMode::is_enabled()) {  // the gradient is to have gradients
      const std::array<std::int64_t, 1> bias = {filters.size(0)};
      std::tie(result[0], result[1], result[2]) =
          at::convolution_backward(gradients[0], x, filters, at::IntArrayRef(bias), {1, 1}, {1, 1}, {1, 1}, false,
                                   {0, 0}, 1, {of_x, of_filters, of_bias});
      return result;
    }
    const at::Tensor gradient = gradients[0].resolve_neg().contiguous(at::MemoryFormat::ChannelsLast);
    if (of_x)
      result[0] = convolved(gradient, of_filters ? transformed(filters, true) : prepared_->adjoint_of(filters), {},
                            filters.size(1));
    if (of_filters)
      std::tie(result[1], result[2]) = filter_gradient(x, filters, gradient);
    else if (of_bias)
      result[2] = gradient.sum({0, 2, 3});
    return result;
  }

  void release_variables() override {
    const std::lock_guard lock(mutex_);
    x_.reset_data(), filters_.reset_data();
  }

 private:
  torch::autograd::SavedVariable x_, filters_;
  std::shared_ptr<WinogradFilters> prepared_;
};

}  // namespace

at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias,
                   const std::shared_ptr<WinogradFilters>& prepared) {
  // Filters that are being trained change before they are used again: nothing to keep, nor to hash.
  const bool trained = at::GradMode::is_enabled() && filters.requires_grad();
  const at::Tensor result =
      convolved(x, trained ? transformed(filters, false) : prepared->of(filters), bias, filters.size(0));
  if (torch::autograd::compute_requires_grad(x, filters, bias))
    torch::autograd::set_history(result,
                                 std::shared_ptr<torch::autograd::Node>(new Conv3x3Backward(x, filters, bias, prepared),
                                                                        torch::autograd::deleteNode));
  return result;
}

}  // namespace daug::backend
