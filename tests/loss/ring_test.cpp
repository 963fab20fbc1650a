// Blocks go round a ring of ranks even where every call waits for the one that matches it.

#include "loss/ring.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

#include "loss/hand_over_group.h"
#include "support/catch.h"
#include "support/device.h"
#include "train/ranks.h"

namespace {

/// Rank r's block: as many rows as `rows` says, all of the number r.
at::Tensor block_of(std::int64_t rank, const std::vector<std::int64_t>& rows) {
  return at::full({rows[static_cast<std::size_t>(rank)], 2}, static_cast<double>(rank), at::kDouble);
}

/// What went wrong on some rank while blocks went all the way round; empty: nothing.
std::string go_round(const std::vector<std::int64_t>& rows) {
  const auto size = static_cast<std::int64_t>(rows.size());
  const auto body = [&](c10d::ProcessGroup& group) {
    const std::int64_t rank = group.getRank();
    const auto ring = daug::detail::ring_of(group);
    std::vector<at::Tensor> mine = {block_of(rank, rows), 10 * block_of(rank, rows)};
    for (std::int64_t step = 1; step <= size; ++step) {
      const std::int64_t home = (rank + size - step) % size;
      mine = ring->pass_on(mine, rows[static_cast<std::size_t>(home)]);
      const at::Tensor expected = block_of(home, rows);
      if (mine.size() != 2 || !at::equal(mine[0], expected) || !at::equal(mine[1], 10 * expected))
        throw std::runtime_error("another block than that of the rank before");
    }
  };
  for (const auto& problem : daug::test::hand_over(static_cast<int>(size), c10::DeviceType::CPU, body))
    if (!problem.empty()) return problem;
  return "";
}

}  // namespace

TEST_CASE("blocks go round a ring whose sends and receives wait for each other", "[loss][distributed]") {
  for (const auto& rows : std::vector<std::vector<std::int64_t>>{
           {3, 1}, {2, 2, 2}, {1, 4, 2, 3}, {5, 1, 1, 2, 3}, {0, 2, 3}, {2, 0, 1}, {2, 1, 0, 0, 4}}) {
    INFO(rows.size() << " ranks, the first with " << rows[0] << " rows");
    CHECK(go_round(rows) == "");
  }
}

TEST_CASE("ranks agree on where numbers are exchanged, whatever tensors each has", "[loss][distributed]") {
  const c10::Device cpu(c10::DeviceType::CPU), first(c10::DeviceType::CUDA, 0), second(c10::DeviceType::CUDA, 1);
  const auto where = [](const std::vector<c10::DeviceType>& taken, const c10::Device& otherwise,
                        std::optional<c10::Device> bound = std::nullopt) {
    const auto group = c10::make_intrusive<c10d::ProcessGroup>(0, 1);
    for (const auto type : taken) group->setBackend(type, c10d::ProcessGroup::BackendType::CUSTOM, std::nullopt);
    group->setBoundDeviceId(bound);
    return daug::detail::numbers_device(*group, otherwise);
  };
  for (const c10::Device& mine : {cpu, first, second}) {
    INFO("tensors on " << mine);
    CHECK(where({c10::DeviceType::CPU}, mine) == cpu);
    CHECK(where({c10::DeviceType::CPU, c10::DeviceType::CUDA}, mine) == cpu);
    CHECK(where({c10::DeviceType::CUDA}, mine).type() == c10::DeviceType::CUDA);
    CHECK(where({}, mine) == mine);  // it does not tell
  }
  CHECK(where({c10::DeviceType::CUDA}, second) == second);
  CHECK(where({c10::DeviceType::CUDA}, cpu) == c10::Device(c10::DeviceType::CUDA));  // the current one
  CHECK(where({c10::DeviceType::CUDA}, cpu, second) == second);
}

TEST_CASE("ranks tell each other numbers over a group that takes tensors on a device alone", "[gpu]") {
  if (daug::test::no_device()) return;
  std::vector<std::vector<double>> told(3);
  const auto problems = daug::test::hand_over(3, c10::DeviceType::CUDA, [&](c10d::ProcessGroup& group) {
    const int rank = group.getRank();
    told[static_cast<std::size_t>(rank)] = daug::detail::Ranks(&group).of_all("test", [rank] { return 0.5 + rank; });
  });
  for (const auto& problem : problems) CHECK(problem == "");
  for (const auto& numbers : told) CHECK(numbers == std::vector<double>{0.5, 1.5, 2.5});
}
