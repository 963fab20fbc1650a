#pragma once
/// @file
/// Work on CUDA devices whose results have the same bits whenever it is done again.

#include <functional>
#include <string>

namespace daug {

/// Calls work() once. What this library computes on a CUDA device meanwhile has the same bits in every run of a program
/// that does the same in the same order, on one machine with the same versions of this library, LibTorch, CUDA and the
/// driver. The exception is work that was cut into smaller parts because memory ran out, of which LibTorch's warning
/// handler is told: it rounds differently. Without this function, backward passes on a device (of trainings, and of a
/// classifier that guides) add numbers in any order. On the CPU it changes no result: sums have one order there.
///
/// While work() runs, LibTorch is set, in the whole process, to deterministic algorithms (with an error where there is
/// none), to deterministic cuDNN, and to try no cuDNN algorithms out for speed. When work() returns or throws, all of
/// these are what they were before. Calls may be nested and run at the same time: the first to begin sets them, the
/// last to end puts them back, and no other thread should compute at these two moments. Work takes longer in it, also
/// because LibTorch fills new memory unless `setDeterministicFillUninitializedMemory(false)` was called.
///
/// LibTorch before 2.11 insists on the environment variable CUBLAS_WORKSPACE_CONFIG: where that is absent it is set to
/// ":4096:8" then, and keeps that value. These versions may read it only once, so make the first call before any
/// product of matrices on a device, and before other threads read the environment.
///
/// Throws what work() throws. Throws kUnsupported, naming `option`, for another value of that variable than ":4096:8"
/// and ":16:8" (before anything changes), and in place of LibTorch's error about an operator without a deterministic
/// implementation, such as the gradient of bilinear resizing on a device. Not yet run on a device.
void deterministically(const std::function<void()>& work, const std::string& option = "work");

}  // namespace daug
