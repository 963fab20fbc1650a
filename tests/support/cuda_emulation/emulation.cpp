// Whose check of longjmp knows one stack.
#undef _FORTIFY_SOURCE

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace daug::emulation {
namespace {

constexpr std::size_t kStackBytes = std::size_t{1} << 17;
constexpr std::size_t kMostThreads = 1024;

/// Goes from thread to thread while none of them waits.
struct Fiber {
  bool begun = false;
  ucontext_t beginning{};
  jmp_buf place{};
  std::unique_ptr<std::byte[]> stack{new std::byte[kStackBytes]};
};

enum class State { kUnbegun, kAtBarrier, kAtShuffle, kEnded };

struct Thread {
  Fiber* fiber = nullptr;
  State state = State::kUnbegun;
  int line = 0;  ///< where it waits
  unsigned shuffles = 0;
  std::uint32_t brought[2] = {};  ///< to the last two shuffles: a warp is never farther apart
};

/// The block that runs.
struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  unsigned begun = 0, ended = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber* running = nullptr;
  jmp_buf scheduler{};
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
};
Block block;

// The address sanitizer wants to know about stacks.
void begin_switch([[maybe_unused]] void** kept, [[maybe_unused]] const void* stack,
                  [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(kept, stack, bytes);
#endif
}
void end_switch([[maybe_unused]] void* kept) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(kept, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
}

// Jumps, as swapcontext asks the system about signals each time, which takes far longer.

[[noreturn]] void jump_to(Fiber& fiber) {
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  setcontext(&fiber.beginning);
  std::abort();
}

/// From a fiber to the scheduler.
void leave() {
  void* kept = nullptr;
  begin_switch(&kept, block.scheduler_stack, block.scheduler_stack_bytes);
  if (_setjmp(block.running->place) == 0) _longjmp(block.scheduler, 1);
  end_switch(kept);
}

void resume(Fiber* fiber) {
  block.running = fiber;
  void* kept = nullptr;
  begin_switch(&kept, fiber->stack.get(), kStackBytes);
  if (_setjmp(block.scheduler) == 0) jump_to(*fiber);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
#endif
}

void run_threads() {
  end_switch(nullptr);
  for (;;) {
    const auto count = static_cast<unsigned>(block.threads.size());
    while (block.begun < count) {
      const unsigned number = backwards ? count - 1 - block.begun : block.begun;
      ++block.begun;
      block.threads[number].fiber = block.running;
      threadIdx.x = number;
      (*block.body)();
      block.threads[number].state = State::kEnded;
      ++block.ended;
    }
    block.idle.push_back(block.running);
    leave();
  }
}

void prepare(Fiber& fiber) {
  getcontext(&fiber.beginning);
  fiber.beginning.uc_stack.ss_sp = fiber.stack.get();
  fiber.beginning.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.beginning, run_threads, 0);
}

Fiber* idle_fiber() {
  if (block.idle.empty()) {
    block.idle.push_back(block.fibers.emplace_back(std::make_unique<Fiber>()).get());
    prepare(*block.idle.back());
  }
  Fiber* fiber = block.idle.back();
  block.idle.pop_back();
  return fiber;
}

void wait(State at, int line) {
  const unsigned number = threadIdx.x;
  block.threads[number].state = at;
  block.threads[number].line = line;
  leave();
  threadIdx.x = number;
}

/// Lets threads [begin, end) go on if all of them wait at the same place.
bool go_on(std::size_t begin, std::size_t end, State from) {
  const auto& threads = block.threads;
  for (std::size_t i = begin; i < end; ++i)
    if (threads[i].state != from || threads[i].line != threads[begin].line) return false;
  for (std::size_t i = begin; i < end; ++i) resume(threads[backwards ? begin + end - 1 - i : i].fiber);
  return true;
}

std::string told(unsigned number) {
  const Thread& thread = block.threads[number];
  return "thread " + std::to_string(number) +
         (thread.state == State::kEnded
              ? " has ended"
              : (thread.state == State::kAtBarrier ? " is at the barrier in line " : " is at the shuffle in line ") +
                    std::to_string(thread.line));
}

void run_block(unsigned threads, const std::function<void()>& body) {
  block.body = &body;
  block.threads.assign(threads, Thread());
  block.begun = block.ended = 0;
  while (block.begun < threads) resume(idle_fiber());
  while (block.ended < threads) {
    bool moved = false;
    const unsigned warps = (threads + kWarp - 1) / kWarp;
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned first = (backwards ? warps - 1 - i : i) * kWarp;
      moved = go_on(first, std::min(first + kWarp, threads), State::kAtShuffle) || moved;
    }
    if (moved || go_on(0, threads, State::kAtBarrier)) continue;
    std::string message = "threads do not meet: ";
    unsigned other = 0;
    while (block.threads[other].state == block.threads[0].state && block.threads[other].line == block.threads[0].line)
      ++other;
    message += told(0) + ", " + told(other);
    block.fibers.clear();  // which hold threads that never end
    block.idle.clear();
    throw std::logic_error(message);
  }
}

}  // namespace

void synchronise(int line) { wait(State::kAtBarrier, line); }

std::uint32_t exchange(std::uint32_t mine, unsigned lane, int line) {
  const unsigned number = threadIdx.x, which = block.threads[number].shuffles++ % 2;
  block.threads[number].brought[which] = mine;
  wait(State::kAtShuffle, line);
  return block.threads[number / kWarp * kWarp + lane].brought[which];
}

void run(const Launch& launch, std::size_t most_shared, const std::function<void()>& thread) {
  const dim3 grid = launch.grid;
  if (++launches == failing) fault = cudaErrorIllegalAddress;
  if (launches == without_memory) {
    last_error = cudaErrorMemoryAllocation;
    return;
  }
  last_stream = launch.stream;
  if (grid.x == 0 || grid.x > 0x7fffffffU || grid.y == 0 || grid.y > 0xffffU || grid.z == 0 || grid.z > 0xffffU ||
      launch.threads == 0 || launch.threads > kMostThreads || launch.shared > most_shared) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  gridDim = grid;
  blockDim = launch.threads;
  dynamic_shared.reset(new std::byte[launch.shared]);
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t number = backwards ? blocks - 1 - i : i;
    blockIdx = dim3(static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                    static_cast<unsigned>(number / grid.x / grid.y));
    std::fill_n(dynamic_shared.get(), launch.shared, std::byte{0xff});
    run_block(launch.threads, thread);
  }
}

}  // namespace daug::emulation
