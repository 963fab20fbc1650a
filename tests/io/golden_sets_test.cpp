// The golden sets that the tests of all programs compare, and those that none does.

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/child.h"
#include "support/golden.h"
#include "support/scratch.h"

TEST_CASE("golden sets of a kind that no test compares are named", "[golden]") {
  const auto shared = daug::test::shared_data();
  if (!shared || !std::filesystem::is_directory(*shared + "/golden")) {
    std::cout << "golden *: skipped (" << daug::test::absent_data(shared, "golden") << ")\n";
    return;
  }
  for (const auto& name : daug::test::unknown_golden_sets(*shared + "/golden"))
    std::cout << "golden " << name << ": skipped (no test compares sets of this kind)\n";
}

TEST_CASE("a golden set is known by what its name starts with", "[golden_sets]") {
  const daug::test::Scratch scratch;
  for (const char* file : {"resize_pil_16bit.json", "resize_vips.json", "resize_vips.safetensors", "README-new.md",
                           "new_metrics_.json", "metrics_new.json"})
    scratch.put(file, "{}");
  CHECK(daug::test::unknown_golden_sets(scratch.folder()) == std::vector<std::string>{"new_metrics_", "resize_vips"});
  CHECK(daug::test::unknown_golden_sets(scratch.path("none")).empty());
  daug::test::check_refused(daug::ErrorCode::kInvalidArgument, "golden_sets: prefix: expected one of golden_prefixes()",
                            [] { daug::test::golden_sets("resize_"); });
}

TEST_CASE("a folder that has none of the shared data is as one that is not there", "[golden_sets]") {
  const daug::test::Scratch scratch;
  const auto found = [](const std::string& folder) {
    return daug::test::in_child([&] {
      ::setenv("DAUG_SHARED_DATA", folder.c_str(), 1);
      return daug::test::shared_data() ? 1 : 0;
    });
  };
  CHECK(found(scratch.path("none")) == 0);
  CHECK(found(scratch.folder()) == 0);
  scratch.put("data/README.md", "");
  CHECK(found(scratch.folder()) == 1);
}

TEST_CASE("a golden set that fails keeps no other from being compared", "[golden_sets]") {
  const daug::test::Scratch scratch;
  scratch.put("golden/knn_own_a.json", "no JSON");
  for (const char* name : {"b", "c", "d"}) scratch.put(std::string("golden/knn_own_") + name + ".json", "{}");
  // In a process of its own, since its assertions fail, and without what Catch2 says of them.
  const int status = daug::test::in_child([&] {
    ::setenv("DAUG_SHARED_DATA", scratch.folder().c_str(), 1);
    if (!std::freopen("/dev/null", "w", stdout)) return 2;
    std::ostringstream said;
    std::streambuf* const before = std::cout.rdbuf(said.rdbuf());
    const int failed_before = daug::test::failed_assertions();
    daug::test::for_each_golden("knn_own", [](const daug::test::GoldenSet& set) {
      REQUIRE(set.name != "knn_own_b");
      if (set.name == "knn_own_c") throw daug::test::Skip{"no reason"};
      return 0.5;
    });
    std::cout.rdbuf(before);
    const bool told = said.str() ==
                      "golden knn_own_a: FAILED\ngolden knn_own_b: FAILED\ngolden knn_own_c: skipped (no reason)\n"
                      "golden knn_own_d: ok (max error 0.5)\n";
    return told && daug::test::failed_assertions() == failed_before + 2 ? 0 : 1;
  });
  CHECK(status == 0);
}

TEST_CASE("outputs of a golden set that its test does not read are named, and fail it", "[golden_sets]") {
  using Names = std::vector<std::string>;
  daug::test::GoldenSet set;
  for (const char* name : {"a.loss.f32", "a.loss.f64", "in.x.f64", "new", "table_down", "told", "told.f64"})
    set.file.tensors.emplace(name, daug::Array::from(std::vector<double>{1}, {}));
  set.settings = nlohmann::json::parse(
      R"({"tensors": {"told": {"role": "output"}, "told.f64": {"role": "input"}, "new": {"shape": []}}})");
  CHECK(daug::test::unread_outputs(set) == Names{"a.loss.f32", "a.loss.f64", "told"});
  (void)set.at("a.loss.f64");
  CHECK_THROWS(set.at("none"));
  CHECK(daug::test::unread_outputs(set, {"table_*", "none"}) == Names{"a.loss.f32", "table_down", "told"});

  // In a process of its own, since its assertions fail, and without what Catch2 says of them.
  const int failed = daug::test::in_child([&] {
    if (!std::freopen("/dev/null", "w", stdout)) return 100;
    const int before = daug::test::failed_assertions();
    daug::test::check_outputs_read(set, {{"*.f32", "a reason"}, {"b.*", "another"}}, {"table_*"});
    return set.left_out == Names{"*.f32 (a reason)"} ? daug::test::failed_assertions() - before : 100;
  });
  CHECK(failed == 2);  // table_down and told
  (void)set.at("told"), (void)set.at("table_down"), (void)set.at("a.loss.f32");
  daug::test::check_outputs_read(set, {{"*.f32", "a reason"}}, {"table_*"});
  CHECK(set.left_out.empty());
}

// A prefix without its test would hide sets that nothing compares.
TEST_CASE("a test names every prefix of golden sets", "[golden_sets]") {
  const char* source = std::getenv("DAUG_TEST_SOURCE_DIR");
  if (!source) return;  // not run by ctest
  std::string tests;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(source) + "/tests")) {
    const std::string name = entry.path().filename().string();
    const bool shared = name.starts_with("golden_") && entry.path().parent_path().filename() != "support";  // by tests
    if (name.ends_with("_test.cpp") || (shared && name.ends_with(".h")))
      tests += daug::read_text_file(entry.path().string());
  }
  for (const auto& prefix : daug::test::golden_prefixes()) daug::test::contains(tests, "\"" + prefix + "\"");
}
