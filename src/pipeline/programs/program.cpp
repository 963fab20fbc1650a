// The part of a program that talks to a person: progress, Ctrl-C, exit status.

#include "program.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <mutex>
#include <new>

#include "daug/core/error.h"
#include "daug/pipeline/run.h"

namespace daug {

namespace {

StopSource* g_stop = nullptr;

void on_interrupt(int) {
  // A second Ctrl-C means it: fall back to the default action.
  if (g_stop) g_stop->request_stop();
  std::signal(SIGINT, SIG_DFL);
}

/// A bar that redraws itself on a terminal, a line every few seconds otherwise.
class Console {
 public:
  void say(const std::string& line) {
    const std::lock_guard lock(mutex_);
    clear();
    std::fprintf(stdout, "%s\n", line.c_str());
    std::fflush(stdout);
  }

  void progress(const Progress& progress) {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    auto& stage = stages_[progress.stage];
    if (stage.started == Clock{} || progress.done < stage.last) stage = {now, now, progress.done - 1, progress.done};
    stage.last = progress.done;
    const auto interval = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000);
    const bool finished = progress.done == progress.total;
    if (now - stage.shown < interval && !finished) return;
    stage.shown = now;
    const double seconds = std::chrono::duration<double>(now - stage.started).count();
    const double rate = seconds > 0 ? static_cast<double>(progress.done - stage.first) / seconds : 0;
    const double left = rate > 0 ? static_cast<double>(progress.total - progress.done) / rate : 0;
    const std::string text = fmt::format("{}: {}/{} {}  {:.1f}/s  {:.0f} s left  {}", progress.stage, progress.done,
                                         progress.total, progress.unit, rate, left, progress.detail);
    if (!terminal_) {
      std::fprintf(stdout, "%s\n", text.c_str());
    } else {
      constexpr std::int64_t kWidth = 24;
      const auto filled = progress.total > 0 ? progress.done * kWidth / progress.total : 0;
      std::string bar;
      for (std::int64_t i = 0; i < kWidth; ++i) bar += i < filled ? '#' : '.';
      std::fprintf(stdout, "\r\033[K[%s] %s", bar.c_str(), text.c_str());
      drawn_ = true;
      if (finished) clear();
    }
    std::fflush(stdout);
  }

  void clear() {
    if (!drawn_) return;
    std::fprintf(stdout, "\r\033[K");
    std::fflush(stdout);  // before an error's message on the other stream
    drawn_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock::time_point;
  struct StageClock {
    Clock started, shown;
    std::int64_t first = 0, last = 0;
  };
  bool terminal_ = isatty(STDOUT_FILENO) == 1;
  bool drawn_ = false;
  std::map<std::string, StageClock> stages_;
  std::mutex mutex_;
};

}  // namespace

int guarded_program(const std::string& stopped, const std::function<void(const RunControl&, const Say&)>& work) {
  StopSource stop;
  g_stop = &stop;
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  Console console;
  int status = 0;
  const auto failed = [&](const char* message) {
    console.clear();
    std::cerr << "error: " << message << "\n";
    status = 1;
  };
  try {
    work({[&](const Progress& progress) { console.progress(progress); }, stop.token()},
         [&](const std::string& text) { console.say(text); });
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) {
      failed(error.what());
    } else {
      console.clear();
      std::cerr << stopped << "\n";
      status = 130;
    }
  } catch (const c10::Error& error) {
    failed(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    failed("not enough memory");
  } catch (const std::exception& error) {
    failed(error.what());
  }
  g_stop = nullptr;
  return status;
}

int run_program(int argc, const char* const* argv, const std::string& description, const std::vector<Stage>& stages,
                const std::function<void(Run&)>& then) {
  const CommandLine line = parse_command_line(argc, argv, description);
  if (line.exit) return line.exit_code;
  const std::string& out = line.config.out;
  return guarded_program("Stopped; what was finished is kept in " + out + ". Run the same command again to resume.",
                         [&](const RunControl& control, const Say& say) {
                           const auto start = std::chrono::steady_clock::now();
                           Run run(line.config, control, say);
                           for (Stage stage : stages) run.execute(stage);
                           if (then) then(run);
                           const double seconds =
                               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
                           say(fmt::format("done in {:.1f} s: {}", seconds, out));
                         });
}

}  // namespace daug
