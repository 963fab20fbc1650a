// What a run refuses.

#include <filesystem>
#include <iterator>
#include <string>

#include "daug/core/error.h"
#include "daug/io/csv.h"
#include "daug/io/file.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

namespace fs = std::filesystem;
using namespace daug;
using daug::test::caught;
using daug::test::FullDisk;
using daug::test::Scratch;
using daug::test::small_cohort;
using daug::test::smallest;

TEST_CASE("settings that do not fit together are refused before the first stage's work", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  SECTION("norm groups that do not divide the width") { config.diffusion.norm_groups = 5; }
  SECTION("an image that cannot be halved so often") { config.guide.levels = "1,1,1,1,1,1,1,1"; }
  SECTION("an encoder's width") { config.encoder.width = 12; }
  SECTION("parameters to freeze that no encoder has") { config.encoder.freeze = "images.*"; }
  SECTION("a kind beside a checkpoint that brings its own") {
    config.encoder.kind = "vit";
    config.encoder.image_checkpoint = "weights.safetensors";
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text("encoder.kind"));
    config.encoder.kind = "densenet121";  // 32 pixels end in one position
    config.encoder.image_checkpoint.clear();
    config.encoder.drop_path = 0.1;
  }
  SECTION("a learnt temperature that starts outside its range") {
    config.encoder.learn_temperature = true;
    config.encoder.logit_scale = -1;
    CHECK_THROWS_WITH(config.validate(), daug::test::contains_text("encoder.logit_scale"));
    config.encoder.learn_temperature = false;
    config.encoder.freeze = "logit_scale";  // which is none of the parameters
  }
  SECTION("a map that is not there") {
    config.encoder.mode = "channel";
    config.encoder.map_index = 6;
  }
  CHECK(caught([&] { Run(config, {}).execute(Stage::kTranslator); }).code() == ErrorCode::kInvalidArgument);
  CHECK(fs::is_empty(config.out + "/stages"));
}

TEST_CASE("boxes of a map that is not there are refused before the first stage's work", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.evaluate.box_groups = "Opacity=Nodule|Fracture";
  const Error error = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
  CHECK(error.code() == ErrorCode::kNotFound);
  CHECK(daug::test::mentions(error, "evaluate.box_groups", "'Fracture'"));
  CHECK(fs::is_empty(config.out + "/stages"));
}

TEST_CASE("a validation split that judges nothing is refused before the first stage's work", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.phantom.val = 1;
  config.encoder.patience = 1;
  const Error error = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
  CHECK(error.code() == ErrorCode::kInvalidArgument);
  CHECK(daug::test::mentions(error, "encoder.patience", "1 images"));
  CHECK(fs::is_empty(config.out + "/stages"));
}

TEST_CASE("an image or mask that is a folder is one that cannot be read", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  CsvTable table = read_csv(config.data + "/labels.csv");
  std::string folder;
  const auto name = [&](const char* column, const char* there) {
    table.rows[1][table.column(column)] = there;
    folder = config.data + "/" + there;
  };
  SECTION("image") { name("path", "images"); }
  SECTION("mask") { name("mask_Nodule", "masks"); }
  SECTION("counterfactual") { name("counterfactual", "counterfactual"); }
  write_csv(config.data + "/labels.csv", table);

  const std::string line = std::to_string(table.lines[1]);
  const auto listed = [&] {
    const CsvTable list = read_csv(config.out + "/unreadable_images.csv");
    REQUIRE(list.rows.size() == 1);
    CHECK(list.rows[0][list.column("id")] == table.rows[1][table.column("id")]);
    CHECK(list.rows[0][list.column("line")] == line);
    CHECK(daug::test::mentions(list.rows[0][list.column("message")], folder + ": expected a regular file"));
  };
  const Error error = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
  CHECK(error.code() == ErrorCode::kFormat);
  CHECK(daug::test::mentions(error, "66 readable images, got 1", "labels.csv line " + line, folder, "--skip-bad"));
  CHECK(fs::is_empty(config.out + "/stages"));
  listed();
  fs::remove(config.out + "/unreadable_images.csv");

  config.skip_bad = true;
  Run run(config, {});
  CHECK(run.execute(Stage::kTranslator));
  listed();
  CHECK_FALSE(run.fingerprint(Stage::kEvaluate).empty());  // for which masks are looked at again
}

TEST_CASE("a mask that is repaired brings its image back where bad ones are left out", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.data = small_cohort(scratch.path("cohort"));
  const CsvTable table = read_csv(config.data + "/labels.csv");
  std::string mask;
  for (std::size_t i = 0; mask.empty(); ++i) mask = table.rows[i][table.column("mask_Nodule")];
  mask = config.data + "/" + mask;
  const std::string good = read_text_file(mask);
  write_file_atomically(mask, "no image");
  const auto made_of = [&] { return Run(config, {}).fingerprint(Stage::kTranslator); };
  const std::string kept = made_of();
  config.skip_bad = true;
  const std::string skipped = made_of();
  CHECK(skipped != kept);
  write_file_atomically(mask, good);
  CHECK(made_of() != skipped);
  config.skip_bad = false;
  CHECK(made_of() == kept);  // a mask that is there decides nothing of a translator
}

TEST_CASE("bad input is refused before anything is made", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));

  SECTION("missing folder") {
    config.data = scratch.path("nowhere");
    CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kInvalidArgument);
  }
  SECTION("an unreadable image stops the run, unless it may be skipped") {
    config.data = small_cohort(scratch.path("cohort"));
    const std::string victim = fs::directory_iterator(config.data + "/images")->path().string();
    const auto whole = read_file(victim);
    fs::resize_file(victim, fs::file_size(victim) / 2);
    CHECK(caught([&] { Run(config, {}).execute(Stage::kTranslator); }).code() == ErrorCode::kFormat);
    CHECK(fs::exists(config.out + "/unreadable_images.csv"));
    config.skip_bad = true;
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    fs::remove(victim);
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    CHECK(read_text_file(config.out + "/unreadable_images.csv").find(fs::path(victim).filename()) != std::string::npos);
    config.skip_bad = false;
    const Error missing = caught([&] { Run(config, {}).execute(Stage::kTranslator); });
    CHECK(missing.code() == ErrorCode::kFormat);
    CHECK(daug::test::mentions(missing, victim, "unreadable_images.csv", "--skip-bad"));
    write_file_atomically(victim, whole.data(), whole.size());
    CHECK(Run(config, {}).execute(Stage::kTranslator));
    CHECK_FALSE(fs::exists(config.out + "/unreadable_images.csv"));  // there are none now
  }
  SECTION("a disk that fills up while weights are written leaves neither them nor a record of the stage") {
    Run run(config, {});
    run.execute(Stage::kGuide);
    {
      const FullDisk full(20000);
      CHECK(caught([&] { run.execute(Stage::kTranslator); }).code() == ErrorCode::kIo);
    }
    CHECK_FALSE(fs::exists(config.out + "/translator.safetensors"));
    CHECK_FALSE(fs::exists(config.out + "/stages/translator.json"));
    for (const auto& entry : fs::recursive_directory_iterator(config.out)) CHECK(entry.path().extension() != ".tmp");
    CHECK(run.execute(Stage::kTranslator));
  }
  SECTION("a folder of the name of the phantoms' that is another's") {
    fs::create_directories(config.out + "/phantoms");
    write_file_atomically(config.out + "/phantoms/plans.txt", "mine");
    CHECK(caught([&] { Run(config, {}).execute(Stage::kTranslator); }).code() == ErrorCode::kMismatch);
    CHECK(read_text_file(config.out + "/phantoms/plans.txt") == "mine");
    CHECK(std::distance(fs::directory_iterator(config.out + "/phantoms"), {}) == 1);
  }
  SECTION("a folder that cannot be made") {
    config.out = "/proc/daug/run";
    CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kIo);
    write_file_atomically(scratch.path("file"), "not a folder");
    config.out = scratch.path("file/run");
    CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kIo);
  }
  SECTION("an unknown stage to force") {
    config.force = {"translater"};
    CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kInvalidArgument);
  }
  SECTION("a setting out of range") {
    config.size = 8;
    CHECK(caught([&] { Run run(config, {}); }).code() == ErrorCode::kInvalidArgument);
  }
}
