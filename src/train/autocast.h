#pragma once
// Training in mixed precision.

#include <ATen/autocast_mode.h>
#include <c10/core/Device.h>

#include "daug/train/training_precision.h"

namespace daug {

/// LibTorch's autocast to bfloat16 for a device on this thread while this object lives, or nothing, as a precision has
/// it there. Afterwards it is what it was before.
class Autocast {
 public:
  Autocast(TrainingPrecision precision, const c10::Device& device)
      : on_(trains_in_bfloat16(precision, device)), device_(device.type()) {
    if (!on_) return;
    enabled_before_ = at::autocast::is_autocast_enabled(device_);
    type_before_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::set_autocast_enabled(device_, true);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::clear_cache();  // copies of weights that will change, inside of a caller's autocast as well
    at::autocast::set_autocast_dtype(device_, type_before_);
    at::autocast::set_autocast_enabled(device_, enabled_before_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_, enabled_before_ = false;
  c10::DeviceType device_;
  at::ScalarType type_before_ = at::kBFloat16;
};

}  // namespace daug
