#include "kernels/instruction_set.h"

#include "daug/core/error.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/instruction_set.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace daug::kernels::HWY_NAMESPACE {
const char* name_here() { return hwy::TargetName(HWY_TARGET); }
}  // namespace daug::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace daug::kernels {

namespace {

HWY_EXPORT(name_here);

std::vector<std::int64_t> targets() {
  std::vector<std::int64_t> found;
  const std::int64_t here = (hwy::SupportedTargets() | HWY_STATIC_TARGET) & HWY_TARGETS;
  for (std::int64_t left = here; left != 0; left &= left - 1) found.push_back(left & -left);
  return found;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const std::int64_t target : targets()) names.emplace_back(hwy::TargetName(target));
  return names;
}

std::string instruction_set() { return HWY_DYNAMIC_DISPATCH(name_here)(); }

void use_instruction_set(const std::string& name) {
  if (name.empty()) return hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  for (const std::int64_t target : targets())
    if (name == hwy::TargetName(target)) return hwy::GetChosenTarget().Update(target);
  fail(ErrorCode::kInvalidArgument, "daug::kernels::use_instruction_set", "name", "one of instruction_sets()", name);
}

bool multiplies_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace daug::kernels
#endif
