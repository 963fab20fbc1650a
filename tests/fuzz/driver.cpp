// Feeds a target with damaged good files where there is no libFuzzer. Input k depends on (target, k) alone:
//
//     daug_fuzz TARGET [--seconds S] [--first K] [--runs N]     until S seconds or N inputs are over, from input K on
//     daug_fuzz TARGET --write FOLDER                           the good files, as a corpus for libFuzzer
//     daug_fuzz --list
//
// A failure prints the command that repeats it.

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "daug/core/random.h"
#include "support/mutation.h"
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));

namespace {

const char* g_target = "";
std::uint64_t g_input = 0;

void say_how_to_repeat() {
  std::fprintf(stderr, "repeat with: daug_fuzz %s --first %llu --runs 1\n", g_target,
               static_cast<unsigned long long>(g_input));
}

void on_signal(int number) {
  say_how_to_repeat();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

int usage() {
  std::fprintf(stderr, "daug_fuzz TARGET [--seconds S] [--first K] [--runs N] | TARGET --write FOLDER | --list\n");
  return 2;
}

int run(const daug::fuzz::Target& target, double seconds, std::uint64_t first, std::uint64_t runs) {
  const auto seeds = target.seeds();
  const auto feed = [](const std::string& bytes) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  };
  for (const auto& seed : seeds) feed(seed);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  for (g_input = first; g_input - first < runs && elapsed() < seconds; ++g_input) {
    daug::RandomStream random(1, g_input, target.name);
    feed(daug::test::mutated(seeds[random.below(static_cast<std::uint32_t>(seeds.size()))], random));
  }
  std::printf("%s: %llu inputs in %.1f s\n", target.name, static_cast<unsigned long long>(g_input - first), elapsed());
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
  double seconds = 60;
  std::uint64_t first = 0, runs = ~std::uint64_t{0};
  std::string folder;
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
    g_target = target.name;
    ::setenv("DAUG_FUZZ_TARGET", target.name, 1);
    for (const int number : {SIGABRT, SIGSEGV, SIGFPE, SIGBUS}) std::signal(number, on_signal);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_how_to_repeat);
    return run(target, seconds, first, runs);
  }
  return usage();
}
