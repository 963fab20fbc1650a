#pragma once
// 3 x 3 convolutions with padding 1 and stride 1, in fewer products than their definition has.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace daug::backend {

/// While one lives, its thread takes filters to keep their values: a walk of many calls, say.
class SteadyFilters {
 public:
  SteadyFilters();
  ~SteadyFilters();
  SteadyFilters(const SteadyFilters&) = delete;
  SteadyFilters& operator=(const SteadyFilters&) = delete;

 private:
  std::uint64_t before_;
};

/// What a layer's filters look like to `conv3x3` and its gradient: worked out at the first call and whenever their
/// values have changed since. A hash of all of them tells, not a tensor's version, which whoever writes through
/// `data()` or a view of the memory leaves as it was; among SteadyFilters they are hashed once. 16/9 of the filters'
/// memory, twice that once a gradient to an input was asked for; filters that are being trained are transformed anew
/// instead. Any number of threads may ask.
class WinogradFilters {
 public:
  /// Those of filters [out, in, 3, 3] without gaps, float32 on the CPU (kernels/winograd.h).
  at::Tensor of(const at::Tensor& filters) { return prepared(forward_, filters, false); }
  /// Those of the convolution that takes the gradient to an output to that to the input.
  at::Tensor adjoint_of(const at::Tensor& filters) { return prepared(adjoint_, filters, true); }

 private:
  struct Prepared {
    std::vector<std::int64_t> layout;    ///< sizes and strides of the filters
    std::uint64_t hash = 0, steady = 0;  ///< the SteadyFilters among which they were hashed
    at::Tensor transformed;
  };
  at::Tensor prepared(Prepared& kept, const at::Tensor& filters, bool adjoint);

  std::mutex mutex_;
  Prepared forward_, adjoint_;
};

/// Whether `conv3x3` takes these: float32 on the CPU outside of autocast, x channels last, and channels enough that it
/// is faster than LibTorch's operator.
bool takes_conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias);

/// conv2d of x [N, C, H, W] with filters [K, C, 3, 3] and bias [K] (undefined: none), padding 1 and stride 1, channels
/// last, for what `takes_conv3x3` takes: 2.25 times fewer products than the definition, errors about twice LibTorch's.
/// Gradients likewise; second derivatives by LibTorch's operators. `prepared` is the layer's own. Deterministic;
/// independent of the number of threads and, but for the gradients to filters and bias, of the batch around an image.
at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& filters, const at::Tensor& bias,
                   const std::shared_ptr<WinogradFilters>& prepared);

}  // namespace daug::backend
