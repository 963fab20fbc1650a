// Tables and vocabularies that no honest program writes.

#include <string>

#include "daug/data/cohort.h"
#include "daug/data/vocabulary.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using test::error_text;
using test::mentions;
using test::Scratch;

TEST_CASE("a file name longer than any is a missing file", "[data]") {
  const Scratch scratch;
  const std::string longest(5000, 'x');
  scratch.put("labels.csv", "id,path,split,patient_id,Mass,mask_Mass\na," + longest + ".png,train,p,1,\n");
  CohortOptions options;
  options.required_splits = {};
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(scratch.folder(), options); }), "line 2",
                 "1 missing"));
  options.check_images = false;
  CHECK(read_cohort(scratch.folder(), options).studies.size() == 1);
  scratch.put("labels.csv", "id,path,split,patient_id,Mass,mask_Mass\na,a.png,train,p,1," + longest + "\n");
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(scratch.folder(), options); }), "1 missing"));
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(longest); }), "folder"));
}

TEST_CASE("of many patients in two splits the first are named and all are counted", "[data]") {
  const Scratch scratch;
  constexpr int kPatients = 20000;
  std::string labels = "id,path,split,patient_id,Mass\n";
  for (const char* split : {"train", "test"})
    for (int i = 0; i < kPatients; ++i) {
      const std::string patient = std::to_string(kPatients + i), id = split + patient;
      labels += id + "," + id + ".png," + split + "," + patient + ",0\n";
    }
  scratch.put("labels.csv", labels);
  const auto text = error_text(ErrorCode::kMismatch, [&] { read_cohort(scratch.folder()); });
  CHECK(mentions(text, "20000 in several", "patient 20000 in train (line 2) and test (line 20002)", "patient 20004 in",
                 "and 19995 more"));
  CHECK_FALSE(mentions(text, "patient 20005 in"));
}

TEST_CASE("a vocabulary that nests without end or lists what it should name is refused", "[data]") {
  const Scratch scratch;
  const auto refused = [&](const std::string& text) {
    scratch.put("v.json", text);
    return error_text(ErrorCode::kFormat, [&] { read_vocabulary(scratch.path("v.json")); });
  };
  CHECK(mentions(refused("{\"findings\": " + std::string(300'000, '[') + std::string(300'000, ']') + "}"), "v.json",
                 "levels"));
  CHECK(mentions(refused(R"({"findings": ["A"], "groups": [["A"]]})"), "v.json: groups"));
  CHECK(mentions(refused(R"({"findings": ["A"], "groups": {"g": "A"}})"), "v.json: groups.g", "list of names"));
  CHECK(mentions(refused(R"({"findings": ["A"], "groups": {"g": [1]}})"), "v.json: groups.g", "a text"));
  CHECK(mentions(refused(R"({"findings": ["A", null]})"), "v.json: findings", "a text"));
  CHECK(mentions(refused(R"({"groups": {}})"), "v.json: findings"));
  CHECK(mentions(refused(R"(["A"])"), "v.json: findings"));
}
