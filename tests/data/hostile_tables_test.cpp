// Tables and vocabularies that no honest program writes.

#include <string>

#include "daug/data/cohort.h"
#include "daug/data/vocabulary.h"
#include "support/catch.h"
#include "temp_folder.h"

using namespace daug;
using test::error_text;
using test::mentions;
using test::TempFolder;

TEST_CASE("a file name longer than any is a missing file", "[data]") {
  TempFolder folder;
  const std::string longest(5000, 'x');
  folder.write("labels.csv", "id,path,split,patient_id,Mass,mask_Mass\na," + longest + ".png,train,p,1,\n");
  CohortOptions options;
  options.required_splits = {};
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(folder.str(), options); }), "line 2", "1 missing"));
  options.check_images = false;
  CHECK(read_cohort(folder.str(), options).studies.size() == 1);
  folder.write("labels.csv", "id,path,split,patient_id,Mass,mask_Mass\na,a.png,train,p,1," + longest + "\n");
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(folder.str(), options); }), "1 missing"));
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(longest); }), "folder"));
}

TEST_CASE("of many patients in two splits the first are named and all are counted", "[data]") {
  TempFolder folder;
  constexpr int kPatients = 20000;
  std::string labels = "id,path,split,patient_id,Mass\n";
  for (const char* split : {"train", "test"})
    for (int i = 0; i < kPatients; ++i) {
      const std::string patient = std::to_string(kPatients + i), id = split + patient;
      labels += id + "," + id + ".png," + split + "," + patient + ",0\n";
    }
  folder.write("labels.csv", labels);
  const auto text = error_text(ErrorCode::kMismatch, [&] { read_cohort(folder.str()); });
  CHECK(mentions(text, "20000 in several", "patient 20000 in train (line 2) and test (line 20002)", "patient 20004 in",
                 "and 19995 more"));
  CHECK_FALSE(mentions(text, "patient 20005 in"));
}

TEST_CASE("a vocabulary that nests without end or lists what it should name is refused", "[data]") {
  TempFolder folder;
  const auto refused = [&](const std::string& text) {
    folder.write("v.json", text);
    return error_text(ErrorCode::kFormat, [&] { read_vocabulary(folder.file("v.json")); });
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
