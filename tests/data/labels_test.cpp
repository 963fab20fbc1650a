#include "daug/data/labels.h"

#include "daug/data/vocabulary.h"
#include "support/catch.h"
#include "support/caught.h"
#include "support/scratch.h"

using namespace daug;
using test::error_text;
using test::mentions;

TEST_CASE("label cells parse to four states", "[data]") {
  const std::vector<std::pair<std::string, LabelState>> cases = {
      {"1", LabelState::kPositive},    {"1.0", LabelState::kPositive},   {" 1 ", LabelState::kPositive},
      {"+1", LabelState::kPositive},   {"0", LabelState::kNegative},     {"0.00", LabelState::kNegative},
      {"-0", LabelState::kNegative},   {"-1", LabelState::kUncertain},   {"-1.0", LabelState::kUncertain},
      {"", LabelState::kNotMentioned}, {"  ", LabelState::kNotMentioned}};
  for (const auto& [text, state] : cases) {
    INFO("cell '" << text << "'");
    CHECK(parse_label(text, "here") == state);
  }
  for (LabelState state : kLabelStates) CHECK(parse_label(label_text(state), "here") == state);
}

TEST_CASE("anything else is refused with its place", "[data]") {
  for (const char* text : {"7", "2", "-2", "0.5", "1.01", "yes", "nan", "1e0", "01", "--1", ".", "1,"}) {
    INFO("cell '" << text << "'");
    const auto message = error_text(ErrorCode::kFormat, [&] { parse_label(text, "labels.csv line 3 column Edema"); });
    CHECK(mentions(message, "labels.csv line 3 column Edema", "1, 0, -1 or blank", std::string("'") + text + "'"));
  }
}

TEST_CASE("policies turn states into targets and masks", "[data]") {
  const std::vector<std::string> findings = {"A", "B"};
  LabelPolicies policies;
  policies.by_finding["B"] = {StatePolicy::kOnes, StatePolicy::kIgnore};
  std::vector<std::vector<LabelState>> rows;
  for (LabelState state : kLabelStates) rows.push_back({state, state});
  const LabelTargets targets = make_targets(rows, findings, policies);
  CHECK(targets.target == std::vector<float>{1, 1, 0, 0, 0, 1, 0, 0});
  CHECK(targets.mask == std::vector<float>{1, 1, 1, 1, 1, 1, 1, 0});
  CHECK(policies.describe() == "*=zeros/zeros B=ones/ignore");

  for (auto policy : {StatePolicy::kZeros, StatePolicy::kOnes, StatePolicy::kIgnore})
    CHECK(parse_policy(policy_text(policy)) == policy);
  CHECK_THROWS_AS(parse_policy("one"), Error);

  policies.by_finding["Edmea"] = {};
  CHECK(mentions(error_text(ErrorCode::kNotFound, [&] { make_targets(rows, findings, policies); }), "Edmea"));
  rows[1].pop_back();
  CHECK(mentions(error_text(ErrorCode::kMismatch, [&] { make_targets(rows, findings, {}); }), "2 labels a row"));
}

TEST_CASE("No Finding is derived", "[data]") {
  using L = LabelState;
  CHECK(no_finding_state({L::kNegative, L::kNegative}) == L::kPositive);
  CHECK(no_finding_state({L::kNegative, L::kNotMentioned}) == L::kPositive);
  CHECK(no_finding_state({L::kUncertain, L::kNegative}) == L::kUncertain);
  CHECK(no_finding_state({L::kUncertain, L::kPositive}) == L::kNegative);
}

TEST_CASE("a group's state follows from its members", "[data]") {
  using L = LabelState;
  const std::vector<std::string> findings = {"A", "B", "C"};
  const FindingGroup group{"g", {"A", "C"}};
  CHECK(group_state(group, findings, {L::kPositive, L::kNegative, L::kUncertain}) == L::kPositive);
  CHECK(group_state(group, findings, {L::kNegative, L::kPositive, L::kNegative}) == L::kNegative);
  CHECK(group_state(group, findings, {L::kNegative, L::kPositive, L::kUncertain}) == L::kUncertain);
  CHECK(group_state(group, findings, {L::kNegative, L::kPositive, L::kNotMentioned}) == L::kNotMentioned);
  CHECK_THROWS_AS(group_state({"g", {"D"}}, findings, {L::kPositive, L::kPositive, L::kPositive}), Error);
  CHECK(mentions(error_text(ErrorCode::kMismatch,
                            [&] {
                              group_state(group, findings, {L::kPositive, L::kPositive});
                            }),
                 "group_state: labels", "3 labels", "got 2"));
}

TEST_CASE("vocabulary files", "[data]") {
  test::Scratch scratch;
  SECTION("JSON keeps the order of groups") {
    scratch.put("v.json", R"({"findings": ["B", "A", "C"], "groups": {"second": ["C", "A"], "first": ["B"]}})");
    const Vocabulary vocabulary = read_vocabulary(scratch.path("v.json"));
    CHECK(vocabulary.findings == std::vector<std::string>{"B", "A", "C"});
    REQUIRE(vocabulary.groups.size() == 2);
    CHECK(vocabulary.groups[0].name == "second");
    CHECK(vocabulary.groups[0].findings == std::vector<std::string>{"C", "A"});
    CHECK(vocabulary.groups[1].name == "first");
  }
  SECTION("no groups: one a finding") {
    scratch.put("v.json", R"({"findings": ["B", "A"]})");
    const Vocabulary vocabulary = read_vocabulary(scratch.path("v.json"));
    REQUIRE(vocabulary.groups.size() == 2);
    CHECK(vocabulary.groups[1].name == "A");
    CHECK(vocabulary.groups[1].findings == std::vector<std::string>{"A"});
  }
  SECTION("CSV says the same") {
    scratch.put("v.csv", "finding,group\nB,first\nA,second\nC,second\nD,\nB,second\n");
    const Vocabulary vocabulary = read_vocabulary(scratch.path("v.csv"));
    CHECK(vocabulary.findings == std::vector<std::string>{"B", "A", "C", "D"});
    REQUIRE(vocabulary.groups.size() == 3);
    CHECK(vocabulary.groups[1].findings == std::vector<std::string>{"A", "C", "B"});
    CHECK(vocabulary.groups[2].name == "D");
  }
  SECTION("errors name the file") {
    const auto message = [&](const std::string& name, const std::string& text, ErrorCode code) {
      scratch.put(name, text);
      return error_text(code, [&] { read_vocabulary(scratch.path(name)); });
    };
    CHECK(mentions(message("a.json", "{", ErrorCode::kFormat), "a.json"));
    CHECK(mentions(message("a.json", R"({"findings": "A"})", ErrorCode::kFormat), "a.json"));
    CHECK(mentions(message("a.json", R"({"findings": []})", ErrorCode::kInvalidArgument), "a.json", "at least one"));
    CHECK(mentions(message("a.json", R"({"findings": ["A", "A"]})", ErrorCode::kInvalidArgument), "'A' twice"));
    CHECK(mentions(message("a.json", R"({"findings": ["A"], "groups": {"g": ["X"]}})", ErrorCode::kNotFound), "a.json",
                   "'g'", "'X'"));
    CHECK(
        mentions(message("a.json", R"({"findings": ["A"], "groups": {"g": []}})", ErrorCode::kInvalidArgument), "'g'"));
    for (const std::string name : {"A|B", "A, B"}) {  // two names in a list
      const std::string quoted = "'" + name + "'";
      CHECK(mentions(message("a.json", R"({"findings": [")" + name + R"("]})", ErrorCode::kInvalidArgument), "a.json",
                     "findings", quoted));
      CHECK(mentions(message("a.csv", "finding,group\nA,\"" + name + "\"\n", ErrorCode::kInvalidArgument), "a.csv",
                     "groups", quoted));
    }
    CHECK(mentions(message("a.txt", "A", ErrorCode::kUnsupported), ".json or .csv"));
    CHECK(mentions(message("a.csv", "name\nA\n", ErrorCode::kNotFound), "finding"));
    CHECK_THROWS_AS(read_vocabulary(scratch.path("absent.json")), Error);
  }
}
