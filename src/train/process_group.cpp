#include "daug/train/process_group.h"

#include <cstddef>

#include "daug/core/error.h"

#ifdef USE_C10D_GLOO  // of this file alone, see src/CMakeLists.txt
#include <chrono>
#include <exception>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#endif

namespace daug {

namespace {

constexpr const char* kFunction = "daug::make_process_group";

/// Where the port of HOST:PORT begins, and the port; 0 where there is none.
struct Meeting {
  std::size_t colon = std::string::npos;
  long port = 0;

  explicit Meeting(const std::string& text) : colon(text.rfind(':')) {
    if (colon == std::string::npos || colon == 0) return;
    const std::string digits = text.substr(colon + 1);
    const bool number = !digits.empty() && digits.size() <= 5 && digits.find_first_not_of("0123456789") == digits.npos;
    if (number) port = std::stol(digits);
  }
};

}  // namespace

void ProcessGroupOptions::validate() const {
  constexpr const char* kName = "daug::ProcessGroupOptions";
  require_range(ranks, 1, 4096, kName, "ranks");
  require_range(rank, 0, ranks - 1, kName, "rank");
  const Meeting place(meeting);
  require(place.port >= 1 && place.port <= 65535, kName, "meeting", "HOST:PORT with a port in [1, 65535]",
          "'" + meeting + "'");
  require_range(timeout, 1.0, 1e6, kName, "timeout");
}

#ifdef USE_C10D_GLOO

namespace {

c10::intrusive_ptr<c10d::ProcessGroup> gloo_group(const ProcessGroupOptions& options) {
  const Meeting place(options.meeting);
  const std::string host = options.meeting.substr(0, place.colon);
  const auto timeout = std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout * 1000));
  const int rank = static_cast<int>(options.rank), ranks = static_cast<int>(options.ranks);
  c10d::TCPStoreOptions meeting;
  meeting.port = static_cast<std::uint16_t>(place.port);
  meeting.isServer = rank == 0;
  meeting.numWorkers = static_cast<std::size_t>(options.ranks);
  meeting.timeout = timeout;
  meeting.useLibUV = false;  // which not every build of LibTorch has
  const c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::TCPStore>(host, meeting);
  const auto gloo = c10d::ProcessGroupGloo::Options::create();
  const bool here = host == "localhost" || host.rfind("127.", 0) == 0;
  gloo->devices.push_back(here ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                               : c10d::ProcessGroupGloo::createDefaultDevice());
  gloo->timeout = timeout;
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, ranks);
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                    c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, ranks, gloo));
  return group;
}

}  // namespace

std::shared_ptr<c10d::ProcessGroup> make_process_group(const ProcessGroupOptions& options) {
  options.validate();
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  const auto refuse = [&](const char* why) {
    fail(ErrorCode::kIo, kFunction, "meeting",
         detail::concat(options.ranks, " ranks at ", options.meeting, " within ", options.timeout, " s"), why);
  };
  try {
    group = gloo_group(options);
  } catch (const c10::Error& error) {
    refuse(error.what_without_backtrace());
  } catch (const std::exception& error) {
    refuse(error.what());
  }
  c10d::ProcessGroup* const raw = group.get();
  return {raw, [kept = std::move(group)](c10d::ProcessGroup*) mutable { kept.reset(); }};
}

#else

std::shared_ptr<c10d::ProcessGroup> make_process_group(const ProcessGroupOptions& options) {
  options.validate();
  fail(ErrorCode::kUnsupported, kFunction, "DAUG_GLOO", "a build with Gloo", "one without");
}

#endif

}  // namespace daug
