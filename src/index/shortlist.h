#pragma once
// The items that may be among the nearest, given bounds of their ranks (see score_bounds.h).

#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <queue>
#include <vector>

#include "score_bounds.h"
#include "snapshot.h"

namespace daug::detail {

/// Let T be the k-th largest lower bound: k items rank at least T, so an item whose upper bound is below T is not among
/// the k nearest, not even by a tie. All others are kept. For a range search T is given.
class Shortlist {
 public:
  struct Candidate {
    double upper;
    Place place;
  };

  /// For the `count` nearest, at most `most` candidates.
  Shortlist(std::size_t count, std::size_t most) : count_(count), most_(most) {}
  /// For all that rank at least `limit`.
  static Shortlist at_least(double limit) {
    Shortlist list(0, std::numeric_limits<std::size_t>::max());
    list.limit_ = limit;
    return list;
  }

  /// An item whose upper bound is below this is out.
  double limit() const { return limit_; }
  /// More candidates than allowed: the list is empty and takes no more.
  bool overflowed() const { return overflowed_; }

  void add(Place place, const QueryRank::Bounds& bounds) {
    if (overflowed_ || bounds.upper < limit_) return;
    raise(bounds.lower);
    candidates_.push_back({bounds.upper, place});
    if (candidates_.size() >= prune_at_) prune();
  }

  /// Takes over what another list of the same search found among other items.
  void merge(Shortlist& other) {
    if (other.overflowed_) overflow();
    if (overflowed_) return;
    for (; !other.lower_.empty(); other.lower_.pop()) raise(other.lower_.top());
    candidates_.insert(candidates_.end(), other.candidates_.begin(), other.candidates_.end());
    prune();
  }

  const std::vector<Candidate>& candidates() {
    prune();
    return candidates_;
  }

 private:
  void raise(double lower) {
    if (count_ == 0) return;
    if (lower_.size() < count_) {
      lower_.push(lower);
    } else if (lower > lower_.top()) {
      lower_.pop();
      lower_.push(lower);
    }
    if (lower_.size() == count_) limit_ = std::max(limit_, lower_.top());
  }

  void prune() {
    std::erase_if(candidates_, [this](const Candidate& each) { return each.upper < limit_; });
    if (candidates_.size() > most_) overflow();
    prune_at_ = std::max<std::size_t>(256, 2 * candidates_.size());
  }

  void overflow() {
    overflowed_ = true;
    candidates_ = {};
    lower_ = {};
  }

  std::size_t count_;
  std::size_t most_;
  double limit_ = -std::numeric_limits<double>::infinity();
  bool overflowed_ = false;
  std::priority_queue<double, std::vector<double>, std::greater<>> lower_;  ///< the largest, smallest on top
  std::vector<Candidate> candidates_;
  std::size_t prune_at_ = 256;
};

}  // namespace daug::detail
