#include "kernels/search_select.h"

#include <limits>

#include "kernels/cuda/launch_plan.h"
#include "kernels/emulation.h"
#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// How scores follow each other.
enum class Kind { kRandom, kTies, kRising, kFalling, kEqual };

/// Which rows count.
enum class Filtered { kNot, kAlike, kEach };  ///< all; the same for all queries; some of each query's own

/// Scores and what goes with them, of numbers that float32 adds up exactly.
struct Problem {
  std::int64_t queries, rows;
  int wanted;
  std::vector<float> scores, error, offset, inverse;  ///< scores are eighths of whole numbers
  std::vector<std::int32_t> allowed;                  ///< empty: all are
  bool offsets;
  bool sums = false;        ///< scores are given as sums of products of whole numbers
  std::size_t skipped = 0;  ///< bytes from an address that is a multiple of 16 to where scores and such begin

  Problem(std::int64_t queries_, std::int64_t rows_, int wanted_, Kind kind, bool offsets_, Filtered filtered)
      : queries(queries_), rows(rows_), wanted(wanted_), offsets(offsets_) {
    RandomStream random(5, static_cast<std::uint64_t>(rows), "search select test");
    for (std::int64_t i = 0; i < queries * rows; ++i) {
      const std::int64_t row = i % rows;
      const auto number = [&](std::uint32_t many) { return static_cast<float>(random.below(many)) / 8; };
      scores.push_back(kind == Kind::kRandom    ? number(1 << 16) - 4096
                       : kind == Kind::kTies    ? number(16) - 1
                       : kind == Kind::kRising  ? static_cast<float>(row)
                       : kind == Kind::kFalling ? -static_cast<float>(row)
                                                : 1.0F);
    }
    for (std::int64_t row = 0; row < rows; ++row) {
      error.push_back(kind == Kind::kRandom ? static_cast<float>(random.below(64)) / 16 : 0.0F);
      offset.push_back(kind == Kind::kRandom ? static_cast<float>(random.below(64)) : 2.0F);
    }
    if (rows > 5 && kind == Kind::kRandom) error[5] = std::numeric_limits<float>::infinity();
    for (std::int64_t query = 0; query < queries; ++query) inverse.push_back(static_cast<float>(query + 1) / 4);
    const std::int64_t filters = filtered == Filtered::kNot ? 0 : filtered == Filtered::kAlike ? 1 : queries;
    for (std::int64_t word = 0; word < filters * words(); ++word)
      allowed.push_back(static_cast<std::int32_t>(random.below(0xffffffffU) & random.below(0xffffffffU)));
  }

  std::int64_t words() const { return (rows + 31) / 32; }
  bool each() const { return static_cast<std::int64_t>(allowed.size()) > words(); }
  bool counts(std::int64_t query, std::int64_t row) const {
    if (allowed.empty()) return true;
    const std::int32_t word = allowed[at((each() ? query * words() : 0) + row / 32)];
    return ((static_cast<std::uint32_t>(word) >> (row % 32)) & 1U) != 0;
  }
  double bound(std::int64_t query, std::int64_t row) const {
    const double plain = static_cast<double>(scores[at(query * rows + row)]) + static_cast<double>(error[at(row)]);
    return offsets ? plain - static_cast<double>(offset[at(row)]) * static_cast<double>(inverse[at(query)]) : plain;
  }
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  /// A sort of all rows.
  std::vector<std::uint64_t> expected() const {
    std::vector<std::uint64_t> keys;
    for (std::int64_t query = 0; query < queries; ++query) {
      std::vector<std::pair<double, std::int64_t>> found;
      for (std::int64_t row = 0; row < rows; ++row)
        if (counts(query, row)) found.emplace_back(-bound(query, row), row);
      std::sort(found.begin(), found.end());
      for (std::size_t i = 0; i < at(wanted); ++i)
        keys.push_back(i < found.size() ? cuda::search_key(static_cast<float>(-found[i].first), found[i].second) : 0);
    }
    return keys;
  }

  /// Tile by tile, of so many rows each (a multiple of 32).
  std::vector<std::uint64_t> run(std::int64_t tile_rows) const {
    DeviceMemory best(std::vector<std::uint64_t>(at(queries * wanted), 0));
    for (std::int64_t first = 0; first < rows; first += tile_rows) {
      SearchTile tile;
      tile.queries = queries, tile.rows = std::min(tile_rows, rows - first), tile.first_row = first;
      tile.wanted = wanted, tile.best = static_cast<std::uint64_t*>(best.data());
      const auto part = [&](const auto& values, std::int64_t begin, std::int64_t end) {
        return DeviceMemory(std::vector(values.begin() + begin, values.begin() + end), skipped);
      };
      std::vector<float> of_tile;
      for (std::int64_t query = 0; query < queries; ++query) {
        const auto begin = scores.begin() + query * rows + first;
        of_tile.insert(of_tile.end(), begin, begin + tile.rows);
      }
      DeviceMemory tile_scores(of_tile, skipped), tile_error = part(error, first, first + tile.rows),
                                                  tile_offset = part(offset, first, first + tile.rows),
                                                  inverses(inverse);
      std::vector<std::int32_t> bits, high, low;
      const std::int64_t tile_words = (tile.rows + 31) / 32;
      for (std::int64_t begin = first / 32; begin < static_cast<std::int64_t>(allowed.size()); begin += words())
        bits.insert(bits.end(), allowed.begin() + begin, allowed.begin() + begin + tile_words);
      if (sums)
        for (const float score : of_tile) {  // eighths of 256 high + low, both of either sign
          const auto whole = static_cast<std::int32_t>(8 * score);
          high.push_back((whole + 128) >> 8);
          low.push_back(whole - 256 * high.back());
        }
      std::vector<float> halves(at(tile.rows), 0.5F), quarters(at(queries), 0.25F);
      DeviceMemory mask(bits), tile_high(high, skipped), tile_low(low, skipped), scale(halves, skipped),
          factor(quarters);
      if (sums) {
        tile.high = static_cast<std::int32_t*>(tile_high.data());
        tile.low = static_cast<std::int32_t*>(tile_low.data());
        tile.scale = scale.floats(), tile.factor = factor.floats();
      } else {
        tile.scores = tile_scores.floats();
      }
      tile.error = tile_error.floats();
      if (each()) tile.allowed_stride = tile_words;
      if (offsets) tile.offset = tile_offset.floats(), tile.inverse = inverses.floats();
      if (!allowed.empty()) tile.allowed = static_cast<std::int32_t*>(mask.data());
      DeviceMemory workspace(at(search_select_workspace(tile)) * sizeof(std::uint64_t));
      const Launched launched;
      launched.check(search_select_device(tile, static_cast<std::uint64_t*>(workspace.data()), launched.where));
    }
    return best.values<std::uint64_t>();
  }
};

}  // namespace

TEST_CASE("the best rows of scores on a device, emulated, are those of a sort", "[kernels][emulated]") {
  for (const Kind kind : {Kind::kRandom, Kind::kTies, Kind::kRising, Kind::kFalling, Kind::kEqual})
    for (const std::int64_t rows : {1, 33, 1025, 2049, 5000})
      for (const int wanted : {1, 7, 128, 1024}) {
        const auto filtered = static_cast<Filtered>((rows + wanted) % 3);
        const bool offsets = (rows + wanted) % 2 == 0;
        INFO("kind " << static_cast<int>(kind) << " rows " << rows << " wanted " << wanted << " filtered "
                     << static_cast<int>(filtered));
        Problem problem(2, rows, wanted, kind, offsets, filtered);
        problem.sums = wanted == 7 || (wanted == 128 && filtered == Filtered::kEach);
        const auto expected = problem.expected();
        CHECK(in_both_orders([&] { return problem.run(1 << 20); }) == expected);
        if (rows > 1024) CHECK(problem.run(1504) == expected);
        if (rows == 1025) CHECK(problem.run(32) == expected);
      }
}

TEST_CASE("the best of more scores than go first, emulated, are those of a sort", "[kernels][emulated]") {
  for (const Kind kind : {Kind::kRandom, Kind::kTies, Kind::kRising, Kind::kFalling})
    for (const int wanted : {3, 1024}) {
      INFO("kind " << static_cast<int>(kind) << " wanted " << wanted);
      const Problem problem(2, 40001, wanted, kind, true, wanted == 3 ? Filtered::kAlike : Filtered::kNot);
      const auto expected = problem.expected();
      CHECK(in_both_orders([&] { return problem.run(1 << 20); }) == expected);
      CHECK(problem.run(17408) == expected);
    }
  const Problem all_filtered = [] {
    Problem problem(3, 100, 5, Kind::kRandom, false, Filtered::kAlike);
    std::fill(problem.allowed.begin(), problem.allowed.end(), 0);
    return problem;
  }();
  CHECK(all_filtered.run(64) == std::vector<std::uint64_t>(15, 0));
}

TEST_CASE("the best rows of scores on a device, emulated, wherever these begin and however many there are",
          "[kernels][emulated]") {
  for (const Kind kind : {Kind::kRandom, Kind::kEqual})
    for (const std::int64_t rows : {3, 255, 257, 2047, 2048, 4099})
      for (const std::size_t skipped : {4, 8, 12}) {
        INFO("kind " << static_cast<int>(kind) << " rows " << rows << " skipped " << skipped);
        Problem problem(3, rows, 9, kind, skipped == 4, static_cast<Filtered>((rows + skipped / 4) % 3));
        problem.skipped = skipped, problem.sums = skipped == 8;
        const auto expected = problem.expected();
        CHECK(in_both_orders([&] { return problem.run(1 << 20); }) == expected);
        if (rows > 2048) CHECK(problem.run(2080) == expected);
      }
}

TEST_CASE("scores that are no numbers, emulated, come first, so that nobody misses them", "[kernels][emulated]") {
  const std::vector<std::int64_t> rows = {7, 2050, 2999};
  Problem without(2, 3000, 5, Kind::kRandom, false, Filtered::kNot);
  for (std::int64_t query = 0; query < 2; ++query)
    for (const std::int64_t row : rows) without.scores[Problem::at(query * 3000 + row)] = -1e6F;  // last of all
  Problem problem = without;
  for (float& score : problem.scores)
    if (score == -1e6F) score = std::numeric_limits<float>::quiet_NaN();
  const auto numbers = without.expected();
  const auto found = in_both_orders([&] { return problem.run(1 << 20); });
  REQUIRE(found.size() == 10);
  for (std::size_t query = 0; query < 2; ++query) {
    for (std::size_t i = 0; i < 3; ++i) CHECK(cuda::row_of(found[5 * query + i]) == rows[i]);
    for (std::size_t i = 3; i < 5; ++i) CHECK(found[5 * query + i] == numbers[5 * query + i - 3]);
  }
}

TEST_CASE("a search on a device, emulated: nothing to do, and more than a launch takes", "[kernels][emulated]") {
  SearchTile tile;
  CHECK(search_select_device(tile, nullptr, {}).problem == nullptr);
  tile.queries = 1, tile.rows = 32, tile.wanted = cuda::kMostWanted + 1;
  CHECK(search_select_device(tile, nullptr, {}).problem != nullptr);
  tile.wanted = 1, tile.first_row = cuda::kMostRows;
  CHECK(search_select_device(tile, nullptr, {}).problem != nullptr);
  tile.first_row = 0, tile.queries = cuda::kMostInGrid + 1;
  CHECK(search_select_device(tile, nullptr, {}).problem != nullptr);
}
