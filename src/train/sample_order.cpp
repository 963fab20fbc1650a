#include "daug/train/sample_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "daug/core/error.h"
#include "daug/core/random.h"

namespace daug {

SampleOrder::SampleOrder(std::size_t count, std::uint64_t seed, std::size_t batch)
    : count_(count), seed_(seed), batch_(batch) {
  constexpr const char* kName = "daug::SampleOrder";
  require(count >= 1 && count <= std::numeric_limits<std::uint32_t>::max(), kName, "count", "at least one sample",
          count);
  require(batch >= 1 && batch <= count, kName, "batch", detail::concat("1 to ", count, " samples"), batch);
  period_ = batch / std::gcd(count, batch);
}

/// `order_` is that of the epoch before, unless this one begins with a batch.
void SampleOrder::shuffle_epoch(std::uint64_t epoch) {
  // The batch across the beginning: how much of it lies in the epoch before, and which samples that is.
  const std::size_t before = epoch % period_ * count_ % batch_;
  std::vector<bool> taken(before > 0 ? count_ : 0);
  for (std::size_t i = count_ - before; i < count_; ++i) taken[order_[i]] = true;
  order_.resize(count_);
  std::iota(order_.begin(), order_.end(), 0U);
  RandomStream(seed_, epoch, "sample order").shuffle(order_.begin(), order_.end());
  if (before == 0) return;
  // The first batch_ places hold at least batch_ - before samples that are not taken, so `behind` stays within them.
  const std::size_t rest = batch_ - before;
  for (std::size_t i = 0, behind = rest; i < rest; ++i) {
    if (!taken[order_[i]]) continue;
    while (taken[order_[behind]]) ++behind;
    std::swap(order_[i], order_[behind++]);
  }
}

std::size_t SampleOrder::at(std::uint64_t position) {
  const std::uint64_t epoch = position / count_;
  if (epoch != epoch_) {
    // In small sets what moves at an epoch's beginning reaches its end, and so the next epoch.
    const std::uint64_t start = epoch - epoch % period_;
    for (std::uint64_t next = epoch_ >= start && epoch_ < epoch ? epoch_ + 1 : start; next <= epoch; ++next)
      shuffle_epoch(next);
    epoch_ = epoch;
  }
  return order_[position % count_];
}

MixedSampleOrder::MixedSampleOrder(std::vector<std::int64_t> first, std::vector<std::int64_t> second, double share,
                                   std::uint64_t seed)
    : first_(std::move(first)),
      second_(std::move(second)),
      share_(first_.empty()    ? 0
             : second_.empty() ? 1
                               : share),
      first_order_(std::max<std::size_t>(first_.size(), 1), seed),
      second_order_(std::max<std::size_t>(second_.size(), 1), seed) {
  constexpr const char* kName = "daug::MixedSampleOrder";
  require(!first_.empty() || !second_.empty(), kName, "first, second", "at least one row", "none");
  require_range(share, 0.0, 1.0, kName, "share");
}

std::int64_t MixedSampleOrder::at(std::uint64_t position) {
  const auto taken = [&](std::uint64_t count) {
    return static_cast<std::uint64_t>(std::floor(static_cast<double>(count) * share_));
  };
  const std::uint64_t before = taken(position);
  if (taken(position + 1) > before) return first_[first_order_.at(before)];
  return second_[second_order_.at(position - before)];
}

}  // namespace daug
