// Flags and the config file.
#include "absl/flags/reflection.h"
#include "gtest/gtest.h"
#include "server/config.h"
#include "tests/support/status_matchers.h"

namespace lorad::server {
namespace {

class ConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(ApplyConfigJson(R"({"model": "m", "state_dir": "s"})", "test"));
  }
  // Reads the settings with this JSON on top of the required ones.
  absl::StatusOr<ServerConfig> With(const std::string& json) {
    RETURN_IF_ERROR(ApplyConfigJson(json, "lorad.json"));
    return ConfigFromFlags();
  }
  absl::FlagSaver saver_;
};

TEST_F(ConfigTest, DefaultsAreSafe) {
  ASSERT_OK_AND_ASSIGN(const ServerConfig config, With("{}"));
  EXPECT_EQ(config.listen, "127.0.0.1:7430");
  EXPECT_EQ(config.http_listen, "127.0.0.1:7431");
  EXPECT_EQ(config.engine.quant, "nf4");
  EXPECT_FALSE(config.engine.quant_head);
  EXPECT_EQ(config.engine.device, "auto");
  EXPECT_EQ(config.engine.memory_limit_bytes, 0);
  EXPECT_TRUE(config.engine.prefix_cache);
  EXPECT_EQ(config.engine.adapter_host_memory_bytes, int64_t{4} << 30);
}

TEST_F(ConfigTest, TakesTheFlagsNames) {
  ASSERT_OK_AND_ASSIGN(const ServerConfig config,
                       With(R"({"listen": "127.0.0.1:0", "memory_limit": "2GiB",
                               "max_batch_tokens": 64, "itl_target_ms": 12.5,
                               "kv_cache_tokens": 4096, "adapter_host_memory": "16GiB",
                               "drain_timeout": "5s", "device": "cpu",
                               "prefix_cache": false})"));
  EXPECT_EQ(config.listen, "127.0.0.1:0");
  EXPECT_EQ(config.engine.memory_limit_bytes, int64_t{2} << 30);
  EXPECT_EQ(config.engine.max_batch_tokens, 64);
  EXPECT_EQ(config.engine.itl_target_ms, 12.5);
  EXPECT_EQ(config.engine.kv_cache_tokens, 4096);
  EXPECT_EQ(config.engine.adapter_host_memory_bytes, int64_t{16} << 30);
  EXPECT_EQ(config.drain_timeout, absl::Seconds(5));
  EXPECT_EQ(config.engine.device, "cpu");
  EXPECT_FALSE(config.engine.prefix_cache);
}

TEST_F(ConfigTest, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(With(R"({"modle": "m"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "lorad.json: \"modle\""));
  EXPECT_THAT(With(R"({"flagfile": "x"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "flagfile"));
  EXPECT_THAT(With(R"({"max_batch_tokens": "many"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "many"));
  EXPECT_THAT(With(R"({"listen": ["x"]})"), StatusIs(absl::StatusCode::kInvalidArgument, "array"));
  EXPECT_THAT(With("[]"), StatusIs(absl::StatusCode::kInvalidArgument, "not a JSON object"));
  EXPECT_THAT(With("{"), StatusIs(absl::StatusCode::kInvalidArgument, "lorad.json"));
  EXPECT_THAT(With(R"({"model": "a", "model": "b"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "model"));
}

TEST_F(ConfigTest, NamesTheFlagTheValueAndTheBound) {
  {
    absl::FlagSaver undo;
    EXPECT_THAT(With(R"({"adapter_host_memory": "1025GiB"})"),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         "--adapter_host_memory=1025GiB: is not in 0..1024GiB"));
  }
  EXPECT_THAT(
      With(R"({"max_batch_tokens": 0})"),
      StatusIs(absl::StatusCode::kInvalidArgument, "--max_batch_tokens=0: is not in 1..65536"));
  absl::FlagSaver undo;
  for (const char* wrong : {"0.5", "-1", "60001", "nan"}) {
    EXPECT_THAT(With(std::string(R"({"max_batch_tokens": 1, "itl_target_ms": ")") + wrong + "\"}"),
                StatusIs(absl::StatusCode::kInvalidArgument, "is not in 1..60000"))
        << wrong;
  }
  EXPECT_THAT(With(R"({"itl_target_ms": 0, "training_patience_steps": 0})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "--training_patience_steps=0"));
  ASSERT_OK(With(R"({"training_patience_steps": 1})"));
  EXPECT_THAT(With(R"({"max_batch_tokens": 1, "memory_limit": "8GB"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "--memory_limit=8GB"));
}

TEST_F(ConfigTest, BoundsWhatASlowReaderMayHold) {
  ASSERT_OK_AND_ASSIGN(const ServerConfig config,
                       With(R"({"max_stream_backlog": "64KiB", "max_stream_stall": "5s"})"));
  EXPECT_EQ(config.max_stream_backlog_bytes, 64 << 10);
  EXPECT_EQ(config.max_stream_stall, absl::Seconds(5));
  EXPECT_THAT(
      With(R"({"max_stream_stall": "50ms"})"),
      StatusIs(absl::StatusCode::kInvalidArgument, "--max_stream_stall=50ms: is not in 100ms..1h"));
  EXPECT_THAT(With(R"({"max_stream_stall": "1s", "max_stream_backlog": "1023"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "--max_stream_backlog=1023"));
}

TEST_F(ConfigTest, RequiresModelAndStateDir) {
  EXPECT_THAT(With(R"({"model": ""})"), StatusIs(absl::StatusCode::kInvalidArgument, "--model"));
  EXPECT_THAT(With(R"({"model": "m", "state_dir": ""})"),
              StatusIs(absl::StatusCode::kInvalidArgument, "--state_dir"));
}

TEST(ParseBytesTest, UnitsAndBounds) {
  EXPECT_EQ(ParseBytes("0").value(), 0);
  EXPECT_EQ(ParseBytes("123").value(), 123);
  EXPECT_EQ(ParseBytes("16KiB").value(), 16 << 10);
  EXPECT_EQ(ParseBytes("3MiB").value(), 3 << 20);
  for (const char* wrong :
       {"", "GiB", "-1", "1.5GiB", "99999999999GiB", "1GB", "9223372036854775808"}) {
    EXPECT_FALSE(ParseBytes(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace lorad::server
