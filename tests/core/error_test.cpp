#include "daug/core/error.h"

#include <limits>
#include <string>

#include "support/catch.h"
#include "support/caught.h"

using daug::test::caught;

TEST_CASE("an error names function, argument, expected and actual", "[core]") {
  const auto error =
      caught([] { daug::fail(daug::ErrorCode::kMismatch, "load", "weights", "shape [3, 4]", std::string("[4, 3]")); });
  CHECK(error.code() == daug::ErrorCode::kMismatch);
  CHECK(std::string(error.what()) == "load: weights: expected shape [3, 4], got [4, 3]");
}

TEST_CASE("require throws exactly when its condition fails", "[core]") {
  CHECK_NOTHROW(daug::require(true, "f", "x", "positive", 1));
  const auto error = caught([] { daug::require(false, "f", "x", "a positive number", -2); });
  CHECK(error.code() == daug::ErrorCode::kInvalidArgument);
  CHECK(std::string(error.what()) == "f: x: expected a positive number, got -2");
}

TEST_CASE("require_range takes both ends and refuses not-a-number", "[core]") {
  CHECK_NOTHROW(daug::require_range(0, 0, 3, "f", "x"));
  CHECK_NOTHROW(daug::require_range(3, 0, 3, "f", "x"));
  CHECK_NOTHROW(daug::require_range(0.5, 0, 1, "f", "x"));
  CHECK_THROWS_AS(daug::require_range(-1, 0, 3, "f", "x"), daug::Error);
  CHECK_THROWS_AS(daug::require_range(4, 0, 3, "f", "x"), daug::Error);
  CHECK_THROWS_AS(daug::require_range(std::numeric_limits<double>::quiet_NaN(), 0, 1, "f", "x"), daug::Error);
  CHECK_THROWS_AS(daug::require_range(std::numeric_limits<double>::infinity(), 0, 1, "f", "x"), daug::Error);
  const auto error = caught([] { daug::require_range(1.25, 0, 1, "f", "x"); });
  CHECK(std::string(error.what()) == "f: x: expected a value in [0, 1], got 1.25");
}
