#pragma once
// Training in mixed precision.

#include <ATen/autocast_mode.h>
#include <c10/core/Device.h>

#include "daug/train/training_precision.h"

namespace daug {

/// LibTorch's autocast to bfloat16 for a device on this thread while this object lives, or nothing, as a precision has
/// it there.
class Autocast {
 public:
  Autocast(TrainingPrecision precision, const c10::Device& device)
      : on_(trains_in_bfloat16(precision, device)), device_(device.type()) {
    if (!on_) return;
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();  // copies of weights that will change
    at::autocast::set_autocast_enabled(device_, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_;
  c10::DeviceType device_;
};

}  // namespace daug
