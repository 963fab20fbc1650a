// Feeds a target with damaged good files where there is no libFuzzer. Input k depends on (target, k) alone:
//
//     daug_fuzz TARGET [--seconds S] [--first K] [--runs N]     until S seconds or N inputs are over, from input K on
//     daug_fuzz TARGET --input FILE                             one file's bytes
//     daug_fuzz TARGET --write FOLDER                           the good files, as a corpus for libFuzzer
//     daug_fuzz --list
//
// S is DAUG_FUZZ_SECONDS of the environment, 2 without it; for readers of tokenizers', encoders' and labels' files
// DAUG_FUZZ_ENCODER_SECONDS, where that is there. A failure, or an input that takes longer than a minute,
// prints the command that repeats it and leaves the input in the working directory.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/io/file.h"
#include "entry.h"
#include "support/mutation.h"
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace {

constexpr unsigned kLongestInput = 60;  // seconds

// What a failure has to tell, ready before it happens.
char g_repeat[256] = "";
char g_saved[256] = "";
const std::string* g_bytes = nullptr;

void say_how_to_repeat() {
  if (!g_bytes) return;
  const int file = ::open(g_saved, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool saved = file >= 0 && ::write(file, g_bytes->data(), g_bytes->size()) >= 0;
  std::fprintf(stderr, "%s%s%s\n", g_repeat, saved ? "; its bytes: " : "", saved ? g_saved : "");
  g_bytes = nullptr;
}

void on_signal(int number) {
  if (number == SIGALRM) std::fprintf(stderr, "broken: no end after %u s\n", kLongestInput);
  say_how_to_repeat();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

int usage() {
  std::fprintf(stderr,
               "daug_fuzz TARGET [--seconds S] [--first K] [--runs N] | TARGET --input FILE | TARGET --write FOLDER | "
               "--list\n");
  return 2;
}

/// Signals are answered on a stack of their own: one of them says that the other has ended.
void watch_signals() {
  static char stack[1 << 16];
  stack_t other{};
  other.ss_sp = stack;
  other.ss_size = sizeof stack;
  ::sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int number : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGALRM}) ::sigaction(number, &action, nullptr);
}

/// How long the environment wants a target to run.
double wanted_seconds(const daug::fuzz::Target& target) {
  const auto setting = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value ? value : nullptr;
  };
  const char* wanted = target.encoder_file ? setting("DAUG_FUZZ_ENCODER_SECONDS") : nullptr;
  if (!wanted) wanted = setting("DAUG_FUZZ_SECONDS");
  return wanted ? std::atof(wanted) : 2;
}

/// `repeat` is how to come to these bytes again, `name` what they are called.
void feed(const std::string& bytes, const std::string& repeat, const std::string& name) {
  std::snprintf(g_repeat, sizeof g_repeat, "%s", repeat.c_str());
  std::snprintf(g_saved, sizeof g_saved, "%s.input", name.c_str());
  g_bytes = &bytes;
  ::alarm(kLongestInput);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  ::alarm(0);
  g_bytes = nullptr;
}

int run(const daug::fuzz::Target& target, double seconds, std::uint64_t first, std::uint64_t runs) {
  const std::string name = target.name;
  const auto seeds = target.seeds();
  const std::string command = std::string("repeat with: ") + program_invocation_short_name + " " + name;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    daug::fuzz::reads() = {};
    feed(seeds[i], "good file " + std::to_string(i) + " of " + name, "fuzz_" + name + "_good_" + std::to_string(i));
    // A reader that refuses everything would pass.
    const auto& reads = daug::fuzz::reads();
    if (reads.accepted == 0 && !reads.refusal.empty())
      daug::fuzz::broken(("good file " + std::to_string(i) + " refused: " + reads.refusal).c_str());
  }
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::uint64_t input = first;
  for (; input - first < runs && elapsed() < seconds; ++input) {
    daug::RandomStream random(1, input, target.name);
    const auto number = std::to_string(input);
    feed(daug::test::mutated(seeds[random.below(static_cast<std::uint32_t>(seeds.size()))], random),
         command + " --first " + number + " --runs 1", "fuzz_" + name + "_" + number);
  }
  std::printf("%s: %llu inputs in %.1f s\n", target.name, static_cast<unsigned long long>(input - first), elapsed());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 1 && words[0] == "--list") {
    for (const auto& target : daug::fuzz::targets()) std::puts(target.name);
    return 0;
  }
  if (words.size() % 2 == 0) return usage();
  std::optional<double> seconds;
  std::uint64_t first = 0, runs = ~std::uint64_t{0};
  std::string folder, input;
  for (std::size_t i = 1; i < words.size(); i += 2) {
    const char* value = words[i + 1].c_str();
    if (words[i] == "--seconds")
      seconds = std::atof(value);
    else if (words[i] == "--first")
      first = std::strtoull(value, nullptr, 10);
    else if (words[i] == "--runs")
      runs = std::strtoull(value, nullptr, 10);
    else if (words[i] == "--write")
      folder = value;
    else if (words[i] == "--input")
      input = value;
    else
      return usage();
  }
  for (const auto& target : daug::fuzz::targets()) {
    if (target.name != words[0]) continue;
    if (!folder.empty()) {
      int number = 0;
      for (const auto& seed : target.seeds())
        std::ofstream(folder + "/" + target.name + std::to_string(number++), std::ios::binary) << seed;
      return 0;
    }
    ::setenv("DAUG_FUZZ_TARGET", target.name, 1);
    watch_signals();
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_how_to_repeat);
    if (input.empty()) return run(target, seconds.value_or(wanted_seconds(target)), first, runs);
    feed(daug::read_text_file(input), "the same input: " + input, "fuzz_" + words[0] + "_again");
    return 0;
  }
  return usage();
}
