#pragma once
/// @file
/// Work on CUDA devices whose results have the same bits whenever it is done again.

#include <functional>
#include <string>

namespace daug {

/// Calls work() once. What this library then computes on a CUDA device has the same bits in every run of a program that
/// does the same in the same order, on one machine with one version of this library, LibTorch, CUDA and the driver, and
/// as long as calls are not made smaller for want of memory, of which LibTorch's warning handler is told. Without it
/// backward passes add in any order: those of trainings, and a classifier's gradient that guides. On the CPU it changes
/// no result: there sums have an order of their own already.
///
/// Until work() ends, by returning or throwing, it holds for LibTorch in the whole process: deterministic algorithms,
/// not only warned of, deterministic cuDNN, and none of cuDNN's trials of which algorithm is fast. Then all of these
/// are what they were before. Calls may be nested and run at the same time: the first one sets, the last one puts back.
/// Other threads should not compute when that happens. LibTorch also fills new memory, where
/// `deterministicFillUninitializedMemory` says so, as it does by itself. It takes longer; nothing does outside of it.
///
/// The environment variable CUBLAS_WORKSPACE_CONFIG is set to ":4096:8" where it is absent, and stays: call it before
/// a device multiplies matrices, as LibTorch before 2.11 may look at it once, and before threads that look at the
/// environment. Throws what work() throws, and kUnsupported, naming `option`, for another value of that variable than
/// ":4096:8" and ":16:8" (before anything changes) and in place of LibTorch's error about an operator without a
/// deterministic implementation, such as the gradient of bilinear resizing on a device. Not yet run on a device.
void deterministically(const std::function<void()>& work, const std::string& option = "work");

}  // namespace daug
