// Adapters with their aliases, and datasets with their uploads, over the fake engine.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_registry.h"
#include "server/datasets/dataset_registry.h"
#include "server/datasets/dataset_upload.h"
#include "server/store/sqlite_store.h"
#include "tests/support/fake_engine.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad::server {
namespace {

using ::testing::ElementsAre;

class RegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_.File("uploads"));
    Restart();
  }
  // Everything but the files is new.
  void Restart() {
    adapters_.reset();
    datasets_.reset();
    engine_.reset();
    store_.reset();
    ASSERT_OK_AND_ASSIGN(store_, SqliteStore::Open(dir_.File("state.db")));
    ASSERT_OK_AND_ASSIGN(blobs_, LocalBlobStore::Open(dir_.File("blobs")));
    engine_ = std::make_unique<FakeEngine>(EngineConfig{});
    ASSERT_OK_AND_ASSIGN(adapters_,
                         AdapterRegistry::Open(store_.get(), blobs_.get(), engine_.get(), nullptr));
    datasets_ = std::make_unique<DatasetRegistry>(
        store_.get(), blobs_.get(), engine_.get(),
        DatasetOptions{.uploads_dir = dir_.File("uploads"), .max_bytes = 1000});
  }

  absl::StatusOr<StagedAdapter> Import(const std::string& name, const std::string& content) {
    WriteFakeAdapter(dir_.File("peft"), content);
    ASSIGN_OR_RETURN(StagedAdapter staged, adapters_->Stage(name, dir_.File("peft"), ""));
    RETURN_IF_ERROR(adapters_->Commit(staged, {}));
    return staged;
  }
  std::string Resolve(const std::string& name) {
    const auto adapter = adapters_->Resolve(name);
    return adapter.ok() ? adapter->ref : adapter.status().ToString();
  }

  static v1::UploadDatasetMetadata Metadata(const std::string& name, const std::string& content) {
    v1::UploadDatasetMetadata metadata;
    metadata.set_name(name);
    metadata.set_size_bytes(static_cast<int64_t>(content.size()));
    metadata.set_sha256(Sha256Hex(content));
    return metadata;
  }
  static v1::DatasetChunk Chunk(int64_t offset, const std::string& data) {
    v1::DatasetChunk chunk;
    chunk.set_offset(offset);
    chunk.set_data(data);
    return chunk;
  }
  absl::StatusOr<v1::UploadDatasetResponse> Upload(const v1::UploadDatasetMetadata& metadata,
                                                   const std::string& content) {
    ASSIGN_OR_RETURN(const auto upload, datasets_->Begin(metadata));
    if (upload->finished().has_value()) return *upload->finished();
    RETURN_IF_ERROR(upload->Append(Chunk(0, content)));
    return upload->Commit();
  }

  TempDir dir_;
  std::unique_ptr<SqliteStore> store_;
  std::unique_ptr<LocalBlobStore> blobs_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<AdapterRegistry> adapters_;
  std::unique_ptr<DatasetRegistry> datasets_;
};

constexpr char kData[] = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
constexpr char kOther[] = "{\"prompt\": \"a\", \"completion\": \"c\"}\n";

TEST_F(RegistryTest, NamesResolveToVersions) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter first, Import("sql", "one"));
  ASSERT_OK_AND_ASSIGN(const StagedAdapter second, Import("sql", "two"));
  EXPECT_TRUE(first.created && second.created);
  EXPECT_EQ(first.record.version(), Sha256Hex("one").substr(0, 12));
  EXPECT_EQ(Resolve("sql"), second.record.ref()) << "the newest";
  EXPECT_EQ(Resolve(first.record.ref()), first.record.ref());
  EXPECT_EQ(Resolve("sql@" + Sha256Hex("one")), first.record.ref());
  EXPECT_EQ(Resolve(""), "");
  EXPECT_THAT(adapters_->Resolve("none"), StatusIs(absl::StatusCode::kNotFound, "\"none\""));
  EXPECT_THAT(adapters_->Resolve("sql@123"), StatusIs(absl::StatusCode::kNotFound, "sql@123"));
}

TEST_F(RegistryTest, TheSameContentIsTheSameVersion) {
  ASSERT_OK(Import("sql", "one"));
  ASSERT_OK(Import("sql", "two"));
  ASSERT_OK_AND_ASSIGN(const StagedAdapter again, Import("sql", "one"));
  EXPECT_FALSE(again.created);
  EXPECT_EQ(adapters_->NumAdapters(), 2);
  ASSERT_OK_AND_ASSIGN(const StagedAdapter renamed, Import("other", "one"));
  EXPECT_TRUE(renamed.created);
  // The content stays while one name has it.
  ASSERT_OK(adapters_->Delete(again.record.ref()));
  EXPECT_OK(blobs_->Directory(Sha256Hex("one")));
  ASSERT_OK(adapters_->Delete(renamed.record.ref()));
  EXPECT_FALSE(blobs_->Directory(Sha256Hex("one")).ok());
}

TEST_F(RegistryTest, ARejectedAdapterLeavesNothing) {
  WriteFakeAdapter(dir_.File("peft"), "x");
  dir_.Write("peft/adapter_config.json", R"({"reject": "tensor lora_A of layer 3 is missing"})");
  EXPECT_THAT(adapters_->Stage("sql", dir_.File("peft"), ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "layer 3"));
  EXPECT_EQ(adapters_->NumAdapters(), 0);
  EXPECT_THAT(blobs_->List().value(), ElementsAre());
}

TEST_F(RegistryTest, AliasesMoveByCompareAndSet) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter one, Import("sql", "one"));
  ASSERT_OK_AND_ASSIGN(const StagedAdapter two, Import("sql", "two"));
  ASSERT_OK_AND_ASSIGN(v1::Alias alias, adapters_->SetAlias("bot", one.record.ref(), ""));
  EXPECT_EQ(alias.generation(), 1);
  EXPECT_EQ(Resolve("bot"), one.record.ref());
  EXPECT_THAT(adapters_->SetAlias("bot", two.record.ref(), ""),
              StatusIs(absl::StatusCode::kAborted, "points at " + one.record.ref()));
  EXPECT_THAT(adapters_->SetAlias("bot", two.record.ref(), two.record.ref()),
              StatusIs(absl::StatusCode::kAborted, one.record.ref()));
  EXPECT_EQ(Resolve("bot"), one.record.ref());
  ASSERT_OK_AND_ASSIGN(alias, adapters_->SetAlias("bot", "sql", one.record.ref()));
  EXPECT_EQ(alias.adapter(), two.record.ref()) << "a name is resolved when the alias is set";
  EXPECT_EQ(alias.generation(), 2);
  EXPECT_THAT(adapters_->SetAlias("bot", "none", std::nullopt),
              StatusIs(absl::StatusCode::kNotFound, "none"));
  ASSERT_OK(adapters_->SetAlias("bot", "", std::nullopt));
  EXPECT_THAT(adapters_->Resolve("bot"), StatusIs(absl::StatusCode::kNotFound, "bot"));
  EXPECT_THAT(adapters_->SetAlias("bot", "", std::nullopt),
              StatusIs(absl::StatusCode::kNotFound, "alias"));
}

TEST_F(RegistryTest, AnAliasGoesBeforeAnAdapterOfItsName) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter one, Import("sql", "one"));
  ASSERT_OK(adapters_->SetAlias("sql", "sql", std::nullopt));
  ASSERT_OK(Import("sql", "two"));
  EXPECT_EQ(Resolve("sql"), one.record.ref()) << "a new version is not deployed by being there";
}

TEST_F(RegistryTest, AnAliasKeepsItsVersionFromDeletion) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter one, Import("sql", "one"));
  ASSERT_OK(adapters_->SetAlias("bot", "sql", std::nullopt));
  EXPECT_THAT(adapters_->Delete(one.record.ref()),
              StatusIs(absl::StatusCode::kFailedPrecondition, "alias \"bot\""));
  EXPECT_THAT(adapters_->Delete("sql"), StatusIs(absl::StatusCode::kInvalidArgument, "version"));
}

TEST_F(RegistryTest, AdaptersAndAliasesSurviveARestart) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter one, Import("sql", "one"));
  ASSERT_OK_AND_ASSIGN(const StagedAdapter two, Import("sql", "two"));
  ASSERT_OK(adapters_->SetAlias("bot", one.record.ref(), std::nullopt));
  Restart();
  EXPECT_EQ(Resolve("sql"), two.record.ref());
  EXPECT_EQ(Resolve("bot"), one.record.ref());
  EXPECT_EQ(engine_->Adapters().size(), 2u) << "the engine knows them again";
  ASSERT_OK_AND_ASSIGN(const v1::Adapter adapter, adapters_->Get("bot"));
  EXPECT_THAT(adapter.aliases(), ElementsAre("bot"));
}

TEST_F(RegistryTest, ADamagedAdapterIsLeftOutAndTheOthersAreServed) {
  ASSERT_OK_AND_ASSIGN(const StagedAdapter one, Import("sql", "one"));
  ASSERT_OK_AND_ASSIGN(const StagedAdapter two, Import("other", "two"));
  ASSERT_OK_AND_ASSIGN(const std::string path, blobs_->Directory(one.record.sha256()));
  std::ofstream(path + "/adapter_model.safetensors") << "flipped";
  Restart();
  EXPECT_THAT(adapters_->Resolve("sql"), StatusIs(absl::StatusCode::kNotFound, "sql"));
  EXPECT_EQ(Resolve("other"), two.record.ref());
}

TEST_F(RegistryTest, AdaptersArePagedNewestVersionFirst) {
  for (const char* content : {"1", "2", "3"}) ASSERT_OK(Import("b", content));
  ASSERT_OK(Import("a", "4"));
  std::vector<std::string> refs;
  std::string position;
  int pages = 0;
  do {
    for (const v1::Adapter& adapter : adapters_->List("", 2, position))
      refs.push_back(adapter.ref());
    ++pages;
  } while (!position.empty());
  EXPECT_EQ(pages, 2);
  const auto ref = [](const std::string& name, const std::string& content) {
    return name + "@" + Sha256Hex(content).substr(0, 12);
  };
  EXPECT_THAT(refs, ElementsAre(ref("a", "4"), ref("b", "3"), ref("b", "2"), ref("b", "1")));
  EXPECT_EQ(adapters_->List("b", 10, position).size(), 3u);
}

TEST_F(RegistryTest, AnUploadIsStoredAndReported) {
  ASSERT_OK_AND_ASSIGN(const auto response, Upload(Metadata("train", kData), kData));
  EXPECT_TRUE(response.created());
  EXPECT_EQ(response.dataset().report().samples(), 1);
  EXPECT_EQ(response.dataset().report().kind(), v1::DATASET_KIND_PROMPT_COMPLETION);
  Restart();
  ASSERT_OK_AND_ASSIGN(const v1::Dataset dataset, datasets_->Get("train"));
  EXPECT_EQ(Sha256HexOfFile(datasets_->PathOf(dataset.sha256()).value()).value(), Sha256Hex(kData));
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("uploads")));
}

TEST_F(RegistryTest, ANameKeepsItsContentUnlessToldOtherwise) {
  ASSERT_OK(Upload(Metadata("train", kData), kData));
  ASSERT_OK_AND_ASSIGN(const auto again, Upload(Metadata("train", kData), kData));
  EXPECT_FALSE(again.created());
  v1::UploadDatasetMetadata other = Metadata("train", kOther);
  EXPECT_THAT(Upload(other, kOther), StatusIs(absl::StatusCode::kAlreadyExists, "train"));
  EXPECT_EQ(datasets_->Get("train")->sha256(), Sha256Hex(kData));
  other.set_overwrite(true);
  ASSERT_OK(Upload(other, kOther));
  EXPECT_EQ(datasets_->Get("train")->sha256(), Sha256Hex(kOther));
}

TEST_F(RegistryTest, ABrokenUploadIsContinuedFromItsOffset) {
  v1::UploadDatasetMetadata metadata = Metadata("train", kData);
  metadata.set_request_id("r1");
  const std::string content = kData;
  EXPECT_THAT(datasets_->QueryUpload("train", "r1"), StatusIs(absl::StatusCode::kNotFound, "r1"));
  {
    ASSERT_OK_AND_ASSIGN(const auto upload, datasets_->Begin(metadata));
    ASSERT_OK(upload->Append(Chunk(0, content.substr(0, 10))));
    EXPECT_THAT(datasets_->Begin(metadata), StatusIs(absl::StatusCode::kUnavailable, "r1"));
    EXPECT_THAT(upload->Commit(), StatusIs(absl::StatusCode::kDataLoss, "10 of"));
  }
  Restart();
  ASSERT_OK_AND_ASSIGN(auto query, datasets_->QueryUpload("train", "r1"));
  EXPECT_EQ(query.committed_bytes(), 10);
  EXPECT_FALSE(query.complete());
  {
    ASSERT_OK_AND_ASSIGN(const auto upload, datasets_->Begin(metadata));
    EXPECT_THAT(upload->Append(Chunk(5, "x")),
                StatusIs(absl::StatusCode::kFailedPrecondition, "10 bytes are there"));
    ASSERT_OK(upload->Append(Chunk(10, content.substr(10))));
    ASSERT_OK(upload->Commit());
  }
  ASSERT_OK_AND_ASSIGN(query, datasets_->QueryUpload("train", "r1"));
  EXPECT_TRUE(query.complete());
  // A retry of the whole has nothing to send; the id is bound to this content.
  ASSERT_OK_AND_ASSIGN(const auto retry, datasets_->Begin(metadata));
  EXPECT_TRUE(retry->finished().has_value());
  v1::UploadDatasetMetadata other = Metadata("train", kOther);
  other.set_request_id("r1");
  EXPECT_THAT(datasets_->Begin(other), StatusIs(absl::StatusCode::kAlreadyExists, "r1"));
}

TEST_F(RegistryTest, BadUploadsAreRefusedByWhatIsWrong) {
  const auto line = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"\n";
  EXPECT_THAT(Upload(Metadata("d", line), line),
              StatusIs(absl::StatusCode::kInvalidArgument, "dataset d line 2"));
  const auto empty = "{\"prompt\": \"a\", \"completion\": \"\"}\n";
  EXPECT_THAT(Upload(Metadata("d", empty), empty),
              StatusIs(absl::StatusCode::kInvalidArgument, "no token to train on"));
  std::string flipped = kData;
  flipped[12] = 'z';
  EXPECT_THAT(Upload(Metadata("d", kData), flipped),
              StatusIs(absl::StatusCode::kDataLoss, "sha256"));
  EXPECT_THAT(Upload(Metadata("d", std::string(1001, 'x')), kData),
              StatusIs(absl::StatusCode::kInvalidArgument, "size_bytes: 1001 is not in 1..1000"));
  v1::UploadDatasetMetadata metadata = Metadata("../d", kData);
  EXPECT_THAT(Upload(metadata, kData), StatusIs(absl::StatusCode::kInvalidArgument, "name"));
  metadata = Metadata("d", kData);
  metadata.set_size_bytes(3);
  EXPECT_THAT(Upload(metadata, kData), StatusIs(absl::StatusCode::kInvalidArgument, "beyond"));
  EXPECT_THAT(datasets_->Get("d"), StatusIs(absl::StatusCode::kNotFound, "d"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("uploads")));
  EXPECT_THAT(blobs_->List().value(), ElementsAre());
}

TEST_F(RegistryTest, ValidateOnlyStoresNothing) {
  v1::UploadDatasetMetadata metadata = Metadata("d", kData);
  metadata.set_validate_only(true);
  ASSERT_OK_AND_ASSIGN(const auto response, Upload(metadata, kData));
  EXPECT_EQ(response.dataset().report().samples(), 1);
  EXPECT_FALSE(datasets_->Get("d").ok());
  EXPECT_THAT(blobs_->List().value(), ElementsAre());
}

TEST_F(RegistryTest, DeletingADatasetKeepsSharedContent) {
  ASSERT_OK(Upload(Metadata("a", kData), kData));
  ASSERT_OK(Upload(Metadata("b", kData), kData));
  ASSERT_OK(datasets_->Delete("a"));
  EXPECT_OK(datasets_->PathOf(Sha256Hex(kData)));
  ASSERT_OK(datasets_->Delete("b"));
  EXPECT_FALSE(datasets_->PathOf(Sha256Hex(kData)).ok());
  EXPECT_THAT(datasets_->Delete("b"), StatusIs(absl::StatusCode::kNotFound, "b"));
}

TEST_F(RegistryTest, DatasetsArePagedByName) {
  for (const char* name : {"c", "a", "b"}) ASSERT_OK(Upload(Metadata(name, kData), kData));
  std::string position;
  ASSERT_OK_AND_ASSIGN(auto page, datasets_->List(2, position));
  EXPECT_EQ(page.size(), 2u);
  EXPECT_EQ(position, "b");
  ASSERT_OK_AND_ASSIGN(page, datasets_->List(2, position));
  ASSERT_EQ(page.size(), 1u);
  EXPECT_EQ(page[0].name(), "c");
  EXPECT_EQ(position, "");
}

}  // namespace
}  // namespace lorad::server
