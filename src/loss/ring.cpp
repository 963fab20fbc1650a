#include "loss/ring.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace daug::detail {
namespace {

class ProcessGroupRing final : public Ring {
 public:
  explicit ProcessGroupRing(c10d::ProcessGroup& group)
      : group_(c10::intrusive_ptr<c10d::ProcessGroup>::unsafe_reclaim_from_nonowning(&group)) {}

  std::int64_t rank() const override { return group_->getRank(); }
  std::int64_t size() const override { return group_->getSize(); }

  void add_up(const at::Tensor& tensor) const override {
    std::vector<at::Tensor> tensors = {tensor};
    group_->allreduce(tensors)->wait();
  }

  void add_up_numbers(const at::Tensor& numbers, const c10::Device& otherwise) const override {
    const at::Tensor there = numbers.to(numbers_device(*group_, otherwise));
    add_up(there);
    if (!there.is_same(numbers)) numbers.copy_(there);
  }

  std::vector<at::Tensor> pass_on(const std::vector<at::Tensor>& tensors, std::int64_t rows) const override {
    const int next = static_cast<int>((rank() + 1) % size()), before = static_cast<int>((rank() + size() - 1) % size());
    std::vector<at::Tensor> result;
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const int tag = static_cast<int>(i);
      std::vector<std::int64_t> shape = tensors[i].sizes().vec();
      shape[0] = rows;
      result.push_back(at::empty(shape, tensors[i].options()));
      std::vector<at::Tensor> to = {result.back()}, from = {tensors[i].contiguous()};
      const auto send = [&] {
        if (from[0].numel() > 0) works.push_back(group_->send(from, next, tag));
      };
      // A backend may hold up either call until the other rank makes the one that matches (NCCL does when two ranks
      // first meet, and on its stream). Rank 0 sends first and rank 1 receives first, so no circle of ranks waits.
      const bool sends_first = rank() % 2 == 0;
      if (sends_first) send();
      if (to[0].numel() > 0) works.push_back(group_->recv(to, before, tag));
      if (!sends_first) send();
    }
    for (const auto& work : works) work->wait();
    return result;
  }

 private:
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

}  // namespace

c10::Device numbers_device(const c10d::ProcessGroup& group, const c10::Device& otherwise) {
  const std::vector<c10::Device> taken = group.getDeviceTypes();
  const auto takes = [&](c10::DeviceType type) {
    return std::any_of(taken.begin(), taken.end(), [type](const c10::Device& one) { return one.type() == type; });
  };
  if (taken.empty()) return otherwise;
  if (takes(c10::DeviceType::CPU)) return c10::Device(c10::DeviceType::CPU);
  if (takes(otherwise.type())) return otherwise;
  const std::optional<c10::Device> bound = group.getBoundDeviceId();
  return bound ? *bound : taken.front();
}

std::shared_ptr<const Ring> ring_of(c10d::ProcessGroup& group) { return std::make_shared<ProcessGroupRing>(group); }

}  // namespace daug::detail
