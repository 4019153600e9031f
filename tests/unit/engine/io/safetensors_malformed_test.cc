// Damaged and hostile safetensors files: each is one clear error, and nothing is allocated for what
// it claims.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ostream>
#include <string>
#include <vector>

#include "engine/io/safetensors.h"
#include "engine/io/utf8.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using absl::StatusCode;

std::string Length(uint64_t length) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8)
    bytes.push_back(static_cast<char>((length >> shift) & 0xFF));
  return bytes;
}

// A file of that header and data; the header is padded so that the data are aligned, as writers do.
std::string File(std::string header, size_t data_bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return Length(header.size()) + header + std::string(data_bytes, '\1');
}

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

// One tensor "t" with the given fields.
std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t data_bytes) {
  return File("{" + Tensor("t", dtype, shape, offsets) + "}", data_bytes);
}

struct Malformed {
  const char* name;
  std::string bytes;
  const char* error;
  StatusCode code = StatusCode::kInvalidArgument;
};

std::ostream& operator<<(std::ostream& out, const Malformed& m) { return out << m.name; }

std::vector<Malformed> Envelopes() {
  const std::string ok = "{" + Tensor("t", "U8", "[4]", "[0,4]") + "}";
  return {
      {"Empty", "", "0 bytes are too few"},
      {"SevenBytes", std::string(7, '\1'), "7 bytes are too few"},
      {"HeaderOfZeroBytes", Length(0), "does not start with '{'"},
      {"LengthAllOnes", Length(~uint64_t{0}) + ok, "header length 18446744073709551615 exceeds"},
      {"LengthSignBit", Length(uint64_t{1} << 63) + ok, "header length 9223372036854775808"},
      {"LengthOverTheLimit", Length(100'000'001) + ok, "exceeds the limit of 100000000"},
      {"LengthOverTheFile", Length(100'000'000) + ok, "the file is truncated"},
      {"LengthWrapsWithItsEight", Length(~uint64_t{0} - 7) + ok, "exceeds the limit"},
      {"LengthOneTooLong", Length(ok.size() + 1) + ok, "the file is truncated"},
      {"NotUtf8", File("{\"\xff\":1}", 0), "syntax error"},
      {"BraceOnly", Length(1) + "{", "syntax error"},
      {"TopLevelArray", File("[]", 0), "does not start with '{'"},
      {"TopLevelNull", File("null", 0), "does not start with '{'"},
      {"TopLevelNumber", File("3", 0), "does not start with '{'"},
      {"LeadingSpaces", File("  " + ok, 4), "does not start with '{'"},
      {"ByteOrderMark", File("\xEF\xBB\xBF" + ok, 4), "does not start with '{'"},
      {"NulPadding", Length(ok.size() + 2) + ok + std::string(2, '\0') + "\1\1\1\1", "NUL byte"},
      {"TwoDocuments", File(ok + ok, 4), "syntax error"},
      {"NestingBomb", File("{\"a\":" + std::string(100'000, '['), 0), "an array is not allowed"},
      {"NestedObjects", File("{\"a\":{\"dtype\":{\"x\":1}}}", 0), "an object is not allowed"},
  };
}

std::vector<Malformed> Fields() {
  const std::string a = Tensor("a", "U8", "[4]", "[0,4]");
  const std::string huge_name(5000, 'n');
  std::string ones = "[1";
  for (int i = 1; i < 10'000; ++i) ones += ",1";
  return {
      {"RepeatedTensor", File("{" + a + "," + Tensor("a", "F32", "[1]", "[0,4]") + "}", 4),
       "\"a\" is given twice"},
      {"RepeatedThroughEscape",
       File("{" + a + "," + Tensor("\\u0061", "F32", "[1]", "[0,4]") + "}", 4),
       "\"a\" is given twice"},
      {"RepeatedField",
       File(R"({"a":{"dtype":"U8","dtype":"F32","shape":[4],"data_offsets":[0,4]}})", 4),
       "field \"dtype\" is given twice"},
      {"RepeatedMetadata", File("{\"__metadata__\":{},\"__metadata__\":{}," + a + "}", 4),
       "\"__metadata__\" is given twice"},
      {"RepeatedMetadataKey", File(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
       "\"k\" is given twice"},
      {"MetadataNumber", File(R"({"__metadata__":{"k":1}})", 0), "key \"k\": the number 1"},
      {"MetadataArray", File(R"({"__metadata__":{"k":["v"]}})", 0), "key \"k\": an array"},
      {"MetadataObject", File(R"({"__metadata__":{"k":{}}})", 0), "key \"k\": an object"},
      {"MetadataNotAnObject", File(R"({"__metadata__":"x"})", 0), "__metadata__: the string"},
      {"UnknownField",
       File(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"extra":1}})", 4),
       "unknown field \"extra\""},
      {"NoDtype", File(R"({"a":{"shape":[4],"data_offsets":[0,4]}})", 4), "\"dtype\" is missing"},
      {"NoShape", File(R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", 4), "\"shape\" is missing"},
      {"NoOffsets", File(R"({"a":{"dtype":"U8","shape":[4]}})", 4), "\"data_offsets\" is missing"},
      {"TensorNotAnObject", File(R"({"a":[1]})", 0), "tensor \"a\": an array"},
      {"EmptyName", File("{" + Tensor("", "U8", "[4]", "[0,4]") + "}", 4), "empty name"},
      {"NulInName", File("{" + Tensor("a\\u0000b", "U8", "[4]", "[0,4]") + "}", 4),
       "control character"},
      {"LongName", File("{" + Tensor(huge_name, "U8", "[4]", "[0,4]") + "}", 4), "5000 bytes"},
      {"DtypeUnknown", One("F33", "[1]", "[0,4]", 4), "dtype \"F33\"", StatusCode::kUnimplemented},
      {"DtypeLowerCase", One("f16", "[2]", "[0,4]", 4), "dtype \"f16\"",
       StatusCode::kUnimplemented},
      {"DtypeEmpty", One("", "[4]", "[0,4]", 4), "dtype \"\"", StatusCode::kUnimplemented},
      {"DtypeBool", One("BOOL", "[4]", "[0,4]", 4), "tensor \"t\": dtype \"BOOL\"",
       StatusCode::kUnimplemented},
      {"DtypeFourBit", One("F4", "[3]", "[0,2]", 2), "dtype \"F4\"", StatusCode::kUnimplemented},
      {"DtypeNumber", File(R"({"a":{"dtype":1,"shape":[4],"data_offsets":[0,4]}})", 4),
       "field \"dtype\": the number 1"},
      {"DimNegative", One("U8", "[-4]", "[0,4]", 4), "field \"shape\": the number -4"},
      {"DimNegativeZero", One("U8", "[-0]", "[0,0]", 0), "field \"shape\": the number"},
      {"DimFraction", One("U8", "[4.0]", "[0,4]", 4), "field \"shape\": the number 4.0"},
      {"DimExponent", One("U8", "[1e400]", "[0,4]", 4), "1e400"},
      {"DimLeadingZero", One("U8", "[04]", "[0,4]", 4), "syntax error"},
      {"DimTwoTo64", One("U8", "[18446744073709551616]", "[0,4]", 4), "18446744073709551616"},
      {"DimTwoTo63", One("U8", "[9223372036854775808]", "[0,4]", 4), "above 2^63 - 1"},
      {"DimString", One("U8", "[\"4\"]", "[0,4]", 4), "field \"shape\": the string"},
      {"DimsTooMany", One("U8", ones + "]", "[0,1]", 1), "more than 32 dimensions"},
      {"ShapeIsANumber", One("U8", "4", "[0,4]", 4), "field \"shape\": the number 4"},
      {"ProductWraps", One("U8", "[2,9223372036854775807]", "[0,4]", 4), "2^63 - 1 bytes"},
      {"BytesWrap", One("F64", "[2305843009213693952]", "[0,4]", 4), "2^63 - 1 bytes"},
      {"WrapsToTheRightSize", One("F32", "[4294967297,4294967296]", "[0,4]", 4), "2^63 - 1 bytes"},
  };
}

std::vector<Malformed> Ranges() {
  const auto two = [](const char* first, const char* second, size_t bytes) {
    return File(
        "{" + Tensor("a", "U8", "[4]", first) + "," + Tensor("b", "U8", "[4]", second) + "}",
        bytes);
  };
  std::string misaligned = "{" + Tensor("t", "F32", "[1]", "[0,4]") + "}";
  misaligned.resize(misaligned.size() / 8 * 8 + 9, ' ');  // odd: the data start at an odd byte
  return {
      {"OffsetsOne", One("U8", "[4]", "[0]", 4), "not 2 numbers"},
      {"OffsetsThree", One("U8", "[4]", "[0,4,8]", 4), "not 2 numbers"},
      {"OffsetsNegative", One("U8", "[4]", "[-4,0]", 4), "the number -4"},
      {"OffsetsReversed", One("U8", "[4]", "[4,0]", 4), "end before they begin"},
      {"SizeTooSmall", One("F32", "[4]", "[0,8]", 8), "hold 8 bytes, but F32 [4] needs 16"},
      {"SizeTooLarge", One("BF16", "[2]", "[0,8]", 8), "hold 8 bytes, but BF16 [2] needs 4"},
      {"ZeroDimWithBytes", One("F32", "[0]", "[0,4]", 4), "hold 4 bytes, but F32 [0] needs 0"},
      {"ScalarWithoutBytes", One("F32", "[]", "[0,0]", 0), "hold 0 bytes, but F32 [] needs 4"},
      {"EndPastTheFile", One("U8", "[8]", "[0,8]", 4), "end past the file, which holds 4 bytes"},
      {"TwoBytesShort", One("U8", "[8]", "[0,8]", 6), "truncated"},
      {"FirstNotAtZero", One("U8", "[4]", "[4,8]", 8), "leave a hole: the data before end at 0"},
      {"Hole", two("[0,4]", "[8,12]", 12), "tensor \"b\": data_offsets [8, 12] leave a hole"},
      {"Overlap", two("[0,4]", "[2,6]", 6), "tensor \"b\": data_offsets [2, 6] overlap"},
      {"SameRange", two("[0,4]", "[0,4]", 4), "tensor \"b\": data_offsets [0, 4] overlap"},
      {"TrailingBytes", One("U8", "[4]", "[0,4]", 22), "end at byte 4 of the data, but the file"},
      {"TensorsMissing", File("{}", 4), "end at byte 0 of the data"},
      {"MisalignedHeader", Length(misaligned.size()) + misaligned + std::string(4, '\1'),
       "not aligned for F32"},
      {"MisalignedRange",
       File(
           "{" + Tensor("a", "U8", "[1]", "[0,1]") + "," + Tensor("b", "F32", "[1]", "[1,5]") + "}",
           5),
       "tensor \"b\" starts at byte"},
  };
}

std::vector<Malformed> AllMalformed() {
  std::vector<Malformed> all = Envelopes();
  for (Malformed& m : Fields()) all.push_back(std::move(m));
  for (Malformed& m : Ranges()) all.push_back(std::move(m));
  return all;
}

class SafetensorsMalformedTest : public testing::TestWithParam<Malformed> {};

TEST_P(SafetensorsMalformedTest, IsRefusedByName) {
  const TempDir dir;
  const std::string path = dir.Write("bad.safetensors", GetParam().bytes);
  const absl::Status status = SafetensorsFile::Open(path).status();
  EXPECT_THAT(status, StatusIs(GetParam().code, GetParam().error));
  EXPECT_THAT(status, StatusIs(GetParam().code, path));
  const std::string message(status.message());
  EXPECT_EQ(FirstInvalidUtf8(message), message.size());
  EXPECT_LT(message.size(), 600u + path.size());
}

INSTANTIATE_TEST_SUITE_P(Files, SafetensorsMalformedTest, testing::ValuesIn(AllMalformed()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsValidTest, TheSameFileWithoutADefectOpens) {
  const TempDir dir;
  EXPECT_OK(SafetensorsFile::Open(dir.Write("a", One("U8", "[4]", "[0,4]", 4))));
  EXPECT_OK(SafetensorsFile::Open(dir.Write("b", One("F32", "[]", "[0,4]", 4))));
  EXPECT_OK(SafetensorsFile::Open(dir.Write("c", One("F32", "[2,0]", "[0,0]", 0))));
  // Listed out of order, with an empty tensor where two others meet.
  const std::string header = "{" + Tensor("b", "U8", "[4]", "[4,8]") + "," +
                             Tensor("e", "F32", "[0]", "[4,4]") + "," +
                             Tensor("a", "U8", "[4]", "[0,4]") + "}";
  ASSERT_OK_AND_ASSIGN(const auto file, SafetensorsFile::Open(dir.Write("d", File(header, 8))));
  EXPECT_EQ(file.entries().size(), 3u);
}

// Every prefix of a valid file, and every single byte of its header changed, is refused or read
// without leaving the file (the sanitizers would tell).
TEST(SafetensorsDamageTest, TruncationAndBitFlipsNeverCrash) {
  const TempDir dir;
  const std::string good = File(
      "{" + Tensor("a", "F32", "[2,2]", "[0,16]") + "," + Tensor("b", "U8", "[3]", "[16,19]") + "}",
      19);
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(SafetensorsFile::Open(dir.Write("cut", good.substr(0, size))).ok()) << size;
  for (size_t at = 0; at < good.size() - 19; ++at) {
    for (const int bit : {0, 3, 6, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      const auto file = SafetensorsFile::Open(dir.Write("flip", bad));
      if (!file.ok()) continue;  // a flip in a name is still a valid file
      for (const SafetensorsEntry& entry : file->entries()) {
        const auto* bytes = static_cast<const char*>(entry.data);
        EXPECT_EQ(std::count(bytes, bytes + entry.size_bytes, '\1'), entry.size_bytes);
      }
    }
  }
}

// Headers that grow quadratic in a careless reader.
TEST(SafetensorsBombTest, ManyEntriesAreReadInBoundedTime) {
  const TempDir dir;
  std::string header = "{";
  for (int i = 0; i < 200'000; ++i)
    header += (i > 0 ? "," : "") + Tensor("t" + std::to_string(i), "U8", "[16]", "[0,16]");
  std::string keys = "{\"__metadata__\":{\"k\":\"v\"";
  for (int i = 0; i < 200'000; ++i) keys += ",\"k" + std::to_string(i) + "\":\"v\"";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(SafetensorsFile::Open(dir.Write("same", File(header + "}", 16))),
              StatusIs(StatusCode::kInvalidArgument, "overlap"));
  EXPECT_OK(SafetensorsFile::Open(dir.Write("keys", File(keys + "}}", 0))));
  EXPECT_THAT(SafetensorsFile::Open(
                  dir.Write("key", File("{\"" + std::string(20 << 20, 'k') + "\":1}", 0))),
              StatusIs(StatusCode::kInvalidArgument, "limit is 4096"));
  // About 0.3 s each; a quadratic reader would need hours.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(SafetensorsKindTest, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  EXPECT_THAT(SafetensorsFile::Open(dir.File("fifo")),
              StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
  EXPECT_THAT(SafetensorsFile::Open(dir.path()),
              StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
  EXPECT_THAT(SafetensorsFile::Open(dir.File("none.safetensors")),
              StatusIs(StatusCode::kNotFound, "none.safetensors"));
  // Sparse and huge: only the header's length is looked at.
  const std::string sparse = dir.Write("sparse", "");
  ASSERT_EQ(truncate(sparse.c_str(), off_t{1} << 36), 0);
  EXPECT_THAT(SafetensorsFile::Open(sparse),
              StatusIs(StatusCode::kInvalidArgument, "does not start with '{'"));
}

}  // namespace
}  // namespace lorad
