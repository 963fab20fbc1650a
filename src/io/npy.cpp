#include "daug/io/npy.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <string_view>

#include "daug/core/error.h"
#include "daug/io/bytes.h"
#include "daug/io/file.h"

namespace daug {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are taken as they lie in the file");

constexpr const char* kRead = "read_npy";
constexpr std::uint64_t kLargestHeader = 1 << 16;
constexpr std::size_t kMostSizes = 32;  // NumPy's own limit of old

/// What the header says.
struct Header {
  std::optional<std::string> type;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

/// Reads the header's text, a Python dictionary of three known entries. Not a parser of Python: what NumPy does not
/// write is refused.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : rest_(text), name_(name) {}

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = text();
      expect(':');
      if (key == "descr")
        set(key, header.type, [this] { return text(); });
      else if (key == "fortran_order")
        set(key, header.fortran_order, [this] { return boolean(); });
      else if (key == "shape")
        set(key, header.shape, [this] { return tuple(); });
      else
        fail_format("the keys descr, fortran_order and shape", key);
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (!rest_.empty()) fail_format("nothing after the dictionary", rest_.substr(0, 20));
    if (!header.type || !header.fortran_order || !header.shape)
      fail_format("the keys descr, fortran_order and shape", "fewer");
    return header;
  }

 private:
  template <class Value, class Read>
  void set(const std::string& key, std::optional<Value>& value, const Read& read) {
    if (value) fail_format("each key once", key);
    value = read();
  }

  void skip_space() {
    const auto first = rest_.find_first_not_of(" \n");
    rest_.remove_prefix(first == rest_.npos ? rest_.size() : first);
  }

  bool accept(char wanted) {
    skip_space();
    if (rest_.empty() || rest_[0] != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char wanted) {
    if (!accept(wanted)) fail_format(detail::concat("'", wanted, "'"), detail::concat("'", rest_.substr(0, 20), "'"));
  }

  std::string text() {
    const char quote = accept('"') ? '"' : '\'';
    if (quote == '\'' && !accept('\'')) {
      if (!rest_.empty() && rest_[0] == '[')
        fail(ErrorCode::kUnsupported, kRead, name_, "one element type", "a record of several");
      fail_format("a text", detail::concat("'", rest_.substr(0, 20), "'"));
    }
    const auto end = rest_.find(quote);
    if (end == rest_.npos) fail_format("a text that ends", detail::concat("'", rest_.substr(0, 20), "'"));
    const std::string value(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return value;
  }

  bool boolean() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (rest_.substr(0, word.size()) != word) continue;
      rest_.remove_prefix(word.size());
      return value;
    }
    fail_format("True or False", detail::concat("'", rest_.substr(0, 20), "'"));
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!accept(')')) {
      sizes.push_back(size());
      if (sizes.size() > kMostSizes) fail_format(detail::concat("at most ", kMostSizes, " sizes"), "more");
      if (!accept(',')) {
        if (sizes.size() == 1) fail_format("a comma after a single size", "none");
        expect(')');
        break;
      }
    }
    return sizes;
  }

  std::int64_t size() {
    skip_space();
    std::int64_t value = 0;
    std::size_t digits = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits)
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, rest_[digits] - '0', &value))
        fail_format("sizes below 2^63", "a larger one");
    if (digits == 0) fail_format("a size", detail::concat("'", rest_.substr(0, 20), "'"));
    rest_.remove_prefix(digits);
    return value;
  }

  template <class Actual>
  [[noreturn]] void fail_format(const std::string& expected, const Actual& actual) const {
    fail(ErrorCode::kFormat, kRead, name_ + ": header", expected, actual);
  }

  std::string_view rest_;
  const std::string& name_;
};

ElementType element_type(const std::string& code, const std::string& name) {
  if (code == "<f2") return ElementType::kF16;
  if (code == "<f4") return ElementType::kF32;
  if (code == "<f8") return ElementType::kF64;
  if (code == "|u1") return ElementType::kU8;
  fail(ErrorCode::kUnsupported, kRead, name, "element type <f2, <f4, <f8 or |u1", "'" + code + "'");
}

}  // namespace

Array read_npy(const std::string& path, std::uint64_t max_bytes) {
  const auto bytes = read_file(path, max_bytes);
  return parse_npy(bytes.data(), bytes.size(), path);
}

Array parse_npy(const void* data, std::size_t size, const std::string& name) {
  detail::ByteReader file({static_cast<const char*>(data), size}, kRead, name, "file");
  if (file.take(6) != "\x93NUMPY") file.fail_format("an .npy file (magic \\x93NUMPY)", "another file");
  const int version = file.number<std::uint8_t>();
  const int minor = file.number<std::uint8_t>();
  if (version < 1 || version > 3 || minor != 0)
    fail(ErrorCode::kUnsupported, kRead, name, "version 1.0, 2.0 or 3.0", detail::concat(version, ".", minor));
  const std::uint64_t length = version == 1 ? file.number<std::uint16_t>() : file.number<std::uint32_t>();
  if (length > kLargestHeader)
    file.fail_format(detail::concat("a header of at most ", kLargestHeader, " bytes"), length);
  const Header header = HeaderParser(file.take(length), name).parse();

  Array array;
  array.type = element_type(*header.type, name);
  array.shape = *header.shape;
  if (*header.fortran_order) fail(ErrorCode::kUnsupported, kRead, name, "C order", "Fortran order");
  auto bytes = static_cast<std::int64_t>(element_size(array.type));
  bool empty = false;
  for (const std::int64_t extent : array.shape) {  // an array without values has strides too
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(extent, 1), &bytes))
      file.fail_format("a shape below 2^63 bytes", "a larger one");
    empty = empty || extent == 0;
  }
  array.data = file.all_numbers<std::uint8_t>(empty ? 0 : static_cast<std::uint64_t>(bytes));
  return array;
}

}  // namespace daug
