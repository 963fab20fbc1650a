// The p-value of the distance from uniform: by hand, by printed tables, by formulas that must meet, and by simulation.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "daug/core/random.h"
#include "daug/metrics/calibration.h"
#include "support/catch.h"

namespace daug {

TEST_CASE("distances of one and two uniform values have the p-values of plane geometry", "[metrics]") {
  for (int i = 0; i <= 100; ++i) {
    const double d = i / 100.0;
    INFO(d);
    // One value u: D = max(u, 1 - u).
    CHECK(uniform_distance_p(d, 1) == Approx(d <= 0.5 ? 1 : 2 * (1 - d)).margin(1e-13));
    // Two, u < v, are nearer than d where u lies in (1/2 - d, d) and v in (1 - d, 1/2 + d): areas of the triangle.
    const double two = d <= 0.25 ? 1 : d <= 0.5 ? 1 - 2 * (2 * d - 0.5) * (2 * d - 0.5) : 2 * (1 - d) * (1 - d);
    CHECK(uniform_distance_p(d, 2) == Approx(two).margin(1e-13));
  }
}

TEST_CASE("critical distances are those of Miller's table", "[metrics]") {
  struct Row {
    std::size_t n;
    double alpha, distance;  // rounded to three decimals (Miller, 1956)
  };
  for (const Row& row : {Row{5, 0.10, 0.509}, Row{5, 0.05, 0.563}, Row{5, 0.01, 0.669}, Row{10, 0.10, 0.369},
                         Row{10, 0.05, 0.409}, Row{10, 0.01, 0.489}, Row{20, 0.10, 0.265}, Row{20, 0.05, 0.294},
                         Row{20, 0.01, 0.352}, Row{50, 0.05, 0.188}, Row{100, 0.05, 0.134}}) {
    INFO(row.n << ", " << row.alpha);
    CHECK(uniform_distance_p(row.distance - 0.0005, row.n) >= row.alpha);
    CHECK(uniform_distance_p(row.distance + 0.0005, row.n) <= row.alpha);
  }
}

TEST_CASE("the formulas of the p-value meet where one takes over from the other", "[metrics]") {
  for (std::size_t n = 2; n < 16; ++n)
    CHECK(uniform_distance_p(0.5 - 1e-9, n) == Approx(uniform_distance_p(0.5, n)).margin(1e-6));
  for (const std::size_t n : std::vector<std::size_t>{17, 100, 999}) {
    const double meeting = 2 / std::sqrt(static_cast<double>(n));
    CHECK(uniform_distance_p(meeting * (1 - 1e-9), n) ==
          Approx(uniform_distance_p(meeting * (1 + 1e-9), n)).epsilon(1e-6));
  }
  for (const double x : {0.5, 0.8, 0.999, 1.001, 1.3, 1.9})
    CHECK(uniform_distance_p(x / std::sqrt(1000.0), 1000) ==
          Approx(uniform_distance_p(x / std::sqrt(1001.0), 1001)).margin(1e-4));
}

TEST_CASE("the ends of the p-value", "[metrics]") {
  for (const std::size_t n : std::vector<std::size_t>{1, 7, 300, 5000}) {
    // No n values are nearer than half a step of their distribution.
    CHECK(uniform_distance_p(0.5 / static_cast<double>(n), n) == Approx(1));
    CHECK(uniform_distance_p(0, n) == 1);
    CHECK(uniform_distance_p(1, n) == 0);
    double last = 1;
    for (int i = 1; i <= 50; ++i) {
      const double p = uniform_distance_p(i / 50.0, n);
      CHECK(p <= last + 1e-12);
      last = p;
    }
  }
  // 2 (0.1^50 + 0.9 50 0.08^49 + ...), whose further terms are below a millionth of the first.
  CHECK(uniform_distance_p(0.9, 50) == Approx(2.0161e-50).epsilon(1e-3));
  CHECK_THROWS_WITH(uniform_distance_p(0.5, 0), test::contains_text("uniform_distance_p: n: expected"));
  for (const double wrong : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS_WITH(uniform_distance_p(wrong, 3), test::contains_text("uniform_distance_p: distance: expected"));
}

TEST_CASE("p-values of distances that are chance are uniform", "[metrics]") {
  constexpr int kDraws = 4000;
  for (const std::size_t n : std::vector<std::size_t>{3, 12, 40}) {
    std::vector<double> p, distances;
    for (int draw = 0; draw < kDraws; ++draw) {
      RandomStream stream(n, static_cast<std::uint64_t>(draw), "null");
      std::vector<double> values(n);
      for (double& value : values) value = stream.uniform();
      distances.push_back(*uniform_distance(values));
      p.push_back(uniform_distance_p(distances.back(), n));
    }
    CHECK(*uniform_distance(p) < 1.95 / std::sqrt(1.0 * kDraws));  // above it once in a thousand times
    for (const double distance : {0.15, 0.25, 0.4}) {
      const double expected = uniform_distance_p(distance, n);
      int as_far = 0;
      for (const double one : distances) as_far += one >= distance;
      const double four_errors = 4 * std::sqrt(expected * (1 - expected) / kDraws);
      CHECK(1.0 * as_far / kDraws == Approx(expected).margin(four_errors + 3.0 / kDraws));
    }
  }
}

}  // namespace daug
