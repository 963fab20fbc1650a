#include "daug/metrics/retrieval_bootstrap.h"

#include <cmath>
#include <optional>
#include <vector>

#include "daug/core/random.h"
#include "metrics/intervals.h"
#include "support/catch.h"

namespace daug {

TEST_CASE("means of tables have the intervals of a bootstrap of rows, over some rows or all", "[metrics]") {
  for (std::uint64_t item = 0; item < 4; ++item) {
    RandomStream random(37, item, "retrieval bootstrap");
    RetrievalValues table{0, 3, {}};
    std::vector<std::int64_t> patients;
    std::vector<std::size_t> some;
    for (std::int64_t patient = 0; patient < 20; ++patient)
      for (std::uint32_t image = 0; image <= random.below(3); ++image, ++table.queries) {
        patients.push_back(1000 - patient);
        if (random.below(3) > 0) some.push_back(table.queries);
        for (int c = 0; c < 3; ++c) {
          const bool known = c == 2 ? patient < 2 : random.below(3) > 0;  // one column is rare
          table.values.push_back(known ? random.uniform() : std::nan(""));
        }
      }
    some.push_back(0);
    const BootstrapOptions options{60, 0.9, item, item < 3 ? IntervalMethod::kPercentile : IntervalMethod::kBca};
    for (const bool all : {true, false}) {
      std::vector<std::size_t> rows;
      if (all)
        for (std::size_t i = 0; i < table.queries; ++i) rows.push_back(i);
      else
        rows = some;
      std::vector<std::int64_t> owners;
      for (const std::size_t row : rows) owners.push_back(patients[row]);
      const auto slow = [&](const auto& pick) {
        return bootstrap(
            owners,
            [&](const std::vector<std::size_t>& drawn) -> std::optional<double> {
              std::vector<std::size_t> chosen;
              for (const std::size_t i : drawn) chosen.push_back(rows[i]);
              return pick(table.summarize(ArrayView<std::size_t>(chosen)));
            },
            options);
      };
      const FindingIntervals fast =
          bootstrap_values(table, patients, options, all ? RowSelection() : RowSelection(ArrayView<std::size_t>(rows)));
      check_equal(fast.macro, slow([](const FindingSummary& s) { return s.macro; }));
      check_equal(fast.weighted, slow([](const FindingSummary& s) { return s.weighted; }));
      REQUIRE(fast.finding.size() == 3);
      for (std::size_t c = 0; c < 3; ++c)
        check_equal(fast.finding[c], slow([c](const FindingSummary& s) { return s.finding[c]; }));
      if (all) CHECK(fast.finding[2]->degenerate > 0);
    }
  }
}

TEST_CASE("tables without values have no intervals, and wrong lengths are refused", "[metrics]") {
  const std::vector<std::int64_t> patients{1, 2};
  const RetrievalValues empty{2, 1, {std::nan(""), std::nan("")}};
  const FindingIntervals none = bootstrap_values(empty, patients);
  CHECK_FALSE(none.finding[0]);
  CHECK_FALSE(none.macro);
  CHECK_FALSE(none.weighted);
  CHECK_THROWS_AS(bootstrap_values(empty, std::vector<std::int64_t>{1}), Error);
  const PatientGroups one(std::vector<std::int64_t>{1}), both(patients);
  CHECK_THROWS_AS(SummedValues(empty, one), Error);
  CHECK_THROWS_AS(SummedValues(empty, both).summarize({1}), Error);
  const RetrievalValues table{2, 2, {1, std::nan(""), 4, 6}};
  const FindingSummary thrice = SummedValues(table, both).summarize({1, 3});
  CHECK(thrice.finding[0].value() == Approx((1 + 3 * 4) / 4.0));
  CHECK(thrice.finding[1].value() == 6);
  CHECK(thrice.weighted.value() == Approx((1 + 3 * 4 + 3 * 6) / 7.0));
  const std::vector<std::size_t> rows{2};
  CHECK_THROWS_AS(bootstrap_values(empty, patients, {}, ArrayView<std::size_t>(rows)), Error);
}

}  // namespace daug
