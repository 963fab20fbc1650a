// What a program shows of its progress to a person at a terminal, and to whatever else reads its output.

#include <poll.h>
#include <pty.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "daug/core/error.h"
#include "daug/core/progress.h"
#include "pipeline/programs/program.h"
#include "support/catch.h"
#include "support/child.h"

using namespace daug;

namespace {

constexpr std::chrono::milliseconds kPause(150);  ///< longer than a bar stays as it is

/// What a program left on its standard output and standard error, and its exit status.
struct Seen {
  std::string text;
  int status = -1;
};

/// Runs a program of its own, whose output is a terminal's or goes into a pipe.
Seen seen(bool terminal, const std::function<void(const RunControl&, const Say&)>& work) {
  std::array<int, 2> ends{};  // to read from, to write to
  REQUIRE((terminal ? ::openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr) : ::pipe(ends.data())) == 0);
  std::fflush(stdout);  // or the child would write it as well
  Seen result;
  result.status = test::in_child([&] {
    for (const int stream : {STDOUT_FILENO, STDERR_FILENO})
      if (::dup2(ends[1], stream) < 0) return 254;
    return guarded_program("stopped", work);
  });
  ::close(ends[1]);
  // The child is gone, and all that it wrote fits into what a terminal or pipe holds. A terminal ends with an error.
  std::array<char, 4096> part{};
  for (pollfd end{ends[0], POLLIN, 0}; ::poll(&end, 1, 5000) == 1;) {
    const auto bytes = ::read(ends[0], part.data(), part.size());
    if (bytes <= 0) break;
    result.text.append(part.data(), static_cast<std::size_t>(bytes));
  }
  ::close(ends[0]);
  return result;
}

/// Reports `done` of 24 steps.
void report_step(const RunControl& control, std::int64_t done) {
  control.report({"train", done, 24, "steps", "loss 0.5"});
}

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(separator, begin)) != text.npos; begin = at + separator.size())
    parts.push_back(text.substr(begin, at - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

/// Checks that a text is all that is said of `done` steps which took at least this long, in numbers that fit together.
void check_progress(const std::string& text, int done, std::chrono::milliseconds at_least) {
  INFO(text);
  int counted = -1, total = -1, left = -1, length = -1;
  double rate = -1;
  const int numbers = std::sscanf(text.c_str(), "train: %d/%d steps  %lf/s  %d s left  loss 0.5%n", &counted, &total,
                                  &rate, &left, &length);
  REQUIRE(numbers == 4);
  CHECK(static_cast<std::size_t>(length) == text.size());
  CHECK(counted == done);
  CHECK(total == 24);
  // The rate is written in tenths, the time in seconds; together they are the steps that are left.
  CHECK(rate > 0);
  CHECK(rate <= done / std::chrono::duration<double>(at_least).count() + 0.051);
  CHECK((rate + 0.051) * (left + 0.51) >= 24 - done);
  CHECK((rate - 0.051) * (left - 0.51) <= 24 - done);
}

void steps(const RunControl& control, const Say& say) {
  say("begun");
  report_step(control, 1);
  std::this_thread::sleep_for(kPause);
  report_step(control, 2);
  std::this_thread::sleep_for(kPause);
  report_step(control, 6);
  report_step(control, 24);
  say("ended");
}

const std::string kRedraw = "\r\033[K";  // to the beginning of the line, and clear it

}  // namespace

TEST_CASE("on a terminal a bar redraws itself in one line, with a rate and the time left, until all is done",
          "[pipeline]") {
  const Seen program = seen(true, steps);
  INFO(program.text);
  CHECK(program.status == 0);
  const auto parts = split_at(program.text, kRedraw);  // a terminal ends lines with "\r\n"
  REQUIRE(parts.size() == 5);
  CHECK(parts[0] == "begun\r\n");
  CHECK(parts[1].rfind("[##......................] ", 0) == 0);
  check_progress(parts[1].substr(27), 2, kPause);
  CHECK(parts[2].rfind("[######..................] ", 0) == 0);
  check_progress(parts[2].substr(27), 6, 2 * kPause);
  CHECK(parts[3].rfind("[########################] ", 0) == 0);
  check_progress(parts[3].substr(27), 24, 2 * kPause);
  CHECK(parts[4] == "ended\r\n");
}

TEST_CASE("what is no terminal gets whole lines", "[pipeline]") {
  const Seen program = seen(false, steps);
  INFO(program.text);
  CHECK(program.status == 0);
  CHECK(program.text.find_first_of("\r\033") == std::string::npos);
  const auto lines = split_at(program.text, "\n");
  REQUIRE(lines.size() == 4);  // the first reports come too soon
  CHECK(lines[0] == "begun");
  check_progress(lines[1], 24, 2 * kPause);
  CHECK(lines[2] == "ended");
  CHECK(lines[3].empty());
}

TEST_CASE("an error on a terminal takes the place of the bar", "[pipeline]") {
  const Seen program = seen(true, [](const RunControl& control, const Say&) {
    report_step(control, 1);
    std::this_thread::sleep_for(kPause);
    report_step(control, 2);
    fail(ErrorCode::kIo, "train", "disk", "room", "none");
  });
  INFO(program.text);
  CHECK(program.status == 1);
  const auto parts = split_at(program.text, kRedraw);
  REQUIRE(parts.size() == 3);
  CHECK(parts[0].empty());
  check_progress(parts[1].substr(27), 2, kPause);
  CHECK(parts[2] == "error: train: disk: expected room, got none\r\n");
}
