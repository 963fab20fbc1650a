// What a cohort brings along: its tables, vocabularies and maps; and what a browser sends.

#include "cohorts.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "daug/data/cohort.h"
#include "daug/data/vocabulary.h"
#include "daug/heatmap/heatmap_store.h"
#include "daug/serve/search_page.h"
#include "files.h"
#include "seals.h"
#include "serve/served.h"
#include "serve/toy_gallery.h"
#include "support/connection.h"

namespace daug::fuzz {
namespace {

/// Between the parts of an input of several.
const std::string kMark = "\x1e";

// --- cohorts: labels.csv, boxes.csv, meta.csv ---

Files cohort_seeds() {
  const std::string labels =
      "id,path,split,patient_id,view,report,No_Finding,Edema,Mass,mask_Edema,counterfactual_Mass,licence\n"
      "a,images/a.png,train,p1,PA,\"Edema, mild.\",0,1,0,images/a.png,,CC0\n"
      "b,images/a.png,train,p1,AP,,,-1,,,images/a.png,\n"
      "c,images/b.png,val,p2,,,1,0,0,,,\n"
      "d,images/c.png,test,p3,,\"\",,1,1,,,\n";
  return {labels + kMark + "id,finding,x,y,w,h,annotation_source\na,Edema,1,2,3.5,4,reader\nd,Other,0,0,1e3,1,\n" +
              kMark + "id,age,sex\na,61,f\nb,,m\n",
          "id,path,split,patient_id,Mass\na,a.png,,p1,1\nb,b.png,,p2,0\n"};
}

void cohort(const Bytes& bytes) {
  static const Folder root;
  static const MemoryFile tables[3];
  static const bool prepared = [] {
    std::filesystem::create_directory(root.path("images"));
    for (const char* name : {"images/a.png", "images/b.png", "images/c.png"})
      write_file_atomically(root.path(name), "an image");
    const char* names[] = {"labels.csv", "boxes.csv", "meta.csv"};
    for (int i = 0; i < 3; ++i) tables[i].link(root.path(names[i]));
    return true;
  }();
  expect(prepared, "no cohort");
  const auto [labels, rest] = split(bytes, kMark);
  const auto [boxes, meta] = split(rest, kMark);
  tables[0].put(labels);
  tables[1].put(boxes.empty() ? "id,finding,x,y,w,h\n" : boxes);
  tables[2].put(meta.empty() ? "id\n" : meta);
  CohortOptions options;
  options.required_splits = {};
  for (const bool check : {true, false}) {
    options.check_files = options.check_images = check;
    read_or_refuse(
        [&] {
          const Cohort read = read_cohort(root.path(), options);
          expect(leak_check(read).empty(), "a patient in two splits");
          for (const Study& study : read.studies) {
            expect(study.labels.size() == read.findings.size(), "another number of labels");
            expect(study.path.rfind(read.folder + "/", 0) == 0, "a path outside the folder");
            for (const auto& box : study.boxes) expect(box.box.width > 0 && box.box.height > 0, "a box without extent");
          }
          expect(summarise(read).findings == read.findings, "other findings");
        },
        {ErrorCode::kNotFound, ErrorCode::kMismatch});
  }
}

// --- vocabularies ---

Files vocabulary_seeds() {
  return {R"({"findings": ["Edema", "Mass", "Nodule"], "groups": {"con": ["Edema", "Mass"], "lsn": ["Nodule"]}})",
          R"({"findings": ["Edema"]})"};
}
Files vocabulary_csv_seeds() {
  return {"finding,group\nEdema,con\nMass,con\nNodule,\nEdema,wet\n", "finding\nEdema\n"};
}

void read_as(const std::string& name, const Bytes& bytes) {
  static const Folder named;
  static const MemoryFile file;
  if (!std::filesystem::exists(named.path(name))) file.link(named.path(name));
  file.put(bytes);
  read_or_refuse([&] { read_vocabulary(named.path(name)).validate(); },
                 {ErrorCode::kInvalidArgument, ErrorCode::kNotFound});
}

void vocabulary(const Bytes& bytes) { read_as("v.json", bytes); }
void vocabulary_csv(const Bytes& bytes) { read_as("v.csv", bytes); }

// --- the store of maps ---

Files store_seeds() {
  Files seeds;
  for (const auto storage : {MapStorage::kFloat16, MapStorage::kUint8})
    seeds.push_back(written([&](const std::string& path) {
      std::filesystem::remove(path);
      HeatmapStoreWriter writer(path, {"model 1", {"Edema", "Nodule"}, 2, 3, storage}, false);
      writer.append(7, std::vector<float>{1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0});
      writer.append(9, std::vector<float>{-1, 2, -3, 4, -5, 6, 1e30F, 0, 0, 0, 0, -1e-30F});
      writer.append(7, std::vector<float>(12, 0.5F));
    }));
  return seeds;
}

void use_store(const Bytes& bytes) {
  const std::string path = put(bytes);
  read_or_refuse([&] {
    const HeatmapStore store(path, read_heatmap_layout(path).fingerprint);
    for (const auto key : store.keys()) {
      const auto maps = store.read(key);
      expect(maps.size() == store.layout().values(), "another number of values");
      expect(std::all_of(maps.begin(), maps.end(), [](float value) { return std::isfinite(value); }),
             "a value that is not finite");
    }
  });
  read_or_refuse([&] {
    const HeatmapStoreCheck check = verify_heatmap_store(path);
    expect(check.images + check.superseded + check.damaged.size() == check.records, "records that are not counted");
  });
}

void heatmap_store(const Bytes& bytes) {
  use_store(bytes);
  use_store(sealed_store(bytes));
}

// --- requests ---

/// As many searches as come, of small pictures.
SearchPageOptions unlimited() {
  SearchPageOptions options;
  options.searches_per_second = 1e9;
  options.searches_at_once = 1 << 30;
  options.max_picture = 100000;
  return options;
}

/// Method, path, host and origin a line each, then fields NAME=VALUE; behind the mark an uploaded file.
Files page_seeds() {
  const std::string get = "GET\n/\nlocalhost\n\n";
  return {get,
          get + "by=study\nstudy=s3\nfinding=Edema\nview=AP\nsplit=train\npatient=p1\nothers=1\ncount=5\n",
          get + "by=text\ntext=abc\nsite=North\nfrom=2020-01-02\nto=2020-01-06\n",
          "POST\n/\n127.0.0.1:8080\nhttp://127.0.0.1:8080\nby=text\ntext=No effusion.\ncount=60\n",
          "POST\n/\nlocalhost\n\nby=picture\n" + kMark + "P5 3 2 255\nabcdef",
          "GET\n/images\n[::1]:80\n\npage=1\n",
          "HEAD\n/image/3.png\nlocalhost\n\n"};
}

void search_page(const Bytes& bytes) {
  static const test::ToyGallery gallery(7);
  static const SearchPage page(gallery, unlimited());
  const auto parts = split(bytes, kMark);
  std::string head = parts.first;
  const auto line = [&] {
    auto first_and_rest = split(head, "\n");
    head = first_and_rest.second;
    return first_and_rest.first;
  };
  WebRequest request;
  request.method = line(), request.path = line(), request.host = line(), request.origin = line();
  while (!head.empty()) request.parameters.insert(split(line(), "="));
  request.picture.assign(parts.second.begin(), parts.second.end());
  const WebReply reply = page.reply(request);
  expect(reply.status >= 200 && reply.status < 500, reply.body.c_str());
  expect(reply.headers.count("Content-Security-Policy") == 1, "a reply without a policy");
}

/// The bytes of a connection.
Files server_seeds() {
  const std::string host = "Host: localhost\r\n", boundary = "--b\r\nContent-Disposition: form-data; name=";
  const std::string form = boundary + "\"by\"\r\n\r\npicture\r\n" + boundary +
                           "\"picture\"; filename=\"a.pgm\"\r\nContent-Type: image/x-portable-graymap\r\n\r\nP5 1 1 "
                           "255\nx\r\n--b--\r\n";
  return {"GET /?by=text&text=No%20effusion&count=3 HTTP/1.1\r\n" + host + "\r\n",
          "GET /image/1.png HTTP/1.0\r\n" + host + "Range: bytes=0-10\r\nAccept-Encoding: gzip\r\n\r\n",
          "HEAD /images?page=1 HTTP/1.1\r\n" + host + "Connection: keep-alive\r\n\r\n",
          "POST / HTTP/1.1\r\n" + host + "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: " +
              std::to_string(form.size()) + "\r\n\r\n" + form};
}

void search_server(const Bytes& bytes) {
  static const test::ToyGallery gallery(7);
  static const auto options = [] {
    SearchServerOptions wanted;
    wanted.port = 0;
    wanted.timeout = 1;
    wanted.page = unlimited();
    return wanted;
  }();
  static const test::Served served(gallery, options);
  const test::Connection connection(served.port());
  if (!connection.open()) return;  // the system has none left for the moment
  const std::string reply = connection.talk(bytes, true);
  if (reply.empty()) return;
  expect(reply.rfind("HTTP/1.", 0) == 0, "a reply that is none");
  expect(reply.compare(0, 12, "HTTP/1.1 500") != 0 && reply.compare(0, 12, "HTTP/1.0 500") != 0, reply.c_str());
}

}  // namespace

std::vector<Target> with_cohorts(std::vector<Target> targets) {
  // CMakeLists.txt reads a target a line.
  const std::vector<Target> more = {
      {"heatmap_store", store_seeds, heatmap_store},
      {"search_page", page_seeds, search_page},
      {"search_server", server_seeds, search_server},
      {"vocabulary", vocabulary_seeds, vocabulary},
      {"vocabulary_csv", vocabulary_csv_seeds, vocabulary_csv},
      {"cohort", cohort_seeds, cohort, kEncoderFile},
  };
  targets.insert(targets.end(), more.begin(), more.end());
  return targets;
}

}  // namespace daug::fuzz
