#pragma once
// What the programs share in talking to a person: progress, Ctrl-C, exit status.

#include <functional>
#include <string>

#include "daug/core/progress.h"

namespace daug {

/// Shows a line of text.
using Say = std::function<void(const std::string&)>;

/// Runs a program's work with a progress display; Ctrl-C requests its stop, a second one ends the process. Returns the
/// exit status: 0, 1 after an error (its message on standard error), 130 when stopped (`stopped` there).
int guarded_program(const std::string& stopped, const std::function<void(const RunControl&, const Say&)>& work);

}  // namespace daug
