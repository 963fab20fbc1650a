#include "daug/heatmap/polarity_test.h"

#include <ATen/ATen.h>

#include <cmath>

#include "support/catch.h"
#include "support/tensor.h"
#include "translator/toys.h"

using namespace daug;
using namespace daug::test;

namespace {

/// The exact model of images that are 0.5 everywhere on one side where finding 0 is present and -0.5 where it is
/// absent, and likewise for finding 1 on the other side; finding 2 leaves no trace. `sign` -1: the labels were
/// exchanged.
class TwoSides : public NoisePredictor {
 public:
  TwoSides(NoiseSchedule schedule, double sign) : schedule_(std::move(schedule)), sign_(sign) {}
  static at::Tensor images(const at::Tensor& states) {
    const at::Tensor left = states.select(1, 0), right = states.select(1, 1);
    const auto side = [](const at::Tensor& state) { return 0.5 * state.reshape({-1, 1, 1, 1}).expand({-1, 1, 4, 2}); };
    return at::cat({side(left), side(right)}, 3);
  }
  at::Tensor noise(const at::Tensor& x, std::int64_t level, const at::Tensor& condition) const override {
    const std::int64_t asked = std::max<std::int64_t>(level, 1);
    const at::Tensor clean = images(sign_ * condition.to(x.scalar_type()));
    return (x - schedule_.signal(asked) * clean) / schedule_.noise(asked);
  }

 private:
  NoiseSchedule schedule_;
  double sign_;
};

}  // namespace

TEST_CASE("the polarity test tells a model whose labels were exchanged", "[heatmap]") {
  const auto schedule = NoiseSchedule::linear(1000);
  const std::vector<std::string> findings = {"left", "right", "nothing"};
  const std::int64_t count = 40;
  const at::Tensor states = at::where(random_tensor({count, 3}, 5) > 0, 1.0, -1.0).to(at::kDouble);
  const at::Tensor x = TwoSides::images(states) + 0.1 * random_tensor({count, 1, 4, 4}, 6);
  std::vector<std::uint64_t> items;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) items.push_back(i);

  const PolarityTest right = polarity_test(TwoSides(schedule, 1), schedule, x, states, items, findings);
  CHECK(right.passed());
  REQUIRE(right.separation.size() == 3);
  CHECK(right.separation[0] > 5);
  CHECK(right.separation[1] > 5);
  CHECK(right.undecided == std::vector<std::string>{"nothing"});

  const PolarityTest wrong = polarity_test(TwoSides(schedule, -1), schedule, x, states, items, findings);
  CHECK_FALSE(wrong.passed());
  CHECK(wrong.swapped == std::vector<std::string>{"left", "right"});

  at::Tensor few = states.clone();
  few.select(1, 0).fill_(0);
  few[0][0] = 1;
  const PolarityTest sparse = polarity_test(TwoSides(schedule, 1), schedule, x, few, items, findings);
  CHECK(std::isnan(sparse.separation[0]));
  CHECK(sparse.undecided == std::vector<std::string>{"left", "nothing"});
  CHECK_THROWS_AS(polarity_test(TwoSides(schedule, 1), schedule, x, few.narrow(1, 0, 2), items, findings), Error);
}
