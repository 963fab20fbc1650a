#pragma once
// How kernels use several threads without knowing whose threads they are.

#include <cstdint>
#include <functional>

namespace daug::kernels {

/// Work on the items [begin, end).
using RangeBody = std::function<void(std::int64_t begin, std::int64_t end)>;

/// The caller's threads. No kernel's result depends on them.
struct Parallel {
  int threads = 1;  ///< how many may run at once
  /// Calls body on disjoint ranges that cover [0, count), on any threads, in pieces of at least `grain` items, and
  /// returns when all are done. Null: everything in the calling thread.
  std::function<void(std::int64_t count, std::int64_t grain, const RangeBody& body)> run;

  template <class Body>
  void operator()(std::int64_t count, std::int64_t grain, const Body& body) const {
    if (count <= 0) return;
    if (!run || threads <= 1 || count <= grain)
      body(0, count);
    else
      run(count, grain, std::cref(body));  // a reference fits into RangeBody without memory of its own
  }
};

}  // namespace daug::kernels
