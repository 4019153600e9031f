#include "engine/io/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "engine/io/file.h"
#include "engine/io/safetensors_checkpoint.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using absl::StatusCode;

std::string Golden(const std::string& name) {
  return std::string(LORAD_SOURCE_DIR) + "/tests/golden/" + name;
}

SafetensorsEntry Entry(const std::string& name, DType dtype, std::vector<int64_t> shape,
                       const std::string& bytes) {
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype = dtype;
  entry.shape = std::move(shape);
  entry.data = bytes.data();
  entry.size_bytes = static_cast<int64_t>(bytes.size());
  return entry;
}

const std::string kData16 = "0123456789abcdef";

TEST(SafetensorsTest, ReadsBackWhatWasWritten) {
  const TempDir dir;
  const std::string path = dir.File("a.safetensors");
  const std::vector<SafetensorsEntry> tensors = {
      Entry("f64", DType::kF64, {2}, kData16),
      Entry("f32", DType::kF32, {2, 2}, kData16),
      Entry("f16", DType::kF16, {8}, kData16),
      Entry("bf16", DType::kBF16, {1, 8}, kData16),
      Entry("i64", DType::kI64, {2}, kData16),
      Entry("i32", DType::kI32, {4}, kData16),
      Entry("i8", DType::kI8, {16}, kData16),
      Entry("u64", DType::kU64, {2}, kData16),
      Entry("u8", DType::kU8, {16}, kData16),
      Entry("five", DType::kU8, {1, 2, 2, 2, 2}, kData16),
      Entry("none", DType::kF32, {3, 0, 5}, ""),
  };
  ASSERT_OK(WriteSafetensors(path, tensors, {{"format", "pt"}, {"k", "v\"\n"}}));
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(path));
  EXPECT_EQ(file.entries().size(), tensors.size());
  EXPECT_EQ(file.metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}, {"k", "v\"\n"}}));
  for (const SafetensorsEntry& tensor : tensors) {
    const SafetensorsEntry* found = file.Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    ASSERT_EQ(found->size_bytes, tensor.size_bytes);
    EXPECT_EQ(std::memcmp(found->data, tensor.data, static_cast<size_t>(tensor.size_bytes)), 0);
  }
  ASSERT_OK_AND_ASSIGN(const ConstTensorView view, file.View("f32"));
  EXPECT_EQ(view.shape, Shape({2, 2}));
  EXPECT_EQ(view.as<float>(), file.Find("f32")->data);
  EXPECT_THAT(file.View("absent"), StatusIs(StatusCode::kNotFound, "no tensor \"absent\""));
  EXPECT_THAT(file.View("five"), StatusIs(StatusCode::kInvalidArgument, "[1, 2, 2, 2, 2]"));
  EXPECT_EQ(file.Find(""), nullptr);
}

TEST(SafetensorsTest, AFileWithoutTensorsIsValid) {
  const TempDir dir;
  ASSERT_OK(WriteSafetensors(dir.File("a"), {}, {}));
  ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(dir.File("a")));
  EXPECT_TRUE(file.entries().empty());
}

TEST(SafetensorsTest, BytesDoNotDependOnTheOrderGiven) {
  const SafetensorsEntry a = Entry("a", DType::kU8, {16}, kData16);
  const SafetensorsEntry b = Entry("b", DType::kF32, {4}, kData16);
  const SafetensorsEntry c = Entry("c", DType::kF32, {4}, kData16);
  ASSERT_OK_AND_ASSIGN(const std::string first, SerializeSafetensors({a, b, c}, {}));
  ASSERT_OK_AND_ASSIGN(const std::string second, SerializeSafetensors({c, b, a}, {}));
  EXPECT_EQ(first, second);
  EXPECT_EQ(first.substr(8, 24), R"({"b":{"dtype":"F32","sha)");
}

// The reference writer's own files, made anew from what is read of them.
TEST(SafetensorsTest, WritesTheBytesOfTheReferenceWriter) {
  for (const char* name :
       {"llama-gqa/adapter_init/adapter_model.safetensors", "llama-gqa/model.safetensors",
        "qwen2-bias/model.safetensors", "llama-gqa/reference.safetensors"}) {
    ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(Golden(name)));
    ASSERT_GT(file.entries().size(), 10u);
    ASSERT_OK_AND_ASSIGN(const std::string bytes,
                         SerializeSafetensors(file.entries(), file.metadata()));
    ASSERT_OK_AND_ASSIGN(const std::string original, ReadFile(Golden(name)));
    EXPECT_EQ(bytes.size(), original.size());
    EXPECT_TRUE(bytes == original) << name;
  }
}

TEST(SafetensorsTest, WriterRefusesWhatTheReaderWould) {
  const auto refused = [](SafetensorsEntry entry, const char* error) {
    EXPECT_THAT(SerializeSafetensors({std::move(entry)}, {}),
                StatusIs(StatusCode::kInvalidArgument, error));
  };
  refused(Entry("", DType::kU8, {16}, kData16), "reserved name");
  refused(Entry("__metadata__", DType::kU8, {16}, kData16), "reserved name");
  refused(Entry("a\xff", DType::kU8, {16}, kData16), "no reader");
  refused(Entry("a\n", DType::kU8, {16}, kData16), "no reader");
  refused(Entry("a", DType::kF32, {5}, kData16), "has 16 bytes, but F32 [5] needs 20");
  refused(Entry("a", DType::kF32, {-4}, kData16), "negative dimension");
  refused(Entry("a", DType::kU8, std::vector<int64_t>(40, 1), kData16), "too many dimensions");
  const SafetensorsEntry a = Entry("a", DType::kU8, {16}, kData16);
  EXPECT_THAT(SerializeSafetensors({a, a}, {}),
              StatusIs(StatusCode::kInvalidArgument, "\"a\" is given twice"));
  EXPECT_THAT(SerializeSafetensors({a}, {{"k", "\xff"}}),
              StatusIs(StatusCode::kInvalidArgument, "metadata key \"k\""));
}

TEST(SafetensorsCheckpointTest, OpensASingleFile) {
  ASSERT_OK_AND_ASSIGN(const auto checkpoint, SafetensorsCheckpoint::Open(Golden("llama-gqa")));
  EXPECT_EQ(checkpoint.files().size(), 1u);
  ASSERT_OK_AND_ASSIGN(const ConstTensorView view, checkpoint.View("model.norm.weight"));
  EXPECT_EQ(view.shape.num_dims(), 1);
  EXPECT_THAT(checkpoint.View("nope"), StatusIs(StatusCode::kNotFound, "nope"));
}

TEST(SafetensorsCheckpointTest, OpensShards) {
  ASSERT_OK_AND_ASSIGN(const auto checkpoint,
                       SafetensorsCheckpoint::Open(Golden("llama-tied-sharded")));
  EXPECT_EQ(checkpoint.files().size(), 5u);
  int64_t bytes = 0;
  size_t count = 0;
  for (const SafetensorsFile& file : checkpoint.files()) {
    count += file.entries().size();
    for (const SafetensorsEntry& entry : file.entries()) {
      bytes += entry.size_bytes;
      EXPECT_EQ(checkpoint.Find(entry.name), &entry);
    }
  }
  EXPECT_EQ(checkpoint.entries().size(), count);
  EXPECT_EQ(checkpoint.total_bytes(), bytes);
  EXPECT_EQ(checkpoint.Find("lm_head.weight"), nullptr);  // tied
}

TEST(SafetensorsCheckpointTest, NamesThePathLookedFor) {
  const TempDir dir;
  EXPECT_THAT(SafetensorsCheckpoint::Open(dir.path()),
              StatusIs(StatusCode::kNotFound, dir.File("model.safetensors")));
  EXPECT_THAT(SafetensorsCheckpoint::Open(dir.File("none")),
              StatusIs(StatusCode::kNotFound, dir.File("none/model.safetensors")));
}

TEST(SafetensorsCheckpointTest, RefusesABadIndexNamingTheItem) {
  const TempDir dir;
  ASSERT_OK(WriteSafetensors(
      dir.File("s1.safetensors"),
      {Entry("a", DType::kU8, {16}, kData16), Entry("b", DType::kU8, {16}, kData16)}, {}));
  ASSERT_OK(
      WriteSafetensors(dir.File("s2.safetensors"), {Entry("c", DType::kU8, {16}, kData16)}, {}));
  const std::string good = R"("a": "s1.safetensors", "b": "s1.safetensors")";
  const auto open = [&](const std::string& index) {
    dir.Write("model.safetensors.index.json", index);
    return SafetensorsCheckpoint::Open(dir.path()).status();
  };
  EXPECT_OK(open("{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" + good +
                 R"(, "c": "s2.safetensors"}})"));
  const struct {
    std::string map;
    StatusCode code;
    const char* error;
  } cases[] = {
      {good + R"(, "c": "s3.safetensors")", StatusCode::kNotFound, "s3.safetensors: not found"},
      {good + R"(, "c": "s1.safetensors")", StatusCode::kInvalidArgument, "\"c\" into"},
      {R"("a": "s1.safetensors")", StatusCode::kInvalidArgument, "tensor \"b\""},
      {R"("c": "../s2.safetensors")", StatusCode::kInvalidArgument, "../s2.safetensors"},
      {R"("c": "/etc/passwd")", StatusCode::kInvalidArgument, "/etc/passwd"},
      {R"("c": "..")", StatusCode::kInvalidArgument, "\"..\""},
      {R"("c": "")", StatusCode::kInvalidArgument, "\"\""},
      {R"("c": 3)", StatusCode::kInvalidArgument, "\"c\": the shard is not a string"},
      {R"("c": "s2.safetensors", "c": "s1.safetensors")", StatusCode::kInvalidArgument,
       "\"c\" is given twice"},
      {"", StatusCode::kInvalidArgument, "weight_map"},
  };
  for (const auto& c : cases)
    EXPECT_THAT(open("{\"weight_map\": {" + c.map + "}}"), StatusIs(c.code, c.error)) << c.map;
  for (const char* index : {"[]", "{}", R"({"weight_map": []})"})
    EXPECT_THAT(open(index), StatusIs(StatusCode::kInvalidArgument, "weight_map"));
}

}  // namespace
}  // namespace lorad
