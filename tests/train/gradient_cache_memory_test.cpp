// What embedding in chunks holds, counted.

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "daug/train/gradient_cache.h"
#include "support/catch.h"
#include "support/memory_count.h"
#include "support/tensor.h"

using namespace daug;
using namespace daug::test;

TEST_CASE("chunks hold the activations of one of them", "[train][gradient_cache]") {
  constexpr std::int64_t kItems = 512, kHidden = 2048;
  const at::Tensor inputs = random_tensor({kItems, 8}, 1);
  const std::vector<at::Tensor> parameters = {0.1 * random_tensor({8, kHidden}, 2), random_tensor({kHidden, 16}, 3)};
  for (const auto& parameter : parameters) parameter.requires_grad_(true);
  const auto embed = [&](std::int64_t begin, std::int64_t count) {
    return inputs.narrow(0, begin, count).matmul(parameters[0]).tanh().matmul(parameters[1]);
  };
  const auto held = [&](std::int64_t chunk_size) {
    const auto step = [&] { embed_in_chunks(kItems, chunk_size, embed, parameters).square().sum().backward(); };
    step();  // makes the gradients
    MemoryCount count;
    step();
    return count.peak();
  };
  const std::int64_t whole = held(0), chunks = held(kItems / 16);
  INFO(whole << " bytes at once, " << chunks << " in chunks");
  CHECK(whole >= kItems * kHidden * 8);  // what tanh keeps
  CHECK(chunks <= whole / 4);
}
