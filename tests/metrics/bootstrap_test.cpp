#include "daug/metrics/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "support/catch.h"

namespace daug {
namespace {

using Rows = std::vector<std::size_t>;

/// Mean of a column of values over the selected rows.
struct Mean {
  const std::vector<double>& values;
  std::optional<double> operator()(const Rows& rows) const {
    double sum = 0;
    for (std::size_t row : rows) sum += values[row];
    return sum / static_cast<double>(rows.size());
  }
};

struct Cohort {
  std::vector<double> values;
  std::vector<std::int64_t> groups;
};

Cohort normal_cohort(std::size_t patients, std::size_t images) {
  Cohort cohort;
  RandomStream random(41, 0, "bootstrap test");
  for (std::size_t patient = 0; patient < patients; ++patient) {
    const double value = random.normal();
    for (std::size_t image = 0; image < images; ++image) {
      cohort.values.push_back(value);
      cohort.groups.push_back(static_cast<std::int64_t>(1000 - patient));
    }
  }
  return cohort;
}

}  // namespace

TEST_CASE("the bootstrap interval of a mean matches its normal approximation", "[metrics]") {
  const Cohort cohort = normal_cohort(400, 1);
  const Interval interval = bootstrap(cohort.groups, Mean{cohort.values}, {4000, 0.95, 7}).value();
  double mean = 0, square = 0;
  for (double value : cohort.values) mean += value / 400;
  for (double value : cohort.values) square += (value - mean) * (value - mean) / 400;
  const double half = 1.96 * std::sqrt(square / 400);
  CHECK(interval.value == Approx(mean));
  CHECK(interval.low == Approx(mean - half).margin(0.1 * half));
  CHECK(interval.high == Approx(mean + half).margin(0.1 * half));
  CHECK(interval.n == 400);
  CHECK(interval.groups == 400);
  CHECK(interval.degenerate == 0);
  const Interval narrow = bootstrap(cohort.groups, Mean{cohort.values}, {4000, 0.5, 7}).value();
  CHECK(narrow.high - narrow.low == Approx((interval.high - interval.low) * 0.6745 / 1.96).epsilon(0.1));
}

TEST_CASE("copies of a patient's image add nothing to what is known", "[metrics]") {
  const Cohort single = normal_cohort(50, 1), copied = normal_cohort(50, 8);
  const Interval a = bootstrap(single.groups, Mean{single.values}).value();
  const Interval b = bootstrap(copied.groups, Mean{copied.values}).value();
  CHECK(b.low == Approx(a.low));
  CHECK(b.high == Approx(a.high));
  CHECK(b.n == 400);
  CHECK(b.groups == 50);
  std::vector<std::int64_t> rows_as_patients(copied.values.size());
  for (std::size_t i = 0; i < rows_as_patients.size(); ++i) rows_as_patients[i] = static_cast<std::int64_t>(i);
  const Interval naive = bootstrap(rows_as_patients, Mean{copied.values}).value();
  CHECK(naive.high - naive.low < 0.6 * (b.high - b.low));
}

TEST_CASE("a resample draws as many patients as there are and brings all their rows", "[metrics]") {
  const std::vector<std::int64_t> groups{5, -2, 5, 9, 9, 9};
  std::set<Rows> seen;
  const auto record = [&](const Rows& rows) -> std::optional<double> {
    seen.insert(rows);
    int patients = 0;
    for (std::size_t i = 0; i < rows.size(); ++patients) {
      const std::size_t size = rows[i] == 1 ? 1 : rows[i] == 0 ? 2 : 3;
      const Rows whole = rows[i] == 1 ? Rows{1} : rows[i] == 0 ? Rows{0, 2} : Rows{3, 4, 5};
      REQUIRE(i + size <= rows.size());
      if (rows.size() != 6 || rows[1] != 1)
        REQUIRE(std::equal(whole.begin(), whole.end(), rows.begin() + static_cast<std::ptrdiff_t>(i)));
      i += size;
    }
    return static_cast<double>(rows.size());
  };
  const auto interval = bootstrap(groups, [&](const Rows& rows) -> std::optional<double> {
    if (rows == Rows{0, 1, 2, 3, 4, 5}) return 6.0;  // the data themselves, in their own order
    return record(rows);
  });
  REQUIRE(interval);
  CHECK(seen.size() == 27);  // three patients drawn three times
  CHECK(interval->low == 3);
  CHECK(interval->high == 9);
}

TEST_CASE("bootstrap draws depend on the seed alone", "[metrics]") {
  const Cohort cohort = normal_cohort(30, 2);
  const auto run = [&](std::uint64_t seed, int resamples) {
    std::vector<Rows> draws;
    bootstrap(cohort.groups,
              [&](const Rows& rows) -> std::optional<double> {
                draws.push_back(rows);
                return 0.0;
              },
              {resamples, 0.95, seed});
    return draws;
  };
  const auto draws = run(3, 20), again = run(3, 50), other = run(4, 20);
  REQUIRE(draws.size() == 21);  // the data, then the resamples
  CHECK(std::equal(draws.begin(), draws.end(), again.begin()));
  CHECK(draws != other);
}

TEST_CASE("percentiles interpolate between order statistics", "[metrics]") {
  const std::vector<std::int64_t> groups{0, 1};
  double next = -1;
  // Statistic: 0 for the data, then 1, 2, ..., 5 for the resamples, out of order.
  const std::vector<double> values{0, 4, 1, 5, 2, 3};
  const auto interval =
      bootstrap(groups, [&](const Rows&) -> std::optional<double> { return values[static_cast<std::size_t>(++next)]; },
                {5, 0.7, 0});
  REQUIRE(interval);
  CHECK(interval->value == 0);
  CHECK(interval->low == Approx(1.6));
  CHECK(interval->high == Approx(4.4));
}

TEST_CASE("resamples that do not define the statistic are skipped and counted", "[metrics]") {
  const std::vector<std::int64_t> groups{0, 1};
  const auto needs_both = [](const Rows& rows) -> std::optional<double> {
    if (rows[0] == rows[1]) return std::nullopt;
    return 1.0;
  };
  const Interval interval = bootstrap(groups, needs_both, {2000, 0.95, 1}).value();
  CHECK(interval.degenerate == Approx(1000).margin(100));
  CHECK(interval.low == 1);
  CHECK(interval.high == 1);
  CHECK_FALSE(bootstrap(groups, [](const Rows&) { return std::optional<double>(); }));
  CHECK_FALSE(bootstrap(groups, [](const Rows&) { return std::optional<double>(std::nan("")); }));

  bool first = true;
  const Interval data_only = bootstrap(groups, [&](const Rows&) -> std::optional<double> {
                               return std::exchange(first, false) ? std::optional<double>(2) : std::nullopt;
                             }).value();
  CHECK(data_only.value == 2);
  CHECK(std::isnan(data_only.low));
  CHECK(std::isnan(data_only.high));
  CHECK(data_only.degenerate == 1000);
}

TEST_CASE("one patient gives an interval without width", "[metrics]") {
  const std::vector<std::int64_t> groups{3, 3, 3};
  const std::vector<double> values{1, 2, 6};
  const Interval interval = bootstrap(groups, Mean{values}).value();
  CHECK(interval.low == 3);
  CHECK(interval.high == 3);
}

TEST_CASE("paired intervals use the same resamples for both statistics", "[metrics]") {
  const Cohort cohort = normal_cohort(80, 1);
  std::vector<double> shifted, noisy;
  RandomStream random(6, 0, "paired");
  for (double value : cohort.values) {
    shifted.push_back(value + 0.5);
    noisy.push_back(value + 0.5 + 0.1 * random.normal());
  }
  const Interval same = paired_bootstrap(cohort.groups, Mean{cohort.values}, Mean{cohort.values}).value();
  CHECK(same.low == 0);
  CHECK(same.high == 0);
  const Interval shift = paired_bootstrap(cohort.groups, Mean{shifted}, Mean{cohort.values}).value();
  CHECK(shift.value == Approx(0.5));
  CHECK(shift.low == Approx(0.5));
  CHECK(shift.high == Approx(0.5));
  const Interval difference = paired_bootstrap(cohort.groups, Mean{noisy}, Mean{cohort.values}).value();
  const Interval alone = bootstrap(cohort.groups, Mean{noisy}).value();
  CHECK(difference.low > 0.4);
  CHECK(difference.high - difference.low < 0.3 * (alone.high - alone.low));
  CHECK_FALSE(paired_bootstrap(cohort.groups, Mean{noisy}, [](const Rows&) { return std::optional<double>(); }));
}

TEST_CASE("the BCa interval of scripted draws is that of its formula", "[metrics]") {
  // The data give 2.5; the resamples 1, 2, ..., 9; without either patient 2 and 5.
  const std::vector<std::int64_t> groups{0, 1};
  double call = 0;
  const auto scripted = [&](const Rows& rows) -> std::optional<double> {
    if (++call == 1) return 2.5;
    if (rows.size() == 1) return rows[0] == 1 ? 2 : 5;
    return call - 1;
  };
  const Interval interval = bootstrap(groups, scripted, {9, 0.8, 0, IntervalMethod::kBca}).value();
  const double bias = normal_quantile(2 / 9.0);  // two of nine draws lie below the value
  // Differences from the mean 3.5 are 1.5 and -1.5: their cubes cancel, the acceleration is 0.
  const auto place = [&](double z) { return normal_cdf(2 * bias + z) * 8; };
  CHECK(interval.value == 2.5);
  CHECK(interval.low == Approx(1 + place(normal_quantile(0.1))));
  CHECK(interval.high == Approx(1 + place(normal_quantile(0.9))));
}

TEST_CASE("the acceleration is a sixth of the skewness of leaving one out", "[metrics]") {
  // Mean 1, differences 1, 1, -2: cubes sum to -6, squares to 6.
  CHECK(detail::acceleration({0, 0, 3}) == Approx(-6 / (6 * std::pow(6, 1.5))));
  CHECK(detail::acceleration({4, 4}) == 0);
  CHECK(detail::bca_fraction(0.025, 0, 0) == Approx(0.025));
  const double z = 0.2 - 1.959963984540054;
  CHECK(detail::bca_fraction(0.025, 0.2, 0.1) == Approx(normal_cdf(0.2 + z / (1 - 0.1 * z))));
  CHECK(std::isnan(detail::bca_fraction(0.025, INFINITY, 0)));
  CHECK(std::isnan(detail::bca_fraction(0.975, 3, 0.5)));
}

TEST_CASE("BCa follows the percentiles for a symmetric mean and leans with a skewed one", "[metrics]") {
  const Cohort cohort = normal_cohort(400, 1);
  const auto interval = [](const Cohort& of, IntervalMethod method) {
    return bootstrap(of.groups, Mean{of.values}, {4000, 0.95, 7, method}).value();
  };
  const Interval percentile = interval(cohort, IntervalMethod::kPercentile);
  const Interval bca = interval(cohort, IntervalMethod::kBca);
  const double width = percentile.high - percentile.low;
  CHECK(bca.low == Approx(percentile.low).margin(0.05 * width));
  CHECK(bca.high == Approx(percentile.high).margin(0.05 * width));
  Cohort skewed = normal_cohort(40, 2);
  for (double& value : skewed.values) value = std::exp(1.5 * value);
  CHECK(interval(skewed, IntervalMethod::kBca).low > interval(skewed, IntervalMethod::kPercentile).low);
  CHECK(interval(skewed, IntervalMethod::kBca).high > interval(skewed, IntervalMethod::kPercentile).high);
}

TEST_CASE("an interval that BCa does not define is no number", "[metrics]") {
  const std::vector<std::int64_t> groups{0, 1, 2};
  bool first = true;
  const auto above =
      bootstrap(groups, [&](const Rows&) { return std::optional(std::exchange(first, false) ? 0.0 : 1.0); },
                {50, 0.95, 0, IntervalMethod::kBca});
  CHECK(above->value == 0);
  CHECK(std::isnan(above->low));
  CHECK(std::isnan(above->high));
  const Interval constant =
      bootstrap(groups, [](const Rows&) { return std::optional(4.0); }, {50, 0.95, 0, IntervalMethod::kBca}).value();
  CHECK(constant.low == 4);
  CHECK(constant.high == 4);
}

TEST_CASE("rounding neither moves nor bends a BCa interval", "[metrics]") {
  // 0.1 ten times is 0.9999999999999999, so that all are a little above their mean.
  CHECK(detail::acceleration(std::vector<double>(10, 0.1)) == 0);
  CHECK(detail::acceleration({0.1, 0.1, std::nextafter(0.1, 1.0)}) == 0);
  CHECK(detail::acceleration({1, 1, 1 + 3e-6}) == Approx(-6 / (6 * std::pow(6, 1.5))).epsilon(1e-6));
  const BootstrapOptions options{50, 0.95, 0, IntervalMethod::kBca};
  bool first = true;
  const auto summed = bootstrap(
      std::vector<std::int64_t>{0, 1, 2},
      [&](const Rows&) { return std::optional(std::exchange(first, false) ? 0.1 + 0.2 : 0.3); }, options);
  REQUIRE(summed);
  CHECK(summed->value != 0.3);
  CHECK(summed->low == 0.3);
  CHECK(summed->high == 0.3);
}

TEST_CASE("copies of patients describe the same resamples as their rows", "[metrics]") {
  const Cohort cohort = normal_cohort(30, 3);
  const PatientGroups patients(cohort.groups);
  const auto by_copies = [&](const PatientCopies& copies) {
    double sum = 0, rows = 0;
    for (std::size_t row = 0; row < cohort.values.size(); ++row) {
      sum += copies[patients.of(row)] * cohort.values[row];
      rows += copies[patients.of(row)];
    }
    return std::vector<double>{sum / rows, std::nan("")};
  };
  for (auto method : {IntervalMethod::kPercentile, IntervalMethod::kBca}) {
    const BootstrapOptions options{300, 0.9, 5, method};
    const Interval rows = bootstrap(cohort.groups, Mean{cohort.values}, options).value();
    const auto both = bootstrap_copies(patients, by_copies, options);
    REQUIRE(both.size() == 2);
    CHECK(both[0]->value == Approx(rows.value));
    CHECK(both[0]->low == Approx(rows.low));
    CHECK(both[0]->high == Approx(rows.high));
    CHECK(both[0]->n == 90);
    CHECK(both[0]->groups == 30);
    CHECK_FALSE(both[1]);
  }
  std::size_t next = 1;
  CHECK_THROWS_AS(bootstrap_copies(patients, [&](const PatientCopies&) { return std::vector<double>(next++); }), Error);
}

TEST_CASE("patients are numbered by name and keep their rows in order", "[metrics]") {
  const std::vector<std::int64_t> names{7, -3, 7, 5, -3};
  const PatientGroups patients(names);
  REQUIRE(patients.size() == 3);
  CHECK(patients.rows() == 5);
  const std::vector<std::vector<std::size_t>> expected{{1, 4}, {3}, {0, 2}};
  for (std::size_t p = 0; p < 3; ++p) {
    const auto rows = patients.rows_of(p);
    CHECK(std::vector<std::size_t>(rows.begin(), rows.end()) == expected[p]);
    for (std::size_t row : rows) CHECK(patients.of(row) == p);
  }
  CHECK(PatientGroups(std::vector<std::int64_t>{}).size() == 0);
}

TEST_CASE("bootstrap options are checked", "[metrics]") {
  const std::vector<std::int64_t> groups{0};
  const std::vector<double> values{1};
  CHECK_THROWS_AS(bootstrap(groups, Mean{values}, {0, 0.95, 0}), Error);
  CHECK_THROWS_AS(bootstrap(groups, Mean{values}, {10, 1.0, 0}), Error);
  CHECK_THROWS_AS(bootstrap(groups, Mean{values}, {10, 0.0, 0}), Error);
}

}  // namespace daug
