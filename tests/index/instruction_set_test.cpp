#include <hwy/targets.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/index/retrieval_index.h"
#include "index/scan_kernel.h"
#include "support/catch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// Lets searches run on one instruction set, until the end of the scope.
class OnlyTarget {
 public:
  explicit OnlyTarget(std::int64_t target) { set(target); }
  ~OnlyTarget() { set(0); }

 private:
  static void set(std::int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
  }
};

/// Lets searches multiply int8 codes in such tiles, until the end of the scope.
class OnlyTiles {
 public:
  explicit OnlyTiles(detail::TileUnit unit) { detail::set_tile_unit(unit); }
  ~OnlyTiles() { detail::set_tile_unit(detail::best_tile_unit()); }
};

/// Without tiles, in plain ones, and in the processor's where it has them.
std::vector<detail::TileUnit> tile_units() {
  std::vector<detail::TileUnit> units{detail::TileUnit::kNone, detail::TileUnit::kPlain};
  if (detail::best_tile_unit() == detail::TileUnit::kAmx) units.push_back(detail::TileUnit::kAmx);
  return units;
}

/// Random int8 codes of rows and int16 codes of queries, some at the ends of their ranges.
struct Codes {
  Codes(std::size_t blocks_, std::size_t count_, std::size_t dimension_, RandomStream& random)
      : blocks(blocks_), count(count_), dimension(dimension_), padded((dimension_ + 1) / 2 * 2) {
    const auto below = [&](std::int64_t n) { return static_cast<int>(random.below(n)); };
    rows.resize(blocks * detail::kBlockRows * padded);
    queries.resize(count * padded);
    for (std::size_t row = 0; row < blocks * detail::kBlockRows; ++row)
      for (std::size_t i = 0; i < dimension; ++i)
        rows[row * padded + i] = static_cast<std::int8_t>(below(4) == 0 ? 254 * below(2) - 127 : below(255) - 127);
    // Sums that fit into int32: the larger a query's codes, the fewer of its components there are.
    for (std::size_t query = 0; query < count; ++query)
      for (std::size_t i = 0; i < dimension; ++i)
        queries[query * padded + i] =
            static_cast<std::int16_t>(i < 400 && below(3) == 0 ? 65534 * below(2) - 32767 : below(511) - 255);
  }

  std::int64_t sum(std::size_t row, std::size_t query) const {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < dimension; ++i) sum += rows[row * padded + i] * queries[query * padded + i];
    return sum;
  }

  std::size_t blocks, count, dimension, padded;
  std::vector<std::int8_t> rows;  ///< [row][padded]
  std::vector<std::int16_t> queries;
};

}  // namespace

TEST_CASE("sums of products of int8 codes are exact, in tiles and without", "[index]") {
  RandomStream random(12, 0, "sums of codes");
  for (const std::size_t dimension : std::vector<std::size_t>{1, 2, 3, 31, 63, 64, 65, 127, 130, 512, 515}) {
    const Codes codes(1 + static_cast<std::size_t>(random.below(5)), 1 + static_cast<std::size_t>(random.below(50)),
                      dimension, random);
    const std::size_t row_count = codes.blocks * detail::kBlockRows;
    detail::LineVector<std::int8_t> blocks(codes.rows.size());
    for (std::size_t row = 0; row < row_count; ++row)
      for (std::size_t i = 0; i < codes.padded; ++i)
        blocks[row / detail::kBlockRows * detail::kBlockRows * codes.padded +
               (i / 2 * detail::kBlockRows + row % detail::kBlockRows) * 2 + i % 2] =
            codes.rows[row * codes.padded + i];
    const detail::LineVector<float> ones(row_count, 1), zeros(row_count, 0);
    const std::vector<float> factor(codes.count, 1), inverse(codes.count, 0),
        threshold(codes.count, -std::numeric_limits<float>::infinity());
    const detail::ScanRows rows{reinterpret_cast<const std::byte*>(blocks.data()), ones.data(), zeros.data(),
                                zeros.data(), codes.blocks};
    const detail::ScanQueries queries{reinterpret_cast<const std::byte*>(codes.queries.data()), factor.data(),
                                      inverse.data(), threshold.data(), codes.count};
    for (const auto unit : tile_units()) {
      const OnlyTiles only(unit);
      INFO("dimension " << dimension << " queries " << codes.count << " unit " << static_cast<int>(unit));
      std::vector<detail::Survivor> survivors(row_count * codes.count);
      REQUIRE(detail::scan(Storage::kInt8, rows, queries, dimension, survivors.data()) == survivors.size());
      std::vector<int> seen(survivors.size());
      for (const auto& survivor : survivors) {
        ++seen.at(survivor.query * row_count + survivor.row);
        REQUIRE(survivor.estimate == static_cast<float>(codes.sum(survivor.row, survivor.query)));
      }
      REQUIRE(std::count(seen.begin(), seen.end(), 1) == static_cast<std::ptrdiff_t>(seen.size()));
    }
  }
}

TEST_CASE("results are the same on every instruction set this processor has", "[index]") {
  const std::string usual = search_instruction_set();
  std::vector<std::string> names;
  for (std::int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
    const std::int64_t target = rest & -rest;
    for (std::uint64_t item = 0; item < 12; ++item) {
      RandomStream random(8, item, "instruction sets");
      const Storage storage = kStorages[item % 4];
      const Eigen::Index dimension = 1 + random.below(70);
      const RowMatrix vectors = random_rows(random, item % 2 ? Kind::kWideRange : Kind::kNearTies, 700, dimension);
      const RowMatrix queries = random_rows(random, Kind::kGaussian, 27, dimension);
      Ids ids(700);
      std::iota(ids.begin(), ids.end(), 0);
      RetrievalIndex index(dimension, kMetrics[item % 3], "", {storage});
      index.add(ids, vectors);
      const auto expected = index.search(queries, 9);
      const OnlyTarget only(target);
      for (const auto unit : tile_units()) {
        const OnlyTiles tiles(unit);
        if (item == 0) names.emplace_back(search_instruction_set());
        SearchStats stats;
        const auto found = index.search(queries, 9, SearchOptions{.stats = &stats});
        INFO("on " << names.back() << " item " << item);
        require_identical(found, expected);
        REQUIRE(stats.scanned > 0);
      }
    }
  }
  CHECK(std::find(names.begin(), names.end(), usual) != names.end());
  CHECK(search_instruction_set() == usual);
}

#if !defined(DAUG_AVX512)
TEST_CASE("an instruction set that is not compiled in is not chosen even where it is there", "[index]") {
  const OnlyTarget only(HWY_AVX3);
  CHECK(std::string(search_instruction_set()) != hwy::TargetName(HWY_AVX3));
}
#endif
