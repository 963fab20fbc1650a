#include "kernels/solver_update.h"

#include <functional>
#include <limits>

#include "kernels/emulation.h"
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

namespace {

/// How an update is made of its arrays: by the kernel for the CPU or by that for devices.
using Run = std::function<std::vector<float>(const SolverUpdate&, const Arrays&)>;

/// The output of the kernel for the CPU.
std::vector<float> run_on_cpu(const SolverUpdate& u, const Arrays& arrays) {
  solver_update(u, {});
  return arrays.output;
}

/// Clips estimates whose clean images are in range, where dividing by a small deviation would show, and one that is
/// not.
void check_clipped_in_range(const Run& run) {
  Arrays arrays(1, 200);
  SolverUpdate u = arrays.update(1, 200, 0);
  u.deviation = 0.01, u.signal = std::sqrt(1 - 1e-4);
  for (float& value : arrays.x) value = std::min(0.9F, std::max(-0.9F, value));
  const std::vector<float> free = run(u, arrays);
  u.clip = true;
  CHECK(run(u, arrays) == free);
  // And one that is out of range becomes the estimate of a clean image at the border.
  arrays.x[0] = 1.5F;
  u.keep = 0, u.add = 1;
  CHECK(run(u, arrays)[0] == Approx((1.5 - u.signal) / 0.01).epsilon(1e-6));
}

}  // namespace

TEST_CASE("clipping leaves an estimate alone whose clean image is in range", "[kernels]") {
  for_each_instruction_set([] { check_clipped_in_range(run_on_cpu); });
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

namespace {

/// An update that keeps nothing of the state, with infinities and NaN in state and estimate: clipped, an infinite
/// estimate is as good as another, and what is not kept does no harm.
void check_not_finite(const Run& run) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  Arrays arrays(1, 20);
  arrays.first[1] = kInfinity, arrays.first[2] = -kInfinity, arrays.first[3] = kNan;
  arrays.x[4] = kInfinity, arrays.x[5] = kNan, arrays.x[6] = arrays.first[6] = kInfinity;
  SolverUpdate u = arrays.update(1, 20, 8);
  u.keep = 0, u.add = 1;
  const std::vector<float> clipped = run(u, arrays);
  CHECK(clipped[1] == Approx((arrays.x[1] + u.signal) / u.deviation).epsilon(1e-5));
  CHECK(clipped[2] == Approx((arrays.x[2] - u.signal) / u.deviation).epsilon(1e-5));
  CHECK(clipped[4] == kInfinity);
  for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(clipped[i]) == (i == 3 || i == 5 || i == 6));
  u.clip = false;
  const std::vector<float> free = run(u, arrays);
  for (std::size_t i = 0; i < 20; ++i) CHECK((i == 3 ? std::isnan(free[i]) : free[i] == arrays.first[i]));
}

}  // namespace

TEST_CASE("solver_update clips infinite estimates, and takes nothing of a state that it does not keep", "[kernels]") {
  for_each_instruction_set([] { check_not_finite(run_on_cpu); });
}

namespace {

/// solver_update_device of arrays in an element type, which begin `skipped` bytes behind a multiple of 16.
std::vector<float> run_on_device(const SolverUpdate& u, const Arrays& arrays, Element element, std::size_t skipped,
                                 bool in_place = false) {
  const auto put = [&](const std::vector<float>& values) { return on_device(values, element, skipped); };
  DeviceMemory x = put(arrays.x), first = put(arrays.first), second = put(arrays.second),
               gradient = put(arrays.gradient), previous = put(arrays.previous), strength(arrays.strength),
               output(arrays.x.size() * bytes_of(element), skipped);
  SolverUpdateOf<void> d;
  d.lanes = u.lanes, d.elements = u.elements;
  d.x = x.data(), d.first = first.data();
  if (u.second) d.second = second.data();
  if (u.gradient) d.gradient = gradient.data();
  if (u.previous) d.previous = previous.data();
  if (u.strength) d.strength = strength.floats();
  d.output = in_place ? x.data() : output.data();
  d.weight = u.weight, d.from_second = u.from_second, d.gradient_weight = u.gradient_weight;
  d.keep = u.keep, d.add = u.add, d.previous_weight = u.previous_weight;
  d.clip = u.clip, d.signal = u.signal, d.deviation = u.deviation;
  const Launched launched;
  launched.check(solver_update_device(d, element, launched.where));
  return from_device(in_place ? x : output, element);
}

}  // namespace

TEST_CASE("solver_update of a device, emulated, agrees with its definition in float64", "[kernels][emulated]") {
  for (const Element element : kElements)
    for (const std::int64_t lanes : {1, 3})
      for (const std::int64_t elements : {1, 7, 8, 40, 2055, 2056})
        for (unsigned parts = 0; parts < 64; ++parts) {
          if (elements > 1000 && parts % 13 != 0) continue;
          Arrays arrays(lanes, elements);
          for (auto* values : {&arrays.x, &arrays.first, &arrays.second, &arrays.gradient, &arrays.previous})
            round_to(element, *values);
          const SolverUpdate u = arrays.update(lanes, elements, parts);
          INFO("element " << static_cast<int>(element) << " lanes " << lanes << " elements " << elements << " parts "
                          << parts);
          const auto result = in_both_orders([&] { return run_on_device(u, arrays, element, 0); });
          CHECK(largest_error(result, expected(u)) < 2e-6 + rounding(element));
          if (parts % 8 != 7) continue;
          CHECK(run_on_device(u, arrays, element, bytes_of(element)) == result);
          CHECK(run_on_device(u, arrays, element, 0, true) == result);
        }
}

TEST_CASE("solver_update of a device, emulated: NaN, clipping in range, nothing to do, another device",
          "[kernels][emulated]") {
  Arrays arrays(1, 20);
  arrays.first[13] = std::numeric_limits<float>::quiet_NaN();
  const auto result = run_on_device(arrays.update(1, 20, 8 | 1), arrays, Element::kFloat32, 0);
  for (std::size_t i = 0; i < 20; ++i) CHECK(std::isnan(result[i]) == (i == 13));
  const Run run = [](const SolverUpdate& update, const Arrays& of_update) {
    return run_on_device(update, of_update, Element::kFloat32, 0);
  };
  check_not_finite(run);
  check_clipped_in_range(run);
  SolverUpdateOf<void> u;
  CHECK(solver_update_device(u, Element::kFloat32, {}).problem == nullptr);
  u.lanes = 65536, u.elements = 1;
  CHECK(std::string(solver_update_device(u, Element::kFloat32, {}).problem) == "more lanes than a launch takes");
  u.lanes = 1;
  CHECK(std::string(solver_update_device(u, Element::kFloat32, {7, nullptr}).problem) == "invalid device ordinal");
}
