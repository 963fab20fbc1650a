// What the program heatmap_store says and does, and with which status it ends.

#include "daug/pipeline/heatmap_store_program.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "daug/heatmap/heatmap_store.h"
#include "daug/heatmap/npy_import.h"
#include "daug/io/file.h"
#include "heatmap/store_fixtures.h"
#include "io/npy_bytes.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

namespace {

struct StoreProgramEnd {
  int status = -1;
  std::string output, errors;  ///< of standard output and std::cerr
};

/// Runs the program in this process, with a file as its standard output.
StoreProgramEnd store_program(const std::vector<std::string>& words) {
  std::vector<const char*> arguments = {"heatmap_store"};
  for (const auto& word : words) arguments.push_back(word.c_str());
  const daug::test::Scratch scratch;
  const std::string path = scratch.put("output", "");
  const int file = ::open(path.c_str(), O_WRONLY);
  std::cout.flush();
  std::fflush(stdout);
  const int before = ::dup(STDOUT_FILENO);
  REQUIRE(before >= 0);
  REQUIRE(::dup2(file, STDOUT_FILENO) == STDOUT_FILENO);
  std::ostringstream errors;
  std::streambuf* const before_errors = std::cerr.rdbuf(errors.rdbuf());
  StoreProgramEnd end;
  end.status = daug::heatmap_store_program(static_cast<int>(arguments.size()), arguments.data());
  std::cerr.rdbuf(before_errors);
  std::cout.flush();
  std::fflush(stdout);
  ::dup2(before, STDOUT_FILENO);
  ::close(before);
  ::close(file);
  end.output = daug::read_text_file(path);
  end.errors = errors.str();
  return end;
}

/// The program ends with this status, and what it says has all these parts.
template <class... Parts>
void check_program(const std::vector<std::string>& words, int status, const Parts&... parts) {
  const StoreProgramEnd end = store_program(words);
  INFO(words.front() << ": " << end.output << end.errors);
  CHECK(end.status == status);
  (daug::test::contains(end.output, parts), ...);
}

/// The program refuses what it is given: one message with all these parts.
template <class... Parts>
void check_program_refuses(const std::vector<std::string>& words, int status, const Parts&... parts) {
  const StoreProgramEnd end = store_program(words);
  INFO(end.output << end.errors);
  CHECK(end.status == status);
  (daug::test::contains(end.errors, parts), ...);
}

/// Values of a map of the published code's, constant.
std::string constant_npy(float value) {
  const std::vector<float> values(6, value);
  const std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return daug::test::npy(daug::test::npy_header("<f4", "(2, 3)"), data);
}

}  // namespace

TEST_CASE("heatmap_store says what a store holds and whether it is whole, and compacts it", "[heatmap]") {
  const daug::test::Scratch scratch;
  const daug::HeatmapLayout layout = daug::test::small_layout();
  const std::string path = scratch.path("a");
  const auto offset = [&](std::size_t record) {
    return daug::test::header_bytes(layout) + record * daug::test::record_bytes(layout);
  };
  daug::test::fill(path, layout, {1, 2, 3});
  check_program({"info", path}, 0, path + ": 2 maps an image, 3 x 4, float16\n", "  fingerprint = model 1\n",
                "  map = Edema\n  map = Nodule\n", "  bytes = " + std::to_string(offset(3)) + "\n", "  images = 3\n");
  check_program({"verify", path}, 0, "3 records: 3 images, 0 superseded, 0 damaged; 0 bytes of a torn end\nwhole: yes");
  std::string bytes = daug::read_text_file(path);
  check_program({"compact", path}, 0, "nothing to drop\n");
  CHECK(daug::read_text_file(path) == bytes);

  daug::test::fill(path, layout, {2, 4}, 1);  // records 3 and 4
  bytes = daug::read_text_file(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  bytes += "the beginning of a record";
  daug::write_file_atomically(path, bytes);
  const std::string found = "5 records: 3 images, 1 superseded, 1 damaged; 25 bytes of a torn end\n";
  check_program({"verify", path}, 1, found, "damaged: ", "record 4 at byte " + std::to_string(offset(4)), "whole: no");
  CHECK(daug::read_text_file(path) == bytes);
  {
    const daug::HeatmapStoreWriter writer(scratch.path("other"), layout);
    check_program_refuses({"compact", scratch.path("other")}, 1, "other.lock", "one that is held");
  }
  check_program({"compact", path}, 0, found, "dropped 2 records and 25 bytes of a torn end; 3 images are left\n");
  CHECK(std::filesystem::file_size(path) == offset(3));
  const daug::HeatmapStore store(path, layout.fingerprint);
  CHECK(store.keys() == std::vector<std::uint64_t>{1, 3, 2});
  CHECK(store.read(2) == daug::test::maps_of(layout, 2, 1));
  check_program({"verify", path}, 0, "whole: yes");

  // A head that is damaged hides an image: what can be told is told, and the error names the remedy.
  bytes = daug::read_text_file(path);
  bytes[offset(1)] = static_cast<char>(bytes[offset(1)] ^ 1);
  daug::write_file_atomically(path, bytes);
  check_program_refuses({"info", path}, 1, "error: ", "record 1", "compact_heatmap_store");
  check_program({"info", path}, 1, "  fingerprint = model 1\n");
  check_program({"compact", path}, 0, "dropped 1 records");
  check_program({"info", path}, 0, "  images = 2\n");
}

TEST_CASE("heatmap_store merges shards, and keeps the maps that are there", "[heatmap]") {
  const daug::test::Scratch scratch;
  const daug::HeatmapLayout layout = daug::test::small_layout(daug::MapStorage::kUint8);
  const std::string out = scratch.path("out"), first = scratch.path("0"), second = scratch.path("1");
  daug::test::fill(first, layout, {1, 3});
  daug::test::fill(second, layout, {2, 1});
  check_program({"merge", out, first, second}, 0, "3 images added, 1 were there, 0 were there with other maps",
                "; 3 images now\n");
  const std::string whole = daug::read_text_file(out);
  CHECK(daug::HeatmapStore(out, layout.fingerprint).keys() == std::vector<std::uint64_t>{1, 3, 2});
  check_program({"merge", out, second, first}, 0, "0 images added, 4 were there, 0 were there with other maps");

  daug::test::fill(scratch.path("2"), layout, {3}, 1);
  check_program({"merge", out, scratch.path("2")}, 1, "0 images added, 0 were there, 1 were there with other maps");
  CHECK(daug::read_text_file(out) == whole);

  // Mistakes change nothing and leave nothing behind.
  daug::HeatmapLayout other = layout;
  other.fingerprint = "model 2";
  daug::test::fill(scratch.path("other"), other, {9});
  const std::string text = scratch.put("text", "a text of some length, but no store");
  check_program_refuses({"merge", out, scratch.path("other")}, 1, "error: ", "'model 1'", "'model 2'");
  check_program_refuses({"merge", scratch.path("new"), first, scratch.path("other")}, 1, "'model 1'", "'model 2'");
  check_program_refuses({"merge", scratch.path("new"), first, scratch.path("absent")}, 1, scratch.path("absent"));
  check_program_refuses({"merge", text, first}, 1, text, "heatmap store");
  CHECK(daug::read_text_file(out) == whole);
  CHECK_FALSE(std::filesystem::exists(scratch.path("new")));
  CHECK(daug::read_text_file(text) == "a text of some length, but no store");
  {
    const daug::HeatmapStoreWriter writer(out, layout);
    check_program_refuses({"merge", out, first}, 1, "one that is held");
  }
}

TEST_CASE("heatmap_store imports the published code's files into a new store or one that is there", "[heatmap]") {
  const daug::test::Scratch scratch;
  const std::string maps = scratch.path("maps"), images = scratch.path("images"), path = scratch.path("store");
  const std::string image = scratch.put("images/p10/a.jpg", "pixels of a");
  scratch.put("images/b.png", "pixels of b");
  const auto names = daug::published_map_names();
  std::vector<float> values;
  for (std::size_t k = 0; k < names.size(); ++k) {
    scratch.put("maps/p10/a_" + names[k] + ".npy", constant_npy(static_cast<float>(k)));
    values.insert(values.end(), 6, static_cast<float>(k));
  }
  const std::vector<std::string> bare = {"import", maps, images, path};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), bare.begin(), bare.end());
    return more;
  };
  const std::vector<std::string> made = with({"--fingerprint", "published", "--height", "2", "--width", "3"});

  check_program_refuses(bare, 2, "new store", "--fingerprint, --height and --width");
  check_program_refuses(with({"--fingerprint", "published", "--height", "0", "--width", "3"}), 2, "--height");
  check_program_refuses(with({"--storage", "float64"}), 2, "--storage");
  check_program_refuses({"import", scratch.path("absent"), images, path}, 2, "MAP_FOLDER");
  CHECK_FALSE(std::filesystem::exists(path));

  check_program(made, 0, "1 images added, 0 were there, 0 left out; 1 images now\n");
  const daug::HeatmapLayout layout = daug::read_heatmap_layout(path);
  CHECK(layout.fingerprint == "published");
  CHECK(layout.names == names);
  CHECK((layout.height == 2 && layout.width == 3));
  CHECK(layout.storage == daug::MapStorage::kFloat16);
  CHECK(daug::HeatmapStore(path, "published").read(daug::heatmap_key(image)) == values);

  // The store that is there needs no layout; another one is refused.
  scratch.put("maps/b_+nof.npy", constant_npy(1));
  const StoreProgramEnd again = store_program(bare);
  CHECK(again.status == 1);
  daug::test::contains(again.output, "0 images added, 1 were there, 1 left out; 1 images now\n");
  daug::test::contains(again.errors, "left out: b: ");
  check_program_refuses(with({"--width", "4"}), 1, "size", "2x4", "2x3");
  check_program_refuses(with({"--storage", "uint8"}), 1, "storage", "uint8", "float16");
  check_program_refuses(with({"--fingerprint", "other"}), 1, "'other'", "'published'");
  CHECK(daug::HeatmapStore(path, "published").size() == 1);

  const std::string two = scratch.path("two");
  check_program({"import", maps, images, two, "--fingerprint=f", "--height=2", "--width=3", "--names=-car,+nof",
                 "--storage=float32"},
                1, "1 images added, 0 were there, 1 left out");
  const daug::HeatmapStore store(two, "f");
  CHECK(store.layout().names == std::vector<std::string>{"-car", "+nof"});
  CHECK(store.layout().storage == daug::MapStorage::kFloat32);
  CHECK(store.read(daug::heatmap_key(image)) == std::vector<float>{1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("heatmap_store ends with 1 for what is no store, and 2 for wrong arguments", "[heatmap]") {
  const daug::test::Scratch scratch;
  const std::string text = scratch.put("text", "a text of some length, but no store");
  for (const char* command : {"info", "verify", "compact"}) {
    check_program_refuses({command, text}, 1, "error: ", text, "heatmap store");
    check_program_refuses({command, scratch.path("absent")}, 1, "error: ", scratch.path("absent"));
    check_program_refuses({command}, 2, "STORE");
    check_program_refuses({command, text, text}, 2, "--help");
  }
  CHECK(scratch.count() == 1);
  check_program_refuses({"merge", text}, 2, "SHARD");
  check_program_refuses({"repair", text}, 2, "--help");
  check_program_refuses({}, 2, "--help");
  check_program({"--help"}, 0, "info", "verify", "compact", "merge", "import", "Not a medical device");
  check_program({"import", "--help"}, 0, "MAP_FOLDER", "--fingerprint", "--names");
}
