#include "daug/core/random.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "support/catch.h"

using namespace daug;

namespace {

using Words = std::array<std::uint32_t, 4>;

std::vector<std::uint32_t> take(RandomStream stream, std::size_t count) {
  std::vector<std::uint32_t> values(count);
  for (auto& value : values) value = stream();
  return values;
}

}  // namespace

TEST_CASE("Philox4x32-10 gives the known answers of the Random123 distribution", "[core]") {
  CHECK(detail::philox({0, 0, 0, 0}, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(detail::philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffff, 0xffffffff) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(detail::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("the text hash is FNV-1a and the seed mixer SplitMix64", "[core]") {
  CHECK(hash_text("") == 0xcbf29ce484222325ULL);
  CHECK(hash_text("a") == 0xaf63dc4c8601ec8cULL);
  CHECK(hash_text("foobar") == 0x85944171f73967e8ULL);
  CHECK(detail::mix64(0) == 0xe220a8397b1dcdafULL);  // first output of SplitMix64 seeded with 0
}

TEST_CASE("a stream depends on seed, item and purpose, and each of them matters", "[core]") {
  const auto reference = take(RandomStream(1, 2, "noise"), 64);
  CHECK(take(RandomStream(1, 2, "noise"), 64) == reference);
  CHECK(take(RandomStream(2, 2, "noise"), 64) != reference);
  CHECK(take(RandomStream(1, 3, "noise"), 64) != reference);
  CHECK(take(RandomStream(1, 2ULL + (1ULL << 32), "noise"), 64) != reference);
  CHECK(take(RandomStream(1, 2, "crop"), 64) != reference);
  CHECK(take(RandomStream(2, 1, "noise"), 64) != reference);
}

TEST_CASE("the order in which items are drawn does not change what they get", "[core]") {
  constexpr std::uint64_t kItems = 50;
  std::map<std::uint64_t, double> forward;
  for (std::uint64_t item = 0; item < kItems; ++item) forward[item] = RandomStream(7, item, "order").normal();

  std::vector<std::uint64_t> order(kItems);
  std::iota(order.begin(), order.end(), 0);
  RandomStream(3, 0, "shuffle").shuffle(order.begin(), order.end());
  std::vector<RandomStream> interleaved;
  for (const auto item : order) interleaved.emplace_back(7, item, "order");
  for (std::size_t i = 0; i < order.size(); ++i) CHECK(interleaved[i].normal() == forward[order[i]]);
}

TEST_CASE("a copy continues from the same position", "[core]") {
  RandomStream stream(5, 6, "copy");
  for (int i = 0; i < 7; ++i) stream();
  stream.normal();  // leaves a spare behind
  RandomStream copy = stream;
  CHECK(copy.normal() == stream.normal());
  CHECK(take(copy, 9) == take(stream, 9));
}

TEST_CASE("a long stream repeats no block", "[core]") {
  RandomStream stream(0, 0, "period");
  std::vector<std::uint64_t> pairs(200000);
  for (auto& pair : pairs) pair = static_cast<std::uint64_t>(stream()) << 32 | stream();
  std::sort(pairs.begin(), pairs.end());
  // The chance of one collision among 2e5 64-bit values is 1e-9.
  CHECK(std::adjacent_find(pairs.begin(), pairs.end()) == pairs.end());
}

TEST_CASE("uniform numbers have the moments and range of the uniform distribution", "[core]") {
  constexpr int kCount = 200000;
  RandomStream stream(11, 0, "uniform");
  double sum = 0;
  double squares = 0;
  double lagged = 0;
  double previous = 0.5;
  for (int i = 0; i < kCount; ++i) {
    const double value = stream.uniform();
    REQUIRE(value >= 0);
    REQUIRE(value < 1);
    sum += value;
    squares += value * value;
    lagged += (value - 0.5) * (previous - 0.5);
    previous = value;
  }
  // Five standard deviations: of the mean 1/sqrt(12 n), of the mean square sqrt(4/45 / n), of the product 1/(12 sqrt
  // n).
  const double root = std::sqrt(static_cast<double>(kCount));
  CHECK(sum / kCount == Approx(0.5).margin(5 / (std::sqrt(12.0) * root)));
  CHECK(squares / kCount == Approx(1.0 / 3).margin(5 * std::sqrt(4.0 / 45) / root));
  CHECK(lagged / kCount == Approx(0).margin(5 / (12 * root)));
  for (int i = 0; i < 1000; ++i) {
    const double value = stream.uniform(-3, 2);
    REQUIRE(value >= -3);
    REQUIRE(value < 2);
  }
}

TEST_CASE("normal numbers have the first four moments of the standard normal", "[core]") {
  constexpr int kCount = 200000;
  RandomStream stream(12, 0, "normal");
  std::array<double, 4> moments{};
  for (int i = 0; i < kCount; ++i) {
    const double value = stream.normal();
    REQUIRE(std::isfinite(value));
    double power = 1;
    for (auto& moment : moments) moment += power *= value;
  }
  // Var(x^k) = E x^2k - (E x^k)^2 = 1, 2, 15, 96 for k = 1..4; five standard deviations.
  const double root = std::sqrt(static_cast<double>(kCount));
  CHECK(moments[0] / kCount == Approx(0).margin(5 / root));
  CHECK(moments[1] / kCount == Approx(1).margin(5 * std::sqrt(2.0) / root));
  CHECK(moments[2] / kCount == Approx(0).margin(5 * std::sqrt(15.0) / root));
  CHECK(moments[3] / kCount == Approx(3).margin(5 * std::sqrt(96.0) / root));
}

TEST_CASE("neighbouring seeds and items are uncorrelated", "[core]") {
  constexpr int kCount = 100000;
  double by_seed = 0;
  double by_item = 0;
  for (int i = 0; i < kCount; ++i) {
    const auto n = static_cast<std::uint64_t>(i);
    const double here = RandomStream(n, 0, "x").uniform() - 0.5;
    by_seed += here * (RandomStream(n + 1, 0, "x").uniform() - 0.5);
    by_item += (RandomStream(0, n, "x").uniform() - 0.5) * (RandomStream(0, n + 1, "x").uniform() - 0.5);
  }
  const double bound = 5 / (12 * std::sqrt(static_cast<double>(kCount)));
  CHECK(by_seed / kCount == Approx(0).margin(bound));
  CHECK(by_item / kCount == Approx(0).margin(bound));
}

TEST_CASE("below() reaches every value equally often", "[core]") {
  RandomStream stream(13, 0, "below");
  CHECK(stream.below(1) == 0);
  constexpr int kSides = 7;
  constexpr int kCount = 70000;
  std::array<int, kSides> counts{};
  for (int i = 0; i < kCount; ++i) {
    const auto side = stream.below(kSides);
    REQUIRE(side < kSides);
    ++counts[side];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += std::pow(count - kCount / kSides, 2) / (kCount / kSides);
  CHECK(chi_square < 27.9);  // 6 degrees of freedom, p = 1e-4
}

TEST_CASE("shuffle makes every permutation equally likely and keeps the elements", "[core]") {
  std::map<std::string, int> counts;
  constexpr int kCount = 24000;
  for (std::uint64_t item = 0; item < kCount; ++item) {
    std::string letters = "abcd";
    RandomStream(14, item, "shuffle").shuffle(letters.begin(), letters.end());
    ++counts[letters];
  }
  REQUIRE(counts.size() == 24);
  double chi_square = 0;
  for (const auto& [letters, count] : counts) chi_square += std::pow(count - kCount / 24.0, 2) / (kCount / 24.0);
  CHECK(chi_square < 58.6);  // 23 degrees of freedom, p = 6e-5

  std::vector<int> one{42};
  RandomStream(0, 0, "shuffle").shuffle(one.begin(), one.end());
  CHECK(one == std::vector<int>{42});
}
