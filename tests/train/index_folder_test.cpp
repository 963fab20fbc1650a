#include "daug/train/index_folder.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <string>
#include <vector>

#include "daug/image/decode.h"
#include "image/fixtures.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace daug::test;
namespace fs = std::filesystem;

namespace {

constexpr int kSize = 4;

/// A folder with seven images in three places, a text, and room for indexes.
struct Images {
  Scratch scratch;
  std::vector<std::string> names = {"a.png", "b/c/x.PNG", "b/y.jpeg", "d.pgm", "e0.png", "e1.png", "e2.png"};

  Images() {
    fs::create_directories(scratch.path("images/b/c"));
    for (std::size_t i = 0; i < names.size(); ++i) {
      Bytes pixels(16, static_cast<std::uint8_t>(30 * i));
      pixels[i] = 255;
      Bytes file = gray_png(4, 4, pixels);
      if (names[i] == "b/y.jpeg") file = baseline_gray_jpeg();
      std::string content(file.begin(), file.end());
      if (names[i] == "d.pgm") content = "P5 4 4 255\n" + std::string(pixels.begin(), pixels.end());
      scratch.put("images/" + names[i], content);
    }
    scratch.put("images/readme.txt", "no image");
    fs::create_symlink("circle.png", scratch.path("images/circle.png"));
  }
  std::string folder() const { return scratch.path("images"); }
  std::string new_index(const std::string& name, std::int64_t dimension = kSize * kSize) const {
    RetrievalIndex(dimension, Metric::kL2, "fp").save(scratch.path(name));
    return scratch.path(name);
  }
};

IndexFolderOptions small() {
  IndexFolderOptions options;
  options.preprocess.size = kSize;
  options.batch_size = 2;
  return options;
}

/// The pixels themselves as an embedding, so that what is stored is known.
at::Tensor flattened(const at::Tensor& images) { return images.flatten(1); }

void require_images(const RetrievalIndex& index, const Images& images, const std::vector<std::string>& names) {
  REQUIRE(index.size() == static_cast<std::int64_t>(names.size()));
  SearchOptions made_by;
  made_by.fingerprint = "fp";
  for (const auto& name : names) {
    INFO(name);
    const auto pixels = preprocess(read_image(images.folder() + "/" + name), small().preprocess);
    const Hits hits = index.search(Eigen::Map<const RowMatrix>(pixels.data(), 1, kSize * kSize), 1, made_by)[0];
    REQUIRE(hits.size() == 1);
    CHECK(index.name(hits[0].id) == name);
  }
  made_by.fingerprint = "another";
  const RowMatrix query = RowMatrix::Zero(1, kSize * kSize);
  CHECK(caught([&] { (void)index.search(query, 1, made_by); }).code() == ErrorCode::kMismatch);
}

}  // namespace

TEST_CASE("a folder of images becomes an index of their names", "[index_folder]") {
  const Images images;
  for (const int threads : {1, 3}) {
    IndexWriter writer(images.new_index("a" + std::to_string(threads)), "fp");
    std::vector<std::int64_t> batches, done;
    RunControl control;
    control.progress = [&](const Progress& progress) {
      CHECK(progress.total == 7);
      done.push_back(progress.done);
    };
    auto options = small();
    options.threads = threads;
    const auto embed = [&](const at::Tensor& batch) {
      CHECK(batch.sizes().slice(1) == at::IntArrayRef({1, kSize, kSize}));
      batches.push_back(batch.size(0));
      return flattened(batch);
    };
    const auto result = index_folder(images.folder(), writer, embed, options, control);
    CHECK(result.added == 7);
    CHECK(result.present == 0);
    CHECK(result.failures.empty());
    CHECK(batches == std::vector<std::int64_t>{2, 2, 2, 1});
    CHECK(done == std::vector<std::int64_t>{2, 4, 6, 7});
    require_images(writer.index(), images, images.names);
  }
}

TEST_CASE("indexing goes on where it was stopped, and takes new files in", "[index_folder]") {
  const Images images;
  const std::string path = images.new_index("a");
  StopSource stop;
  RunControl control;
  control.stop = stop.token();
  control.progress = [&](const Progress& progress) {
    if (progress.done >= 4) stop.request_stop();
  };
  {
    IndexWriter writer(path, "fp");
    CHECK(caught([&] { index_folder(images.folder(), writer, flattened, small(), control); }).code() ==
          ErrorCode::kCancelled);
  }
  CHECK(RetrievalIndex::load(path).size() == 4);
  IndexWriter writer(path, "fp");
  std::int64_t embedded = 0;
  const auto embed = [&](const at::Tensor& batch) {
    embedded += batch.size(0);
    return flattened(batch);
  };
  auto result = index_folder(images.folder(), writer, embed, small());
  CHECK(result.added == 3);
  CHECK(result.present == 4);
  CHECK(embedded == 3);
  require_images(writer.index(), images, images.names);
  const Bytes late = gray_png(4, 4, Bytes(16, 200));
  images.scratch.put("images/b/late.png", std::string(late.begin(), late.end()));
  result = index_folder(images.folder(), writer, embed, small());
  CHECK(result.added == 1);
  CHECK(result.present == 7);
  auto names = images.names;
  names.push_back("b/late.png");
  require_images(writer.index(), images, names);
  CHECK(index_folder(images.folder(), writer, embed, small()).added == 0);
  CHECK(embedded == 4);
}

TEST_CASE("what cannot be read or does not fit is named", "[index_folder]") {
  const Images images;
  images.scratch.put("images/b/broken.png", "no picture");
  IndexWriter writer(images.new_index("a"), "fp");
  // a.png and the broken one are the first batch, of which nothing is added.
  try {
    index_folder(images.folder(), writer, flattened, small());
    FAIL("read");
  } catch (const LoadError& error) {
    REQUIRE(error.failures().size() == 1);
    CHECK(error.failures()[0].study == "b/broken.png");
    CHECK(std::string(error.what()).find("broken.png") != std::string::npos);
  }
  CHECK(writer.index().size() == 0);
  auto options = small();
  options.skip_bad = true;
  const auto result = index_folder(images.folder(), writer, flattened, options);
  CHECK(result.added == 7);
  REQUIRE(result.failures.size() == 1);
  CHECK(result.failures[0].study == "b/broken.png");
  require_images(writer.index(), images, images.names);

  IndexWriter other(images.new_index("b", 3), "fp");
  check_refused(ErrorCode::kMismatch, "embed", [&] { index_folder(images.folder(), other, flattened, options); });
  CHECK(caught([&] { index_folder(images.folder() + "/no", other, flattened, options); }).code() ==
        ErrorCode::kNotFound);
  options.batch_size = 0;
  CHECK(mentions(caught([&] { index_folder(images.folder(), other, flattened, options); }), "batch_size"));
}
