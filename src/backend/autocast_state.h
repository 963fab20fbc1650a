#pragma once
// LibTorch's autocast of a thread.

#include <ATen/autocast_mode.h>

namespace daug::backend {

/// Whether a thread computes in reduced precision on a kind of device, and in which.
struct AutocastState {
  c10::DeviceType device = c10::DeviceType::CPU;
  bool enabled = false;
  at::ScalarType type = at::kBFloat16;

  /// This thread's.
  static AutocastState of(c10::DeviceType device) {
    return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
  }
  /// Makes it this thread's.
  void set() const {
    at::autocast::set_autocast_dtype(device, type);
    at::autocast::set_autocast_enabled(device, enabled);
  }
};

}  // namespace daug::backend
