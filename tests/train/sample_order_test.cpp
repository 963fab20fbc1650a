// The orders in which a training visits its samples.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "daug/core/error.h"
#include "daug/train/trainer.h"
#include "support/catch.h"

using namespace daug;

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
