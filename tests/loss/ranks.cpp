#include "support/ranks.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <vector>

extern char** environ;

namespace daug::test {
namespace {

c10::intrusive_ptr<c10d::ProcessGroup> gloo_group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int ranks) {
  const auto options = c10d::ProcessGroupGloo::Options::create();
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  options->timeout = std::chrono::milliseconds(60000);
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, ranks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                    c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, ranks, options));
  return group;
}

}  // namespace

void run_as_threads(int ranks, const RankBody& body) {
  // LibTorch's record of collectives is one map a process without a lock: groups in several threads would race in it.
  [[maybe_unused]] static const int off = ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(*gloo_group(store, rank, ranks));
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

int run_as_processes(int ranks, const std::string& name) {
  const auto meeting = std::filesystem::temp_directory_path() / ("daug_ranks_" + std::to_string(::getpid()));
  std::filesystem::remove(meeting);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    ::setenv("DAUG_TEST_RANK", (std::to_string(rank) + " " + std::to_string(ranks) + " " + meeting.string()).c_str(),
             1);
    std::vector<std::string> words = {"/proc/self/exe", name};
#if !__has_include(<catch2/catch_all.hpp>)
    // Unasked, Catch2 2.x ends well where no test case has the name; 3.x does not.
    words.emplace_back("--warn"), words.emplace_back("NoTests");
#endif
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    if (::posix_spawn(&child, words[0].c_str(), nullptr, nullptr, arguments.data(), environ) == 0)
      children.push_back(child);
  }
  ::unsetenv("DAUG_TEST_RANK");
  int well = 0;
  for (const pid_t child : children) {
    int status = 0;
    well += ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 1 : 0;
  }
  std::filesystem::remove(meeting);
  return well;
}

void run_as_this_process(const RankBody& body) {
  const char* variable = std::getenv("DAUG_TEST_RANK");
  if (!variable) throw std::runtime_error("DAUG_TEST_RANK is not set: this test case runs as a rank");
  std::istringstream words(variable);
  int rank = 0, ranks = 0;
  std::string meeting;
  words >> rank >> ranks >> meeting;
  const auto group = gloo_group(c10::make_intrusive<c10d::FileStore>(meeting, ranks), rank, ranks);
  group->barrier()->wait();  // one with nothing to do would end while others still connect to it, and they would fail
  body(*group);
}

}  // namespace daug::test
