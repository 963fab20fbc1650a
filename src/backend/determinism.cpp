#include "daug/backend/determinism.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>

#include "daug/core/error.h"

namespace daug {

namespace {

constexpr const char* kDeterministically = "daug::deterministically";

/// What decides whether LibTorch's operators repeat their bits.
struct OrderOfSums {
  bool algorithms, warn_only, cudnn, benchmark;

  static OrderOfSums current() {
    const at::Context& context = at::globalContext();
    return {context.deterministicAlgorithms(), context.deterministicAlgorithmsWarnOnly(), context.deterministicCuDNN(),
            context.benchmarkCuDNN()};
  }

  void apply() const {
    at::Context& context = at::globalContext();
    context.setDeterministicAlgorithms(algorithms, warn_only);
    context.setDeterministicCuDNN(cudnn);
    context.setBenchmarkCuDNN(benchmark);
  }
};

/// Keeps LibTorch deterministic while one lives.
class FixedOrder {
 public:
  FixedOrder() {
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (all().alive++ > 0) return;
    all().before = OrderOfSums::current();
    OrderOfSums{true, false, true, false}.apply();
  }
  ~FixedOrder() {
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (--all().alive == 0) all().before.apply();
  }
  FixedOrder(const FixedOrder&) = delete;
  FixedOrder& operator=(const FixedOrder&) = delete;

 private:
  struct All {
    std::mutex mutex;
    std::int64_t alive = 0;
    OrderOfSums before{};
  };
  static All& all() {
    static All all;
    return all;
  }
};

/// cuBLAS repeats its sums where streams do not share its work memory: LibTorch gives each its own, of a size that this
/// variable says. Before 2.11 it insists on one of these two. From then on it must not be set here: LibTorch reads it
/// at every call, and tells cuBLAS the new size of memory that it took when the variable said less.
void fix_workspaces(const std::string& option) {
  constexpr const char* kVariable = "CUBLAS_WORKSPACE_CONFIG";
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 11
  (void)::setenv(kVariable, ":4096:8", /*overwrite=*/0);
#endif
  const char* value = std::getenv(kVariable);
  const std::string found = value ? value : "";
  if (value && found != ":4096:8" && found != ":16:8")
    fail(ErrorCode::kUnsupported, kDeterministically, option,
         detail::concat("the environment variable ", kVariable, " absent, :4096:8 or :16:8"), "'" + found + "'");
}

}  // namespace

void deterministically(const std::function<void()>& work, const std::string& option) {
  fix_workspaces(option);
  const FixedOrder fixed;
  try {
    work();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    const auto says = [&text](const char* part) { return text.find(part) != std::string::npos; };
    // cuDNN's, when none of its algorithms is left, or none of those left gets its work memory: it does not say which.
    const bool no_engine = says("unable to find an engine");
    if (!says("deterministic") && !no_engine) throw;
    fail(ErrorCode::kUnsupported, kDeterministically, option,
         no_engine ? "convolutions that cuDNN can compute in one order, in the memory that is left"
                   : "operators that LibTorch can compute in one order",
         text.substr(0, text.find(", but you set")));
  }
}

}  // namespace daug
