#include "daug/backend/cuda.h"

#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include <filesystem>

#include "daug/core/error.h"

namespace daug {

namespace {

constexpr auto kCuda = c10::DeviceType::CUDA;

CudaState load() {
  CudaState state;
  if (!c10::impl::hasDeviceGuardImpl(kCuda)) {
    Dl_info info{};
    if (dladdr(reinterpret_cast<void*>(&at::globalContext), &info) == 0 || !info.dli_fname) {
      state.problem = "LibTorch's libraries cannot be located";
      return state;
    }
    const auto path = std::filesystem::path(info.dli_fname).parent_path() / "libtorch_cuda.so";
    // Its operators register themselves; it stays loaded, and others have to see its symbols.
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
      const char* reason = dlerror();
      state.problem = detail::concat("LibTorch's CUDA part cannot be loaded: ", reason ? reason : path.string());
      return state;
    }
    if (!c10::impl::hasDeviceGuardImpl(kCuda)) {
      state.problem = path.string() + " does not register CUDA";
      return state;
    }
  }
  state.devices = static_cast<int>(c10::impl::getDeviceGuardImpl(kCuda)->deviceCount());
  if (state.devices == 0) state.problem = "the CUDA driver reports no device";
  return state;
}

}  // namespace

const CudaState& cuda_state() {
  static const CudaState state = load();
  return state;
}

c10::Device device_called(const std::string& name) {
  constexpr const char* kFunction = "daug::device_called";
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  if (name == "auto") return cuda_state().devices > 0 ? c10::Device(kCuda, 0) : c10::Device(c10::DeviceType::CPU);
  const std::string number = name.rfind("cuda:", 0) == 0 ? name.substr(5) : name == "cuda" ? "0" : "";
  if (number.empty() || number.size() > 2 || number.find_first_not_of("0123456789") != std::string::npos)
    fail(ErrorCode::kInvalidArgument, kFunction, "name", "cpu, cuda, cuda:N or auto", "'" + name + "'");
  const int index = std::stoi(number);
  const CudaState& state = cuda_state();
  if (index >= state.devices)
    fail(ErrorCode::kUnsupported, kFunction, "name", detail::concat("one of ", state.devices, " CUDA devices"),
         "'" + name + "'" + (state.problem.empty() ? "" : " (" + state.problem + ")"));
  return c10::Device(kCuda, static_cast<c10::DeviceIndex>(index));
}

}  // namespace daug
