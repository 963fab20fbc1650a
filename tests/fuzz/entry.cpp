// libFuzzer's entry point: feeds the target that DAUG_FUZZ_TARGET names, the first one without it.

#include "entry.h"

#include <cstdint>
#include <string>

#include "targets.h"

namespace {

const daug::fuzz::Target& chosen() {
  const char* name = std::getenv("DAUG_FUZZ_TARGET");
  for (const auto& target : daug::fuzz::targets())
    if (!name || target.name == std::string(name)) return target;
  daug::fuzz::broken("no target of the name in DAUG_FUZZ_TARGET");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto& target = chosen();
  target.run(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
