#pragma once
// A training that is stopped on the way.

#include <cstdint>

#include "daug/core/progress.h"

namespace daug::test {

/// Requests a stop once `steps` steps are done.
struct StopAfter {
  explicit StopAfter(std::int64_t steps)
      : control{[this, steps](const Progress& progress) {
                  if (progress.done == steps) source.request_stop();
                },
                source.token()} {}
  StopSource source;
  RunControl control;
};

}  // namespace daug::test
