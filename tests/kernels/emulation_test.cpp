// That the emulation of CUDA sees what it is there to see.

#include "kernels/emulation.h"

#include <stdexcept>

using namespace daug;
using namespace daug::test;

namespace {

/// Each thread's sum of its own number and its neighbour's, through memory of the block.
__global__ void add_neighbours(int* to, bool barrier) {
  __shared__ int numbers[64];
  numbers[threadIdx.x] = static_cast<int>(threadIdx.x + blockIdx.x + 1);
  if (barrier) __syncthreads();
  to[blockIdx.x * blockDim.x + threadIdx.x] = numbers[threadIdx.x] + numbers[(threadIdx.x + 1) % blockDim.x];
  if (barrier) __syncthreads();
}

__global__ void wait_apart(int how) {
  if (how == 0 && threadIdx.x == 5) return;
  if (how == 1 && threadIdx.x == 5)
    __syncthreads();
  else if (how == 2 && threadIdx.x >= 32)
    __shfl_xor_sync(~0U, 1, 1);
  else
    __syncthreads();
}

__global__ void shuffle(int* to) {
  const int lane = static_cast<int>(threadIdx.x), up = __shfl_up_sync(~0U, lane, 3);
  int sum = lane;
  for (int away = 16; away > 0; away /= 2) sum += __shfl_xor_sync(~0U, sum, away);
  to[threadIdx.x] = 1000000 * __shfl_down_sync(~0U, lane, 3) + 10000 * up + sum;
}

/// Turns the numbers of each warp around where they lie.
__global__ void turn_warps(int* numbers) {
  const int other = numbers[threadIdx.x ^ 31U];
  __syncwarp();
  numbers[threadIdx.x] = other;
}

__global__ void count(int* to) { atomicAdd(to, static_cast<int>(blockIdx.x + 2 * blockIdx.y + 4 * blockIdx.z)); }

}  // namespace

TEST_CASE("emulated threads meet at barriers, and a missing one shows in the order they run in",
          "[kernels][emulated]") {
  const auto run = [](bool barrier, bool backwards) {
    emulation::backwards = backwards;
    std::vector<int> sums(3 * 64);
    add_neighbours << emulation::at(3, 64, 0, nullptr)(sums.data(), barrier);
    emulation::backwards = false;
    return sums;
  };
  const std::vector<int> sums = run(true, false);
  for (int i = 0; i < 3 * 64; ++i) CHECK(sums[static_cast<std::size_t>(i)] == i % 64 + (i + 1) % 64 + 2 * (i / 64 + 1));
  CHECK(run(true, true) == sums);
  CHECK(run(false, false) != run(false, true));
}

TEST_CASE("the threads of an emulated warp meet, in whichever order they run", "[kernels][emulated]") {
  for (const bool backwards : {false, true}) {
    std::vector<int> numbers;
    for (int i = 0; i < 64; ++i) numbers.push_back(i);
    emulation::backwards = backwards;
    turn_warps << emulation::at(1, 64, 0, nullptr)(numbers.data());
    emulation::backwards = false;
    for (int i = 0; i < 64; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == (i ^ 31));
  }
}

TEST_CASE("emulated threads that do not meet are an error that says where", "[kernels][emulated]") {
  const auto message = [](int how) -> std::string {
    try {
      wait_apart << emulation::at(1, 64, 0, nullptr)(how);
    } catch (const std::logic_error& error) {
      return error.what();
    }
    return "none";
  };
  CHECK_THAT(message(0), contains_text("barrier in line") && contains_text("thread 5 has ended"));
  CHECK_THAT(message(1), contains_text("thread 5 is at the barrier in line"));
  CHECK_THAT(message(2), contains_text("thread 32 has ended"));  // after its shuffle
  CHECK(message(3) == "none");
}

TEST_CASE("emulated shuffles, grids and launches are CUDA's", "[kernels][emulated]") {
  std::vector<int> got(64);
  shuffle << emulation::at(1, 64, 0, nullptr)(got.data());
  for (int i = 0; i < 64; ++i) {
    const int lane = i % 32, first = i - lane;
    const int sum = 32 * first + 31 * 16, down = lane + 3 < 32 ? i + 3 : i, up = lane >= 3 ? i - 3 : i;
    CHECK(got[static_cast<std::size_t>(i)] == 1000000 * down + 10000 * up + sum);
  }
  int sum = 0;
  count << emulation::at(dim3(2, 2, 2), 32, 0, nullptr)(&sum);
  CHECK(sum == 32 * 28);
  for (const auto& launch : {emulation::at(0, 32, 0, nullptr), emulation::at(dim3(1, 65536), 32, 0, nullptr),
                             emulation::at(1, 1025, 0, nullptr), emulation::at(1, 32, 48 * 1024 + 1, nullptr)}) {
    count << launch(&sum);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaSuccess);
  }
  CHECK(sum == 32 * 28);
}

TEST_CASE("launches of an emulated kernel that is allowed more of a block's memory may ask for that",
          "[kernels][emulated]") {
  constexpr int kAllowed = 64 * 1024, kTooMuch = 99 * 1024 + 1;
  std::vector<int> numbers(32);
  numbers[0] = 7;
  const auto launched = [&](int bytes) {
    turn_warps << emulation::at(1, 32, static_cast<std::size_t>(bytes), nullptr)(numbers.data());
    return cudaGetLastError();
  };
  CHECK(launched(kAllowed) == cudaErrorInvalidConfiguration);
  CHECK(cudaFuncSetAttribute(turn_warps, cudaFuncAttributeMaxDynamicSharedMemorySize, kTooMuch) ==
        cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(launched(kAllowed) == cudaErrorInvalidConfiguration);
  CHECK(cudaFuncSetAttribute(turn_warps, cudaFuncAttributeMaxDynamicSharedMemorySize, kAllowed) == cudaSuccess);
  CHECK(launched(kAllowed + 1) == cudaErrorInvalidConfiguration);
  CHECK(numbers[0] == 7);
  CHECK(launched(kAllowed) == cudaSuccess);
  CHECK(numbers[31] == 7);
}
