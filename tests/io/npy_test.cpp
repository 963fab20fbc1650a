#include "daug/io/npy.h"

#include <string>
#include <vector>

#include "io/npy_bytes.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using namespace std::string_literals;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::npy;
using daug::test::npy_header;
using daug::test::Scratch;

namespace {

Array parse(const std::string& bytes) {
  // A copy without a byte to spare, so that the address sanitizer sees reads beyond the end.
  const std::vector<char> exact(bytes.begin(), bytes.end());
  return parse_npy(exact.data(), exact.size(), "x.npy");
}

/// A file with this dictionary and four bytes of data.
std::string with_header(const std::string& dictionary) { return npy(dictionary, "\1\2\3\4"); }

}  // namespace

TEST_CASE("arrays of the four element types come back", "[io]") {
  using Values = std::vector<double>;
  using Shape = std::vector<std::int64_t>;
  // The numbers' bytes are written out: 1.5 is 0x3e00, 0x3fc00000 and 0x3ff8000000000000; -2 is 0xc000 and so on.
  const auto half = parse(npy(npy_header("<f2", "(2, 1)"), "\x00\x3e\x00\xc0"s));
  CHECK(half.shape == Shape{2, 1});
  CHECK(half.to_double() == Values{1.5, -2});
  const auto single = parse(npy(npy_header("<f4", "(2,)"), "\x00\x00\xc0\x3f\x00\x00\x00\xc0"s));
  CHECK(single.shape == Shape{2});
  CHECK(single.to_double() == Values{1.5, -2});
  const auto wide = parse(npy(npy_header("<f8", "()"), "\x00\x00\x00\x00\x00\x00\xf8\x3f"s));
  CHECK(wide.shape.empty());
  CHECK(wide.to_double() == Values{1.5});
  const auto byte = parse(npy(npy_header("|u1", "(1, 2, 3)"), "\x00\x01\x02\x7f\x80\xff"s));
  CHECK(byte.shape == Shape{1, 2, 3});
  CHECK(byte.to_double() == Values{0, 1, 2, 127, 128, 255});
  CHECK(parse(npy(npy_header("<f4", "(3, 0)"), "")).numel() == 0);
}

TEST_CASE("every version and every way to write the dictionary", "[io]") {
  const std::string data = "\x07";
  for (const int version : {1, 2, 3}) CHECK(parse(npy(npy_header("|u1", "(1,)"), data, version)).to_int64()[0] == 7);
  for (const char* header : {"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }",
                             "{\"shape\":(1,),\"fortran_order\":False,\"descr\":\"|u1\"}",
                             "  { 'shape' : ( 1 , ) , 'descr' : '|u1' , 'fortran_order' : False }  \n \n"})
    CHECK(parse(npy(header, data)).to_int64()[0] == 7);

  const Scratch scratch;
  CHECK(read_npy(scratch.put("a", npy(npy_header("|u1", "(1,)"), data))).to_int64()[0] == 7);
  CHECK(caught([&] { read_npy(scratch.path("a"), 20); }).code() == ErrorCode::kFormat);
  CHECK(caught([&] { read_npy(scratch.path("absent")); }).code() == ErrorCode::kNotFound);
}

TEST_CASE("what the reader does not support is told from what is damaged", "[io]") {
  for (const char* type : {">f4", "<i4", "|O", "<U3", "=f4", "f4", "<c8", ""}) {
    INFO(type);
    CHECK(caught([&] { parse(with_header(npy_header(type, "(1,)"))); }).code() == ErrorCode::kUnsupported);
  }
  CHECK(caught([&] {
          parse(with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"));
        }).code() == ErrorCode::kUnsupported);
  CHECK(caught([&] { parse(with_header("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}")); }).code() ==
        ErrorCode::kUnsupported);
  for (const int version : {0, 4, 255})
    CHECK(caught([&] { parse(npy(npy_header("<f4", "(1,)"), "1234", version)); }).code() == ErrorCode::kUnsupported);
}

TEST_CASE("a header that lies is refused by name", "[io]") {
  const std::vector<std::string> shapes = {"(2,)",
                                           "(0,)",
                                           "(1, 2)",
                                           "(4294967296, 4294967296)",
                                           "(4294967296, 4294967296, 0)",
                                           "(9223372036854775808,)",
                                           "(99999999999999999999999999,)",
                                           "(-1,)",
                                           "(1.0,)",
                                           "(1)",
                                           "(1,,)",
                                           "(,)",
                                           "1",
                                           "[1]",
                                           "(1",
                                           "(True,)",
                                           "(1L,)",
                                           "(9223372036854775807, 9223372036854775807)"};
  for (const auto& shape : shapes) {
    INFO(shape);
    check_refused(ErrorCode::kFormat, "x.npy", [&] { parse(with_header(npy_header("<f4", shape))); });
  }
  // No values, but strides that no number holds.
  CHECK(caught([&] { parse(npy(npy_header("<f4", "(0, 4294967296, 4294967296)"), "")); }).code() == ErrorCode::kFormat);
  CHECK(parse(npy(npy_header("<f4", "(0, 4294967296)"), "")).numel() == 0);
  std::string many = "(";
  for (int i = 0; i < 33; ++i) many += "1,";
  CHECK(caught([&] { parse(with_header(npy_header("<f4", many + ")"))); }).code() == ErrorCode::kFormat);
  for (const char* header :
       {"", "{", "{}", "}", "{'descr'", "{'descr': '<f4'", "{'descr': '<f4', 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False}", "{'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "{'descr': '<f4, 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}", "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "{descr: '<f4'}"}) {
    INFO(header);
    CHECK(caught([&] { parse(with_header(header)); }).code() == ErrorCode::kFormat);
  }
  CHECK(caught([&] { parse("\x93NUMPY\2\0\xff\xff\xff\xff"s + std::string(100, ' ')); }).code() == ErrorCode::kFormat);
  CHECK(caught([&] { parse("another file"); }).code() == ErrorCode::kFormat);
}

TEST_CASE("every truncation and any byte behind the data is refused; no flipped bit does harm", "[io]") {
  const std::string whole = npy(npy_header("<f4", "(2, 3)"), std::string(24, '\1'));
  const auto values = parse(whole).to_double();
  for (std::size_t size = 0; size < whole.size(); ++size)
    REQUIRE(caught([&] { parse(whole.substr(0, size)); }).code() == ErrorCode::kFormat);
  CHECK(caught([&] { parse(whole + "x"); }).code() == ErrorCode::kFormat);

  // The format has no checksum: a flipped bit may change what is read, but only within what the file holds.
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto array = parse(damaged);
      REQUIRE(static_cast<std::size_t>(array.numel()) * element_size(array.type) == 24);
    } catch (const Error& error) {
      REQUIRE((error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kUnsupported));
    }
  }
}
