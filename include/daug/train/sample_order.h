#pragma once
/// @file
/// The orders in which a training visits its samples.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace daug {

/// Index of the sample at `position` of an endless stream over `count` samples, reshuffled every epoch by seed: of
/// positions e count to (e + 1) count - 1 each has another sample. It depends on (count, seed, batch, position) alone.
///
/// No batch, positions s batch to (s + 1) batch - 1, has a sample twice. A sample of an epoch's shuffle that the batch
/// across its beginning already has, from the end of the epoch before, changes places with the next one behind that
/// batch that it has not. An epoch that begins with a batch, as all do when batch divides count, is the shuffle itself.
///
/// Keeps the current epoch's permutation, so walking forward is cheap; a jump shuffles the epochs since the last one
/// that begins with a batch, at most `batch`. One object a thread.
class SampleOrder {
 public:
  /// `count` in [1, 2^32), `batch` in [1, count] (kInvalidArgument); with 1 every epoch is the shuffle itself.
  SampleOrder(std::size_t count, std::uint64_t seed, std::size_t batch = 1);
  /// In [0, count). Any position.
  std::size_t at(std::uint64_t position);

 private:
  void shuffle_epoch(std::uint64_t epoch);

  std::size_t count_;
  std::uint64_t seed_;
  std::size_t batch_;
  std::uint64_t period_ = 1;  ///< epochs from one that begins with a batch to the next
  std::uint64_t epoch_ = ~std::uint64_t{0};
  std::vector<std::uint32_t> order_;
};

/// Two groups of rows, each in its own random order, mixed so that of the first n positions floor(n * share) hold rows
/// of the first group. When a group is empty every position holds a row of the other. Throws kInvalidArgument when both
/// are empty or share is outside [0, 1].
class MixedSampleOrder {
 public:
  /// Rows are any numbers; share in [0, 1].
  MixedSampleOrder(std::vector<std::int64_t> first, std::vector<std::int64_t> second, double share, std::uint64_t seed);
  /// The row, as the constructor was given it. Any position.
  std::int64_t at(std::uint64_t position);

 private:
  std::vector<std::int64_t> first_, second_;
  double share_;
  SampleOrder first_order_, second_order_;
};

}  // namespace daug
