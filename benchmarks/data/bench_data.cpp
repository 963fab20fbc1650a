// Phantoms, the plain baselines on them, and reading a cohort.

#include <filesystem>

#include "daug/data/cohort.h"
#include "daug/data/dataset.h"
#include "daug/data/phantom.h"
#include "support/context.h"

namespace {

/// A cohort on disk that goes away with the program.
struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "daug_bench_data").string();
  Folder() {
    daug::PhantomOptions options;
    options.train_images = 200, options.val_images = options.test_images = 50;
    daug::write_phantom_cohort(path, options, {}, 1);
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

const Folder& folder() {
  static const Folder made;
  return made;
}

void phantom(benchmark::State& state) {
  daug::PhantomOptions options;
  options.size = static_cast<int>(state.range(0));
  std::uint64_t patient = 0;
  for (auto _ : state) benchmark::DoNotOptimize(daug::make_phantom(options, patient++, 0));
}
BENCHMARK(phantom)->Arg(32)->Arg(256)->Unit(benchmark::kMillisecond);

void read_cohort(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(daug::read_cohort(folder().path));
  state.SetItemsProcessed(state.iterations() * 300);
}
BENCHMARK(read_cohort)->Unit(benchmark::kMillisecond);

void load_images(benchmark::State& state) {
  const daug::Cohort cohort = daug::read_cohort(folder().path);
  daug::LoadOptions options;
  options.threads = 1;
  options.preprocess.size = 32;
  options.check_truth = state.range(0) != 0;
  for (auto _ : state) benchmark::DoNotOptimize(daug::load_images(cohort, options));
  state.SetItemsProcessed(state.iterations() * 300);
}
BENCHMARK(load_images)->ArgName("with_masks")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace

DAUG_BENCHMARK_MAIN()
