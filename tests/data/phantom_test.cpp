#include "daug/data/phantom.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "daug/data/dataset.h"
#include "daug/image/preprocess.h"
#include "daug/io/file.h"
#include "daug/metrics/localization.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/full_disk.h"
#include "support/scratch.h"

using namespace daug;
using test::error_text;
using test::mentions;
using test::Scratch;

namespace {

double mean_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::abs(static_cast<double>(a[i]) - b[i]);
  return sum / static_cast<double>(a.size());
}

std::vector<float> shrunk(const Phantom& phantom, int size) {
  GrayImage image = GrayImage::filled(phantom.size, phantom.size);
  image.pixels = phantom.image;
  return resize(image, size, size, ResizeFilter::kBox).pixels;
}

PhantomOptions small_options() {
  PhantomOptions options;
  options.train_images = 30, options.val_images = 8, options.test_images = 8;
  options.seed = 4;
  return options;
}

}  // namespace

TEST_CASE("a phantom depends on its key alone", "[data]") {
  PhantomOptions options = small_options();
  const Phantom first = make_phantom(options, 7, 1);
  make_phantom(options, 8, 0);
  options.train_images = 5000;  // which images a cohort holds does not change what they show
  const Phantom again = make_phantom(options, 7, 1);
  CHECK((first.image == again.image));
  CHECK(first.report == again.report);
  CHECK(first.truth == again.truth);
  CHECK(first.id == "p00007_1");
  CHECK(first.patient_id == "p00007");

  CHECK(mean_difference(first.image, make_phantom(options, 7, 0).image) > 0.02);
  CHECK(mean_difference(first.image, make_phantom(options, 6, 1).image) > 0.02);
  options.seed = 5;
  CHECK(mean_difference(first.image, make_phantom(options, 7, 1).image) > 0.02);
}

TEST_CASE("images of one patient share the anatomy", "[data]") {
  PhantomOptions options = small_options();
  options.prevalence = 0;
  double same = 0, other = 0;
  for (std::uint64_t patient = 0; patient < 40; ++patient) {
    const Phantom reference = make_phantom(options, patient, 0);
    same += mean_difference(reference.image, make_phantom(options, patient, 1).image);
    other += mean_difference(reference.image, make_phantom(options, patient + 100, 1).image);
  }
  CHECK(same < 0.9 * other);
}

TEST_CASE("a phantom looks the same at every size", "[data]") {
  PhantomOptions options = small_options();
  for (std::uint64_t patient = 0; patient < 4; ++patient) {
    options.size = 32;
    const Phantom small = make_phantom(options, patient, 0);
    for (int size : {64, 100, 256}) {
      INFO("patient " << patient << " size " << size);
      options.size = size;
      const Phantom large = make_phantom(options, patient, 0);
      REQUIRE(large.image.size() == static_cast<std::size_t>(size) * static_cast<std::size_t>(size));
      CHECK(large.truth == small.truth);
      CHECK(large.report == small.report);
      CHECK(mean_difference(shrunk(large, 32), small.image) < 0.03);
    }
  }
  options.size = 512;
  CHECK(make_phantom(options, 0, 0).image.size() == 512 * 512);
  for (int size : {31, 513}) {
    options.size = size;
    CHECK(mentions(error_text(ErrorCode::kInvalidArgument, [&] { make_phantom(options, 0, 0); }), "size", "[32, 512]"));
  }
}

TEST_CASE("removing a finding changes the image where the finding is and nowhere else", "[data]") {
  PhantomOptions options = small_options();
  options.prevalence = 0.5;
  std::vector<int> seen(phantom_findings().size());
  for (std::uint64_t patient = 0; patient < 60; ++patient) {
    const Phantom phantom = make_phantom(options, patient, 0);
    INFO(phantom.id);
    for (std::size_t f = 0; f < phantom.truth.size(); ++f)
      CHECK((phantom.truth[f] == LabelState::kPositive) == (phantom.planted.count(f) == 1));
    if (phantom.planted.empty()) CHECK((phantom.image == phantom.healthy));
    for (const auto& [finding, planted] : phantom.planted) {
      INFO(phantom_findings()[finding]);
      ++seen[finding];
      double largest = 0;
      std::size_t unchanged = 0;
      for (std::size_t i = 0; i < phantom.image.size(); ++i) {
        const double change = std::abs(static_cast<double>(phantom.image[i]) - planted.counterfactual[i]);
        largest = std::max(largest, change);
        unchanged += change == 0;
      }
      CHECK(largest > 0.1);                         // it can be seen
      CHECK(unchanged > phantom.image.size() / 2);  // bit for bit the same elsewhere
      std::size_t inside = 0;
      for (std::size_t i = 0; i < phantom.image.size(); ++i) {
        const double change = std::abs(static_cast<double>(phantom.image[i]) - planted.counterfactual[i]);
        CHECK((planted.mask[i] == 1) == (change > std::max(0.06, 0.25 * largest)));
        inside += planted.mask[i];
      }
      CHECK(inside > 0);
    }
    if (phantom.planted.size() == 1) CHECK((phantom.planted.begin()->second.counterfactual == phantom.healthy));
  }
  for (int count : seen) CHECK(count > 15);
}

TEST_CASE("removed findings do not come back", "[data]") {
  // The healthy image of a diseased phantom is the phantom with prevalence 0: pose, noise and anatomy are the same.
  PhantomOptions options = small_options();
  PhantomOptions none = options;
  none.prevalence = 0;
  for (std::uint64_t patient = 0; patient < 10; ++patient)
    CHECK((make_phantom(options, patient, 0).healthy == make_phantom(none, patient, 0).image));
}

TEST_CASE("findings are planted independently at the prevalence asked for", "[data]") {
  const PhantomOptions options = small_options();
  const std::size_t findings = phantom_findings().size();
  const int images = 700;
  std::vector<double> count(findings);
  std::vector<std::vector<double>> both(findings, std::vector<double>(findings));
  for (int patient = 0; patient < images; ++patient) {
    const auto truth = make_phantom(options, static_cast<std::uint64_t>(patient), 0).truth;
    for (std::size_t f = 0; f < findings; ++f) {
      if (truth[f] != LabelState::kPositive) continue;
      ++count[f];
      for (std::size_t g = 0; g < findings; ++g) both[f][g] += truth[g] == LabelState::kPositive;
    }
  }
  for (std::size_t f = 0; f < findings; ++f) {
    CHECK(count[f] / images == Approx(0.3).margin(0.07));  // four standard deviations
    for (std::size_t g = 0; g < f; ++g)
      CHECK(both[f][g] / images == Approx(count[f] * count[g] / images / images).margin(0.045));
  }
}

TEST_CASE("reports say what the reported states say", "[data]") {
  // A word that occurs in every sentence on the finding, and in no other.
  const std::vector<std::vector<std::string>> words = {{"effusion", "costophrenic"},
                                                       {"cardiomegaly", "heart", "cardiac"},
                                                       {"nodul"},
                                                       {"consolidation", "airspace"},
                                                       {"pneumothorax"},
                                                       {"device", "lines", "tube", "pacemaker", "venous"}};
  PhantomOptions options = small_options();
  options.silent_present = 0.3, options.hedge = 0.2;
  std::set<LabelState> states;
  std::set<std::string> sides;
  for (std::uint64_t patient = 0; patient < 150; ++patient) {
    const Phantom phantom = make_phantom(options, patient, 0);
    std::string text = phantom.report;
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    INFO(phantom.report);
    REQUIRE_FALSE(text.empty());
    CHECK(text.find('{') == std::string::npos);
    CHECK(text.find("  ") == std::string::npos);
    for (std::size_t f = 0; f < words.size(); ++f) {
      INFO(phantom_findings()[f]);
      const LabelState state = phantom.reported[f];
      states.insert(state);
      const bool mentioned =
          std::any_of(words[f].begin(), words[f].end(), [&](const auto& word) { return mentions(text, word); });
      CHECK(mentioned == (state != LabelState::kNotMentioned));
      if (state == LabelState::kPositive) {
        CHECK(phantom.truth[f] == LabelState::kPositive);
        const std::string& side = phantom.planted.at(f).description.side;
        if (f == 4) {
          CHECK(mentions(text, side + " "));
          sides.insert(side);
        }
      }
      if (state == LabelState::kNegative) CHECK(phantom.truth[f] == LabelState::kNegative);
    }
    if (mentions(text, "no acute"))
      for (LabelState state : phantom.reported)
        CHECK((state == LabelState::kNegative || state == LabelState::kNotMentioned));
    CHECK(&phantom.labels(PhantomLabels::kTruth) == &phantom.truth);
    CHECK(&phantom.labels(PhantomLabels::kFromReport) == &phantom.reported);
  }
  CHECK(states.size() == 4);
  CHECK(sides == std::set<std::string>{"left", "right"});
}

TEST_CASE("the side in the report is the side in the image", "[data]") {
  // The patient's right is the left half of the picture.
  PhantomOptions options = small_options();
  options.prevalence = 0.4;
  int checked = 0;
  for (std::uint64_t patient = 0; patient < 80; ++patient) {
    const Phantom phantom = make_phantom(options, patient, 0);
    for (std::size_t f : {std::size_t{0}, std::size_t{2}, std::size_t{3}, std::size_t{4}}) {
      const auto found = phantom.planted.find(f);
      if (found == phantom.planted.end()) continue;
      const std::string& side = found->second.description.side;
      if (side != "left" && side != "right") continue;
      double column = 0, pixels = 0;
      for (std::size_t i = 0; i < phantom.image.size(); ++i)
        if (found->second.mask[i]) column += static_cast<double>(i % 32) + 0.5, ++pixels;
      INFO(phantom.id << " " << phantom_findings()[f]);
      CHECK((column / pixels < 16) == (side == "right"));
      ++checked;
    }
  }
  CHECK(checked > 40);
}

TEST_CASE("the layout keeps patients in one split", "[data]") {
  PhantomOptions options;
  const auto slots = phantom_layout(options);
  CHECK(slots.size() == 2300);
  std::map<std::uint64_t, std::set<std::string>> splits;
  std::map<std::string, std::size_t> counts;
  std::set<std::pair<std::uint64_t, std::uint64_t>> unique;
  for (const auto& slot : slots) {
    splits[slot.patient].insert(slot.split);
    ++counts[slot.split];
    unique.insert({slot.patient, slot.image});
  }
  CHECK(unique.size() == slots.size());
  CHECK(counts == std::map<std::string, std::size_t>{{"train", 1700}, {"val", 300}, {"test", 300}});
  for (const auto& entry : splits) CHECK(entry.second.size() == 1);
  CHECK(splits.size() < 0.85 * 2300);  // some patients have several images
  CHECK(splits.size() > 0.6 * 2300);
}

TEST_CASE("a written cohort reads back", "[data]") {
  Scratch scratch;
  PhantomOptions options = small_options();
  const std::string path = scratch.path("nested/cohort");
  write_phantom_cohort(path, options);
  const Cohort cohort = read_cohort(path);
  CHECK(cohort.findings == phantom_findings());
  CHECK(cohort.has_reports);
  REQUIRE(cohort.studies.size() == 46);
  CHECK(summarise(cohort).no_finding_conflicts == 0);

  const auto slots = phantom_layout(options);
  LoadOptions load;
  load.preprocess.size = 32;
  const ImageSet images = load_images(cohort, load).images;
  const double quantum = 1.0 / 255 + 1e-6;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const Phantom phantom = make_phantom(options, slots[i].patient, slots[i].image);
    const Study& study = cohort.studies[i];
    CHECK(study.id == phantom.id);
    CHECK(study.patient_id == phantom.patient_id);
    CHECK(study.view == phantom.view);
    CHECK(study.split == slots[i].split);
    CHECK(study.labels == phantom.truth);
    CHECK(study.report == phantom.report);
    CHECK(study.mask_paths.size() == phantom.planted.size());
    double worst = 0;
    const auto healthy = load_healthy(cohort, i, load.preprocess).value();
    for (std::size_t p = 0; p < phantom.image.size(); ++p) {
      worst = std::max(worst, std::abs(static_cast<double>(images.image(i)[p]) - phantom.image[p]));
      worst = std::max(worst, std::abs(static_cast<double>(healthy[p]) - phantom.healthy[p]));
    }
    for (const auto& [finding, planted] : phantom.planted) {
      CHECK(finding_region(cohort, i, finding, images.original[i], load.preprocess).value() == planted.mask);
      const auto without = load_counterfactual(cohort, i, finding, load.preprocess).value();
      for (std::size_t p = 0; p < without.size(); ++p)
        worst = std::max(worst, std::abs(static_cast<double>(without[p]) - planted.counterfactual[p]));
    }
    CHECK(worst < quantum);
  }

  SECTION("the same bytes with any number of threads") {
    write_phantom_cohort(scratch.path("again"), options, {}, 1);
    CHECK((read_text_file(path + "/labels.csv") == read_text_file(scratch.path("again/labels.csv"))));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      if (!entry.is_regular_file()) continue;
      const auto relative = std::filesystem::relative(entry.path(), path).string();
      INFO(relative);
      CHECK((read_file(entry.path().string()) == read_file(scratch.path("again/" + relative))));
    }
  }
  SECTION("labels from the report") {
    options.labels = PhantomLabels::kFromReport;
    write_phantom_cohort(path, options);
    const Cohort reported = read_cohort(path);
    for (std::size_t i = 0; i < slots.size(); ++i)
      CHECK(reported.studies[i].labels == make_phantom(options, slots[i].patient, slots[i].image).reported);
  }
}

TEST_CASE("the change that took a finding away localises it; that of another image does not", "[data]") {
  PhantomOptions options;
  options.seed = 6;
  constexpr std::size_t kImages = 120;
  std::vector<Phantom> phantoms;
  for (std::size_t i = 0; i < kImages; ++i) phantoms.push_back(make_phantom(options, i, 0));
  const std::size_t area = phantoms[0].image.size();
  double own = 0, shuffled = 0, mean_mask = 0, own_pointing = 0, shuffled_pointing = 0;
  int maps = 0;
  for (std::size_t f = 0; f < phantom_findings().size(); ++f) {
    std::vector<std::vector<float>> changes;
    std::vector<const std::vector<std::uint8_t>*> masks;
    std::vector<float> mean(area, 0.0F);
    for (const Phantom& phantom : phantoms) {
      const auto planted = phantom.planted.find(f);
      if (planted == phantom.planted.end()) continue;
      masks.push_back(&planted->second.mask);
      changes.emplace_back(area);
      for (std::size_t i = 0; i < area; ++i) {
        changes.back()[i] = std::abs(phantom.image[i] - planted->second.counterfactual[i]);
        mean[i] += static_cast<float>(planted->second.mask[i]);
      }
    }
    REQUIRE(masks.size() > 10);
    for (std::size_t i = 0; i < masks.size(); ++i) {
      const auto& other = changes[(i + 1) % masks.size()];  // the control: a map that saw another image
      own += *pixel_average_precision(changes[i], *masks[i]), own_pointing += *pointing_game(changes[i], *masks[i]);
      shuffled += *pixel_average_precision(other, *masks[i]), shuffled_pointing += *pointing_game(other, *masks[i]);
      mean_mask += *pixel_average_precision(mean, *masks[i]);
      ++maps;
    }
  }
  INFO("own " << own / maps << " shuffled " << shuffled / maps << " mean mask " << mean_mask / maps);
  CHECK(own / maps > 0.99);
  CHECK(own_pointing / maps == Approx(1.0));
  CHECK(shuffled < mean_mask);
  CHECK(shuffled_pointing / maps < 0.5);
}

TEST_CASE("an interrupted or refused write leaves no cohort behind", "[data]") {
  Scratch scratch;
  StopSource source;
  RunControl control;
  control.stop = source.token();
  control.progress = [&](const Progress&) { source.request_stop(); };
  write_phantom_cohort(scratch.path("c"), small_options());
  CHECK(mentions(
      error_text(ErrorCode::kCancelled, [&] { write_phantom_cohort(scratch.path("c"), small_options(), control, 1); }),
      "phantom cohort"));
  CHECK_FALSE(std::filesystem::exists(scratch.path("c/labels.csv")));

  scratch.put("file", "");
  CHECK(mentions(error_text(ErrorCode::kIo, [&] { write_phantom_cohort(scratch.path("file/c"), small_options()); }),
                 "file/c"));

  const auto refused = [&] {
    const test::FullDisk full(100);
    return test::caught([&] { write_phantom_cohort(scratch.path("full"), small_options()); });
  }();
  CHECK(refused.code() == ErrorCode::kIo);
  CHECK(mentions(refused, scratch.path("full/images"), "File too large"));
  CHECK_FALSE(std::filesystem::exists(scratch.path("full/labels.csv")));

  PhantomOptions options;
  options.prevalence = 1.5;
  CHECK(mentions(error_text(ErrorCode::kInvalidArgument, [&] { options.validate(); }), "prevalence"));
  options = {};
  options.train_images = options.val_images = options.test_images = 0;
  CHECK_THROWS_AS(options.validate(), Error);
}
