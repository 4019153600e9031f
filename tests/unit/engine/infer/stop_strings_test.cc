#include "engine/infer/stop_strings.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace lorad {
namespace {

using Strings = std::vector<std::string>;

// The text that comes out when `pieces` go in, and then the end of the text.
std::string Text(StopStrings& stop, const Strings& pieces) {
  std::string out;
  for (const std::string& piece : pieces) out += stop.Push(piece);
  return out + stop.Finish();
}

TEST(StopStringsTest, WithoutStringsNothingIsHeldBack) {
  StopStrings stop({});
  EXPECT_EQ(stop.Push("abc"), "abc");
  EXPECT_EQ(stop.Finish(), "");
  EXPECT_FALSE(stop.found());
}

TEST(StopStringsTest, HoldsBackWhatMayBeginOne) {
  StopStrings stop({"END"});
  EXPECT_EQ(stop.Push("the E"), "the ");
  EXPECT_EQ(stop.Push("N"), "");
  EXPECT_EQ(stop.Push("tity"), "ENtity");
  EXPECT_EQ(stop.Push(" EEN"), " E");
  EXPECT_EQ(stop.Push("D of it"), "");
  EXPECT_TRUE(stop.found());
  EXPECT_EQ(stop.Push("more"), "");
  EXPECT_EQ(stop.Finish(), "");
}

TEST(StopStringsTest, GivesBackWhatWasHeldAtTheEnd) {
  StopStrings stop({"\n\n"});
  EXPECT_EQ(Text(stop, {"line", "\n"}), "line\n");
  EXPECT_FALSE(stop.found());
}

TEST(StopStringsTest, TheStringThatIsCompleteFirstWins) {
  StopStrings a({"abcd", "bc"});
  EXPECT_EQ(Text(a, {"xabcdy"}), "xa");
  StopStrings b({"bc", "abc"});  // complete at the same character: the longer one
  EXPECT_EQ(Text(b, {"xabc"}), "x");
}

TEST(StopStringsTest, RepeatingPatterns) {
  StopStrings stop({"aab"});
  EXPECT_EQ(Text(stop, {"a", "a", "a", "b"}), "a");
  EXPECT_TRUE(stop.found());
}

TEST(StopStringsTest, AtTheVeryBeginning) {
  StopStrings stop({"x"});
  EXPECT_EQ(Text(stop, {"xyz"}), "");
  EXPECT_TRUE(stop.found());
}

// What a reader of the whole text, character by character, would find.
std::string Expected(const std::string& text, const Strings& strings, bool* found) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t begin = std::string::npos;
    for (const std::string& s : strings) {
      if (end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0)
        begin = std::min(begin, end - s.size());
    }
    if (begin != std::string::npos) {
      *found = true;
      return text.substr(0, begin);
    }
  }
  *found = false;
  return text;
}

TEST(StopStringsTest, TheAnswerDoesNotDependOnTheCuts) {
  std::mt19937 random(20240);
  const auto letters = [&](int length) {
    std::string text;
    for (int i = 0; i < length; ++i) text += "ab"[random() % 2];
    return text;
  };
  int found_count = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string text = letters(20);
    Strings strings;
    for (unsigned i = 0; i <= random() % 3; ++i) strings.push_back(letters(2 + random() % 6));
    bool found = false;
    const std::string expected = Expected(text, strings, &found);
    found_count += found;
    StopStrings stop(strings);
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random() % 4;
      out += stop.Push(text.substr(at, length));
      // Nothing is taken back.
      ASSERT_EQ(out, expected.substr(0, out.size())) << text;
      at += length;
    }
    out += stop.Finish();
    ASSERT_EQ(out, expected) << text;
    ASSERT_EQ(stop.found(), found) << text;
  }
  EXPECT_GT(found_count, 500);
  EXPECT_LT(found_count, 2900);
}

}  // namespace
}  // namespace lorad
