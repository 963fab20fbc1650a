#include "kernels/solver_update.h"

#include <limits>

#include "kernels/kernels.h"

using namespace daug;
using namespace daug::kernels;
using namespace daug::test;

namespace {

/// The definition, element by element in float64.
std::vector<double> expected(const SolverUpdate& u) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < u.lanes * u.elements; ++i) {
    const double x = u.x[i], strength = u.strength ? u.strength[i / u.elements] : 1.0;
    const auto estimate = [&](const float* values) {
      if (!u.clip) return static_cast<double>(values[i]);
      const double clean = (x - u.deviation * values[i]) / u.signal;
      return (x - u.signal * std::min(1.0, std::max(-1.0, clean))) / u.deviation;
    };
    double noise = estimate(u.first);
    if (u.second) {
      const double second = estimate(u.second), difference = noise - second;
      noise = (u.from_second ? second : noise) + u.weight * strength * difference;
    }
    if (u.gradient) noise -= u.gradient_weight * strength * u.gradient[i];
    result.push_back(u.keep * x + u.add * noise + (u.previous ? u.previous_weight * u.previous[i] : 0.0));
  }
  return result;
}

struct Arrays {
  std::vector<float> x, first, second, gradient, previous, strength, output;

  Arrays(std::int64_t lanes, std::int64_t elements)
      : x(random_floats(lanes * elements, 1)),
        first(random_floats(lanes * elements, 2)),
        second(random_floats(lanes * elements, 3)),
        gradient(random_floats(lanes * elements, 4)),
        previous(random_floats(lanes * elements, 5)),
        strength(random_floats(lanes, 6, 1, 0.5)),
        output(x.size(), std::numeric_limits<float>::quiet_NaN()) {}

  /// Bits of `parts`: second, gradient, previous, clip, from_second, strength.
  SolverUpdate update(std::int64_t lanes, std::int64_t elements, unsigned parts) {
    SolverUpdate u;
    u.lanes = lanes, u.elements = elements, u.x = x.data(), u.first = first.data(), u.output = output.data();
    if (parts & 1) u.second = second.data();
    if (parts & 2) u.gradient = gradient.data();
    if (parts & 4) u.previous = previous.data();
    u.clip = parts & 8, u.from_second = parts & 16;
    if (parts & 32) u.strength = strength.data();
    u.weight = 2, u.gradient_weight = 0.7, u.keep = 1.02, u.add = -0.11, u.previous_weight = 0.4;
    u.signal = 0.8, u.deviation = 0.6;
    return u;
  }
};

}  // namespace

TEST_CASE("solver_update agrees with its definition in float64", "[kernels]") {
  for_each_instruction_set([] {
    for (const std::int64_t lanes : {1, 3})
      for (const std::int64_t elements : {1, 7, 8, 9, 31, 1029})
        for (unsigned parts = 0; parts < 64; ++parts) {
          Arrays arrays(lanes, elements);
          const SolverUpdate u = arrays.update(lanes, elements, parts);
          solver_update(u, {});
          INFO("lanes " << lanes << " elements " << elements << " parts " << parts);
          CHECK(largest_error(arrays.output, expected(u)) < 2e-6);
        }
  });
}

TEST_CASE("clipping leaves an estimate alone whose clean image is in range", "[kernels]") {
  for_each_instruction_set([] {
    Arrays arrays(1, 200);
    SolverUpdate u = arrays.update(1, 200, 0);
    u.deviation = 0.01, u.signal = std::sqrt(1 - 1e-4);
    for (float& value : arrays.x) value = std::min(0.9F, std::max(-0.9F, value));
    solver_update(u, {});
    const std::vector<float> free = arrays.output;
    u.clip = true;
    solver_update(u, {});
    CHECK(arrays.output == free);
    // And one that is out of range becomes the estimate of a clean image at the border.
    arrays.x[0] = 1.5F;
    u.keep = 0, u.add = 1;
    solver_update(u, {});
    CHECK(arrays.output[0] == Approx((1.5 - u.signal) / 0.01).epsilon(1e-6));
  });
}

TEST_CASE("solver_update is bit-equal in place, and whatever threads there are", "[kernels]") {
  for_each_instruction_set([] {
    const std::int64_t lanes = 3, elements = 70001;
    Arrays arrays(lanes, elements);
    SolverUpdate u = arrays.update(lanes, elements, 63);
    solver_update(u, {});
    const std::vector<float> alone = arrays.output;
    for (const int threads : {2, 3, 5}) {
      std::fill(arrays.output.begin(), arrays.output.end(), 0.0F);
      solver_update(u, odd_threads(threads));
      CHECK(arrays.output == alone);
    }
    u.output = arrays.x.data();
    solver_update(u, odd_threads(2));
    CHECK(arrays.x == alone);
  });
}

TEST_CASE("solver_update passes on what is not finite, and takes an empty batch", "[kernels]") {
  for_each_instruction_set([] {
    Arrays arrays(1, 20);
    arrays.first[13] = std::numeric_limits<float>::quiet_NaN();
    const SolverUpdate u = arrays.update(1, 20, 8 | 1);
    solver_update(u, {});
    for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(arrays.output[i]) == (i == 13));
    solver_update(SolverUpdate{}, odd_threads(2));
  });
}
