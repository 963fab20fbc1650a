// Whose fault an error of a device is, and that checked kernels are waited for, in the emulation of CUDA.

#include "kernels/cuda/launch_check.h"

#include <string>

#include "kernels/group_norm_on_device.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

GroupNormCase small_norm() {
  GroupNormCase c{1, 8, 4, 2};
  c.channels_last = false;
  c.fill(1);
  return c;
}

/// A group norm of three launches: sum_planes, make_factors and apply_planes.
struct Norm {
  GroupNormOnDevice on{small_norm(), Element::kFloat32, 0};
  DeviceMemory output{32 * sizeof(float)};
  DeviceMemory workspace{static_cast<std::size_t>(group_norm_silu_workspace(on.problem, Element::kFloat32)) *
                         sizeof(float)};
  int stream = 0;

  Norm() { on.problem.output = output.data(); }
  LaunchError launch() {
    return group_norm_silu_device(on.problem, Element::kFloat32, workspace.floats(), {0, &stream});
  }
};

struct Restore {
  ~Restore() {
    cuda::checks_kernels() = false;
    emulation::failing = emulation::without_memory = -1;
    emulation::fault = emulation::last_error = cudaSuccess;
    emulation::capture = cudaStreamCaptureStatusNone;
  }
};

}  // namespace

TEST_CASE("a switch in the environment is on unless it is absent, empty or 0", "[kernels]") {
  for (const char* off : {static_cast<const char*>(nullptr), "", "0"}) CHECK_FALSE(cuda::switched_on(off));
  for (const char* on : {"1", "yes", "00", "2"}) CHECK(cuda::switched_on(on));
}

TEST_CASE("faults of running kernels are told apart from what a launch is refused for", "[kernels]") {
  for (const int fault : {214, 220, 700, 702, 710, 716, 719, 999}) CHECK(cuda::is_fault(fault));
  // No error, values, memory, configuration, device, image, resources, capturing.
  for (const int other : {0, 1, 2, 9, 98, 101, 209, 701, 720, 900, 906}) CHECK_FALSE(cuda::is_fault(other));
}

TEST_CASE("too little memory is told apart from all else", "[kernels]") {
  CHECK(cuda::is_shortage(2));
  for (const int other : {0, 1, 9, 101, 214, 700, 701, 719}) CHECK_FALSE(cuda::is_shortage(other));
}

TEST_CASE("a kernel that finds no memory to be loaded into is told as such, and the next call works",
          "[kernels][emulated]") {
  Restore restore;
  for (const bool checked : {false, true}) {
    INFO("checked " << checked);
    cuda::checks_kernels() = checked;
    Norm norm;
    emulation::without_memory = emulation::launches + 3;  // apply_planes
    const LaunchError error = norm.launch();
    REQUIRE(error);
    CHECK(std::string(error.problem) == "out of memory");
    CHECK(error.of_memory);
    CHECK(error.blame == Blame::kCall);
    REQUIRE(error.kernel != nullptr);
    CHECK(std::string(error.kernel) == "apply_planes");
    CHECK_FALSE(norm.launch());
    emulation::last_error = cudaErrorMemoryAllocation;  // of somebody who did not read it
    const LaunchError left = norm.launch();
    REQUIRE(left);
    CHECK(left.of_memory);
    CHECK(left.blame == Blame::kLeftBehind);
    CHECK_FALSE(norm.launch());
  }
}

TEST_CASE("nothing is waited for unless kernels are checked, and a fault that comes out later blames earlier ones",
          "[kernels][emulated]") {
  Restore restore;
  cuda::checks_kernels() = false;
  Norm norm;
  const std::int64_t waits = emulation::waits;
  emulation::failing = emulation::launches + 2;
  CHECK_FALSE(norm.launch());
  CHECK(emulation::fault == cudaErrorIllegalAddress);
  CHECK(emulation::waits == waits);
  emulation::last_error = cudaErrorIllegalAddress;  // as the device tells whatever comes next
  const std::int64_t launches = emulation::launches;
  const LaunchError error = norm.launch();
  REQUIRE(error);
  CHECK(std::string(error.problem) == "an illegal memory access was encountered");
  CHECK(error.blame == Blame::kEarlier);
  CHECK(error.kernel == nullptr);
  CHECK(emulation::launches == launches);
}

TEST_CASE("an error that another call left behind is blamed on that, once", "[kernels][emulated]") {
  Restore restore;
  for (const bool checked : {false, true}) {
    INFO("checked " << checked);
    cuda::checks_kernels() = checked;
    Norm norm;
    emulation::last_error = cudaErrorInvalidConfiguration;
    const std::int64_t launches = emulation::launches;
    const LaunchError error = norm.launch();
    REQUIRE(error);
    CHECK(std::string(error.problem) == "invalid configuration argument");
    CHECK(error.blame == Blame::kLeftBehind);
    CHECK_FALSE(error.of_memory);
    CHECK(error.kernel == nullptr);
    CHECK(emulation::launches == launches);
    CHECK_FALSE(norm.launch());
    CHECK(emulation::launches == launches + 3);
  }
}

TEST_CASE("each checked kernel is waited for, and the one that fails is named", "[kernels][emulated]") {
  Restore restore;
  cuda::checks_kernels() = true;
  Norm norm;
  std::int64_t waits = emulation::waits;
  CHECK_FALSE(norm.launch());
  CHECK(emulation::waits == waits + 4);  // for what was queued before, and for three kernels
  const char* const names[] = {"sum_planes", "make_factors", "apply_planes"};
  for (int i = 0; i < 3; ++i) {
    emulation::failing = emulation::launches + i + 1;
    const LaunchError error = norm.launch();
    REQUIRE(error);
    CHECK(std::string(error.problem) == "an illegal memory access was encountered");
    CHECK(error.blame == Blame::kKernel);
    CHECK(std::string(error.kernel) == names[i]);
    // The next call finds the device failed, and launches nothing.
    const std::int64_t launches = emulation::launches;
    const LaunchError next = norm.launch();
    CHECK(next.blame == Blame::kEarlier);
    CHECK(next.kernel == nullptr);
    CHECK(emulation::launches == launches);
    emulation::fault = cudaSuccess;
  }
  emulation::failing = -1;
  emulation::capture = cudaStreamCaptureStatusActive;
  waits = emulation::waits;
  CHECK_FALSE(norm.launch());
  CHECK(emulation::waits == waits);
  emulation::capture = cudaStreamCaptureStatusNone;
  const LaunchError nowhere =
      group_norm_silu_device(norm.on.problem, Element::kFloat32, norm.workspace.floats(), {7, {}});
  REQUIRE(nowhere);
  CHECK(nowhere.blame == Blame::kCall);
}
