#include "backend/conv3x3.h"

#include <ATen/ATen.h>

#include <atomic>
#include <utility>

#include "backend/fused_ops.h"
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

at::Tensor WinogradFilters::of(const at::Tensor& filters) {
  std::vector<std::int64_t> layout = filters.sizes().vec();
  layout.insert(layout.end(), filters.strides().begin(), filters.strides().end());
  const std::lock_guard lock(mutex_);
  if (steady != 0 && steady == steady_ && layout == layout_) return transformed_;
  const std::uint64_t hash = checksum64(filters.const_data_ptr(), filters.nbytes());
  steady_ = steady;
  if (transformed_.defined() && hash == hash_ && layout == layout_) return transformed_;
  const std::int64_t out = filters.size(0), in = filters.size(1);
  transformed_ = at::empty({kernels::winograd_filter_floats(in, out)}, at::kFloat);
  kernels::winograd_filters(filters.const_data_ptr<float>(), filters.strides().data(), in, out,
                            transformed_.mutable_data_ptr<float>());
  layout_ = std::move(layout);
  hash_ = hash;
  return transformed_;
}

bool takes_conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias) {
  constexpr std::int64_t kLeastChannels = 16;
  return plain_float({x, filters, bias}) && lies_channels_last(x) && x.numel() > 0 && filters.dim() == 4 &&
         filters.size(2) == 3 && filters.size(3) == 3 && filters.size(0) >= kLeastChannels &&
         filters.size(1) >= kLeastChannels && filters.is_non_overlapping_and_dense() && bias.is_contiguous();
}

at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias, WinogradFilters& prepared) {
  const at::Tensor transformed = prepared.of(filters);
  const at::Tensor result = at::empty({x.size(0), filters.size(0), x.size(2), x.size(3)},
                                      x.options().memory_format(at::MemoryFormat::ChannelsLast));
  kernels::WinogradConv conv;
  conv.batch = x.size(0), conv.height = x.size(2), conv.width = x.size(3);
  conv.in = filters.size(1), conv.out = filters.size(0);
  conv.input = x.const_data_ptr<float>();
  conv.filters = transformed.const_data_ptr<float>();
  conv.bias = bias.const_data_ptr<float>();
  conv.output = result.mutable_data_ptr<float>();
  kernels::winograd_conv(conv, torch_threads());
  return result;
}

}  // namespace daug::backend
