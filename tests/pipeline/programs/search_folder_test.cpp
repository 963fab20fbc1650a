// The program search_folder, as it is built: what it finds, says and ends with.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <sys/wait.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "daug/encoder/clip_checkpoint.h"
#include "daug/encoder/tokenizer.h"
#include "daug/image/decode.h"
#include "daug/image/preprocess.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/file.h"
#include "daug/io/fingerprint.h"
#include "image/fixtures.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/clip.h"
#include "support/golden.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;

namespace {

struct SearchFolderEnd {
  int status = -1;
  std::string output, errors;
};

/// Runs the program in a process of its own.
SearchFolderEnd search_folder(const Scratch& scratch, const std::vector<std::string>& words) {
  const auto build = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path();
  std::string command = "'" + (build / "examples" / "search_folder").string() + "'";
  for (const auto& word : words) command += " '" + word + "'";
  const std::string output = scratch.path("output"), errors = scratch.path("errors");
  const int status = std::system((command + " >" + output + " 2>" + errors).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text_file(output), read_text_file(errors)};
}

/// Writes three pictures that are unlike each other into a folder: its path.
std::string three_pictures(const Scratch& scratch) {
  constexpr int kSide = 40;
  for (const std::string name : {"checks.png", "disc.png", "ramp.png"}) {
    Bytes pixels;
    for (int y = 0; y < kSide; ++y)
      for (int x = 0; x < kSide; ++x) {
        int level = 6 * x;
        if (name == "checks.png") level = 255 * ((x / 20 + y / 20) % 2);
        if (name == "disc.png") level = (x - 20) * (x - 20) + (y - 20) * (y - 20) < 150 ? 255 : 0;
        pixels.push_back(static_cast<std::uint8_t>(level));
      }
    const Bytes file = gray_png(kSide, kSide, pixels);
    scratch.put("pictures/" + name, std::string(file.begin(), file.end()));
  }
  return scratch.path("pictures");
}

/// Their embeddings of length 1 by name, made one at a time.
std::map<std::string, at::Tensor> embedded_pictures(ClipModel clip, const std::string& folder) {
  const at::NoGradGuard no_grad;
  const std::int64_t side = clip.image->options().image_size;
  const PreprocessOptions how = {static_cast<int>(side), Fit::kCenterCrop, ResizeFilter::kBicubic};
  std::map<std::string, at::Tensor> found;
  for (const std::string name : {"checks.png", "disc.png", "ramp.png"}) {
    std::vector<float> pixels = preprocess(read_image(folder + "/" + name), how);
    const at::Tensor x = at::from_blob(pixels.data(), {1, 1, side, side}).clone();
    const at::Tensor vector = clip.image->forward(scaled_pixels(x, kClipPixels)).squeeze(0);
    found[name] = vector / vector.norm();
  }
  return found;
}

double cosine_of(const at::Tensor& a, const at::Tensor& b) { return (a * b).sum().item<double>(); }

/// Checks that an index holds the pictures, each of which is what its own embedding finds first.
void check_each_finds_itself(const std::map<std::string, at::Tensor>& embedded, const std::string& path,
                             const std::string& model) {
  SearchOptions of_model;
  of_model.fingerprint = fingerprint_file(clip_weights_file(model));
  const RetrievalIndex index = RetrievalIndex::load(path);
  REQUIRE(index.size() == 3);
  for (const auto& [name, vector] : embedded) {
    INFO(name);
    const at::Tensor row = vector.contiguous();
    const Eigen::Map<const RowMatrix> query(row.const_data_ptr<float>(), 1, row.numel());
    const Hits hits = index.search(query, 3, of_model)[0];
    REQUIRE(hits.size() == 3);
    CHECK(index.name(hits[0].id) == name);
    CHECK(hits[1].score < 1 - 1e-4);  // the tower sees them apart
    for (const Hit& hit : hits)
      CHECK(hit.score == Approx(cosine_of(vector, embedded.at(index.name(hit.id)))).margin(1e-5));
  }
}

}  // namespace

TEST_CASE("search_folder fills an index with a published checkpoint, and each image finds itself first",
          "[index_folder][golden]") {
  const auto shared = shared_data();
  for (const std::string name : {"clip_quickgelu", "clip_gelu"}) {
    const std::string model = shared ? *shared + "/golden/" + name : "";
    if (!shared || !std::filesystem::is_directory(model)) {
      std::cout << "search_folder with " << name << ": skipped (" << absent_data(shared, "folder " + name) << ")\n";
      continue;
    }
    INFO(model);
    const Scratch scratch;
    const std::string pictures = three_pictures(scratch), index = scratch.path("index");
    const SearchFolderEnd made = search_folder(scratch, {model, pictures, index});
    INFO(made.errors);
    REQUIRE(made.status == 0);
    CHECK(made.output == "3 images added, 0 were there\n");
    contains(made.errors, "\r3 of 3 images\n");
    ClipLoadOptions how;
    how.assume_defaults = true;
    check_each_finds_itself(embedded_pictures(load_clip_folder(model, how), pictures), index, model);
    // Words need a vocabulary, which is not beside it.
    const SearchFolderEnd words = search_folder(scratch, {model, pictures, index, "nodule"});
    CHECK(words.status == 1);
    CHECK(words.output.empty());
    CHECK(mentions(words.errors, "error: ", "vocab.json"));
  }
}

TEST_CASE("search_folder goes on with an index that is there, and ranks its images for words",
          "[index_folder][pipeline]") {
  const Scratch scratch;
  const BpeVocabulary vocabulary = BpeVocabulary::from_merges({});
  ClipModel clip = small_clip(vocabulary);
  const std::string model = scratch.path("clip"), pictures = three_pictures(scratch), index = scratch.path("index");
  save_clip(model, clip);
  vocabulary.save(model);
  const auto embedded = embedded_pictures(clip, pictures);
  const SearchFolderEnd made = search_folder(scratch, {model, pictures, index});
  INFO(made.errors);
  REQUIRE(made.status == 0);
  CHECK(made.output == "3 images added, 0 were there\n");
  contains(made.errors, "\r3 of 3 images\n");
  check_each_finds_itself(embedded, index, model);

  scratch.put("pictures/broken.png", "no picture");
  const std::vector<std::string> texts = {"nodule", "pleural effusion"};
  const SearchFolderEnd found = search_folder(scratch, {model, pictures, index, texts[0], texts[1]});
  INFO(found.errors << found.output);
  REQUIRE(found.status == 0);
  CHECK(mentions(found.errors, "left out: ", "broken.png", "\r4 of 4 images\n"));
  std::istringstream lines(found.output);
  std::string line;
  std::getline(lines, line);
  CHECK(line == "0 images added, 3 were there");
  const at::NoGradGuard no_grad;
  const Tokenizer tokenizer(vocabulary);
  for (const std::string& text : texts) {
    std::getline(lines, line);
    CHECK(line == text);
    const TokenIds ids = tokenizer.encode(text, clip.text->options().context_length);
    const at::Tensor query = clip.text->forward(at::tensor(ids.ids, at::kLong).view({1, -1})).squeeze(0);
    auto left = embedded;
    double before = std::numeric_limits<double>::infinity();
    while (!left.empty()) {
      double score = 0;
      std::string name;
      lines >> score >> name;
      INFO(text << ": " << name);
      REQUIRE(left.count(name) == 1);
      CHECK(score == Approx(cosine_of(left.at(name), query / query.norm())).margin(1e-5));
      CHECK(score <= before);
      before = score;
      left.erase(name);
    }
    std::getline(lines, line);  // the rest of the last hit's
  }
  CHECK_FALSE(static_cast<bool>(std::getline(lines, line)));

  // Other weights do not search or fill what these have made.
  clip.image = ImageEncoder(clip.image->options(), 9);
  const std::string other = scratch.path("other");
  save_clip(other, clip);
  const SearchFolderEnd refused = search_folder(scratch, {other, pictures, index});
  CHECK(refused.status == 1);
  CHECK(refused.output.empty());
  contains(refused.errors, "error: ");
  check_each_finds_itself(embedded, index, model);
}

TEST_CASE("search_folder ends with 2 for wrong arguments, and with 1 for folders that are not there",
          "[index_folder][pipeline]") {
  const Scratch scratch;
  const std::string index = scratch.path("index");
  for (const auto& wrong :
       std::vector<std::vector<std::string>>{{}, {"clip"}, {"clip", "images"}, {"--help", "a", "b"}}) {
    const SearchFolderEnd end = search_folder(scratch, wrong);
    CHECK(end.status == 2);
    CHECK(end.output.empty());
    contains(end.errors, "usage: search_folder CLIP_FOLDER IMAGE_FOLDER INDEX [TEXT...]");
  }
  const auto refused = [&](const std::string& clip, const std::string& images, const std::string& named) {
    const SearchFolderEnd end = search_folder(scratch, {clip, images, index});
    INFO(end.errors);
    CHECK(end.status == 1);
    CHECK(end.output.empty());
    CHECK(mentions(end.errors, "error: ", named));
  };
  const std::string model = scratch.path("clip");
  save_clip(model, small_clip(BpeVocabulary::from_merges({})));
  refused(scratch.path("no_model"), scratch.folder(), "no_model");
  CHECK_FALSE(std::filesystem::exists(index));
  refused(model, scratch.path("no_images"), "no_images");
}
