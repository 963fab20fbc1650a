#include "daug/io/safetensors.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "daug/core/random.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/child.h"
#include "support/long_tests.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::mentions;
using daug::test::Scratch;

namespace {

/// A file image from a header text, independent of the writer.
std::string file_of(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}

SafetensorsFile parse(const std::string& bytes) { return parse_safetensors(bytes.data(), bytes.size(), "f.st"); }

template <class T>
Array raw(ElementType type, const std::vector<T>& values) {
  Array array;
  array.type = type;
  array.shape = {static_cast<std::int64_t>(values.size())};
  array.data.resize(values.size() * sizeof(T));
  std::memcpy(array.data.data(), values.data(), array.data.size());
  return array;
}

/// The value of a binary16 or bfloat16 pattern, from the definition of the format.
double decode(unsigned bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
  const double fraction = static_cast<double>(bits & ((1U << fraction_bits) - 1)) / (1 << fraction_bits);
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? std::nan("") : sign * HUGE_VAL;
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias));
}

}  // namespace

TEST_CASE("a hand-made file is read", "[io]") {
  const std::string header =
      R"({"b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]},"__metadata__":{"made_by":"hand"},)"
      R"("a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"e":{"dtype":"F64","shape":[0,3],"data_offsets":[8,8]},)"
      R"("s":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}   )";
  const auto file = parse(file_of(header, std::string("\x00\x00\xC0\x3F\x01\x00\xFF\xFF\x01", 9)));
  CHECK(file.tensors.size() == 4);
  CHECK(file.metadata == std::map<std::string, std::string>{{"made_by", "hand"}});
  CHECK(file.at("a").shape == std::vector<std::int64_t>{1, 1});
  CHECK(file.at("a").to_float() == std::vector<float>{1.5F});
  CHECK(file.at("b").to_int64() == std::vector<std::int64_t>{1, -1});
  CHECK(file.at("e").numel() == 0);
  CHECK(file.at("s").shape.empty());
  CHECK(file.at("s").to_int64() == std::vector<std::int64_t>{1});
  CHECK(parse(file_of("{}", "")).tensors.empty());
}

TEST_CASE("element types have the sizes and names of the format", "[io]") {
  const std::vector<std::pair<ElementType, std::pair<std::string, std::size_t>>> expected = {
      {ElementType::kF64, {"F64", 8}},   {ElementType::kF32, {"F32", 4}}, {ElementType::kF16, {"F16", 2}},
      {ElementType::kBF16, {"BF16", 2}}, {ElementType::kI64, {"I64", 8}}, {ElementType::kI32, {"I32", 4}},
      {ElementType::kI16, {"I16", 2}},   {ElementType::kI8, {"I8", 1}},   {ElementType::kU8, {"U8", 1}},
      {ElementType::kBool, {"BOOL", 1}}};
  for (const auto& [type, name_size] : expected) {
    CHECK(element_name(type) == name_size.first);
    CHECK(element_size(type) == name_size.second);
    CHECK(is_floating_point(type) == (name_size.first.find('F') != std::string::npos));
  }
}

TEST_CASE("values of every type are widened exactly", "[io]") {
  CHECK(raw<double>(ElementType::kF64, {1.5, -0x1p-1074}).to_double() == std::vector<double>{1.5, -0x1p-1074});
  CHECK(raw<float>(ElementType::kF32, {0.1F}).to_double() == std::vector<double>{static_cast<double>(0.1F)});
  CHECK(raw<std::int32_t>(ElementType::kI32, {-2147483647 - 1}).to_double() == std::vector<double>{-2147483648.0});
  CHECK(raw<std::int8_t>(ElementType::kI8, {-128, 127}).to_int64() == std::vector<std::int64_t>{-128, 127});
  CHECK(raw<std::uint8_t>(ElementType::kU8, {255}).to_float() == std::vector<float>{255.0F});
  CHECK(raw<std::uint8_t>(ElementType::kBool, {0, 1, 2}).to_int64() == std::vector<std::int64_t>{0, 1, 1});
  const std::int64_t least = std::numeric_limits<std::int64_t>::min();
  CHECK(raw<std::int64_t>(ElementType::kI64, {least, 7}).to_int64() == std::vector<std::int64_t>{least, 7});
  for (const auto type : {ElementType::kF64, ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    Array empty;
    empty.type = type;
    empty.shape = {0};
    CHECK(caught([&] { (void)empty.to_int64(); }).code() == ErrorCode::kMismatch);
  }
}

TEST_CASE("all 65536 patterns of both 16-bit floating types are widened exactly", "[io]") {
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  const auto half = raw(ElementType::kF16, patterns).to_double();
  const auto bfloat = raw(ElementType::kBF16, patterns).to_float();
  std::size_t wrong = 0;
  const auto same = [](double a, double b) {
    return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
  };
  for (unsigned bits = 0; bits < 65536; ++bits)
    wrong += !same(half[bits], decode(bits, 5, 10)) + !same(bfloat[bits], decode(bits, 8, 7));
  CHECK(wrong == 0);
}

TEST_CASE("arrays whose shape and data disagree are refused", "[io]") {
  CHECK(Array::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}).numel() == 6);
  CHECK(Array::from(std::vector<double>{1}, {}).numel() == 1);
  CHECK(caught([] { (void)Array::from(std::vector<float>{1, 2}, {3}); }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([] { (void)Array::from(std::vector<double>{1}, {-1, -1}); }).code() == ErrorCode::kInvalidArgument);
  Array huge;
  huge.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  CHECK(caught([&] { (void)huge.numel(); }).code() == ErrorCode::kInvalidArgument);
  Array hollow;
  hollow.shape = {4};
  CHECK(caught([&] { (void)hollow.to_float(); }).code() == ErrorCode::kInvalidArgument);
}

TEST_CASE("any file comes back as it was written", "[io]") {
  const Scratch scratch;
  const std::vector<ElementType> types = {ElementType::kF64, ElementType::kF32, ElementType::kF16, ElementType::kBF16,
                                          ElementType::kI64, ElementType::kI32, ElementType::kI16, ElementType::kI8,
                                          ElementType::kU8,  ElementType::kBool};
  for (std::uint64_t item = 0; item < 60; ++item) {
    RandomStream random(2, item, "safetensors");
    SafetensorsFile file;
    for (auto count = random.below(8); count > 0; --count) {
      Array array;
      array.type = types[random.below(static_cast<std::uint32_t>(types.size()))];
      for (auto rank = random.below(4); rank > 0; --rank) array.shape.push_back(random.below(4));
      array.data.resize(static_cast<std::size_t>(array.numel()) * element_size(array.type));
      for (auto& byte : array.data) byte = static_cast<std::uint8_t>(random());
      file.tensors["layer." + std::to_string(random.below(100)) + ".\"w\xC3\xA9ight\""] = array;
    }
    if (item % 2) file.metadata["note"] = "line\nend \"quoted\"";
    write_safetensors(scratch.path("f.st"), file);
    const SafetensorsFile back = read_safetensors(scratch.path("f.st"));
    REQUIRE(back.metadata == file.metadata);
    REQUIRE(back.tensors.size() == file.tensors.size());
    for (const auto& [key, array] : file.tensors) {
      REQUIRE(back.at(key).type == array.type);
      REQUIRE(back.at(key).shape == array.shape);
      REQUIRE(back.at(key).data == array.data);
    }
  }
}

TEST_CASE("written files keep the rules of the format", "[io]") {
  const Scratch scratch;
  SafetensorsFile file;
  file.tensors["b"] = Array::from(std::vector<double>{1, 2}, {2});
  file.tensors["a"] = raw<std::uint8_t>(ElementType::kU8, {1, 2, 3});
  file.tensors["c"] = Array::from(std::vector<float>{3}, {1});
  write_safetensors(scratch.path("f.st"), file);
  const auto bytes = read_file(scratch.path("f.st"));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  CHECK(length % 8 == 0);
  REQUIRE(bytes.size() == 8 + length + 16 + 4 + 3);
  const auto header = nlohmann::ordered_json::parse(bytes.begin() + 8, bytes.begin() + 8 + static_cast<long>(length));
  std::vector<std::string> keys;
  for (const auto& [key, entry] : header.items()) {
    keys.push_back(key);
    CHECK(entry["data_offsets"][0].get<std::size_t>() % element_size(file.at(key).type) == 0);
  }
  CHECK(keys == std::vector<std::string>{"a", "b", "c"});
}

TEST_CASE("what could not be read back is not written", "[io]") {
  const Scratch scratch;
  const auto refuse = [&](const std::string& key, const Array& array, const std::string& note) {
    SafetensorsFile file;
    file.tensors[key] = array;
    file.metadata["note"] = note;
    const auto error = caught([&] { write_safetensors(scratch.path("f.st"), file); });
    CHECK(error.code() == ErrorCode::kInvalidArgument);
    CHECK(scratch.count() == 0);
  };
  const Array good = Array::from(std::vector<float>{1}, {1});
  Array bad = good;
  bad.data.pop_back();
  refuse("w", bad, "");
  refuse("w", Array::from(std::vector<float>{1}, std::vector<std::int64_t>(65, 1)), "");
  refuse("__metadata__", good, "");
  refuse("not \xFF utf-8", good, "");
  refuse("w", good, "not \xFF utf-8");
}

TEST_CASE("a missing key names its nearest neighbours", "[io]") {
  SafetensorsFile file;
  for (const auto* key : {"conv.weight", "conv.bias", "norm.weight", "fc.weight"})
    file.tensors[key] = Array::from(std::vector<float>{1}, {1});
  const auto error = caught([&] { (void)file.at("conv.wieght"); });
  CHECK(error.code() == ErrorCode::kNotFound);
  CHECK(mentions(error, "'conv.wieght'"));
  CHECK(mentions(error, "nearest keys 'conv.weight'"));
  CHECK(mentions(caught([] { (void)SafetensorsFile().at("x"); }), "without tensors"));
}

TEST_CASE("malformed files are refused, naming file and key", "[io]") {
  const Scratch scratch;
  const std::string four(4, '\0');
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::string f32 = "\"F32\"";
  std::string long_header = file_of("{}", "");
  long_header[1] = 1;
  std::string huge_header = file_of("{}", "");
  huge_header[7] = '\x7F';
  const auto with_length = [](std::uint64_t length) {
    std::string bytes = file_of("{}", "");
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
    return bytes;
  };
  const auto ones = [](int count) {
    std::string list = "[1";
    for (int i = 1; i < count; ++i) list += ",1";
    return list + "]";
  };
  struct Case {
    std::string bytes;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"", "a header length of 8 bytes"},
      {"1234567", "a header length of 8 bytes"},
      {long_header, "the file's remaining 2 bytes, got 258"},
      {huge_header, "at most 100000000 bytes"},
      {with_length(100'000'001), "at most 100000000 bytes, got 100000001"},
      {with_length(100'000'000), "the file's remaining 2 bytes, got 100000000"},
      {file_of("", ""), "a JSON object"},
      {file_of("[]", ""), "a JSON object"},
      {file_of("{\"w\":", ""), "valid JSON"},
      {file_of("{} {}", ""), "valid JSON"},
      {file_of("{\"\xFF\":1}", ""), "valid JSON"},
      {file_of(R"({"w":{"shape":)" + std::string(100000, '['), ""), "two levels of nesting"},
      {file_of(R"({"w":{"x":{"y":{}}}})", ""), "two levels of nesting"},
      {file_of("{\"w\":1}", ""), "key 'w': expected a field 'dtype'"},
      {file_of("{\"w\":[]}", ""), "key 'w': expected a field 'dtype'"},
      {file_of("{\"w\":{}}", ""), "key 'w': expected a field 'dtype'"},
      {file_of(R"({"w":{"dtype":"F32","shape":[1]}})", four), "key 'w': expected a field 'data_offsets'"},
      {file_of(entry("\"F8_E4M3\"", "[4]", "[0,4]"), four), "key 'w': expected an element type among F64"},
      {file_of(entry("7", "[4]", "[0,4]"), four), "key 'w': expected an element type"},
      {file_of(entry(f32, "1", "[0,4]"), four), "a shape that is a list"},
      {file_of(entry(f32, ones(65), "[0,4]"), four), "key 'w': expected lists of at most 64 numbers"},
      {file_of(entry(f32, "[1]", ones(100'000)), four), "key 'w': expected lists of at most 64 numbers"},
      {file_of(entry("\"" + std::string(100'000, 'x') + "\"", "[1]", "[0,4]"), four),
       "key 'w': expected an element type"},
      {file_of("{\"" + std::string(100'000, 'k') + "\":1}", ""), "expected a field 'dtype'"},
      {file_of("{\"" + std::string(100'000, 'k'), ""), "valid JSON"},
      {file_of(entry(f32, "[-1]", "[0,4]"), four), "key 'w': expected a shape of non-negative integers"},
      {file_of(entry(f32, "[1.0]", "[0,4]"), four), "a shape of non-negative integers"},
      {file_of(entry(f32, "[9223372036854775808]", "[0,4]"), four), "integers below 2^63"},
      {file_of(entry(f32, "[4294967296,4294967296]", "[0,4]"), four), "fewer than 2^63 bytes"},
      {file_of(entry(f32, "[2305843009213693952]", "[0,0]"), ""), "fewer than 2^63 bytes"},
      {file_of(entry(f32, "[0,4294967296,4294967296]", "[0,0]"), ""), "fewer than 2^63 bytes"},  // strides
      {file_of(entry(f32, "[1]", "[0]"), four), "two data_offsets"},
      {file_of(entry(f32, "[1]", "[4,0]"), four), "data_offsets within the 4 bytes"},
      {file_of(entry(f32, "[2]", "[0,8]"), four), "data_offsets within the 4 bytes"},
      {file_of(entry(f32, "[1]", "[18446744073709551612,0]"), four), "integers below 2^63"},
      {file_of(entry(f32, "[2]", "[0,4]"), four), "expected 8 bytes for F32 [2], got 4 bytes"},
      {file_of(entry(f32, "[1]", "[4,8]"), four + four), "key 'w': expected data from byte 0"},
      {file_of(entry(f32, "[1]", "[0,4]"), four + "x"), "expected 4 bytes, as the header says, got 5 bytes"},
      {file_of("{}", "x"), "expected 0 bytes"},
      {file_of(
           R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
           four),
       "no overlap"},
      {file_of(
           R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           four + four),
       "key 'w': expected data from byte 8"},
      {file_of(
           R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
           four),
       "key 'w': expected one entry, got two"},
      {file_of(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"shape":[4]}})", four), "key 'shape'"},
      {file_of(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"shap\u0065":[4]}})", four), "key 'shape'"},
      {file_of(R"({"w":{"x":{"a":1,"a":2}}})", ""), "key 'a': expected one entry, got two"},
      {file_of(
           R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0077":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
           ""),
       "key 'w': expected one entry, got two"},
      {file_of(R"({"__metadata__":{},"__meta\u0064ata__":{}})", ""), "key '__metadata__': expected one entry, got two"},
      {file_of(R"({"__metadata__":{"a":1}})", ""), "__metadata__.a: expected a string"},
      {file_of(R"({"__metadata__":{"a":["1"]}})", ""), "__metadata__.a: expected a string"},
      {file_of(R"({"__metadata__":{"a":{}}})", ""), "__metadata__.a: expected a string"},
      {file_of(R"({"__metadata__":{"a":"1","\u0061":"2"}})", ""), "key 'a': expected one entry, got two"},
      {file_of(R"({"__metadata__":"a"})", ""), "an object of strings"},
      {file_of(R"({"__metadata__":{"a":"1","a":"2"}})", ""), "key 'a'"},
      {file_of(R"({"__metadata__":[]})", ""), "an object of strings"},
  };
  for (const auto& each : cases) {
    INFO(each.bytes.substr(0, 300) << " should say: " << each.message);
    const auto error = caught([&] { (void)parse(each.bytes); });
    INFO(error.what());
    CHECK(error.code() == ErrorCode::kFormat);
    CHECK(mentions(error, "f.st"));
    CHECK(mentions(error, each.message));
    CHECK(std::string(error.what()).size() < 1000);  // whatever the file says
    const auto of_header = caught([&] { (void)read_safetensors_header(scratch.put("f.st", each.bytes)); });
    INFO(of_header.what());
    CHECK(of_header.code() == ErrorCode::kFormat);
    CHECK(mentions(of_header, "f.st", each.message));
  }
}

TEST_CASE("a header of 100 MB with many entries is read, and one of a byte more is refused", "[io]") {
  constexpr std::size_t kLargest = 100'000'000, kEntries = 20'000;
  std::string bytes;
  bytes.reserve(kLargest + 8 + kEntries + 1);
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(kLargest >> (8 * i));
  for (std::size_t i = 0; i < kEntries; ++i)
    bytes += (i == 0 ? "{\"" : ",\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
             std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  bytes += "}";
  bytes.resize(8 + kLargest, ' ');
  for (std::size_t i = 0; i < kEntries; ++i) bytes += static_cast<char>(i % 251);
  const SafetensorsFile file = parse(bytes);
  CHECK(file.tensors.size() == kEntries);
  CHECK(file.at("0").to_int64() == std::vector<std::int64_t>{0});
  CHECK(file.at("19999").to_int64() == std::vector<std::int64_t>{19'999 % 251});

  ++bytes[0];  // 0x00 of 100,000,000
  bytes.insert(bytes.begin() + 8 + static_cast<std::ptrdiff_t>(kLargest), ' ');
  const auto error = caught([&] { (void)parse(bytes); });
  CHECK(error.code() == ErrorCode::kFormat);
  CHECK(mentions(error, "at most 100000000 bytes, got 100000001"));
}

TEST_CASE("a file cut short in a header of 100 MB is refused without the memory for one", "[io]") {
  if (daug::test::kSanitized) return;
  const Scratch scratch;
  std::string bytes = file_of(R"({"w":{"dtype":"F32",)" + std::string(10'000, ' '), "");
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(std::size_t{100'000'000} >> (8 * i));
  const std::string path = scratch.put("f.st", bytes);
  const auto refused = [&] {
    daug::test::limit_memory(std::size_t{16} << 20U);
    int count = 0;
    for (const auto reader : {&read_safetensors, &read_safetensors_header}) {
      try {
        (void)reader(path);
      } catch (const Error& error) {
        count += error.code() == ErrorCode::kFormat ? 1 : 0;
      }
    }
    return count;
  };
  CHECK(daug::test::in_child(refused) == 2);
}

TEST_CASE("a hostile header is refused without the memory for all that it lists", "[io]") {
  if (daug::test::kSanitized) return;
  constexpr std::size_t kLength = 10'000'000;
  const auto header = [&](std::string text, const std::function<std::string(const std::string&)>& item,
                          const std::string& end) {
    for (std::size_t i = 0; text.size() < kLength; ++i) text += item("\"" + std::to_string(i) + "\":");
    return file_of(text + end, "");
  };
  const auto same = [](const std::string& item) { return [item](const std::string&) { return item; }; };
  const auto named = [](const std::string& item) { return [item](const std::string& key) { return key + item; }; };
  struct Case {
    std::string bytes;
    std::size_t megabytes;
  };
  // Nothing is kept but arrays that could be in a file, which take about five times their text.
  const std::vector<Case> cases = {
      {header("{", named("{},"), R"("w":{}})"), 8},
      {header(R"({"w":{)", named("1,"), R"("x":1}})"), 8},
      {header(R"({"w":{"x":{)", named("1,"), R"("x":1}}})"), 8},
      {header(R"({"w":{"shape":[)", same("[],"), "[]]}}"), 8},
      {header(R"({"w":[)", same("1,"), "1]}"), 8},
      {header(R"({"__metadata__":{"a":[)", same("1,"), "1]}}"), 8},
      {header("{", named(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"), R"("w":{}})"), 80}};
  for (const Case& each : cases) {
    INFO(each.bytes.substr(8, 40));
    const auto refused = [&] {
      daug::test::limit_memory(each.megabytes << 20U);
      try {
        (void)parse(each.bytes);
      } catch (const Error& error) {
        return error.code() == ErrorCode::kFormat ? 1 : 0;
      }
      return 0;
    };
    CHECK(daug::test::in_child(refused) == 1);
  }
}

TEST_CASE("up to 61 fields of an array that the format does not know are left alone", "[io]") {
  const auto with = [](int others) {
    std::string fields = R"("dtype":"U8","shape":[1],"data_offsets":[0,1])";
    for (int i = 0; i < others; ++i) fields += ",\"" + std::to_string(i) + "\":" + (i % 2 ? "[1,2]" : R"({"a":"b"})");
    return file_of(R"({"w":{)" + fields + "}}", "x");
  };
  CHECK(parse(with(61)).at("w").to_int64() == std::vector<std::int64_t>{'x'});
  CHECK(mentions(caught([&] { (void)parse(with(62)); }), "key 'w': expected at most 64 fields"));
}

TEST_CASE("arrays have as many sizes as tensors may", "[io]") {
  std::string sizes = "1";
  for (int i = 1; i < 64; ++i) sizes += ",1";
  const std::string header = R"({"w":{"dtype":"U8","shape":[)" + sizes + R"(],"data_offsets":[0,1]}})";
  CHECK(parse(file_of(header, "x")).at("w").shape == std::vector<std::int64_t>(64, 1));
}

TEST_CASE("a header is read without its elements, whatever they hold, where all of them are there", "[io]") {
  const Scratch scratch;
  const std::string path = scratch.path("f.st");
  SafetensorsFile file;
  file.tensors["a"] = Array::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  file.tensors["e"] = Array::from(std::vector<double>{}, {0, 4});
  file.tensors["s"] = raw<std::uint8_t>(ElementType::kU8, {7});
  file.metadata["k"] = "v";
  constexpr std::size_t kElements = 6 * 4 + 1;
  write_safetensors(path, file);
  const std::string whole = read_text_file(path);
  std::string damaged = whole;
  damaged.replace(whole.size() - kElements, kElements, kElements, '\xFF');
  for (const std::string& bytes : {whole, damaged}) {
    scratch.put("f.st", bytes);
    const SafetensorsFile header = read_safetensors_header(path);
    CHECK(header.metadata == file.metadata);
    REQUIRE(header.tensors.size() == file.tensors.size());
    for (const auto& [key, array] : file.tensors) {
      CHECK(header.at(key).type == array.type);
      CHECK(header.at(key).shape == array.shape);
      CHECK(header.at(key).data.empty());
    }
    CHECK(caught([&] { (void)header.at("a").to_float(); }).code() == ErrorCode::kInvalidArgument);
  }
  for (const std::string& bytes : {whole.substr(0, whole.size() - kElements), whole + "x"}) {
    scratch.put("f.st", bytes);
    CHECK(caught([&] { (void)read_safetensors_header(path); }).code() == ErrorCode::kFormat);
  }

  // 64 GiB of holes, which take no memory unless they are read.
  const std::string large = R"({"w":{"dtype":"U8","shape":[68719476736],"data_offsets":[0,68719476736]}})";
  scratch.put("f.st", file_of(large, ""));
  std::filesystem::resize_file(path, 8 + large.size() + 68719476736);
  CHECK(read_safetensors_header(path).at("w").numel() == 68719476736);

  CHECK(caught([&] { (void)read_safetensors_header(scratch.path("none")); }).code() == ErrorCode::kNotFound);
  CHECK(caught([&] { (void)read_safetensors_header(scratch.folder()); }).code() == ErrorCode::kIo);
}

TEST_CASE("truncated and damaged files never crash, and never read outside the file", "[io]") {
  const Scratch scratch;
  SafetensorsFile file;
  file.tensors["a"] = Array::from(std::vector<float>{1, 2, 3}, {3});
  file.tensors["b"] = Array::from(std::vector<std::int64_t>{4}, {1, 1});
  file.metadata["k"] = "v";
  write_safetensors(scratch.path("f.st"), file);
  const std::string whole = read_text_file(scratch.path("f.st"));

  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::vector<char> exact(whole.begin(), whole.begin() + static_cast<long>(size));
    const auto error = caught([&] { (void)parse_safetensors(exact.data(), exact.size(), "f.st"); });
    REQUIRE(error.code() == ErrorCode::kFormat);
    const std::string cut = scratch.put("cut.st", whole.substr(0, size));
    REQUIRE(caught([&] { (void)read_safetensors_header(cut); }).code() == ErrorCode::kFormat);
  }
  REQUIRE(caught([&] { (void)parse(whole + '\0'); }).code() == ErrorCode::kFormat);

  // The format has no checksum, so a changed bit may be read; whatever is read must still be consistent.
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::vector<char> damaged(whole.begin(), whole.end());
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto read = parse_safetensors(damaged.data(), damaged.size(), "f.st");
      for (const auto& [key, array] : read.tensors)
        REQUIRE(array.data.size() == static_cast<std::size_t>(array.numel()) * element_size(array.type));
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::kFormat);
      ++refused;
    }
  }
  CHECK(refused > 0);
}
