#include <hwy/targets.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "brute_force.h"
#include "daug/index/retrieval_index.h"
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

}  // namespace

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
      if (item == 0) names.emplace_back(search_instruction_set());
      SearchStats stats;
      const auto found = index.search(queries, 9, SearchOptions{.stats = &stats});
      INFO("on " << names.back() << " item " << item);
      require_identical(found, expected);
      REQUIRE(stats.scanned > 0);
    }
  }
  CHECK(std::find(names.begin(), names.end(), usual) != names.end());
  CHECK(search_instruction_set() == usual);
}

#if !defined(DAUG_AVX512)
TEST_CASE("an instruction set that no machine has run the tests on is not chosen even where it is there", "[index]") {
  const OnlyTarget only(HWY_AVX3);
  CHECK(std::string(search_instruction_set()) != hwy::TargetName(HWY_AVX3));
}
#endif
