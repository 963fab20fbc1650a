// Encoders of a run that several processes train together.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/progress.h"
#include "daug/io/file.h"
#include "daug/io/safetensors.h"
#include "daug/pipeline/run.h"
#include "daug/train/process_group.h"
#include "pipeline/smallest_run.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/ranks.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

/// A port of this machine on which nobody listens.
int free_port() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<const sockaddr*>(&address), size) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  ::close(listener);
  return ntohs(address.sin_port);
}

/// What every rank, and the run of one process, is told.
RunConfig settings_of_ranks(const std::string& out) {
  RunConfig config = smallest(out);
  config.encoder.epochs = 3;
  return config;
}

/// Runs the encoders' stage of this folder on two ranks; whether both ended as they should. With "stop" the second asks
/// for a stop.
bool on_two_ranks(const std::string& out, const std::string& ending) {
  ::setenv("DAUG_TEST_SHARED_RUN", (out + " " + std::to_string(free_port()) + " " + ending).c_str(), 1);
  const int well = run_as_processes(2, "rank of a run by processes");
  ::unsetenv("DAUG_TEST_SHARED_RUN");
  return well == 2;
}

std::size_t files_ending(const std::string& folder, const std::string& ending) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    count += entry.path().string().ends_with(ending) ? 1 : 0;
  return count;
}

}  // namespace

TEST_CASE("rank of a run by processes", "[.rank]") {
  const char* rank = std::getenv("DAUG_TEST_RANK");
  const char* run = std::getenv("DAUG_TEST_SHARED_RUN");
  REQUIRE(rank != nullptr);
  REQUIRE(run != nullptr);
  std::istringstream own(rank), all(run);
  std::string out, port, ending;
  all >> out >> port >> ending;
  RunConfig config = settings_of_ranks(out);
  own >> config.rank >> config.ranks;
  config.meeting = "127.0.0.1:" + port;
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  if (ending == "stop" && config.rank == 1)
    control.progress = [&](const Progress& progress) {
      if (progress.stage.rfind("train encoder", 0) == 0) stop.request_stop();
    };
  if (ending == "stop")
    CHECK(caught([&] { Run(config, control).execute(Stage::kEncoders); }).code() == ErrorCode::kCancelled);
  else
    CHECK(Run(config, control).execute(Stage::kEncoders));
}

TEST_CASE("two processes train a run's encoders as one does", "[pipeline][distributed]") {
  const Scratch scratch_alone, scratch_shared;
  const RunConfig alone = settings_of_ranks(finished_run(scratch_alone).out),
                  shared = settings_of_ranks(finished_run(scratch_shared).out);
  CHECK(Run(alone, {}).execute(Stage::kEncoders));

  // A stop of one ends both after the same step, so they train together; the first keeps the checkpoint.
  const std::string encoders = shared.out + "/encoders";
  CHECK(on_two_ranks(shared.out, "stop"));
  CHECK(files_ending(encoders, ".checkpoint") == 1);
  CHECK(on_two_ranks(shared.out, "finish"));
  CHECK(files_ending(encoders, ".checkpoint") == 0);
  CHECK_FALSE(Run(shared, {}).execute(Stage::kEncoders));  // up to date, whoever trained them
  CHECK(read_text_file(shared.out + "/run.log").find("encoders: resumed") != std::string::npos);

  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(alone.out + "/encoders")) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".history")) continue;
    INFO(name);
    const std::vector<double> expected = read_safetensors(entry.path().string()).at("loss").to_double();
    const std::vector<double> actual = read_safetensors(encoders + "/" + name).at("loss").to_double();
    REQUIRE(expected.size() == 6);
    REQUIRE(actual.size() == expected.size());
    CHECK(actual[0] == Approx(expected[0]).epsilon(1e-5));  // the loss of the whole batch
    for (std::size_t step = 1; step < expected.size(); ++step)
      CHECK(actual[step] == Approx(expected[step]).epsilon(0.02));
    ++compared;
  }
  CHECK(compared == 6);
}

TEST_CASE("ranks that cannot be are refused by name", "[pipeline]") {
  const Scratch scratch;
  const auto refused = [&](const char* part, void (*spoil)(RunConfig&)) {
    RunConfig config = smallest(scratch.path("run"));
    config.ranks = 2;
    spoil(config);
    check_refused(ErrorCode::kInvalidArgument, part, [&] { config.validate(); });
  };
  refused("rank: expected a value in [0, 1], got 2", [](RunConfig& c) { c.rank = 2; });
  refused("meeting: expected HOST:PORT", [](RunConfig& c) { c.meeting = "localhost"; });
  refused("meeting: expected HOST:PORT", [](RunConfig& c) { c.meeting = ":29500"; });
  refused("meeting: expected HOST:PORT", [](RunConfig& c) { c.meeting = "localhost:0"; });
  refused("meeting: expected HOST:PORT", [](RunConfig& c) { c.meeting = "localhost:65536"; });
  refused("meeting: expected HOST:PORT", [](RunConfig& c) { c.meeting = "localhost:29500x"; });
  refused("ranks: expected 1 on cuda", [](RunConfig& c) { c.device = "cuda"; });
  refused("budget: expected 0", [](RunConfig& c) { c.budget = 1; });
  RunConfig config = smallest(scratch.path("run"));
  config.ranks = 2;
  check_refused(ErrorCode::kUnsupported, "ranks: expected 1 for stage 'translator'",
                [&] { Run(config, {}).execute(Stage::kTranslator); });

  ProcessGroupOptions options;
  options.meeting = "127.0.0.1:" + std::to_string(free_port());
  CHECK(make_process_group(options)->getSize() == 1);
  options.ranks = 2, options.rank = 1, options.timeout = 1;  // rank 0 never comes
  options.meeting = "127.0.0.1:" + std::to_string(free_port());
  check_refused(ErrorCode::kIo, options.meeting, [&] { make_process_group(options); });
  options.timeout = 0;
  check_refused(ErrorCode::kInvalidArgument, "timeout", [&] { make_process_group(options); });
}
