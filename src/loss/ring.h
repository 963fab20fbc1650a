#pragma once
// Ranks of a process group as a ring in which blocks travel from rank to rank.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace c10d {
class ProcessGroup;
}

namespace daug::detail {

/// All ranks call the same functions in the same order.
class Ring {
 public:
  virtual ~Ring() = default;
  virtual std::int64_t rank() const = 0;
  virtual std::int64_t size() const = 0;
  /// Replaces the tensor by its sum over ranks, the same bits on all.
  virtual void add_up(const at::Tensor& tensor) const = 0;
  /// The same of a tensor on the CPU over any group: it travels on numbers_device(group, otherwise).
  virtual void add_up_numbers(const at::Tensor& numbers, const c10::Device& otherwise) const = 0;
  /// Sends the tensors to the next rank and returns what the one before sent: shapes alike but for `rows` rows. Goes on
  /// with a backend, too, that holds up each call until the other rank makes the one that matches.
  virtual std::vector<at::Tensor> pass_on(const std::vector<at::Tensor>& tensors, std::int64_t rows) const = 0;
};

/// Keeps the group alive.
std::shared_ptr<const Ring> ring_of(c10d::ProcessGroup& group);

/// Where ranks exchange numbers that every one of them has, refused or not: on the CPU if the group takes tensors
/// there, else on its device, so that all come to the same whatever tensors each was given. `otherwise`, the device of
/// this rank's tensors, says which of several devices it is, and all for a group that does not tell what it takes.
c10::Device numbers_device(const c10d::ProcessGroup& group, const c10::Device& otherwise);

/// The whole batch as one rank sees it.
struct GlobalBatch {
  std::shared_ptr<const Ring> ring;  ///< null: this process is alone
  std::vector<std::int64_t> first;   ///< place of every rank's first item, and the number of items in the end
  double embedding_scale = 1;        ///< gradients of embeddings are multiplied by this
  double shared_scale = 1;           ///< gradients of what all ranks have, by this

  std::int64_t rank() const { return ring ? ring->rank() : 0; }
  std::int64_t size() const { return ring ? ring->size() : 1; }
  std::int64_t count(std::int64_t of) const { return first[index(of) + 1] - first[index(of)]; }
  std::int64_t before(std::int64_t of) const { return (of + size() - 1) % size(); }
  static std::size_t index(std::int64_t of) { return static_cast<std::size_t>(of); }
};

}  // namespace daug::detail
