// The orders in which a training visits its samples.

#include "daug/train/sample_order.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/random.h"
#include "support/catch.h"

using namespace daug;

namespace {

/// Numbers of samples and of a batch, where batches end with every epoch, with some and with few.
std::vector<std::pair<std::size_t, std::size_t>> counts_and_batches() {
  std::vector<std::pair<std::size_t, std::size_t>> all;
  for (const std::size_t count : {1U, 2U, 3U, 5U, 7U, 10U, 24U, 33U})
    for (std::size_t batch = 1; batch <= count; ++batch) all.emplace_back(count, batch);
  for (const std::size_t batch : {7U, 25U, 32U, 50U, 51U, 64U, 99U, 100U}) all.emplace_back(100, batch);
  return all;
}

/// The samples up to an epoch that begins with a batch again, and of that epoch.
std::vector<std::size_t> visits_of(std::size_t count, std::uint64_t seed, std::size_t batch) {
  SampleOrder order(count, seed, batch);
  std::vector<std::size_t> visits((batch / std::gcd(count, batch) + 1) * count);
  for (std::size_t position = 0; position < visits.size(); ++position) visits[position] = order.at(position);
  return visits;
}

/// An epoch's shuffle, which knows of no batches.
std::vector<std::size_t> shuffled_epoch(std::size_t count, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  RandomStream(seed, epoch, "sample order").shuffle(order.begin(), order.end());
  return order;
}

}  // namespace

TEST_CASE("a sample order visits everything once an epoch, anew each time", "[trainer]") {
  for (const std::size_t count : {1U, 2U, 7U, 100U}) {
    SampleOrder order(count, 3), same(count, 3), other(count, 4), backwards(count, 3);
    std::vector<std::size_t> visits, others;
    for (std::uint64_t position = 0; position < 3 * count; ++position) {
      visits.push_back(order.at(position));
      others.push_back(other.at(position));
      REQUIRE(same.at(position) == visits.back());
    }
    for (std::size_t epoch = 0; epoch < 3; ++epoch) {
      const auto begin = visits.begin() + static_cast<long>(epoch * count);
      const std::set<std::size_t> seen(begin, begin + static_cast<long>(count));
      CHECK(seen.size() == count);
      CHECK(*seen.rbegin() == count - 1);
    }
    if (count == 100) {
      CHECK_FALSE(std::equal(visits.begin(), visits.begin() + 100, visits.begin() + 100));
      CHECK(visits != others);
    }
    for (std::uint64_t position = 3 * count; position-- > 0;) REQUIRE(backwards.at(position) == visits[position]);
  }
  CHECK_THROWS_AS(SampleOrder(0, 1), Error);
}

TEST_CASE("no batch has a sample twice, and only what would come twice is moved", "[trainer]") {
  std::ptrdiff_t all_twice = 0;
  for (const auto& [count, batch] : counts_and_batches())
    for (const std::uint64_t seed : {0U, 3U, 4U}) {
      INFO(count << " samples, batches of " << batch << ", seed " << seed);
      const std::vector<std::size_t> visits = visits_of(count, seed, batch);
      const auto from = [&visits](std::size_t place) { return visits.begin() + static_cast<std::ptrdiff_t>(place); };
      std::size_t repeated = 0, uneven = 0, wrongly_moved = 0;
      for (std::size_t first = 0; first + batch <= visits.size(); first += batch)
        repeated += batch - std::set<std::size_t>(from(first), from(first) + static_cast<std::ptrdiff_t>(batch)).size();
      for (std::size_t begin = 0; begin < visits.size(); begin += count) {
        const std::vector<std::size_t> plain = shuffled_epoch(count, seed, begin / count);
        uneven += std::is_permutation(plain.begin(), plain.end(), from(begin)) ? 0 : 1;
        // What the shuffle has in the rest of a batch that has it from the epoch before changes places with another.
        // Nothing does where a batch ends with the epoch.
        const std::size_t before = begin % batch;
        std::ptrdiff_t twice = 0, moved = 0;
        for (std::size_t i = 0; i < count; ++i) {
          if (before > 0 && before + i < batch) twice += std::count(from(begin - before), from(begin), plain[i]);
          moved += visits[begin + i] != plain[i] ? 1 : 0;
        }
        wrongly_moved += moved == 2 * twice ? 0 : 1;
        all_twice += twice;
      }
      CHECK(repeated == 0);
      CHECK(uneven == 0);
      CHECK(wrongly_moved == 0);
    }
  CHECK(all_twice > 0);
  CHECK_THROWS_AS(SampleOrder(4, 1, 0), Error);
  CHECK_THROWS_AS(SampleOrder(4, 1, 5), Error);
}

TEST_CASE("batches are the same wherever an order begins to be read, and made up of ranks' shares", "[trainer]") {
  constexpr std::uint64_t kSeed = 5;
  for (const auto& [count, batch] : counts_and_batches()) {
    INFO(count << " samples, batches of " << batch);
    const std::vector<std::size_t> visits = visits_of(count, kSeed, batch);
    std::size_t backwards_differ = 0, resumed_differ = 0, ranks_differ = 0;
    SampleOrder backwards(count, kSeed, batch);
    for (std::size_t position = visits.size(); position-- > 0;)
      backwards_differ += backwards.at(position) != visits[position] ? 1 : 0;
    for (std::size_t first = 0; first + batch <= visits.size(); first += batch) {
      SampleOrder resumed(count, kSeed, batch);
      for (std::size_t i = 0; i < batch; ++i) resumed_differ += resumed.at(first + i) != visits[first + i] ? 1 : 0;
    }
    for (const std::size_t ranks : {2U, 3U})
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        SampleOrder order(count, kSeed, batch);
        for (std::size_t first = 0; first + batch <= visits.size(); first += batch)
          for (std::size_t i = batch * rank / ranks; i < batch * (rank + 1) / ranks; ++i)
            ranks_differ += order.at(first + i) != visits[first + i] ? 1 : 0;
      }
    CHECK(backwards_differ == 0);
    CHECK(resumed_differ == 0);
    CHECK(ranks_differ == 0);
  }
}

TEST_CASE("a mixed order keeps its share at every length and visits each group evenly", "[trainer]") {
  const std::vector<std::int64_t> few = {4, 9, 11}, many = {0, 1, 2, 3, 5, 6, 7};
  for (const double share : {0.0, 0.25, 1.0 / 3, 0.5, 0.9, 1.0}) {
    INFO("share " << share);
    MixedSampleOrder order(few, many, share, 7);
    std::map<std::int64_t, int> visits;
    std::int64_t of_first = 0;
    for (std::uint64_t position = 0; position < 420; ++position) {
      const std::int64_t row = order.at(position);
      ++visits[row];
      of_first += std::count(few.begin(), few.end(), row);
      REQUIRE(of_first == static_cast<std::int64_t>(std::floor(static_cast<double>(position + 1) * share)));
    }
    for (const auto* group : {&few, &many}) {
      const auto [least, most] = std::minmax_element(
          group->begin(), group->end(), [&](std::int64_t a, std::int64_t b) { return visits[a] < visits[b]; });
      CHECK(visits[*most] - visits[*least] <= 1);
    }
  }
  MixedSampleOrder only_second({}, many, 0.5, 7);
  for (std::uint64_t position = 0; position < 20; ++position)
    CHECK(std::count(many.begin(), many.end(), only_second.at(position)) == 1);
  CHECK_THROWS_AS(MixedSampleOrder({}, {}, 0.5, 7), Error);
  CHECK_THROWS_AS(MixedSampleOrder(few, many, 1.5, 7), Error);
}
