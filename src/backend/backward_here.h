#pragma once
// Backward passes that can be captured.

#include <c10/core/AutogradState.h>

namespace daug::backend {

/// While one lives, LibTorch runs backward passes on the thread that asks for them, on devices too, and not on threads
/// of its own: what a device is given is captured on one thread.
class BackwardHere {
 public:
  BackwardHere() { state().set_multithreading_enabled(false); }
  ~BackwardHere() { state().set_multithreading_enabled(before_); }
  BackwardHere(const BackwardHere&) = delete;
  BackwardHere& operator=(const BackwardHere&) = delete;

 private:
  static c10::AutogradState& state() { return c10::AutogradState::get_tls_state(); }

  bool before_ = state().get_multithreading_enabled();
};

}  // namespace daug::backend
