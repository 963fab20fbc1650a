// The readers of formats that need no LibTorch; those of cohorts, maps and requests are in cohorts.cpp.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "cohorts.h"
#include "daug/encoder/report_text.h"
#include "daug/encoder/tokenizer.h"
#include "daug/image/decode.h"
#include "daug/index/index_writer.h"
#include "daug/index/retrieval_index.h"
#include "daug/io/csv.h"
#include "daug/io/gzip.h"
#include "daug/io/npy.h"
#include "daug/io/safetensors.h"
#include "encoder/clip_config.h"
#include "files.h"
#include "image/fixtures.h"
#include "io/npy_bytes.h"
#include "seals.h"
#include "support/gzip.h"
#include "targets.h"

namespace daug::fuzz {
namespace {

std::string text(const std::vector<std::uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

// --- csv ---

Files csv_seeds() {
  return {"id,patient,label\n1,p1,\"Edema, mild\"\n2,\"p\"\"2\",\n",
          "\xEF\xBB\xBF"
          "a\r\n\"x\ny\"\r\n"};
}

void csv(const Bytes& bytes) {
  read_or_refuse([&] {
    const CsvTable table = parse_csv(bytes, "x.csv");
    for (const auto& row : table.rows) expect(row.size() == table.columns.size(), "a row of another width");
  });
}

// --- npy, safetensors ---

Files npy_seeds() {
  return {test::npy(test::npy_header("<f4", "(2, 1)"), std::string(8, '\1')),
          test::npy(test::npy_header("<f8", "()"), std::string(8, '\2')),
          test::npy(test::npy_header("|u1", "(3, 0, 2)"), "", 2)};
}

void check(const Array& array) {
  expect(array.data.size() == static_cast<std::size_t>(array.numel()) * element_size(array.type), "other data");
  expect(array.to_double().size() == static_cast<std::size_t>(array.numel()), "other values");
}

void npy(const Bytes& bytes) {
  read_or_refuse([&] { check(parse_npy(bytes.data(), bytes.size(), "x.npy")); });
}

Files safetensors_seeds() {
  SafetensorsFile file;
  file.metadata = {{"format", "pt"}, {"note", "two arrays"}};
  file.tensors.emplace("a.weight", Array::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}));
  file.tensors.emplace("b", Array::from(std::vector<std::int64_t>{7}, {}));
  SafetensorsFile empty;
  empty.tensors.emplace("none", Array::from(std::vector<double>{}, {0, 4}));
  return {written([&](const std::string& path) { write_safetensors(path, file); }),
          written([&](const std::string& path) { write_safetensors(path, empty); })};
}

void safetensors(const Bytes& bytes) {
  read_or_refuse([&] {
    for (const auto& [name, array] : parse_safetensors(bytes.data(), bytes.size(), "x").tensors) check(array);
  });
  read_or_refuse([&] {
    for (const auto& [name, array] : read_safetensors_header(put(bytes)).tensors)
      expect(array.numel() >= 0 && array.data.empty(), "elements in a header");
  });
}

// --- gzip and vocabularies ---

Files gzip_seeds() {
  return {test::gzip("some text, some text, some text"), test::gzip(std::string(3000, 'x')) + test::gzip("")};
}

void gzip(const Bytes& bytes) {
  read_or_refuse([&] { expect(gunzip(bytes, 1 << 16, "x.gz").size() <= 1 << 16, "more than the limit"); });
}

BpeVocabulary small_vocabulary() { return BpeVocabulary::from_merges({{"a", "b"}, {"ab", "c</w>"}, {"Ġ", "Ċ"}}); }

/// Every id of whatever a vocabulary makes of a text exists.
void use(BpeVocabulary vocabulary) {
  const Tokenizer tokenizer(std::move(vocabulary));
  for (const std::int64_t id : tokenizer.encode("abc cab, 12 \xFF", 12).ids)
    expect(id >= 0 && id < tokenizer.size(), "an id that does not exist");
}

Files merges_seeds() {
  const std::string plain = "#version: 0.2\na b\nab c</w>\r\nc d</w>\n";
  return {plain, test::gzip(plain)};
}

void merges(const Bytes& bytes) {
  read_or_refuse([&] {
    for (const std::size_t count : {std::size_t{0}, std::size_t{2}}) use(BpeVocabulary::load_merges(put(bytes), count));
  });
}

Files vocab_json_seeds() {
  return {written([&](const std::string& path) {
    small_vocabulary().save(folder());
    std::filesystem::rename(folder() + "/vocab.json", path);
  })};
}

void vocab_json(const Bytes& bytes) {
  static const Folder saved;
  static const MemoryFile file;
  static const bool prepared = [] {
    small_vocabulary().save(saved.path());
    std::filesystem::remove(saved.path("vocab.json"));
    file.link(saved.path("vocab.json"));
    return true;
  }();
  expect(prepared, "no vocabulary");
  file.put(bytes);
  read_or_refuse([&] { use(BpeVocabulary::load(saved.path())); });
}

Files tokenizer_json_seeds() {
  const std::string vocab = vocab_json_seeds()[0];
  return {R"({"added_tokens": [{"id": 0, "content": "!"}], "model": {"type": "BPE", "end_of_word_suffix": "</w>",)"
          R"("merges": ["a b", ["ab", "c</w>"]], "vocab": )" +
          vocab + "}}"};
}

void tokenizer_json(const Bytes& bytes) {
  read_or_refuse([&] { use(BpeVocabulary::load_tokenizer_json(put(bytes))); });
}

/// Text itself: any bytes have ids.
Files text_seeds() {
  return {"No focal consolidation; the patient's heart is 5.2 cm &amp; stable. é <b>", "e\u0301 \U0001F600",
          "INDICATION: cough.\nFINDINGS: Clear &amp;amp; well.\nIMPRESSION: “ﬁne” \u01C6 Ã©",
          "\x1B[31m&EACUTE;&ngE; ｶﾞ\x1B[0m voilÃ le caf├⌐ РїРЅРµРІРјРѕРЅРёСЏ â€� Ã© 日"};
}

void tokenize(const Bytes& bytes) {
  static const Tokenizer plain(small_vocabulary()),
      repaired(small_vocabulary(), {TextCleaning::kOpenClip, TextPadding::kZero});
  for (const Tokenizer* tokenizer : {&plain, &repaired}) {
    const auto ids = tokenizer->tokenize(bytes);
    const TokenIds row = tokenizer->encode(bytes, 16);
    expect(row.ids.size() == 16 && row.length >= 2 && row.length <= 16, "a row of another length");
    expect(row.ids[static_cast<std::size_t>(row.length) - 1] == tokenizer->end_id(), "no end");
    expect(row.length == static_cast<std::int64_t>(std::min<std::size_t>(ids.size() + 2, 16)), "another length");
    for (const std::int64_t id : ids) expect(id >= 0 && id < tokenizer->size(), "an id that does not exist");
  }
  expect(split_sections(bytes).text().size() <= bytes.size() + 1, "sections longer than the report");
}

// --- configurations beside CLIP weights ---

Files clip_config_seeds() {
  return {detail::clip_config_text({}, 2.6, "float32"), R"({"text_config": {}, "vision_config": {}})",
          R"({"text_config": {"hidden_act": "gelu"}, "text_config_dict": {"hidden_act": "gelu", "projection_dim": 8},)"
          R"("vision_config": {"image_size": [64, 64]}, "vision_config_dict": null})"};
}

Files open_clip_config_seeds() {
  detail::ClipConfig config;
  config.image.kind = ImageEncoderKind::kViT;
  return {detail::open_clip_config_text(config)};
}

template <class Parse>
void parse_both_ways(const Parse& parse_config, const Bytes& bytes) {
  read_or_refuse([&] { parse_config(bytes, "config.json", nullptr); });
  std::vector<std::string> assumed;
  read_or_refuse([&] { parse_config(bytes, "config.json", &assumed); });
}

void clip_config(const Bytes& bytes) { parse_both_ways(detail::parse_clip_config, bytes); }

void open_clip_config(const Bytes& bytes) { parse_both_ways(detail::parse_open_clip_config, bytes); }

// --- images ---

Files image_seeds() {
  return {text(test::gray_png(3, 2, {0, 50, 100, 150, 200, 255})),
          text(test::gray_png(2, 2, {1, 2, 3, 4}, {test::png_chunk("eXIf", test::exif(6, true))})),
          text(test::baseline_gray_jpeg()),
          text(test::progressive_gray_jpeg()),
          text(test::baseline_colour_jpeg()),
          text(test::progressive_colour_jpeg()),
          "P5 3 2 255\nabcdef",
          "P2\n# plain\n2 2\n15\n0 5 10 15\n"};
}

void image(const Bytes& bytes) {
  // A copy without a byte to spare, so that reads beyond the end are seen.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  DecodeLimits limits;
  limits.max_pixels = 1 << 16;
  read_or_refuse([&] {
    const ImageInfo info = inspect_image(exact, "x", limits);
    const GrayImage image = decode_image(exact, "x", limits);
    const bool turned = info.orientation >= 5;
    expect(image.width == (turned ? info.height : info.width), "another width than the header's");
    expect(image.height == (turned ? info.width : info.height), "another height than the header's");
    for (int y = 0; y < image.height; ++y)
      for (int x = 0; x < image.width; ++x) expect(image.at(x, y) >= 0 && image.at(x, y) <= 1, "a value beyond [0, 1]");
  });
}

// --- the index ---

RetrievalIndex small_index(Storage storage) {
  RetrievalIndex index(3, Metric::kCosine, "fp", {storage});
  RowMatrix vectors(4, 3);
  vectors << 1, 2, 3, -4, 5.5F, 0, 1, 1, 1, 0, 0, 2;
  index.add({7, -9, 1, 2}, vectors, {{{"patient", "p1"}, {"findings", "Edema"}}, {}, {{"patient", "p2"}}, {}});
  return index;
}

Files index_seeds() {
  Files seeds;
  for (const auto storage : {Storage::kFloat32, Storage::kInt8})
    seeds.push_back(written([&](const std::string& path) { small_index(storage).save(path); }));
  seeds.push_back(written([](const std::string& path) {  // with a journal of every kind of change
    small_index(Storage::kFloat32).save(path);
    IndexWriter writer(path, "fp", false);
    RowMatrix vector(1, 3);
    vector << 3, 2, 1;
    writer.add({5}, vector, {{{"patient", "p3"}}});
    writer.update({7}, vector);
    writer.remove({1});
  }));
  return seeds;
}

void use_index(const Bytes& bytes) {
  read_or_refuse([&] {
    const RetrievalIndex index = RetrievalIndex::parse(bytes.data(), bytes.size(), "x");
    RowMatrix query(1, index.dimension());
    query.setOnes();
    if (index.size() > 0) expect(index.search(query, 1)[0].size() <= 1, "more than was asked for");
    for (const auto id : index.ids()) {
      expect(index.vector(id).size() == index.dimension(), "a vector of another size");
      index.metadata(id);
    }
    expect(index.verify().items == index.size(), "another number of items");
  });
}

/// As they are, which nearly always ends at a checksum, and with checksums that fit.
void index(const Bytes& bytes) {
  use_index(bytes);
  use_index(sealed_index(bytes));
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> list = with_cohorts({
      {"clip_config", clip_config_seeds, clip_config, kEncoderFile},
      {"csv", csv_seeds, csv, kEncoderFile},
      {"gzip", gzip_seeds, gzip, kEncoderFile},
      {"image", image_seeds, image},
      {"index", index_seeds, index},
      {"merges", merges_seeds, merges, kEncoderFile},
      {"npy", npy_seeds, npy},
      {"open_clip_config", open_clip_config_seeds, open_clip_config, kEncoderFile},
      {"safetensors", safetensors_seeds, safetensors, kEncoderFile},
      {"text", text_seeds, tokenize, kEncoderFile},
      {"tokenizer_json", tokenizer_json_seeds, tokenizer_json, kEncoderFile},
      {"vocab_json", vocab_json_seeds, vocab_json, kEncoderFile},
  });
  return list;
}

}  // namespace daug::fuzz
