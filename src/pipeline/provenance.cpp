#include "provenance.h"

#include <ATen/Version.h>
#include <torch/version.h>

#include <algorithm>
#include <cctype>
#include <fstream>

#include "daug/core/utf8.h"

// Of this library and those that are linked beside LibTorch, as the build has them.
#ifndef DAUG_VERSION
#define DAUG_VERSION "of unknown version"
#endif
#ifndef DAUG_LIBRARY_VERSIONS
#define DAUG_LIBRARY_VERSIONS "not recorded"
#endif

namespace daug {

const char* const kLibrary = "daug " DAUG_VERSION;

namespace {

/// A word as a shell reads it back.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string("_./,:=+-").find(static_cast<char>(c)) != std::string::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

std::string process_command() {
  std::ifstream words("/proc/self/cmdline", std::ios::binary);
  std::string command;
  for (std::string word; std::getline(words, word, '\0');)
    command += (command.empty() ? "" : " ") + shell_word(as_utf8(word));
  return command;
}

std::vector<std::pair<std::string, std::string>> provenance_facts(const RunConfig& config) {
  std::string command = "00_quickstart";
  for (const auto& word : command_line(config)) command += " " + shell_word(word);
  return {{"command that gives these settings", command},
          {"library", kLibrary},
          {"LibTorch", TORCH_VERSION},
          {"other libraries", DAUG_LIBRARY_VERSIONS},
          {"instruction set", at::get_cpu_capability()},
          {"compiler", __VERSION__},
          {"threads", std::to_string(config.threads)},
          {"device", config.device}};
}

}  // namespace daug
