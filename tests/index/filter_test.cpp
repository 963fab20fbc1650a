#include "daug/index/filter.h"

#include <string>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"

using namespace daug;

namespace {
const Metadata kItem = {{"patient", "p7"}, {"view", "PA"}, {"findings", "Edema|Pleural Effusion||"}, {"note", ""}};
bool passes(const Filter& filter, const Metadata& metadata = kItem) { return filter.matches(1, metadata); }
}  // namespace

TEST_CASE("a default filter passes everything", "[index]") {
  CHECK(passes({}));
  CHECK(passes({}, {}));
  CHECK_FALSE(passes(!Filter()));
}

TEST_CASE("filters on metadata", "[index]") {
  CHECK(passes(Filter::equals("view", "PA")));
  CHECK_FALSE(passes(Filter::equals("view", "AP")));
  CHECK_FALSE(passes(Filter::equals("sex", "F")));
  CHECK(passes(!Filter::equals("sex", "F")));
  CHECK(passes(Filter::equals("note", "")));
  CHECK_FALSE(passes(Filter::equals("sex", "")));

  CHECK(passes(Filter::has("note")));
  CHECK_FALSE(passes(Filter::has("sex")));

  CHECK_FALSE(passes(Filter::exclude_patient("p7")));
  CHECK(passes(Filter::exclude_patient("p")));
  CHECK(passes(Filter::exclude_patient("p7"), {}));
}

TEST_CASE("a list has its whole elements and nothing else", "[index]") {
  CHECK(passes(Filter::lists("findings", "Edema")));
  CHECK(passes(Filter::lists("findings", "Pleural Effusion")));
  CHECK(passes(Filter::lists("findings", "")));
  CHECK_FALSE(passes(Filter::lists("findings", "Effusion")));
  CHECK_FALSE(passes(Filter::lists("findings", "Edema|Pleural Effusion")));
  CHECK_FALSE(passes(Filter::lists("absent", "Edema")));
  CHECK(passes(Filter::lists("view", "PA")));
}

TEST_CASE("filters on ids and by a function", "[index]") {
  const Filter some = Filter::ids({3, 1, -5});
  CHECK(some.matches(3, {}));
  CHECK(some.matches(-5, {}));
  CHECK_FALSE(some.matches(2, {}));
  CHECK_FALSE(Filter::ids({}).matches(0, {}));
  const Filter even([](std::int64_t id, const Metadata&) { return id % 2 == 0; });
  CHECK(even.matches(4, {}));
  CHECK_FALSE(even.matches(5, {}));
}

TEST_CASE("and, or and not follow their truth tables, at any depth", "[index]") {
  const Filter truth[] = {!Filter(), Filter()};
  for (int a = 0; a < 2; ++a) {
    CHECK(passes(!truth[a]) == (a == 0));
    for (int b = 0; b < 2; ++b) {
      CHECK(passes(truth[a] && truth[b]) == (a && b));
      CHECK(passes(truth[a] || truth[b]) == (a || b));
    }
  }
  for (std::uint64_t item = 0; item < 200; ++item) {
    RandomStream random(1, item, "filter");
    Filter filter = Filter::equals("view", "PA");
    bool expected = true;
    for (int step = 0; step < 12; ++step) {
      const bool value = random.below(2) != 0;
      const Filter other = value ? Filter::has("note") : Filter::has("sex");
      switch (random.below(3)) {
        case 0:
          filter = filter && other;
          expected = expected && value;
          break;
        case 1:
          filter = other || filter;
          expected = value || expected;
          break;
        default:
          filter = !filter;
          expected = !expected;
      }
    }
    REQUIRE(passes(filter) == expected);
  }
}
