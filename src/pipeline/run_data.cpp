// The data of a run: its cohort, read or made, as tensors, and what of it which stage learns from.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "daug/core/random.h"
#include "daug/data/phantom.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "daug/train/parameter_groups.h"
#include "pipeline/evaluation/localisation.h"
#include "pipeline/settings/stage_options.h"
#include "pipeline/stages/encoder_data.h"
#include "run_cohort.h"
#include "run_impl.h"

// What a run reads: its cohort, or phantoms of its own, and what must hold of it before the first stage begins.

namespace daug {
namespace fs = std::filesystem;

Cohort read_run_cohort(const std::string& folder, const RunConfig& config) {
  CohortOptions options;
  options.findings = config.labels.vocabulary.empty() ? parse_names(config.labels.findings)
                                                      : read_vocabulary(config.labels.vocabulary).findings;
  options.check_files = options.check_images = false;
  return read_cohort(folder, options);
}

namespace {

/// Of a file that need not be one that can be read: what cannot is for load_images to report, or to leave out.
std::string fingerprint_if_readable(const std::string& path) {
  std::error_code unknown;  // such as a name that is too long
  if (!fs::is_regular_file(path, unknown)) return "missing";
  try {
    return fingerprint_file(path);
  } catch (const Error&) {
    return "unreadable";
  }
}

}  // namespace

at::Tensor RunData::training_states() const {
  at::Tensor visible = at::zeros_like(states);
  for (std::size_t row : labelled)
    visible[static_cast<std::int64_t>(row)].copy_(states[static_cast<std::int64_t>(row)]);
  return visible;
}

std::vector<std::size_t> RunData::healthy(const std::vector<std::size_t>& among) const {
  std::vector<std::size_t> rows;
  for (const std::size_t row : among) {
    const at::Tensor of_row = states[static_cast<std::int64_t>(row)];
    if (of_row.lt(0).any().item<bool>() && !of_row.gt(0).any().item<bool>()) rows.push_back(row);
  }
  return rows;
}

std::vector<std::size_t> RunData::members(std::size_t group) const {
  std::vector<std::size_t> columns;
  for (const auto& name : groups.at(group).findings)
    columns.push_back(static_cast<std::size_t>(std::find(cohort.findings.begin(), cohort.findings.end(), name) -
                                               cohort.findings.begin()));
  return columns;
}

float RunData::group_state(std::size_t row, std::size_t group) const {
  float highest = -1;
  for (const std::size_t f : members(group)) highest = std::max(highest, state(row, f));
  return highest;
}

std::optional<std::size_t> RunData::map_of(std::size_t finding) const {
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto columns = members(g);
    if (std::find(columns.begin(), columns.end(), finding) != columns.end()) return g;
  }
  return std::nullopt;
}

at::Tensor MapSet::select(const std::string& kind, const std::vector<std::size_t>& wanted) const {
  const auto found = maps.find(kind);
  if (found == maps.end()) fail(ErrorCode::kNotFound, "daug::Run", "maps", "stored maps of a kind", kind);
  std::map<std::size_t, std::size_t> position;
  for (std::size_t i = 0; i < rows.size(); ++i) position[rows[i]] = i;
  std::vector<std::size_t> index;
  for (std::size_t row : wanted) {
    const auto at = position.find(row);
    if (at == position.end()) fail(ErrorCode::kNotFound, "daug::Run", "maps", "a map of image", row);
    index.push_back(at->second);
  }
  return take(found->second, index);
}

PreprocessOptions Run::Impl::preprocess() const { return preprocess_options(config); }

NoiseSchedule Run::Impl::schedule() const { return noise_schedule(config); }

std::string Run::Impl::data_folder() {
  if (!config.data.empty()) return config.data;
  const std::string folder = path("phantoms");
  PhantomOptions options;
  options.size = static_cast<int>(config.size);
  options.seed = static_cast<std::uint64_t>(config.phantom.seed);
  options.labels = phantom_labels(config.phantom.labels);
  options.train_images = static_cast<std::size_t>(config.phantom.train);
  options.val_images = static_cast<std::size_t>(config.phantom.val);
  options.test_images = static_cast<std::size_t>(config.phantom.test);
  const std::string made_by = settings_fingerprint(config, {"phantom.", "size"});
  const std::string record = folder + "/" + kMadeBy;
  if (fs::exists(record) && read_text_file(record) == made_by && fs::exists(folder + "/labels.csv")) return folder;
  if (read_only || keeps_phantoms_)
    fail(ErrorCode::kMismatch, "daug::Run", folder, "the phantoms of the run's settings",
         "none or others; run it again");
  options.validate();  // before what is there goes
  if (fs::exists(folder) && !fs::is_empty(folder) && !fs::exists(record))
    fail(ErrorCode::kMismatch, "daug::Run", folder, "phantoms of an earlier run, or nothing", "a folder of another's");
  fs::remove_all(folder);
  fs::create_directories(folder);
  write_file_atomically(record, "not all of them");
  log(fmt::format("making {} phantoms of {} pixels", config.phantom.train + config.phantom.val + config.phantom.test,
                  config.size));
  write_phantom_cohort(folder, options, stage_control("phantoms"), static_cast<int>(config.threads));
  write_file_atomically(record, made_by);
  return folder;
}

std::string Run::Impl::data_fingerprint() {
  if (!data_fingerprint_.empty()) return data_fingerprint_;
  const std::string folder = data_folder();
  Fingerprint fingerprint;
  for (const char* name : {"labels.csv", "boxes.csv", "meta.csv"})
    if (fs::exists(folder + "/" + name)) fingerprint.add(name, fingerprint_file(folder + "/" + name));
  if (!config.labels.vocabulary.empty()) fingerprint.add("vocabulary", fingerprint_file(config.labels.vocabulary));
  for (const auto& study : read_run_cohort(folder, config).studies)
    fingerprint.add(study.id, fingerprint_if_readable(study.path));
  // Without what is bad a mask decides, too, whether its image is used.
  if (config.skip_bad) fingerprint.add("skip_bad", truth_fingerprint());
  return data_fingerprint_ = fingerprint.hex();
}

std::string Run::Impl::truth_fingerprint() {
  if (!truth_fingerprint_.empty()) return truth_fingerprint_;
  const Cohort cohort = read_run_cohort(data_folder(), config);
  Fingerprint fingerprint;
  const auto add = [&](const std::string& path) {  // named within the cohort, wherever that lies
    if (!path.empty()) fingerprint.add(path.substr(cohort.folder.size()), fingerprint_if_readable(path));
  };
  for (const auto& study : cohort.studies) {
    for (const auto& entry : study.mask_paths) add(entry.second);
    for (const auto& entry : study.counterfactual_paths) add(entry.second);
    add(study.counterfactual_path);
  }
  return truth_fingerprint_ = fingerprint.hex();
}

const RunData& Run::Impl::data() {
  if (data_) return *data_;
  RunData data;
  data.cohort = read_run_cohort(data_folder(), config);  // what is missing is one more that cannot be read
  if (!config.labels.vocabulary.empty()) data.groups = read_vocabulary(config.labels.vocabulary).groups;
  if (data.groups.empty()) data.groups = one_group_per_finding(data.cohort.findings);
  LoadOptions options;
  options.preprocess = preprocess();
  options.skip_bad = config.skip_bad;
  options.check_truth = true;
  options.threads = static_cast<int>(config.threads);
  const std::string list = path("unreadable_images.csv");
  try {
    LoadResult loaded = load_images(data.cohort, options, stage_control("load images"));
    data.images = std::move(loaded.images);
    data.failures = std::move(loaded.failures);
  } catch (const LoadError& error) {
    if (!read_only) write_failures_csv(list, error.failures());
    throw Error(error.code(),
                std::string(error.what()) + "\nAll of them: " + list + "\n--skip-bad goes on without them.");
  }
  if (!data.failures.empty() && !read_only) {
    write_failures_csv(list, data.failures);
    log(fmt::format("left out {} unreadable images, listed in {}", data.failures.size(), list));
  } else if (!read_only) {
    fs::remove(list);  // of images that can be read by now
  }
  const auto count = static_cast<std::int64_t>(data.images.count());
  const auto features = static_cast<std::int64_t>(data.findings());
  require(features >= 1, "daug::Run", "labels.csv", "at least one finding column", "none");
  data.pixels = at::from_blob(data.images.pixels.data(), {count, 1, config.size, config.size}).clone();
  data.states = at::zeros({count, features});
  data.policies.common = {parse_policy(config.labels.uncertain), parse_policy(config.labels.not_mentioned)};
  std::map<std::string, std::int64_t> patients;
  for (std::int64_t row = 0; row < count; ++row) {
    const Study& study = data.study(static_cast<std::size_t>(row));
    for (std::int64_t f = 0; f < features; ++f) {
      const LabelTarget label = data.policies.common.apply(study.labels[static_cast<std::size_t>(f)]);
      data.states.data_ptr<float>()[row * features + f] = label.mask * (2 * label.target - 1);
    }
    data.patient.push_back(
        patients.emplace(study.patient_id, static_cast<std::int64_t>(patients.size())).first->second);
    auto& split = study.split == "train" ? data.train : study.split == "val" ? data.val : data.test;
    split.push_back(static_cast<std::size_t>(row));
  }
  for (const auto& [name, rows] : {std::pair<const char*, std::vector<std::size_t>*>{"train", &data.train},
                                   {"val", &data.val},
                                   {"test", &data.test}})
    require(!rows->empty(), "daug::Run", name, "at least one readable image in the split", 0);

  // Which images keep their labels is drawn once, so that fewer labels are a subset of more.
  std::vector<std::size_t> order = data.train;
  RandomStream(static_cast<std::uint64_t>(config.seed), 0, "labelled subset").shuffle(order.begin(), order.end());
  const auto cap = [](std::size_t available, std::int64_t wanted) {
    return wanted > 0 ? std::min(available, static_cast<std::size_t>(wanted)) : available;
  };
  data.labelled.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(cap(order.size(), config.labelled)));
  data.encoder_train.assign(
      data.labelled.begin(),
      data.labelled.begin() + static_cast<std::ptrdiff_t>(cap(data.labelled.size(), config.maps.train_images)));
  std::sort(data.labelled.begin(), data.labelled.end());
  std::sort(data.encoder_train.begin(), data.encoder_train.end());
  data_ = std::move(data);
  return *data_;
}

namespace {

/// Refuses validation images that no finding is known to be present in one and absent in another of.
void require_validation(const RunData& data) {
  const auto any = [&](std::size_t finding, float sign) {
    return std::any_of(data.val.begin(), data.val.end(),
                       [&](std::size_t row) { return sign * data.state(row, finding) > 0; });
  };
  for (std::size_t f = 0; f < data.findings(); ++f)
    if (any(f, 1) && any(f, -1)) return;
  fail(ErrorCode::kInvalidArgument, "daug::RunConfig", "encoder.patience",
       "0, or a validation split in which a finding is present in one image and absent in another",
       detail::concat("no such finding in ", data.val.size(), " images"));
}

}  // namespace

void Run::Impl::require_buildable() {
  DenoiserUNet(denoiser_options().network);
  NoiseAwareClassifier(guide_options().network);
  const auto maps = static_cast<std::int64_t>(data().maps());
  require(channel_mode(config.encoder.mode) == ChannelMode::kAppend || config.encoder.map_index < maps,
          "daug::RunConfig", "encoder.map_index", detail::concat("one of the ", maps, " maps, counted from 0"),
          config.encoder.map_index);
  box_groups(*this);  // names maps, which the evaluation would be the first to miss
  study_numbers(data(), data().encoder_train, config.encoder.study);
  metadata_columns(data(), config.evaluate.metadata);
  if (config.encoder.patience > 0) require_validation(data());
  for (const Arm& arm : arms()) {
    const EncoderTrainerOptions options = encoder_options(arm);
    freeze_parameters(*starting_encoders(arm, options).as_module(), options.optimizer.freeze);
  }
}

at::Tensor Run::Impl::images(const std::vector<std::size_t>& rows) { return take(data().pixels, rows); }

}  // namespace daug
