#pragma once
// Training in mixed precision.

#include <c10/core/Device.h>

#include "backend/autocast_state.h"
#include "daug/train/training_precision.h"

namespace daug {

/// LibTorch's autocast to bfloat16 for a device on this thread while this object lives, or nothing, as a precision has
/// it there. Afterwards it is what it was before.
class Autocast {
 public:
  Autocast(TrainingPrecision precision, const c10::Device& device)
      : on_(trains_in_bfloat16(precision, device)), before_(backend::AutocastState::of(device.type())) {
    if (on_) backend::AutocastState{device.type(), true, at::kBFloat16}.set();
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::clear_cache();  // copies of weights that will change, inside of a caller's autocast as well
    before_.set();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool on_;
  backend::AutocastState before_;
};

}  // namespace daug
