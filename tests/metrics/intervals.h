#pragma once
// Bootstrap intervals beside each other.

#include <optional>

#include "daug/metrics/bootstrap.h"
#include "support/catch.h"

namespace daug {

/// Checks that two ways to one interval agree up to rounding, or both have none.
inline void check_equal(const std::optional<Interval>& fast, const std::optional<Interval>& slow) {
  REQUIRE(fast.has_value() == slow.has_value());
  if (!fast) return;
  CHECK(fast->value == Approx(slow->value).epsilon(1e-12));
  CHECK(fast->low == Approx(slow->low).epsilon(1e-12));
  CHECK(fast->high == Approx(slow->high).epsilon(1e-12));
  CHECK(fast->degenerate == slow->degenerate);
  CHECK(fast->n == slow->n);
  CHECK(fast->groups == slow->groups);
}

}  // namespace daug
