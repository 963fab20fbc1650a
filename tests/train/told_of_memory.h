#pragma once
// What trainings say of memory that ran out.

#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/progress.h"
#include "support/caught.h"

namespace daug::test {

/// Keeps LibTorch's warning, which comes once a process, out of the tests' output.
class NothingHeard final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

/// Collects what reports say of memory.
struct Told {
  std::vector<std::pair<std::int64_t, std::string>> reports;  ///< steps done, and the text
  RunControl control{[this](const Progress& progress) {
                       if (mentions(progress.detail, "out of memory"))
                         reports.emplace_back(progress.done, progress.detail);
                     },
                     {}};
};

}  // namespace daug::test
