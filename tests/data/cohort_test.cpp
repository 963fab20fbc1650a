#include "daug/data/cohort.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <set>

#include "daug/core/random.h"
#include "daug/data/dataset.h"
#include "daug/data/phantom.h"
#include "daug/io/csv.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/golden.h"
#include "support/scratch.h"

using namespace daug;
using test::error_text;
using test::mentions;
using test::Scratch;

namespace {

const std::string kHeader = "id,path,split,patient_id,view,Edema,Mass,No_Finding,report,mask_Mass\n";

/// A cohort of four studies; `rows` replaces the body of labels.csv.
void write_cohort(const Scratch& scratch, const std::string& labels) {
  scratch.put("labels.csv", labels);
  for (const char* name : {"images/a.png", "images/b.png", "images/c.png", "images/d.png", "masks/c.png"})
    scratch.put(name, "not decoded here");
}

const std::string kGood = kHeader +
                          "a,images/a.png,train,p1,PA,1,0,0,\"Oedema, mild.\",\n"
                          "b,images/b.png,train,p1,AP,-1,,0,,\n"
                          "c,images/c.png,val,p2,PA,0,1.0,1,Mass.,masks/c.png\n"
                          "d,images/d.png,test,p3,,0,0,1,,\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string read_error(const Scratch& scratch, ErrorCode code, const CohortOptions& options = {}) {
  return error_text(code, [&] { read_cohort(scratch.folder(), options); });
}

}  // namespace

TEST_CASE("a cohort is read with everything its files say", "[data]") {
  Scratch scratch;
  write_cohort(scratch, kGood);
  scratch.put("boxes.csv", "id,finding,x,y,w,h,annotation_source\nc,Mass,1.5,2,3,4.25,reader\nd,Hernia,0,0,1,1,\n");
  scratch.put("meta.csv", "id,age,site\na,61,x\nd,,y\n");
  const Cohort cohort = read_cohort(scratch.folder());
  CHECK(cohort.findings == std::vector<std::string>{"Edema", "Mass"});
  REQUIRE(cohort.studies.size() == 4);
  CHECK(cohort.has_reports);

  using L = LabelState;
  CHECK(cohort.studies[0].labels == std::vector<L>{L::kPositive, L::kNegative});
  CHECK(cohort.studies[1].labels == std::vector<L>{L::kUncertain, L::kNotMentioned});
  CHECK(cohort.studies[2].no_finding == L::kPositive);
  CHECK(cohort.studies[0].report == "Oedema, mild.");
  CHECK(cohort.studies[0].path == cohort.folder + "/images/a.png");
  CHECK(std::filesystem::path(cohort.studies[0].path).is_absolute());
  CHECK(cohort.studies[2].mask_paths.at(1) == cohort.folder + "/masks/c.png");
  CHECK(cohort.studies[0].mask_paths.empty());
  REQUIRE(cohort.studies[2].boxes.size() == 1);
  CHECK(cohort.studies[2].boxes[0].box.height == 4.25);
  CHECK(cohort.studies[2].boxes[0].annotation == "reader");
  CHECK(cohort.studies[0].meta.at("age") == "61");
  CHECK(cohort.studies[3].meta.count("age") == 0);
  CHECK(cohort.split_indices("train") == std::vector<std::size_t>{0, 1});
  CHECK(cohort.finding_index("Mass") == 1);
  CHECK_THROWS_AS(cohort.split_indices("training"), Error);
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { cohort.finding_index("Mas"); }), "Edema, Mass", "'Mas'"));

  const CohortSummary summary = summarise(cohort);
  CHECK(summary.no_finding_conflicts == 1);
  CHECK(summary.other_boxes.at("Hernia") == 1);
  const SplitSummary& train = summary.splits[0];
  CHECK(train.images == 2);
  CHECK(train.patients == 1);
  CHECK(train.reports == 1);
  CHECK(train.finding_states[0] == std::array<std::size_t, 4>{1, 0, 1, 0});
  CHECK(train.finding_states[1] == std::array<std::size_t, 4>{0, 1, 0, 1});
  CHECK(train.views.at("AP") == 1);
  CHECK(summary.splits[1].masks == std::vector<std::size_t>{0, 1});
  CHECK(summary.splits[1].boxes == std::vector<std::size_t>{0, 1});
  CHECK(summary.splits[2].no_finding == 1);
  CHECK(summary.splits[2].views.at("") == 1);
}

TEST_CASE("studies know their line of labels.csv", "[data]") {
  Scratch scratch;
  write_cohort(scratch, replaced(kGood, "Oedema, mild.", "Oedema,\nmild."));
  const Cohort cohort = read_cohort(scratch.folder());
  CHECK(cohort.studies[0].line == 2);
  CHECK(cohort.studies[1].line == 4);  // the report before it has two
  CHECK(cohort.studies[3].line == 6);
}

TEST_CASE("a study's metadata are found by column, blank where there are none", "[data]") {
  Scratch scratch;
  write_cohort(scratch, kGood);
  scratch.put("meta.csv", "id,age,view,patient_id\na,61,LL,\nb,,,q\n");
  const Cohort cohort = read_cohort(scratch.folder());
  const Study &first = cohort.studies[0], &second = cohort.studies[1];
  CHECK(first.meta_value("age") == "61");
  CHECK(second.meta_value("age").empty());                   // a blank cell
  CHECK(cohort.studies[2].meta_value("age").empty());        // no row
  CHECK(first.meta_value("weight").empty());                 // no column
  CHECK(&first.meta_value("age") == &first.meta.at("age"));  // no copy
  // What meta.csv repeats stands beside what labels.csv says and does not replace it.
  CHECK(first.meta_value("view") == "LL");
  CHECK(first.view == "PA");
  CHECK(second.meta_value("view").empty());
  CHECK(second.view == "AP");
  CHECK(first.meta_value("patient_id").empty());
  CHECK(second.meta_value("patient_id") == "q");
  CHECK(second.patient_id == "p1");
}

TEST_CASE("findings may be chosen and ordered", "[data]") {
  Scratch scratch;
  write_cohort(scratch, kGood);
  CohortOptions options;
  options.findings = {"Mass", "Edema"};
  const Cohort cohort = read_cohort(scratch.folder(), options);
  CHECK(cohort.studies[0].labels == std::vector<LabelState>{LabelState::kNegative, LabelState::kPositive});
  CHECK(cohort.studies[2].mask_paths.count(0) == 1);
  CHECK(cohort.studies[0].other_labels.empty());
  options.findings = {"Edema"};
  const Cohort of_one = read_cohort(scratch.folder(), options);
  CHECK(of_one.studies[2].mask_paths.empty());
  CHECK(of_one.studies[1].other_labels == std::vector<LabelState>{LabelState::kNotMentioned});
  CHECK(of_one.studies[2].other_labels == std::vector<LabelState>{LabelState::kPositive});
  options.findings = {"Fracture"};
  CHECK(mentions(read_error(scratch, ErrorCode::kNotFound, options), "'Fracture'", "Edema, Mass"));
  options.findings = {"Mass", "Mass"};
  CHECK(mentions(read_error(scratch, ErrorCode::kInvalidArgument, options), "'Mass' twice"));
}

TEST_CASE("columns that are left out are kept where they may be labels", "[data]") {
  Scratch scratch;
  write_cohort(scratch,
               "id,path,split,patient_id,Age,Sex,Edema,Note,Mass\n"
               "a,images/a.png,train,p1,61,1,1,,0\n"
               "b,images/b.png,val,p2,1,,0,0,-1\n"
               "c,images/c.png,test,p3,,0,0,? ,1.0\n");
  CohortOptions options;
  options.findings = {"Edema"};
  const Cohort cohort = read_cohort(scratch.folder(), options);
  using States = std::vector<LabelState>;  // of Sex and Mass: an age of 61 and a note make no label
  CHECK(cohort.studies[0].other_labels == States{LabelState::kPositive, LabelState::kNegative});
  CHECK(cohort.studies[1].other_labels == States{LabelState::kNotMentioned, LabelState::kUncertain});
  CHECK(cohort.studies[2].other_labels == States{LabelState::kNegative, LabelState::kPositive});
  CHECK(cohort.studies[0].labels == States{LabelState::kPositive});
  options.meta_columns = {"Sex"};  // of which somebody knows what it is
  CHECK(read_cohort(scratch.folder(), options).studies[0].other_labels == States{LabelState::kNegative});
}

TEST_CASE("every fault of a cohort is named", "[data]") {
  Scratch scratch;
  const auto message = [&](const std::string& from, const std::string& to, ErrorCode code) {
    write_cohort(scratch, replaced(kGood, from, to));
    return read_error(scratch, code);
  };
  SECTION("missing folder and file") {
    CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { read_cohort(scratch.path("absent")); }), "absent", "folder"));
    CHECK(mentions(read_error(scratch, ErrorCode::kNotFound), "labels.csv"));
  }
  SECTION("missing column") {
    CHECK(mentions(message("patient_id", "patient", ErrorCode::kNotFound), "labels.csv", "patient_id"));
    write_cohort(scratch, "id,path,split,patient_id\na,images/a.png,train,p1\n");
    CHECK(mentions(read_error(scratch, ErrorCode::kNotFound), "label column"));
  }
  SECTION("a name that a list of findings would take for two") {
    write_cohort(scratch, "id,path,split,patient_id,\"Mass, left\"\na,images/a.png,train,p1,1\n");
    CHECK(mentions(read_error(scratch, ErrorCode::kFormat), "labels.csv", "comma", "'Mass, left'"));
    write_cohort(scratch, "id,path,split,patient_id,Mass|left\na,images/a.png,train,p1,1\n");
    CHECK(mentions(read_error(scratch, ErrorCode::kFormat), "labels.csv", "'|'", "'Mass|left'"));
  }
  SECTION("bad label: file, line, column, cell") {
    CHECK(mentions(message("AP,-1", "AP,7", ErrorCode::kFormat), "labels.csv line 3 column Edema", "'7'"));
    CHECK(mentions(message("1.0,1,Mass", "1.0,2,Mass", ErrorCode::kFormat), "line 4 column No_Finding", "'2'"));
  }
  SECTION("ids") {
    CHECK(mentions(message("\nd,", "\nb,", ErrorCode::kFormat), "line 5 column id", "'b'", "line 3"));
    CHECK(mentions(message("\nd,", "\n,", ErrorCode::kFormat), "line 5 column id", "blank"));
    CHECK(mentions(message("val,p2", "val,", ErrorCode::kFormat), "line 4 column patient_id", "blank"));
  }
  SECTION("splits") {
    CHECK(mentions(message("val,", "dev,", ErrorCode::kFormat), "line 4 column split", "'dev'"));
    CHECK(mentions(message("val,", ",", ErrorCode::kFormat), "line 4 column split", "''"));
    CHECK(mentions(message("val,", "test,", ErrorCode::kMismatch), "split 'val'"));
    CHECK(mentions(message("val,p2", "val,p1", ErrorCode::kMismatch), "labels.csv",
                   "patient p1 in train (line 2) and val (line 4)"));
    for (const char* name : {"valid,", "validate,", "validation,"}) {
      write_cohort(scratch, replaced(kGood, "val,", name));
      CHECK(read_cohort(scratch.folder()).studies[2].split == "val");
    }
    CHECK(mentions(message("images/d.png", "images/a.png", ErrorCode::kMismatch),
                   "images/a.png in train (line 2) and test (line 5)"));
  }
  SECTION("paths never leave the folder") {
    for (const char* path : {"../images/a.png", "/etc/passwd", "images/../../a.png", ".."}) {
      INFO(path);
      CHECK(mentions(message("images/a.png", path, ErrorCode::kFormat), "line 2 column path", path));
    }
    CHECK(mentions(message("masks/c.png", "../c.png", ErrorCode::kFormat), "line 4 column mask_Mass"));
    write_cohort(scratch, replaced(kGood, "images/a.png", "images/../images/./a.png"));
    CHECK(read_cohort(scratch.folder()).studies[0].path == scratch.path("images/a.png"));
  }
  SECTION("missing files are listed together") {
    write_cohort(scratch, replaced(replaced(kGood, "images/a.png", "images/x.png"), "masks/c.png", "masks/y.png"));
    CHECK(mentions(read_error(scratch, ErrorCode::kNotFound), "2 missing", "x.png (a, line 2)", "y.png (c, line 4)"));
    CohortOptions options;
    options.check_images = false;
    CHECK(mentions(read_error(scratch, ErrorCode::kNotFound, options), "1 missing", "y.png (c, line 4)"));
    options.check_files = false;
    CHECK(read_cohort(scratch.folder(), options).studies.size() == 4);
  }
  SECTION("a mask of no finding") {
    CHECK(mentions(message("mask_Mass", "mask_Msas", ErrorCode::kNotFound), "mask_Msas", "Edema, Mass"));
  }
  SECTION("boxes and meta") {
    write_cohort(scratch, kGood);
    const auto with = [&](const std::string& name, const std::string& text, ErrorCode code) {
      scratch.put(name, text);
      return read_error(scratch, code);
    };
    const std::string header = "id,finding,x,y,w,h\n";
    CHECK(mentions(with("boxes.csv", header + "z,Mass,0,0,1,1\n", ErrorCode::kNotFound), "boxes.csv line 2", "'z'"));
    CHECK(mentions(with("boxes.csv", header + "a,Mass,0,0,0,1\n", ErrorCode::kFormat), "column w", "> 0"));
    CHECK(mentions(with("boxes.csv", header + "a,Mass,0,0,1,nan\n", ErrorCode::kFormat), "column h", "'nan'"));
    CHECK(mentions(with("boxes.csv", header + "a,Mass,0,1x,1,1\n", ErrorCode::kFormat), "column y", "'1x'"));
    CHECK(mentions(with("boxes.csv", "id,finding,x,y,w\n", ErrorCode::kNotFound), "boxes.csv"));
    std::filesystem::remove(scratch.path("boxes.csv"));
    CHECK(mentions(with("meta.csv", "id,age\nz,1\n", ErrorCode::kNotFound), "meta.csv line 2", "'z'"));
  }
  SECTION("further columns must be declared") {
    write_cohort(scratch, "id,path,split,patient_id,age,Mass\na,images/a.png,train,p1,61,0\n");
    CohortOptions options;
    options.required_splits = {"train"};
    CHECK(mentions(read_error(scratch, ErrorCode::kFormat, options), "column age", "'61'"));
    options.meta_columns = {"age"};
    const Cohort cohort = read_cohort(scratch.folder(), options);
    CHECK(cohort.findings == std::vector<std::string>{"Mass"});
    CHECK(cohort.studies[0].meta.at("age") == "61");
    options.meta_columns = {"gea"};
    CHECK(mentions(read_error(scratch, ErrorCode::kNotFound, options), "gea"));
  }
}

TEST_CASE("a patient-disjoint split", "[data]") {
  RandomStream random(3, 0, "split test");
  std::vector<std::string> patients;
  for (int i = 0; i < 1000; ++i) patients.push_back("p" + std::to_string(random.below(400)));
  SplitOptions options;
  options.seed = 5;
  const auto splits = patient_disjoint_split(patients, options);

  std::map<std::string, std::set<std::string>> seen;
  for (std::size_t i = 0; i < patients.size(); ++i) seen[patients[i]].insert(splits[i]);
  for (const auto& entry : seen) CHECK(entry.second.size() == 1);
  std::size_t largest = 0;
  for (const auto& entry : seen)
    largest = std::max<std::size_t>(largest, std::count(patients.begin(), patients.end(), entry.first));
  const auto test = std::count(splits.begin(), splits.end(), "test"),
             val = std::count(splits.begin(), splits.end(), "val");
  CHECK(test >= 200);
  CHECK(test < 200 + static_cast<long>(largest));
  CHECK(std::abs(test + val - 300) <= static_cast<long>(largest));

  SECTION("does not depend on the order of images") {
    std::vector<std::size_t> order(patients.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    random.shuffle(order.begin(), order.end());
    std::vector<std::string> shuffled;
    for (std::size_t i : order) shuffled.push_back(patients[i]);
    const auto again = patient_disjoint_split(shuffled, options);
    for (std::size_t i = 0; i < order.size(); ++i) CHECK(again[i] == splits[order[i]]);
  }
  SECTION("depends on the seed") {
    options.seed = 6;
    CHECK(patient_disjoint_split(patients, options) != splits);
  }
  SECTION("fractions are checked") {
    options.val_fraction = 0.9;
    CHECK_THROWS_AS(patient_disjoint_split(patients, options), Error);
    options.val_fraction = -0.1;
    CHECK_THROWS_AS(patient_disjoint_split(patients, options), Error);
  }
}

TEST_CASE("a cohort without splits gets some", "[data]") {
  Scratch scratch;
  std::string labels = "id,path,split,patient_id,Mass\n";
  for (int i = 0; i < 60; ++i) {
    const std::string id = std::to_string(i);
    labels += id + ",images/" + id + ".png,,p" + std::to_string(i / 2) + ",0\n";
    scratch.put("images/" + id + ".png", "");
  }
  scratch.put("labels.csv", labels);
  const Cohort cohort = read_cohort(scratch.folder());
  CHECK(leak_check(cohort).empty());
  CHECK(cohort.split_indices("test").size() == 12);
  CHECK(cohort.split_indices("val").size() == 6);
}

TEST_CASE("the leak check lists patients and images", "[data]") {
  Cohort cohort;
  const auto add = [&](const char* patient, const char* path, const char* split) {
    Study study;
    study.patient_id = patient, study.path = path, study.split = split;
    cohort.studies.push_back(study);
  };
  add("p2", "/a", "test");
  add("p1", "/b", "train");
  add("p2", "/c", "train");
  add("p3", "/b", "val");
  const auto leaks = leak_check(cohort);
  REQUIRE(leaks.size() == 2);
  CHECK(leaks[0].what == "patient p2");
  CHECK(leaks[0].splits == std::vector<std::string>{"train", "test"});
  CHECK(leaks[1].what == "image /b");
}

// Every cohort folder under <shared>/data, with counts taken from its files by other means than the reader's.
TEST_CASE("shared cohorts are read unchanged", "[data][golden]") {
  const auto shared = test::shared_data();
  if (!shared || !std::filesystem::is_directory(*shared + "/data")) {
    std::cout << "golden cohort *: skipped (" << test::absent_data(shared, "data") << ")\n";
    return;
  }
  for (const auto& entry : std::filesystem::directory_iterator(*shared + "/data")) {
    const std::string folder = entry.path().string();
    if (!std::filesystem::exists(folder + "/labels.csv")) continue;
    INFO("cohort " << folder);
    const CsvTable table = read_csv(folder + "/labels.csv");
    const Cohort cohort = read_cohort(folder);
    REQUIRE(cohort.studies.size() == table.rows.size());
    std::size_t masks = 0, expected_masks = 0, positives = 0;
    for (std::size_t f = 0; f < cohort.findings.size(); ++f) {
      const std::size_t column = table.column(cohort.findings[f]);
      for (std::size_t i = 0; i < table.rows.size(); ++i) {
        const bool positive = cohort.studies[i].labels[f] == LabelState::kPositive;
        CHECK(positive == (std::strtod(table.rows[i][column].c_str(), nullptr) == 1));  // "1", "1.0", ...
        positives += positive;
        masks += cohort.studies[i].mask_paths.count(f);
        if (table.has_column("mask_" + cohort.findings[f]))
          expected_masks += !table.rows[i][table.column("mask_" + cohort.findings[f])].empty();
      }
    }
    CHECK(positives > 0);
    CHECK(masks == expected_masks);
    std::size_t boxes = 0;
    for (const auto& study : cohort.studies) boxes += study.boxes.size();
    const std::string box_file = folder + "/boxes.csv";
    CHECK(boxes == (std::filesystem::exists(box_file) ? read_csv(box_file).rows.size() : 0));
    CHECK(leak_check(cohort).empty());

    // Pixels of the first and last image of each split.
    std::vector<std::size_t> some;
    for (const char* split : kSplits) {
      const auto indices = cohort.split_indices(split);
      some.push_back(indices.front());
      some.push_back(indices.back());
    }
    const ImageSet images = load_images(cohort, some, {}).images;
    CHECK(images.count() == some.size());
    const auto [low, high] = std::minmax_element(images.pixels.begin(), images.pixels.end());
    CHECK(*low >= -1);
    CHECK(*high <= 1);
    CHECK(*low < *high);
    std::cout << "golden cohort " << entry.path().filename().string() << ": ok (" << cohort.studies.size()
              << " images, " << cohort.findings.size() << " findings, " << positives << " positive labels, " << masks
              << " masks, " << boxes << " boxes)\n";
  }
}
