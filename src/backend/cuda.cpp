#include "daug/backend/cuda.h"

#include <ATen/Context.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include <filesystem>

#include "daug/core/error.h"

namespace daug {

namespace {

constexpr auto kCuda = c10::DeviceType::CUDA;

/// The number in "cuda:N", 0 of "cuda", -1 of anything else.
int cuda_number(const std::string& name) {
  const std::string number = name.rfind("cuda:", 0) == 0 ? name.substr(5) : name == "cuda" ? "0" : "";
  const bool valid =
      !number.empty() && number.size() <= 2 && number.find_first_not_of("0123456789") == std::string::npos;
  return valid ? std::stoi(number) : -1;
}

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
  const int devices = static_cast<int>(c10::impl::getDeviceGuardImpl(kCuda)->deviceCount());
  if (devices > 0 && at::hasCUDA()) {
    state.devices = devices;
    at::globalContext().setAllowTF32CuDNN(false);
  } else if (devices > 0) {
    // LibTorch's CPU part, on which all operators begin, looks for the CUDA part once, when it is first asked for
    // anything of it, and remembers that there was none. Any backward pass on the CPU asks.
    state.problem =
        "LibTorch was asked about CUDA before its CUDA part was loaded, and takes it to be absent from then on; call "
        "daug::cuda_state() before anything else of LibTorch (a backward pass, say), or link libtorch_cuda";
  } else if (dlopen("libcuda.so.1", RTLD_LAZY)) {
    state.problem = "the CUDA driver reports no device";
  } else {
    const char* reason = dlerror();
    state.problem = detail::concat("there is no CUDA driver: ", reason ? reason : "libcuda.so.1");
  }
  return state;
}

}  // namespace

const CudaState& cuda_state() {
  static const CudaState state = load();
  return state;
}

bool is_device_name(const std::string& name) { return name == "cpu" || cuda_number(name) >= 0; }

c10::Device device_called(const std::string& name) {
  constexpr const char* kFunction = "daug::device_called";
  if (name == "cpu") return c10::Device(c10::DeviceType::CPU);
  if (name == "auto") return cuda_state().devices > 0 ? c10::Device(kCuda, 0) : c10::Device(c10::DeviceType::CPU);
  const int index = cuda_number(name);
  require(index >= 0, kFunction, "name", "cpu, cuda, cuda:N or auto", "'" + name + "'");
  const CudaState& state = cuda_state();
  if (index >= state.devices)
    fail(ErrorCode::kUnsupported, kFunction, "name", detail::concat("one of ", state.devices, " CUDA devices"),
         "'" + name + "'" + (state.problem.empty() ? "" : " (" + state.problem + ")"));
  return c10::Device(kCuda, static_cast<c10::DeviceIndex>(index));
}

}  // namespace daug
