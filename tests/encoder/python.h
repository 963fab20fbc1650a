#pragma once
// Scripts that need Python packages which a machine may lack.

#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <string>

#include "daug/io/file.h"
#include "support/catch.h"

namespace daug::test {

/// Runs tests/encoder/`script` with DAUG_PYTHON, or python3, and checks that it is content. `log` is a file for what it
/// says, of which the part from `library` on is passed on. Returns false, without a failure, where Python or a package
/// is missing, which such a script tells by an exit status of 77.
inline bool python_runs(const std::string& library, const std::string& script, const std::string& arguments,
                        const std::string& log) {
  const char* chosen = std::getenv("DAUG_PYTHON");
  const char* source = std::getenv("DAUG_TEST_SOURCE_DIR");
  const std::string python = chosen && *chosen ? chosen : "python3";
  const std::string path = std::string(source ? source : ".") + "/tests/encoder/" + script;
  const int status = std::system((python + " " + path + " " + arguments + " >" + log + " 2>&1").c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  const std::string said = read_text_file(log);
  if (code == 77 || code == 127) {
    std::cout << "python " << library << ": skipped (" << said.substr(0, said.find('\n')) << ")\n";
    return false;
  }
  INFO(said);
  CHECK(code == 0);
  if (code == 0) std::cout << "python " << said.substr(std::min(said.rfind(library), said.size()));
  return true;
}

}  // namespace daug::test
