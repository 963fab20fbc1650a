#pragma once
// Work on a stream of a CUDA device that is not the default one.

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace daug::test {

/// A copy that is made on the current stream behind milliseconds of other work there: who reads it on another stream
/// reads zeros.
inline at::Tensor made_late(const at::Tensor& x) {
  const at::Tensor copy = at::zeros_like(x), large = at::ones({4096, 4096}, x.options().dtype(at::kFloat));
  for (int i = 0; i < 4; ++i) (void)at::mm(large, large);
  copy.copy_(x);
  return copy;
}

/// What work() makes where that stream of the first device is current; all of it is done when this returns.
template <class Work>
auto on_another_stream(const Work& work) {
  const auto& guard = *c10::impl::getDeviceGuardImpl(at::kCUDA);
  const at::Device device(at::kCUDA, 0);
  const c10::Stream other = guard.getStreamFromGlobalPool(device);
  guard.synchronizeStream(guard.getStream(device));
  const c10::StreamGuard on(other);
  auto result = work();
  guard.synchronizeStream(other);
  return result;
}

}  // namespace daug::test
