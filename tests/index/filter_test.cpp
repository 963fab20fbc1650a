#include "daug/index/filter.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "support/catch.h"
#include "support/caught.h"

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

TEST_CASE("filters on numbers", "[index]") {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto in = [](const std::string& text, double low, double high) {
    return passes(Filter::between("age", low, high), {{"age", text}});
  };
  CHECK(in("63", 60, 70));
  CHECK(in("60", 60, 70));
  CHECK(in("70", 60, 70));
  CHECK(in("-0.5", -1, 0));
  CHECK(in("1e3", 999, infinity));
  CHECK_FALSE(in("59.999", 60, 70));
  CHECK_FALSE(in("70.5", 60, 70));
  for (const char* text : {"", " 63", "63 ", "63Y", "0x40", "sixty", "nan", "inf", "-inf", "infinity", "1e999"})
    CHECK_FALSE(in(text, -infinity, infinity));
  CHECK_FALSE(passes(Filter::between("absent", -infinity, infinity)));
  CHECK(passes(!Filter::between("absent", -infinity, infinity)));
  const auto refused = [](double low, double high) {
    return daug::test::caught([&] { (void)Filter::between("age", low, high); }).code() == ErrorCode::kInvalidArgument;
  };
  CHECK(refused(2, 1));
  CHECK(refused(std::numeric_limits<double>::quiet_NaN(), 1));
  CHECK(refused(1, std::numeric_limits<double>::quiet_NaN()));
}

TEST_CASE("filters on dates", "[index]") {
  const auto in = [](const std::string& text, const std::string& from, const std::string& to) {
    return passes(Filter::dates("date", from, to), {{"date", text}});
  };
  CHECK(in("2019-03-07", "2019-03-07", "2019-03-07"));
  CHECK(in("2020-02-29", "2019-12-31", "2020-03-01"));
  CHECK_FALSE(in("2019-12-30", "2019-12-31", "2020-03-01"));
  CHECK_FALSE(in("2020-03-02", "2019-12-31", "2020-03-01"));
  for (const char* text :
       {"", "2019", "2019-3-7", "2019-02-29", "2019-13-01", "2019-00-10", "2019-03-07T00", "2019/03/07"}) {
    CHECK_FALSE(in(text, "0001-01-01", "9999-12-31"));
    CHECK(daug::test::caught([&] { (void)Filter::dates("date", text, "9999-12-31"); }).code() ==
          ErrorCode::kInvalidArgument);
    CHECK(daug::test::caught([&] { (void)Filter::dates("date", "0001-01-01", text); }).code() ==
          ErrorCode::kInvalidArgument);
  }
  CHECK(daug::test::caught([] { (void)Filter::dates("date", "2020-01-02", "2020-01-01"); }).code() ==
        ErrorCode::kInvalidArgument);
}

TEST_CASE("a filter names the metadata whose values decide", "[index]") {
  CHECK(Filter().fields().empty());
  const auto filter = (Filter::exclude_patient("p7") && Filter::has("note")) ||
                      !(Filter::between("age", 0, 1) || Filter::ids({1}) || Filter::lists("findings", "Edema"));
  CHECK(filter.fields() == std::vector<std::string>{"age", "findings", "patient"});
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

TEST_CASE("texts tell filters apart, and filters of the same calls read alike", "[index]") {
  const auto view = [](const std::string& value) { return Filter::equals("view", value); };
  const auto any = [](std::int64_t, const Metadata&) { return true; };
  const auto made = [&] {
    return std::vector<Filter>{
        Filter(),
        view("AP"),
        view("PA"),
        Filter::equals("AP", "view"),
        Filter::equals("view", "AP\""),
        Filter::equals("view\" equals \"AP", ""),
        Filter::equals("view", "\\\""),
        Filter::equals("view", "\\"),
        Filter::lists("view", "AP"),
        Filter::has("view"),
        Filter::between("view", 0, 1),
        Filter::between("view", 0, std::nextafter(1.0, 2.0)),
        Filter::between("view", 0, std::numeric_limits<double>::infinity()),
        Filter::dates("view", "2020-01-01", "2020-01-02"),
        Filter::dates("view", "2020-01-01", "2020-01-03"),
        Filter::ids({}),
        Filter::ids({1, 23}),
        Filter::ids({12, 3}),
        Filter(any),
        !view("AP"),
        !!view("AP"),
        view("AP") && view("PA"),
        view("PA") && view("AP"),
        view("AP") || view("PA"),
        (view("AP") && view("PA")) || view("LL"),
        view("AP") && (view("PA") || view("LL")),
        !(view("AP") && view("PA")),
        !view("AP") && view("PA"),
        Filter::ids({1}) && Filter::ids({2}),
        Filter::exclude_patient("p1"),
    };
  };
  const auto first = made();
  const auto second = made();
  for (std::size_t i = 0; i < first.size(); ++i)
    for (std::size_t j = 0; j < first.size(); ++j) {
      INFO(first[i].text() << " and " << second[j].text());
      CHECK((first[i].text() == second[j].text()) == (i == j));
    }
  CHECK(Filter::ids({3, 1, 3}).text() == Filter::ids({1, 3}).text());
}
