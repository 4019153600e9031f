// InferenceService and AdapterService over a channel: answers, errors, swaps, lost readers.
#include <atomic>
#include <map>
#include <regex>
#include <thread>

#include "absl/time/clock.h"
#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/integration/server_fixture.h"

namespace lorad::server {
namespace {

using ::testing::ElementsAre;

TEST_F(ServerTest, GenerateStreamsTextIdsAndUsage) {
  v1::GenerateRequest request = Prompt("hello", "", 20);
  request.set_logprobs(0);
  const Answer answer = Generate(request);
  ASSERT_GRPC_OK(answer.status);
  EXPECT_EQ(answer.text, Expected("hello", "", 20));
  EXPECT_EQ(answer.ids.size(), 20u);
  EXPECT_THAT(answer.adapters, ElementsAre(""));
  EXPECT_EQ(answer.finish.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.finish.usage().prompt_tokens(), 5);
  EXPECT_EQ(answer.finish.usage().cached_tokens(), 2) << "the fake knows half of every prompt";
  EXPECT_EQ(answer.finish.usage().generated_tokens(), 20);
}

TEST_F(ServerTest, GenerateTakesIds) {
  v1::GenerateRequest request;
  for (const int id : {104, 105}) request.mutable_prompt_ids()->add_ids(id);
  request.set_max_tokens(3);
  EXPECT_EQ(Generate(request).text, Expected("hi", "", 3));
}

TEST_F(ServerTest, GenerateRefusesWhatIsWrongByName) {
  v1::GenerateRequest request;
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "prompt: or prompt_ids is required");
  EXPECT_EQ(Reason(Generate(request).status), "INVALID_FIELD");
  request = Prompt("", "", 5);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "prompt: has no token");
  request = Prompt(std::string(512, 'x'), "", 5);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "has 512 tokens");
  request = Prompt("x", "none", 5);
  EXPECT_GRPC(Generate(request).status, NOT_FOUND, "\"none\"");
  EXPECT_EQ(Reason(Generate(request).status), "ADAPTER_NOT_FOUND");
  request = Prompt("x", "", 5);
  request.set_temperature(-1);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "temperature: -1");
  request = Prompt("x", "", 5);
  request.set_top_p(0);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "top_p: 0");
  request = Prompt("x", "", 5);
  request.set_logprobs(21);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "logprobs: 21");
  request = Prompt("x", "", 5);
  request.set_priority(101);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "priority: 101 is not in -100..100");
  request = Prompt("x", "", 5);
  request.add_stop("");
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "stop");
  request.Clear();
  request.mutable_prompt_ids()->add_ids(257);
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "id 257 at position 0 is not in 0..256");
  request = Prompt("bad \xff utf-8", "", 5);
  EXPECT_FALSE(Generate(request).status.ok());
}

TEST_F(ServerTest, ConstrainedAnswersAreWhatWasAsked) {
  v1::GenerateRequest request = Prompt("hello", "", 200);
  request.set_regex("(red|green|blue)-[0-9]{3}");
  Answer answer = Generate(request);
  ASSERT_GRPC_OK(answer.status);
  EXPECT_TRUE(std::regex_match(answer.text, std::regex("(red|green|blue)-[0-9]{3}")))
      << answer.text;
  EXPECT_EQ(answer.finish.finish_reason(), v1::FINISH_REASON_STOP);
  request.set_json_schema(R"({"type":"object","properties":{"z":{"enum":[1,"two"]},"a":{"type":
      "integer","minimum":10,"maximum":99}},"required":["z","a"]})");
  answer = Generate(request);
  ASSERT_GRPC_OK(answer.status);
  const auto json = nlohmann::json::parse(answer.text, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(json.is_object()) << answer.text;
  EXPECT_GE(json.at("a"), 10);
  EXPECT_LE(json.at("a"), 99);
  EXPECT_LT(answer.text.find("\"z\""), answer.text.find("\"a\"")) << "in the schema's order";
  request.set_max_tokens(4);
  answer = Generate(request);
  ASSERT_GRPC_OK(answer.status);
  EXPECT_EQ(answer.finish.finish_reason(), v1::FINISH_REASON_LENGTH);
  request.set_json_object(true);
  answer = Generate(request);
  ASSERT_GRPC_OK(answer.status);
  EXPECT_EQ(answer.text[0], '{');
  request.set_json_object(false);
  EXPECT_EQ(Generate(request).text, Expected("hello", "", 4)) << "no constraint";
}

TEST_F(ServerTest, AConstraintThatIsNotSupportedIsRefusedByName) {
  v1::GenerateRequest request = Prompt("hello", "", 20);
  request.set_regex("a(?=b)");
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT, "regex: at byte 1: lookahead");
  EXPECT_EQ(Reason(Generate(request).status), "INVALID_FIELD");
  request.set_json_schema(R"({"items":{"uniqueItems":true}})");
  EXPECT_GRPC(Generate(request).status, INVALID_ARGUMENT,
              "json_schema: at #/items: the keyword \"uniqueItems\"");
}

TEST_F(ServerTest, AFullQueueSaysSo) {
  script_->max_queued = 0;
  const grpc::Status status = Generate(Prompt("x", "", 1)).status;
  EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "queue is full");
  EXPECT_EQ(Reason(status), "QUEUE_FULL");
  EXPECT_EQ(RetryDelay(status), absl::Seconds(1));
}

TEST_F(ServerTest, ScoreTokenizeDetokenize) {
  v1::ScoreRequest score;
  score.set_text("abc");
  v1::ScoreResponse scored;
  ASSERT_GRPC_OK(inference_->Score(Context().get(), score, &scored));
  EXPECT_THAT(scored.ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(scored.logprobs(), ElementsAre(-0.25f, -0.5f));
  score.mutable_ids()->add_ids(7);
  ASSERT_GRPC_OK(inference_->Score(Context().get(), score, &scored));
  EXPECT_EQ(scored.logprobs_size(), 0) << "nothing predicts the first token";
  score.mutable_ids()->clear_ids();
  EXPECT_GRPC(inference_->Score(Context().get(), score, &scored), INVALID_ARGUMENT, "no token");
  v1::TokenizeRequest tokenize;
  tokenize.set_text("h\u00e9<|end|>");
  v1::TokenizeResponse ids;
  ASSERT_GRPC_OK(inference_->Tokenize(Context().get(), tokenize, &ids));
  EXPECT_THAT(ids.ids(), ElementsAre('h', 0xc3, 0xa9, 256));
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = ids.ids();
  v1::DetokenizeResponse text;
  ASSERT_GRPC_OK(inference_->Detokenize(Context().get(), detokenize, &text));
  EXPECT_EQ(text.text(), "h\u00e9<|end|>");
  detokenize.set_skip_special_tokens(true);
  ASSERT_GRPC_OK(inference_->Detokenize(Context().get(), detokenize, &text));
  EXPECT_EQ(text.text(), "h\u00e9");
}

TEST_F(ServerTest, ADeadlineEndsTheRequest) {
  script_->token_delay_us = 5000;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const auto reader = inference_->Generate(&context, Prompt("x", "", 400));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_GRPC(reader->Finish(), DEADLINE_EXCEEDED, "");
}

TEST_F(ServerTest, ACancelledCallStopsTheEngine) {
  script_->token_delay_us = 2000;
  const auto context = Context();
  const auto reader = inference_->Generate(context.get(), Prompt("x", "", 400));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context->TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_GRPC(reader->Finish(), CANCELLED, "");
  EXPECT_TRUE(AwaitMetric("lorad_inference_requests_total{finish_reason=\"cancelled\"} 1"));
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
}

TEST_F(ServerTest, AdaptersAreImportedAndExportedUnchanged) {
  v1::ImportAdapterResponse imported;
  ASSERT_GRPC_OK(Import("sql", "weights of sql", &imported));
  EXPECT_TRUE(imported.created());
  EXPECT_EQ(imported.adapter().sha256(), Sha256Hex("weights of sql"));
  ASSERT_GRPC_OK(Import("sql", "weights of sql", &imported));
  EXPECT_FALSE(imported.created());
  v1::ExportAdapterRequest request;
  request.set_adapter("sql");
  const auto context = Context();
  const auto reader = adapters_->Export(context.get(), request);
  v1::ExportAdapterResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.adapter().ref(), imported.adapter().ref());
  std::map<std::string, std::string> files;
  while (reader->Read(&response)) {
    std::string& file = files[response.chunk().path()];
    EXPECT_EQ(response.chunk().offset(), static_cast<int64_t>(file.size()));
    file += response.chunk().data();
  }
  ASSERT_GRPC_OK(reader->Finish());
  EXPECT_EQ(files["adapter_model.safetensors"], "weights of sql");
  EXPECT_EQ(files.size(), 2u);
}

TEST_F(ServerTest, ImportRefusesWhatIsWrong) {
  EXPECT_GRPC(Import("bad name", "x"), INVALID_ARGUMENT, "metadata.name");
  v1::ImportAdapterResponse response;
  const auto context = Context();
  const auto writer = adapters_->Import(context.get(), &response);
  v1::ImportAdapterRequest request;
  request.mutable_metadata()->set_name("sql");
  writer->Write(request);
  writer->WritesDone();
  EXPECT_GRPC(writer->Finish(), INVALID_ARGUMENT, "adapter_config.json is missing");
  const auto second = Context();
  const auto gap = adapters_->Import(second.get(), &response);
  gap->Write(request);
  request.mutable_chunk()->set_path("adapter_config.json");
  request.mutable_chunk()->set_offset(3);
  gap->Write(request);
  gap->WritesDone();
  EXPECT_GRPC(gap->Finish(), INVALID_ARGUMENT, "does not follow");
  // The files go with the call, which ends after its status is seen.
  for (int i = 0; i < 1000 && !std::filesystem::is_empty(dir_.File("state/uploads")); ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.File("state/uploads")));
}

TEST_F(ServerTest, LoadAndUnloadMoveTheTier) {
  const std::string ref = ImportOk("sql", "x");
  v1::LoadAdapterRequest load;
  load.set_adapter("sql");
  v1::Adapter adapter;
  ASSERT_GRPC_OK(adapters_->Load(Context().get(), load, &adapter));
  EXPECT_EQ(adapter.tier(), v1::ADAPTER_TIER_DEVICE);
  v1::UnloadAdapterRequest unload;
  unload.set_adapter(ref);
  ASSERT_GRPC_OK(adapters_->Unload(Context().get(), unload, &adapter));
  EXPECT_EQ(adapter.tier(), v1::ADAPTER_TIER_DISK);
  ASSERT_GRPC_OK(Generate(Prompt("x", "sql", 1)).status);  // it comes back when it is used
  load.clear_adapter();
  EXPECT_GRPC(adapters_->Load(Context().get(), load, &adapter), INVALID_ARGUMENT, "adapter");
}

// 50 swaps under 8 streams: every answer is wholly one version's, and the one it says.
TEST_F(ServerTest, AnAliasSwapNeverMixesVersions) {
  script_->token_delay_us = 100;
  const std::string versions[] = {ImportOk("sql", "one"), ImportOk("sql", "two")};
  const std::map<std::string, std::string> sha256 = {{versions[0], Sha256Hex("one")},
                                                     {versions[1], Sha256Hex("two")}};
  ASSERT_NE(Expected("q", Sha256Hex("one"), 40), Expected("q", Sha256Hex("two"), 40));
  v1::SetAliasRequest set;
  set.set_alias("bot");
  set.set_adapter(versions[0]);
  v1::Alias alias;
  ASSERT_GRPC_OK(adapters_->SetAlias(Context().get(), set, &alias));
  std::atomic<bool> stop = false;
  std::atomic<int> answers = 0, faults = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        const Answer answer = Generate(Prompt("q", "bot", 40));
        const bool right = answer.status.ok() && answer.adapters.size() == 1 &&
                           sha256.contains(answer.adapters[0]) &&
                           answer.text == Expected("q", sha256.at(answer.adapters[0]), 40);
        ++(right ? answers : faults);
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    set.set_expected_adapter(versions[i % 2]);
    set.set_adapter(versions[(i + 1) % 2]);
    ASSERT_GRPC_OK(adapters_->SetAlias(Context().get(), set, &alias));
    absl::SleepFor(absl::Milliseconds(2));
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(faults, 0);
  EXPECT_GT(answers, 8);
  EXPECT_EQ(alias.generation(), 51);
  set.set_expected_adapter(versions[1]);
  EXPECT_GRPC(adapters_->SetAlias(Context().get(), set, &alias), ABORTED, "points at");
  EXPECT_TRUE(AwaitMetric("lorad_adapter_swaps_total{result=\"ok\"} 51"));
}

TEST_F(ServerTest, AliasesAndAdaptersAreListedInPages) {
  for (const char* content : {"1", "2", "3"}) ImportOk("sql", content);
  v1::ListAdaptersRequest list;
  list.set_page_size(2);
  v1::ListAdaptersResponse page;
  ASSERT_GRPC_OK(adapters_->List(Context().get(), list, &page));
  EXPECT_EQ(page.adapters_size(), 2);
  list.set_page_token(page.next_page_token());
  ASSERT_GRPC_OK(adapters_->List(Context().get(), list, &page));
  EXPECT_EQ(page.adapters_size(), 1);
  EXPECT_EQ(page.next_page_token(), "");
  list.set_name("sql");
  EXPECT_GRPC(adapters_->List(Context().get(), list, &page), INVALID_ARGUMENT, "page_token");
  v1::SetAliasRequest set;
  set.set_alias("bot");
  set.set_adapter("sql");
  v1::Alias alias;
  ASSERT_GRPC_OK(adapters_->SetAlias(Context().get(), set, &alias));
  v1::ListAliasesResponse aliases;
  ASSERT_GRPC_OK(adapters_->ListAliases(Context().get(), {}, &aliases));
  ASSERT_EQ(aliases.aliases_size(), 1);
  v1::DeleteAdapterRequest remove;
  remove.set_adapter(alias.adapter());
  v1::DeleteAdapterResponse removed;
  const grpc::Status status = adapters_->Delete(Context().get(), remove, &removed);
  EXPECT_GRPC(status, FAILED_PRECONDITION, "alias");
  EXPECT_EQ(Reason(status), "ADAPTER_IN_USE");
}

}  // namespace
}  // namespace lorad::server
