#include "daug/core/progress.h"

#include <string>
#include <vector>

#include "support/catch.h"

using namespace daug;

TEST_CASE("a default stop token never stops", "[core]") {
  const StopToken token;
  CHECK_FALSE(token.stop_requested());
  CHECK_NOTHROW(token.throw_if_stopped("work"));
}

TEST_CASE("every token of a source sees its request, also after the source is gone", "[core]") {
  StopToken early;
  StopToken copy;
  {
    StopSource source;
    early = source.token();
    copy = early;
    CHECK_FALSE(early.stop_requested());
    source.request_stop();
    CHECK(source.stop_requested());
    CHECK(source.token().stop_requested());
  }
  CHECK(early.stop_requested());
  CHECK(copy.stop_requested());
  try {
    copy.throw_if_stopped("train");
    FAIL("nothing was thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kCancelled);
    CHECK(std::string(error.what()) == "train: stopped on request");
  }
}

TEST_CASE("separate sources do not stop each other", "[core]") {
  StopSource first;
  const StopSource second;
  first.request_stop();
  CHECK_FALSE(second.token().stop_requested());
}

TEST_CASE("a run control passes reports on, and works without a callback", "[core]") {
  RunControl control;
  CHECK_NOTHROW(control.report({"encode", 1, 2, "images", ""}));
  std::vector<Progress> seen;
  control.progress = [&](const Progress& progress) { seen.push_back(progress); };
  control.report({"encode", 1, 2, "images", "loss 0.5"});
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].stage == "encode");
  CHECK(seen[0].done == 1);
  CHECK(seen[0].total == 2);
  CHECK(seen[0].unit == "images");
  CHECK(seen[0].detail == "loss 0.5");
}
