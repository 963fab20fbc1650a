// Texts of a run are UTF-8: what is not is refused by name before anything is made.

#include <filesystem>

#include "daug/core/error.h"
#include "daug/data/cohort.h"
#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"

using namespace daug;
using daug::test::contains_text;
using daug::test::Scratch;
using daug::test::smallest;

TEST_CASE("settings, cohorts and figures that are no UTF-8 are refused", "[pipeline]") {
  const Scratch scratch;
  RunConfig config = smallest(scratch.path("run"));
  config.evaluate.slice_by = "gr\xFC\xDF";
  CHECK_THROWS_WITH(Run(config, {}), contains_text("evaluate.slice_by: expected UTF-8"));
  CHECK_FALSE(std::filesystem::exists(config.out));

  write_file_atomically(scratch.path("labels.csv"),
                        "id,path,split,patient_id,report,Edema\n1,1.png,train,p,clear,0\n2,2.png,val,q,f\xFCr,1\n");
  CohortOptions options;
  options.check_images = false;
  CHECK_THROWS_WITH(read_cohort(scratch.path("."), options), contains_text("labels.csv line 3: expected UTF-8"));

  try {
    write_metrics(scratch.path("metrics.json"), {{"name", "arm", "test[site=\xFC]", 1, {}, {}, 1, "definition"}},
                  "print");
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kInvalidArgument);
  }
  CHECK_FALSE(std::filesystem::exists(scratch.path("metrics.json")));
}
