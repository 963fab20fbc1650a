// Measuring with any number of threads.

#include <fmt/format.h>

#include <map>
#include <string>

#include "daug/io/file.h"
#include "daug/pipeline/figures.h"
#include "daug/pipeline/run.h"
#include "pipeline/evaluation/predictions.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/scratch.h"

using namespace daug;

TEST_CASE("what a run measures does not depend on the number of threads, to the last bit", "[pipeline]") {
  const test::Scratch scratch;
  RunConfig config = test::finished_run(scratch);
  config.force = {"evaluate"};
  std::map<std::string, std::string> first;
  for (const int threads : {1, 2, 5}) {
    INFO(threads);
    config.threads = threads;
    Run run(config, {});
    CHECK(run.execute(Stage::kEvaluate));
    std::map<std::string, std::string> made = {{"details", read_text_file(config.out + "/stages/details.json")},
                                               {"predictions", read_text_file(config.out + "/" + kPredictionsFile)}};
    std::string& figures = made["figures"];
    for (const Figure& figure : read_metrics(config.out + "/metrics.json"))
      if (figure.name.rfind("time.", 0) != 0)
        figures += fmt::format("{} {} {} {:a} {:a} {:a} {}\n", figure.name, figure.arm, figure.split, figure.value,
                               figure.low.value_or(-1), figure.high.value_or(-1), figure.n);
    if (first.empty()) first = made;
    for (const auto& [name, contents] : made) {
      INFO(name);
      CHECK((contents == first.at(name)));  // in brackets: nobody wants to read them
    }
  }
}
