// Which texts satisfy a schema's grammar, and what is refused.
#include "engine/infer/constraint/json_schema.h"

#include <string>
#include <vector>

#include "tests/unit/engine/infer/constraint/constraint_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;

void ExpectTexts(std::string_view schema, const std::vector<std::string>& good,
                 const std::vector<std::string>& bad) {
  const absl::StatusOr<Grammar> grammar = SchemaGrammar(schema);
  ASSERT_OK(grammar) << schema;
  const Constraint constraint = WithVocabulary(grammar);
  for (const std::string& text : good) EXPECT_TRUE(Matches(constraint, text)) << schema << text;
  for (const std::string& text : bad) EXPECT_FALSE(Matches(constraint, text)) << schema << text;
}

TEST(JsonSchemaTest, Scalars) {
  ExpectTexts(R"({"type":"null"})", {"null"}, {"nul", "true", " null"});
  ExpectTexts(R"({"type":"boolean"})", {"true", "false"}, {"null", "TRUE"});
  ExpectTexts(R"({"type":"integer"})", {"0", "-7", "123456789012345678"},
              {"-0", "01", "1.0", "1e2", "1234567890123456789", "+1", ""});
  ExpectTexts(R"({"type":"number"})", {"0", "-0", "-1.5e-3", "12.25", "1E9", "7e+12"},
              {"1.", ".5", "00", "1e100", "1e", "NaN"});
  ExpectTexts(R"({"type":["string","null"]})", {"null", "\"\""}, {"1"});
  ExpectTexts("true", {"1", "[]", "{}", "\"a\"", "[1, {\"a\":null}]"}, {"", "[1,]", "{\"a\"}"});
  ExpectTexts("{}", {"-1", "[[]]"}, {"]"});
  ExpectTexts(R"({"title":"t","x-order":1,"default":3})", {"false"}, {});
}

TEST(JsonSchemaTest, Strings) {
  ExpectTexts(
      R"({"type":"string"})",
      {R"("")", R"("a\"\\\/\b\n\u00e9\ud83d\ude00")", "\"\u00e9\U0001F600\""},
      {R"("a)", R"("\x")", "\"\n\"", R"("\ud83d")", R"("\ude00")", "\"\xFF\"", R"("\u12")"});
  ExpectTexts(R"({"type":"string","minLength":1,"maxLength":2})",
              {R"("a")", "\"\U0001F600\u00e9\"", R"("\ud83d\ude00\n")"}, {R"("")", R"("abc")"});
  ExpectTexts(R"({"minLength":2})", {R"("ab")", R"("abc")"}, {R"("a")", "12"});
  ExpectTexts(R"({"type":"string","pattern":"^a+$"})", {R"("a")", R"("aaa")"},
              {R"("")", R"("ba")"});
  ExpectTexts(R"({"type":"string","pattern":"b"})", {R"("b")", R"("abc")"}, {R"("ac")"});
  ExpectTexts(R"({"type":"string","pattern":"^a|b$"})", {R"("ax")", R"("xb")"}, {R"("xa")"});
  ExpectTexts(R"({"type":"string","pattern":"^.\\n\"$"})", {R"("x\n\"")"},
              {"\"x\n\\\"\"", R"("\n\n\"")"});
}

TEST(JsonSchemaTest, Formats) {
  ExpectTexts(R"({"type":"string","format":"date"})",
              {R"("2024-02-29")", R"("2000-02-29")", R"("2023-12-31")", R"("2023-04-30")"},
              {R"("2023-02-29")", R"("1900-02-29")", R"("2023-04-31")", R"("2023-13-01")",
               R"("2023-1-01")"});
  ExpectTexts(R"({"type":"string","format":"date-time"})",
              {R"("2024-02-29T23:59:59Z")", R"("2024-02-28T00:00:00.25+05:30")"},
              {R"("2024-02-28")", R"("2024-02-28T24:00:00Z")", R"("2024-02-28T00:00:00")"});
  ExpectTexts(R"({"type":"string","format":"time"})", {R"("12:00:00Z")"}, {R"("12:60:00Z")"});
  ExpectTexts(R"({"type":"string","format":"uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"},
              {R"("123e4567-e89b-12d3-a456-42661417400")"});
}

// Every integer near the bounds, on both sides of zero and of each number of digits.
TEST(JsonSchemaTest, IntegerBoundsAreExact) {
  for (const auto& [low, high] : std::vector<std::pair<int, int>>{
           {0, 0}, {-3, 12}, {7, 1234}, {-120, -9}, {99, 101}, {-1, 1}}) {
    const Constraint constraint =
        WithVocabulary(SchemaGrammar(R"({"type":"integer","minimum":)" + std::to_string(low) +
                                     R"(,"maximum":)" + std::to_string(high) + "}"));
    for (int i = -1500; i <= 1500; ++i)
      ASSERT_EQ(Matches(constraint, std::to_string(i)), i >= low && i <= high) << i;
  }
  ExpectTexts(R"({"type":"integer","exclusiveMinimum":3,"exclusiveMaximum":5.5})", {"4", "5"},
              {"3", "6"});
  ExpectTexts(R"({"type":"integer","minimum":-1.5})", {"-1", "0", "999999999999999999"}, {"-2"});
  ExpectTexts(R"({"type":"integer","maximum":-1e17})", {"-100000000000000000"}, {"-1", "0"});
}

TEST(JsonSchemaTest, NumberBounds) {
  ExpectTexts(R"({"type":"number","minimum":0,"maximum":1})", {"0", "1", "0.5", "1.00", "0.0"},
              {"-0.1", "1.01", "2", "-0", "1e0"});
  ExpectTexts(R"({"type":"number","exclusiveMinimum":0})", {"0.001", "3", "17.5"},
              {"0", "0.0", "-1"});
  ExpectTexts(R"({"type":"number","exclusiveMinimum":-2,"exclusiveMaximum":2})",
              {"-1.999", "1.999", "0", "-0.5"}, {"-2", "2", "-2.0", "2.5"});
  ExpectTexts(R"({"type":"number","minimum":-20,"maximum":-3})", {"-3", "-3.5", "-20.0", "-11"},
              {"-20.5", "-2.9", "3", "0"});
}

TEST(JsonSchemaTest, Objects) {
  const char* schema = R"({"type":"object","properties":{"a":{"type":"integer"},
      "b":{"type":"null"},"c":{"type":"boolean"}},"required":["b"]})";
  ExpectTexts(
      schema,
      {R"({"b":null})", R"({"a":1,"b":null})", R"({"a": 1, "b": null, "c": true})",
       "{\n  \"b\": null,\n  \"c\": false\n}", R"({ "b":null })"},
      {"{}", R"({"a":1})", R"({"b":null,"a":1})", R"({"b":null,"b":null})", R"({"b":null,"d":1})",
       R"({"b" :null})", R"({"b":null,})", R"({,"b":null})", R"({"b":  null})"});
  ExpectTexts(R"({"type":"object","properties":{"a":{},"b":{}}})",
              {"{}", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":[]})"}, {R"({"b":1,"a":1})"});
  ExpectTexts(R"({"type":"object","additionalProperties":false})", {"{}"}, {R"({"a":1})"});
  ExpectTexts(R"({"type":"object"})", {"{}", R"({"a":{"b":[1]}})"}, {"[]", R"({1:2})"});
}

TEST(JsonSchemaTest, AdditionalMembersAreNotNamedLikeProperties) {
  ExpectTexts(R"({"type":"object","properties":{"ab":{"type":"null"},"ac\n":{"type":"null"}},
                  "required":["ab"],"additionalProperties":{"type":"integer"}})",
              {R"({"ab":null})", R"({"ab":null,"a":1,"abc":2,"":3,"x":4,"ac":5,"\n":6})",
               R"({"ab":null,"ac\n":null,"ac\nd":1})"},
              {R"({"ab":null,"ab":1})", R"({"ab":null,"\u0061b":1})", R"({"ab":null,"ac\n":1})",
               R"({"ab":null,"x":null})", R"({"a":1})"});
  ExpectTexts(R"({"properties":{"a":{"type":"null"}},"additionalProperties":true})",
              {"{}", R"({"b":{}})", R"({"a":null,"b":1})"}, {R"({"a":1})"});
}

TEST(JsonSchemaTest, Arrays) {
  ExpectTexts(R"({"type":"array","items":{"type":"null"}})",
              {"[]", "[null]", "[null, null]", "[\n null,\n null\n]"}, {"[1]", "[null,]"});
  ExpectTexts(R"({"type":"array","items":{"type":"null"},"minItems":2,"maxItems":3})",
              {"[null,null]", "[null,null,null]"}, {"[]", "[null]", "[null,null,null,null]"});
  ExpectTexts(R"({"type":"array","prefixItems":[{"type":"null"},{"type":"boolean"}]})",
              {"[]", "[null]", "[null,true]"}, {"[true]", "[null,true,1]"});
  ExpectTexts(R"({"type":"array","prefixItems":[{"type":"null"},{"type":"boolean"}],
                  "items":{"type":"integer"},"minItems":1,"maxItems":4})",
              {"[null]", "[null,true]", "[null,true,1,2]"},
              {"[]", "[null,1]", "[null,true,1,2,3]"});
  ExpectTexts(R"({"type":"array","prefixItems":[{"type":"null"},{"type":"null"}],"maxItems":1})",
              {"[]", "[null]"}, {"[null,null]"});
  ExpectTexts(R"({"type":"array","prefixItems":[{"type":"null"}],"items":true,"minItems":3})",
              {"[null,1,2]", "[null,1,2,3]"}, {"[null,1]", "[null]"});
  ExpectTexts(R"({"items":false})", {"[]"}, {"[1]"});
  ExpectTexts(R"({"type":"array","maxItems":0})", {"[]", "[ ]"}, {"[1]"});
  ExpectTexts(R"({"type":"array","minItems":1})", {"[1]", "[[],{}]"}, {"[]"});
}

TEST(JsonSchemaTest, ConstantsAndUnions) {
  ExpectTexts(R"({"enum":["red","gr\"n",3,null,[1,{"a":2}]]})",
              {R"("red")", R"("gr\"n")", "3", "null", R"([1,{"a":2}])", R"([1, {"a": 2}])"},
              {R"("re")", "33", "[1]"});
  ExpectTexts(R"({"type":"string","enum":["a",1]})", {R"("a")"}, {"1"});
  ExpectTexts(R"({"const":{}})", {"{}"}, {"[]"});
  ExpectTexts(R"({"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]})", {"1", R"("a")"},
              {R"("ab")", "null"});
  ExpectTexts(R"({"oneOf":[{"const":1},{"const":2}]})", {"1", "2"}, {"3"});
  ExpectTexts(R"({"allOf":[{"const":1}]})", {"1"}, {"2"});
  ExpectTexts(R"({"anyOf":[{"const":1},false]})", {"1"}, {"2"});
}

TEST(JsonSchemaTest, References) {
  ExpectTexts(
      R"({"$defs":{"a/b~":{"type":"null"}},"type":"array","items":{"$ref":"#/$defs/a~1b~0"}})",
      {"[null]"}, {"[1]"});
  ExpectTexts(R"({"type":"object","properties":{"v":{"type":"integer"},
                  "next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v","next"]})",
              {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
              {R"({"v":1,"next":{}})", R"({"v":1,"next":{"v":2,"next":null})"});
  ExpectTexts(R"({"prefixItems":[{"type":"null"},{"$ref":"#/prefixItems/0"}]})", {"[null,null]"},
              {"[null,1]"});
}

TEST(JsonSchemaTest, NamesWhatItRefusesAndWhere) {
  const auto refuses = [](std::string_view schema, std::string_view text) {
    EXPECT_THAT(SchemaGrammar(schema), StatusIs(StatusCode::kInvalidArgument, std::string(text)))
        << schema;
  };
  refuses("", "the schema");
  refuses(R"({"type":"object","type":"array"})", "twice");
  refuses("[]", "at #: a schema must be an object, true or false");
  refuses(R"({"properties":{"a":{"properties":{"b":3}}}})",
          "at #/properties/a/properties/b: a schema");
  refuses(R"({"not":{}})", R"(at #: the keyword "not" is not supported)");
  refuses(R"({"items":{"uniqueItems":true}})", R"(at #/items: the keyword "uniqueItems")");
  for (const char* keyword : {"if", "patternProperties", "propertyNames", "minProperties",
                              "dependentRequired", "contains", "multipleOf", "$anchor", "typo"}) {
    refuses(std::string(R"({"type":"object",")") + keyword + R"(":1})", keyword);
  }
  refuses(R"({"type":"text"})", R"(type is "text")");
  refuses(R"({"type":[]})", "type is an empty list");
  refuses(R"({"required":["a"]})", R"(required names "a", which properties does not have)");
  refuses(R"({"required":"a"})", "required must be a list");
  refuses(R"({"properties":[]})", "properties must be an object");
  refuses(R"({"type":"array","items":[{}]})", "prefixItems");
  refuses(R"({"type":"array","minItems":3,"maxItems":2})",
          "at least 3 elements are asked, and at most 2 allowed");
  refuses(R"({"prefixItems":[{},{},{}],"minItems":2,"maxItems":1})",
          "at least 2 elements are asked, and at most 1 allowed");
  refuses(R"({"prefixItems":[{}],"minItems":2})",
          "at least 2 elements are asked, and at most 1 allowed");
  refuses(R"({"type":"array","minItems":-1})", "minItems is -1");
  refuses(R"({"type":"string","maxLength":10001})", "maxLength is 10001");
  refuses(R"({"type":"string","minLength":3,"maxLength":2})", "minLength 3 is above maxLength 2");
  refuses(R"({"type":"string","pattern":"a","maxLength":2})", "only one of pattern, format");
  refuses(R"x({"type":"string","pattern":"a(?=b)"})x", "pattern: at byte 1: lookahead");
  refuses(R"({"type":"string","format":"email"})", R"(the format "email" is not supported)");
  refuses(R"({"type":"number","minimum":0.5})", "the bound 0.5 of a number");
  refuses(R"({"type":"number","exclusiveMaximum":1000000})", "the exclusive bound 1e+06");
  refuses(R"({"type":"integer","minimum":"1"})", "minimum is \"1\"");
  refuses(R"({"type":"integer","minimum":9007199254740993})", "below 2^53");
  refuses(R"({"type":"integer","minimum":5,"maximum":4})", "no finite text satisfies it");
  refuses(R"({"$ref":"#/$defs/x"})", R"(there is no "$defs" at #)");
  refuses(R"({"$ref":"other.json"})", "only #/... within the same schema");
  refuses(R"({"$ref":"#","type":"null"})", R"("type" beside "$ref")");
  refuses(R"({"anyOf":[{}],"type":"object"})", R"("type" beside "anyOf")");
  refuses(R"({"anyOf":[]})", "anyOf must be a list of at least one schema");
  refuses(R"({"allOf":[{},{}]})", "allOf of more than one schema");
  refuses(R"({"enum":["a"],"minLength":1})", R"("minLength" beside "enum")");
  refuses(R"({"type":"integer","enum":["a"]})", "no value of enum has the type");
  refuses("false", "no finite text satisfies it");
  refuses(R"({"$ref":"#"})", "no finite text satisfies it");
  refuses(R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})",
          "it refers to itself with nothing in between");
  refuses(R"({"properties":{"a":{"$ref":"#"}},"required":["a"]})", "no finite text satisfies it");
  refuses(std::string(kMaxSchemaBytes + 1, ' '), "the schema has 262145 bytes");
}

// anyOf of `outer` schemas, each anyOf of `inner` objects.
std::string NestedAlternatives(int outer, int inner) {
  const auto any_of = [](int count, const std::string& schema) {
    std::string list = schema;
    for (int i = 1; i < count; ++i) list += "," + schema;
    return R"({"anyOf":[)" + list + "]}";
  };
  return any_of(outer, any_of(inner, R"({"type":"object","properties":{"a":{}}})"));
}

// All of them would have to be followed at once, and none may be left out silently.
TEST(JsonSchemaTest, TooManyBeginningsAreRefused) {
  EXPECT_OK(SchemaGrammar(NestedAlternatives(10, 20)));
  EXPECT_THAT(
      SchemaGrammar(NestedAlternatives(15, 20)),
      StatusIs(StatusCode::kInvalidArgument, "at #: a text can begin in more than 256 ways"));
  EXPECT_THAT(SchemaGrammar(R"({"properties":{"b":)" + NestedAlternatives(15, 20) + "}}"),
              StatusIs(StatusCode::kInvalidArgument,
                       "at #/properties/b: a text can begin in more than 256 ways"));
}

TEST(JsonSchemaTest, LargeSchemasAreBuiltOrRefused) {
  std::string properties, strings;
  for (int i = 0; i < 500; ++i) {
    properties += (i > 0 ? ",\"" : "\"") + std::string("property") + std::to_string(i) +
                  R"(":{"type":"integer"})";
    strings += (i > 0 ? ",\"" : "\"") + std::string(60, 'x') + std::to_string(i) + "\"";
  }
  EXPECT_OK(SchemaGrammar(R"({"type":"object","properties":{)" + properties + "}}"));
  EXPECT_OK(SchemaGrammar(R"({"enum":[)" + strings + "]}"));
  EXPECT_OK(SchemaGrammar(R"({"type":"string","maxLength":4000})"));
  EXPECT_OK(SchemaGrammar(R"({"type":"array","items":{"type":"integer"},"maxItems":10000})"));
  EXPECT_THAT(SchemaGrammar(R"({"type":"string","maxLength":10000})"),
              StatusIs(StatusCode::kInvalidArgument, "at #: "));
  EXPECT_THAT(SchemaGrammar(R"({"type":"object","properties":{)" + properties + R"(,"last":{}}})"),
              StatusIs(StatusCode::kInvalidArgument, "there are 501 properties"));
  std::string elements = "0";
  for (int i = 1; i < 501; ++i) elements += ",0";
  EXPECT_THAT(SchemaGrammar(R"({"type":"array","prefixItems":[)" + elements + "]}"),
              StatusIs(StatusCode::kInvalidArgument, "prefixItems has 501 schemas, at most 500"));
}

}  // namespace
}  // namespace lorad
