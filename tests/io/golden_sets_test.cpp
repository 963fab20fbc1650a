// The golden sets that the tests of all programs compare, and those that none does.

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
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

// A prefix without its test would hide sets that nothing compares.
TEST_CASE("a test names every prefix of golden sets", "[golden_sets]") {
  const char* source = std::getenv("DAUG_TEST_SOURCE_DIR");
  if (!source) return;  // not run by ctest
  std::string tests;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(source) + "/tests")) {
    const std::string path = entry.path().string();
    if (path.ends_with("_test.cpp")) tests += daug::read_text_file(path);
  }
  for (const auto& prefix : daug::test::golden_prefixes()) daug::test::contains(tests, "\"" + prefix + "\"");
}
