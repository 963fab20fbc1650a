#include "daug/io/csv.h"

#include <string>
#include <vector>

#include "daug/core/random.h"
#include "daug/io/file.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using daug::test::caught;
using daug::test::check_refused;
using daug::test::mentions;
using daug::test::Scratch;
using Rows = std::vector<std::vector<std::string>>;
using Lines = std::vector<std::size_t>;

TEST_CASE("plain rows, with and without a last line end", "[io]") {
  for (const std::string text : {"id,label\n1,x\n2,\n", "id,label\n1,x\n2,", "id,label\r\n1,x\r\n2,\r\n"}) {
    const CsvTable table = parse_csv(text, "t.csv");
    CHECK(table.columns == std::vector<std::string>{"id", "label"});
    CHECK(table.rows == Rows{{"1", "x"}, {"2", ""}});
    CHECK(table.lines == Lines{2, 3});
  }
}

TEST_CASE("quoted fields hold commas, quotes and line ends", "[io]") {
  const CsvTable table = parse_csv("a,b\n\"x,\"\"y\"\"\",\"two\r\nlines\"\n\"\",3\n", "t.csv");
  CHECK(table.rows == Rows{{"x,\"y\"", "two\r\nlines"}, {"", "3"}});
  CHECK(table.lines == Lines{2, 4});
}

TEST_CASE("a byte-order mark is dropped and empty lines are skipped", "[io]") {
  const CsvTable table = parse_csv("\xEF\xBB\xBF\n\"id\",x\n\n1,2\r\n\r\n3,4\n\n", "t.csv");
  CHECK(table.columns == std::vector<std::string>{"id", "x"});
  CHECK(table.rows == Rows{{"1", "2"}, {"3", "4"}});
  CHECK(table.lines == Lines{4, 6});
  CHECK(parse_csv("only", "t.csv").rows.empty());
}

TEST_CASE("malformed tables are refused with file and line", "[io]") {
  struct Case {
    std::string text;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"", "t.csv line 1: expected a header row, got an empty file"},
      {"\xEF\xBB\xBF\n\n", "expected a header row"},
      {"a,b,a\n", "t.csv line 1: expected distinct column names, got 'a' twice"},
      {"a,b\n1,2\n1\n", "t.csv line 3: expected 2 fields, got 1"},
      {"a,b\n1,2,3\n", "t.csv line 2: expected 2 fields, got 3"},
      {"a,b\n1,\"x\n\n\n", "t.csv line 2: expected a closing quote, got the end of the file"},
      {"a,b\n1,\"x\"y\n", "t.csv line 2: expected a comma or the end of the line after a closing quote, got y"},
      {"a,b\n\"1\n2\",x\"y\"\n", "t.csv line 3: expected quotes around a whole field"},
      {"a,b\r1,2\r", "t.csv line 1: expected lines that end in LF or CRLF"},
      {"a,b\n1,\"x\ny\"\n2,f\xFCr\n", "t.csv line 4: expected UTF-8, got the byte 252"},  // Latin-1
  };
  for (const auto& each : cases) {
    INFO(each.text);
    check_refused(ErrorCode::kFormat, each.message, [&] { (void)parse_csv(each.text, "t.csv"); });
  }
}

TEST_CASE("columns are found by name", "[io]") {
  const CsvTable table = parse_csv("id,view\n", "t.csv");
  CHECK(table.column("view") == 1);
  CHECK(table.has_column("id"));
  CHECK_FALSE(table.has_column("Id"));
  const auto error = caught([&] { (void)table.column("patient"); });
  CHECK(error.code() == ErrorCode::kNotFound);
  CHECK(mentions(error, "t.csv"));
  CHECK(mentions(error, "'patient'"));
  CHECK(mentions(error, "id, view"));
}

TEST_CASE("any table comes back as it was written", "[io]") {
  const Scratch scratch;
  const std::vector<std::string> alphabet = {"a", "b", ",", "\"", "\n", "\r", " ", "\xC3\xA9"};
  for (std::uint64_t item = 0; item < 200; ++item) {
    RandomStream random(1, item, "csv");
    const auto word = [&] {
      std::string text;
      for (auto length = random.below(6); length > 0; --length)
        text += alphabet[random.below(static_cast<std::uint32_t>(alphabet.size()))];
      return text;
    };
    CsvTable table;
    const auto width = 1 + random.below(4);
    for (std::uint32_t i = 0; i < width; ++i) table.columns.push_back(std::to_string(i) + word());
    table.rows.resize(random.below(5));
    for (auto& row : table.rows)
      for (std::uint32_t i = 0; i < width; ++i) row.push_back(word());
    write_csv(scratch.path("t.csv"), table);
    const CsvTable back = read_csv(scratch.path("t.csv"));
    REQUIRE(back.columns == table.columns);
    REQUIRE(back.rows == table.rows);
    REQUIRE(back.lines.size() == table.rows.size());
  }
}

TEST_CASE("only fields that need quotes get them", "[io]") {
  const Scratch scratch;
  write_csv(scratch.path("t.csv"), {"", {"a", "b"}, {{"1 2", "x,y"}, {"", "\"q\""}}, {}});
  CHECK(read_text_file(scratch.path("t.csv")) == "a,b\n1 2,\"x,y\"\n,\"\"\"q\"\"\"\n");
}

TEST_CASE("a table that could not be read back is not written", "[io]") {
  const Scratch scratch;
  check_refused(ErrorCode::kInvalidArgument, "rows[1]", [&] {
    write_csv(scratch.path("t.csv"), {"", {"a", "b"}, {{"1", "2"}, {"1"}}, {}});
  });
  CHECK(caught([&] {
          write_csv(scratch.path("t.csv"), {"", {"a", "a"}, {}, {}});
        }).code() == ErrorCode::kInvalidArgument);
  CHECK(caught([&] { write_csv(scratch.path("t.csv"), {}); }).code() == ErrorCode::kInvalidArgument);
  check_refused(ErrorCode::kInvalidArgument, "UTF-8", [&] {
    write_csv(scratch.path("t.csv"), {"", {"a"}, {{"f\xFCr"}}, {}});
  });
  CHECK(scratch.count() == 0);
  CHECK(caught([&] { (void)read_csv(scratch.path("t.csv")); }).code() == ErrorCode::kNotFound);
}
