// Masks of tokens against following every token byte by byte.
#include "engine/infer/constraint/constraint.h"

#include <chrono>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "engine/infer/constraint/token_classes.h"
#include "tests/unit/engine/infer/constraint/constraint_fixture.h"

namespace lorad {
namespace {

// Tokens as they are in vocabularies: across borders of JSON's parts, and of characters.
std::vector<std::string> JsonTokens() {
  return ByteVocabulary({"{\"",      "\":",     "\": ",  "\",",      "\", \"", "\"}",     "\"}]",
                         "}}",       "]]",      "[[",    "[{\"",     "true",   "tr",      "ue",
                         "null",     ", ",      "\n  ",  "ab",       "abc",    "\"abc\"", "12",
                         "-1",       "\\\"",    "\\u00", "\xC3\xA9", "\xA9",   "x\xC3",   "\xA9\",",
                         "\xE2\x82", "\xAC\"}", "",      "{}",       "[]",     ":[",      ":{\"",
                         "\":\"",    "1,",      "0]",    "1}",       "\"]}"});
}

// The definition: a token is allowed when its bytes can be followed.
std::vector<int32_t> AllowedOneByOne(const Constraint& constraint, const Constraint::State& state,
                                     const std::vector<std::string>& tokens) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    Constraint::State copy = state;
    if (!tokens[id].empty() && constraint.AdvanceBytes(tokens[id], &copy))
      ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

const char* const kGrammars[] = {
    R"({"type":"object"})",
    R"({"type":"array","items":{"type":"array","items":{"enum":["a","ab",1,12,null]}}})",
    R"({"type":"object","properties":{"a":{"type":"string","maxLength":3},
        "abc":{"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"integer"}},
        {"type":"array","items":{"type":"string"}}]}},"required":["a"]})",
    R"({"$defs":{"n":{"anyOf":[{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}}},
        {"type":"object","properties":{"ab":{"$ref":"#/$defs/n"}}},{"type":"null"}]}},
        "$ref":"#/$defs/n"})",
};

TEST(ConstraintTest, MasksAreWhatFollowingEachTokenSays) {
  const std::vector<std::string> tokens = JsonTokens();
  std::mt19937 random(3);
  for (const char* schema : kGrammars) {
    const Constraint constraint = WithVocabulary(SchemaGrammar(schema), tokens);
    for (int round = 0; round < 30; ++round) {
      Constraint::State state = constraint.Start();
      for (int step = 0; step < 40 && !state.ends(); ++step) {
        const std::vector<int32_t> allowed = Ids(*constraint.Allowed(state));
        ASSERT_EQ(allowed, AllowedOneByOne(constraint, state, tokens)) << schema;
        ASSERT_FALSE(allowed.empty());
        ASSERT_TRUE(constraint.Advance(allowed[random() % allowed.size()], &state));
      }
    }
  }
}

TEST(ConstraintTest, ATokenThatIsNotAllowedLeavesTheStateAsItWas) {
  const Constraint constraint = WithVocabulary(RegexGrammar("ab?"), ByteVocabulary({"abc", "ab"}));
  Constraint::State state = constraint.Start();
  EXPECT_EQ(Ids(*constraint.Allowed(state)), (std::vector<int32_t>{'a', 257}));
  EXPECT_FALSE(state.complete);
  for (const int32_t id : {256, int32_t{'b'}, -1, 258}) {
    EXPECT_FALSE(constraint.Advance(id, &state)) << id;
  }
  EXPECT_EQ(Ids(*constraint.Allowed(state)), (std::vector<int32_t>{'a', 257}));
  ASSERT_TRUE(constraint.Advance('a', &state));
  EXPECT_TRUE(state.complete);
  EXPECT_FALSE(state.ends());
  ASSERT_TRUE(constraint.Advance('b', &state));
  EXPECT_TRUE(state.complete);
  EXPECT_TRUE(state.ends());
  EXPECT_TRUE(constraint.Allowed(state)->empty());
}

TEST(ConstraintTest, EqualBytesAreAllAllowed) {
  const Constraint constraint =
      WithVocabulary(RegexGrammar("xy"), ByteVocabulary({"xy", "xy", "x"}));
  EXPECT_EQ(Ids(*constraint.Allowed(constraint.Start())),
            (std::vector<int32_t>{'x', 256, 257, 258}));
}

TEST(ConstraintTest, DeepNestingIsFollowed) {
  const Constraint constraint = WithVocabulary(SchemaGrammar("{}"));
  const std::string open(5000, '['), close(5000, ']');
  EXPECT_TRUE(Matches(constraint, open + close));
  EXPECT_FALSE(Matches(constraint, open + close + "]"));
  EXPECT_FALSE(Matches(constraint, open + close.substr(1)));
}

// Two readings of every level double at each: past the bound the text is not gone on with.
TEST(ConstraintTest, AmbiguityIsBounded) {
  const Constraint constraint =
      WithVocabulary(SchemaGrammar(R"({"anyOf":[{"type":"array","items":{"$ref":"#"}},
                                 {"type":"array","items":{"$ref":"#"},"maxItems":9},
                                 {"type":"null"}]})"));
  EXPECT_TRUE(Matches(constraint, "[[[null]]]"));
  Constraint::State state = constraint.Start();
  EXPECT_FALSE(constraint.AdvanceBytes(std::string(40, '['), &state));
}

// Of ten places in a string of at most ten characters, those from which the end can be told by a
// token of three bytes are apart.
TEST(ConstraintTest, PlacesThatNoTokenTellsApartAreOneClass) {
  const absl::StatusOr<Grammar> grammar = RegexGrammar("a{0,10}");
  ASSERT_OK(grammar);
  const std::vector<int32_t> classes = TokenClasses(*grammar, 3);
  ASSERT_EQ(grammar->num_states(), 11);
  int32_t state = grammar->Start(0);
  const int32_t far = classes[state];
  for (int left = 10; left > 0; --left) {
    EXPECT_EQ(classes[state] == far, left > 3) << left;
    state = grammar->Next(state, 'a');
  }
  EXPECT_NE(classes[state], far);
  // Told by more bytes than it has, every place is its own.
  const std::vector<int32_t> all = TokenClasses(*grammar, 20);
  for (int32_t s = 0; s < 11; ++s) EXPECT_EQ(all[s], s);
}

TEST(ConstraintTest, MasksAreKeptWithinABound) {
  LruCache<int, std::string> cache(2);
  const auto value = [](const char* text) { return std::make_shared<const std::string>(text); };
  cache.Insert(1, value("one"));
  cache.Insert(2, value("two"));
  EXPECT_EQ(*cache.Find(1), "one");  // 2 is now the one that was not used for longest
  cache.Insert(3, value("three"));
  EXPECT_EQ(cache.Find(2), nullptr);
  EXPECT_EQ(*cache.Find(1), "one");
  EXPECT_EQ(*cache.Insert(1, value("other")), "one") << "the first one stays";
  EXPECT_EQ(*cache.Find(3), "three");
}

// A vocabulary of 128k tokens of letters, spaces and JSON's signs. Prints what a mask costs; fails
// only where it is out of proportion, so that a busy machine does not.
TEST(ConstraintTest, MasksOfALargeVocabularyAreCheap) {
  std::mt19937 random(5);
  std::vector<std::string> tokens = ByteVocabulary();
  const std::string_view letters = "etaoinshrdlucmfwypvbgkjqxz ETAOIN0123456789\"\"{}[]:,.-_\n";
  while (tokens.size() < 128'000) {
    std::string token = random() % 3 == 0 ? " " : "";
    for (size_t n = 1 + random() % 9; n > 0; --n) token += letters[random() % letters.size()];
    tokens.push_back(std::move(token));
  }
  const Constraint constraint =
      WithVocabulary(SchemaGrammar(R"({"type":"object","properties":{"name":{"type":"string"},
          "tags":{"type":"array","items":{"type":"string","maxLength":900}},
          "note":{"type":"string"}},"required":["name","tags","note"]})"),
                     tokens);
  const auto micros = [&](const Constraint::State& state) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_FALSE(constraint.Allowed(state)->empty());
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    return time.count();
  };
  Constraint::State in_name = constraint.Start();
  ASSERT_TRUE(constraint.AdvanceBytes(R"({"name": "x)", &in_name));
  Constraint::State in_tag = in_name;
  ASSERT_TRUE(constraint.AdvanceBytes(R"(", "tags": ["a)", &in_tag));
  Constraint::State in_next_tag = in_tag;
  ASSERT_TRUE(constraint.AdvanceBytes(R"(bc", "defghi)", &in_next_tag));
  const double first = micros(in_name), other = micros(in_tag), elsewhere = micros(in_next_tag);
  Constraint::State in_note = in_tag;
  ASSERT_TRUE(constraint.AdvanceBytes(R"("], "note": "a)", &in_note));
  const double around = micros(in_note), again = micros(in_name);
  std::cout << "mask inside a string, 128k tokens: first " << first
            << " us, in a string of another "
            << "kind " << other << " us, elsewhere in such a one " << elsewhere
            << " us, in one of the first kind in something else " << around << " us, again "
            << again << " us\n";
  EXPECT_LT(first, 2e6);
  EXPECT_LT(around, 5e5);
  EXPECT_LT(elsewhere, 2e4);
  EXPECT_LT(again, 2e4);
}

}  // namespace
}  // namespace lorad
