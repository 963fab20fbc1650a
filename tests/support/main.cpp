// Catch2 2.x needs its main defined once; 3.x brings its own library.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#endif
#include "support/catch.h"

namespace {

int failures = 0;

/// Catch2 tells a listener of every failed assertion, also of a CHECK that lets the test go on.
#if __has_include(<catch2/catch_all.hpp>)
class FailureCounter : public Catch::EventListenerBase {
 public:
  using Catch::EventListenerBase::EventListenerBase;
  void assertionEnded(const Catch::AssertionStats& stats) override { failures += !stats.assertionResult.isOk(); }
};
#else
class FailureCounter : public Catch::TestEventListenerBase {
 public:
  using Catch::TestEventListenerBase::TestEventListenerBase;
  bool assertionEnded(const Catch::AssertionStats& stats) override {
    failures += !stats.assertionResult.isOk();
    return true;
  }
};
#endif
CATCH_REGISTER_LISTENER(FailureCounter)

}  // namespace

// Declared in golden.h, whose own headers cost seconds in each of the builds.
namespace daug::test {
int failed_assertions() { return failures; }
}  // namespace daug::test
