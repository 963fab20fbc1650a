#include "daug/metrics/subgroup.h"

#include <cmath>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

namespace daug {
namespace {

using Rows = std::vector<std::size_t>;

}  // namespace

TEST_CASE("a subgroup table of a hand-computed cohort", "[metrics]") {
  const std::vector<double> values{1, 3, 5, 7, 100};
  const std::vector<std::int64_t> patients{1, 1, 2, 3, 4};
  const std::vector<std::string> sex{"f", "f", "m", "f", ""}, site{"A", "A", "A", "A", "A"};
  const std::vector<SubgroupAttribute> attributes{{"sex", sex}, {"site", site}};
  const auto mean = [&](const Rows& rows) -> std::optional<double> {
    if (rows.empty()) return std::nullopt;
    double sum = 0;
    for (std::size_t row : rows) sum += values[row];
    return sum / static_cast<double>(rows.size());
  };
  SubgroupOptions options;
  options.smallest = 1;
  const SubgroupTable table = subgroup_table(patients, attributes, mean, options);
  CHECK(table.overall->value == Approx(116 / 5.0));
  REQUIRE(table.subgroups.size() == 3);
  const Subgroup &f = table.subgroups[0], &m = table.subgroups[1], &a = table.subgroups[2];
  CHECK(f.attribute == "sex");
  CHECK(f.value == "f");
  CHECK(f.rows == 3);
  CHECK(f.patients == 2);
  CHECK(f.figure->value == Approx(11 / 3.0));
  CHECK(f.figure->n == 3);
  CHECK(f.figure->low == Approx(2));  // both draws the first patient
  CHECK(f.figure->high == Approx(7));
  CHECK(f.gap->value == Approx(11 / 3.0 - 5));  // the patient of unknown sex is in neither
  CHECK(f.gap->n == 4);
  CHECK(f.gap->degenerate > 0);  // resamples with one sex only
  CHECK(m.gap->value == Approx(5 - 11 / 3.0));
  CHECK(a.value == "A");
  CHECK(a.figure->value == table.overall->value);
  CHECK(a.figure->low == table.overall->low);
  CHECK_FALSE(a.gap);
  REQUIRE(table.spreads.size() == 1);  // one site has nothing to lie apart from
  CHECK(table.spreads[0].attribute == "sex");
  CHECK(table.spreads[0].lowest == "f");
  CHECK(table.spreads[0].highest == "m");
  CHECK(table.spreads[0].spread == Approx(5 - 11 / 3.0));

  SECTION("small subgroups are listed but not measured") {
    options.smallest = 2;
    const SubgroupTable careful = subgroup_table(patients, attributes, mean, options);
    CHECK(careful.subgroups[0].figure);
    CHECK(careful.subgroups[1].patients == 1);
    CHECK_FALSE(careful.subgroups[1].figure);
    CHECK_FALSE(careful.subgroups[1].gap);
    CHECK(careful.spreads.empty());
  }
  SECTION("a gap has enough patients on both sides") {
    const std::vector<std::string> unequal{"m", "m", "f", "f", ""};  // one patient's two rows, and two patients' rows
    const std::vector<SubgroupAttribute> one{{"sex", unequal}};
    CHECK(subgroup_table(patients, one, mean, options).subgroups[0].gap->value == Approx(6 - 2));
    options.smallest = 2;
    const Subgroup women = subgroup_table(patients, one, mean, options).subgroups[0];
    CHECK(women.value == "f");
    CHECK(women.figure->value == Approx(6));
    CHECK_FALSE(women.gap);
  }
  SECTION("bad input is refused") {
    const std::vector<std::string> few{"f"};
    const std::vector<SubgroupAttribute> bad{{"sex", few}};
    CHECK_THROWS_WITH(subgroup_table(patients, bad, mean, options), "subgroup_table: sex: expected 5, got 1");
    options.smallest = 0;
    CHECK_THROWS_AS(subgroup_table(patients, attributes, mean, options), Error);
  }
}

TEST_CASE("a planted gap is found where it is and nowhere else", "[metrics]") {
  RandomStream random(2, 0, "subgroups");
  std::vector<double> values;
  std::vector<std::int64_t> patients;
  std::vector<std::string> site, view;
  for (int i = 0; i < 600; ++i) {
    patients.push_back(i / 2);
    site.push_back(i % 3 == 0 ? "north" : "south");
    view.push_back(i % 2 ? "AP" : "PA");
    values.push_back(random.normal() + (i % 3 == 0 ? 0.8 : 0));
  }
  const auto mean = [&](const Rows& rows) -> std::optional<double> {
    double sum = 0;
    for (std::size_t row : rows) sum += values[row];
    return sum / static_cast<double>(rows.size());
  };
  const std::vector<SubgroupAttribute> attributes{{"site", site}, {"view", view}};
  SubgroupOptions options;
  options.bootstrap.resamples = 300;
  const SubgroupTable table = subgroup_table(patients, attributes, mean, options);
  for (const Subgroup& group : table.subgroups) {
    const bool excludes_zero = group.gap->low > 0 || group.gap->high < 0;
    CHECK(excludes_zero == (group.attribute == "site"));
  }
  CHECK(table.subgroups[0].gap->value == Approx(0.8).margin(0.4));
}

TEST_CASE("age bands", "[metrics]") {
  const std::vector<int> edges{40, 65};
  CHECK(age_band(0, edges) == "<40");
  CHECK(age_band(39.9, edges) == "<40");
  CHECK(age_band(40, edges) == "40-64");
  CHECK(age_band(64.5, edges) == "40-64");
  CHECK(age_band(65, edges) == ">=65");
  CHECK(age_band(std::nan(""), edges) == "");
  CHECK_THROWS_AS(age_band(-1, edges), Error);
  CHECK_THROWS_AS(age_band(50, std::vector<int>{}), Error);
  CHECK_THROWS_AS(age_band(50, std::vector<int>{65, 40}), Error);
}

}  // namespace daug
