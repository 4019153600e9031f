#include "server/config.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "nlohmann/json.hpp"
#include "server/base/listen_address.h"
#include "server/version.h"

ABSL_FLAG(std::string, config, "", "JSON file: an object whose keys are names of these flags.");
ABSL_FLAG(std::string, model, "",
          "Required. Hugging Face directory: config.json, model.safetensors, tokenizer.json.");
ABSL_FLAG(std::string, state_dir, "",
          "Required. Directory for jobs, adapters and datasets; made if missing. One process at a "
          "time owns it.");
ABSL_FLAG(std::string, listen, "127.0.0.1:7430", "host:port for gRPC; port 0 picks a free one.");
ABSL_FLAG(std::string, http_listen, "127.0.0.1:7431",
          "host:port for /metrics, /healthz and /readyz; port 0 picks a free one.");
ABSL_FLAG(std::string, device, "auto", "auto, cpu or cuda:N.");
ABSL_FLAG(std::string, quant, "nf4",
          "How the base model is held: nf4, fp4, int4, int8 or none; with options, such as "
          "nf4,block=64,double_quant=true.");
ABSL_FLAG(bool, quant_head, false,
          "Draw tokens with a copy of the model's head that is quantised like its linears: faster "
          "decoding, for a little memory, and for logits that are a little off.");
ABSL_FLAG(std::string, memory_limit, "0",
          "Device memory to use, such as 40GiB; 0: what there is, less a reserve.");
ABSL_FLAG(int64_t, kv_cache_tokens, 0, "Tokens that the KV cache holds; 0: chosen from memory.");
ABSL_FLAG(std::string, adapter_host_memory, "4GiB",
          "Page-locked host memory for adapters that are ready for the device; the others are read "
          "from disk when they are needed. 0..1024GiB.");
ABSL_FLAG(int32_t, max_batch_tokens, 2048,
          "Tokens of one serving step, prefill included. 1..65536.");
ABSL_FLAG(int32_t, max_running_requests, 64, "Requests that advance together. 1..4096.");
ABSL_FLAG(int32_t, max_queued_requests, 1024, "Requests that may wait. 1..1000000.");
ABSL_FLAG(
    bool, prefix_cache, true,
    "Keep the computed prompts of ended requests in the KV cache's free pages, so that others "
    "that begin with the same tokens skip them. Answers are the same. Whole chunks of a prompt "
    "are shared: 2048 tokens on a GPU, less with --itl_target_ms, 64 with one below 25.6; 256 on "
    "the CPU; never more than max_batch_tokens.");
ABSL_FLAG(int32_t, max_queued_jobs, 64, "Jobs that may wait. 1..10000.");
ABSL_FLAG(
    double, itl_target_ms, 0,
    "What running requests should wait between two tokens while a job trains, at most, in "
    "milliseconds: training takes what decoding leaves of it, and prompts are cut to fit; on a "
    "GPU below 25.6 they share the passes of decoding. "
    "1..60000; 0: no target, and in each step training takes as long as serving did, 10 ms "
    "at most.");
ABSL_FLAG(int32_t, training_patience_steps, 100,
          "With --itl_target_ms: serving steps in a row that left no time for a slice of training, "
          "after which one is run all the same. 1..1000000.");
ABSL_FLAG(int32_t, num_threads, 0, "Threads of the CPU backend. 0..1024; 0: all cores.");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "How long requests in flight may take after SIGTERM.");
ABSL_FLAG(std::string, max_stream_backlog, "1MiB",
          "Output that a Generate stream may have waiting for its reader before it is cut off. "
          "1KiB..1GiB.");
ABSL_FLAG(
    absl::Duration, max_stream_stall, absl::Seconds(30),
    "How long the reader of a stream may take for one message, while more waits, before it is "
    "cut off. 100ms..1h.");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error.");
ABSL_FLAG(bool, check, false, "Check the settings, print the memory plan and exit.");

namespace lorad::server {
namespace {

// What a config file may set.
constexpr const char* kNames[] = {"model",
                                  "state_dir",
                                  "listen",
                                  "http_listen",
                                  "device",
                                  "quant",
                                  "quant_head",
                                  "memory_limit",
                                  "kv_cache_tokens",
                                  "adapter_host_memory",
                                  "max_batch_tokens",
                                  "max_running_requests",
                                  "max_queued_requests",
                                  "prefix_cache",
                                  "max_queued_jobs",
                                  "itl_target_ms",
                                  "training_patience_steps",
                                  "num_threads",
                                  "drain_timeout",
                                  "max_stream_backlog",
                                  "max_stream_stall",
                                  "log_level"};

absl::Status FlagError(absl::string_view flag, absl::string_view value, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": ", what));
}

absl::Status CheckInt(absl::string_view flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return FlagError(flag, absl::StrCat(value), absl::StrCat("is not in ", low, "..", high));
}

absl::StatusOr<LogLevel> ParseLogLevel(const std::string& text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  return FlagError("log_level", text, "is none of debug, info, warning, error");
}

absl::StatusOr<std::string> ScalarText(const nlohmann::json& value, const std::string& key,
                                       absl::string_view where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  return absl::InvalidArgumentError(absl::StrCat(where, ": \"", key, "\" is ", value.type_name(),
                                                 ", not a string, number or "
                                                 "boolean"));
}

// --config=FILE or --config FILE, before Abseil parses the rest over it.
std::string ConfigPath(int argc, char** argv) {
  std::string path;
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (arg == "--") break;
    if (!absl::ConsumePrefix(&arg, "--") && !absl::ConsumePrefix(&arg, "-")) continue;
    if (absl::ConsumePrefix(&arg, "config=")) path = std::string(arg);
    if (arg == "config" && i + 1 < argc) path = argv[i + 1];
  }
  return path;
}

absl::StatusOr<int64_t> ReadBytes(absl::string_view flag, const std::string& text) {
  const absl::StatusOr<int64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return FlagError(flag, text, bytes.status().message());
  return bytes;
}

absl::Status ReadEngineConfig(EngineConfig& engine) {
  engine.model_dir = absl::GetFlag(FLAGS_model);
  engine.device = absl::GetFlag(FLAGS_device);
  engine.quant = absl::GetFlag(FLAGS_quant);
  engine.quant_head = absl::GetFlag(FLAGS_quant_head);
  ASSIGN_OR_RETURN(engine.memory_limit_bytes,
                   ReadBytes("memory_limit", absl::GetFlag(FLAGS_memory_limit)));
  engine.kv_cache_tokens = absl::GetFlag(FLAGS_kv_cache_tokens);
  ASSIGN_OR_RETURN(engine.adapter_host_memory_bytes,
                   ReadBytes("adapter_host_memory", absl::GetFlag(FLAGS_adapter_host_memory)));
  if (engine.adapter_host_memory_bytes > int64_t{1} << 40) {
    return FlagError("adapter_host_memory", absl::GetFlag(FLAGS_adapter_host_memory),
                     "is not in 0..1024GiB");
  }
  engine.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  engine.max_running_requests = absl::GetFlag(FLAGS_max_running_requests);
  engine.max_queued_requests = absl::GetFlag(FLAGS_max_queued_requests);
  engine.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  engine.itl_target_ms = absl::GetFlag(FLAGS_itl_target_ms);
  engine.training_patience_steps = absl::GetFlag(FLAGS_training_patience_steps);
  engine.num_threads = absl::GetFlag(FLAGS_num_threads);
  RETURN_IF_ERROR(CheckInt("kv_cache_tokens", engine.kv_cache_tokens, 0, int64_t{1} << 40));
  RETURN_IF_ERROR(CheckInt("max_batch_tokens", engine.max_batch_tokens, 1, 65536));
  RETURN_IF_ERROR(CheckInt("max_running_requests", engine.max_running_requests, 1, 4096));
  RETURN_IF_ERROR(CheckInt("max_queued_requests", engine.max_queued_requests, 1, 1'000'000));
  if (engine.itl_target_ms != 0 && !(engine.itl_target_ms >= 1 && engine.itl_target_ms <= 60'000)) {
    return FlagError("itl_target_ms", absl::StrCat(engine.itl_target_ms),
                     "is not in 1..60000, nor 0 for no target");
  }
  RETURN_IF_ERROR(
      CheckInt("training_patience_steps", engine.training_patience_steps, 1, 1'000'000));
  return CheckInt("num_threads", engine.num_threads, 0, 1024);
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  absl::string_view digits = text;
  int64_t unit = 1;
  if (absl::ConsumeSuffix(&digits, "GiB")) {
    unit = int64_t{1} << 30;
  } else if (absl::ConsumeSuffix(&digits, "MiB")) {
    unit = int64_t{1} << 20;
  } else if (absl::ConsumeSuffix(&digits, "KiB")) {
    unit = int64_t{1} << 10;
  }
  int64_t count = 0;
  if (!absl::SimpleAtoi(digits, &count) || count < 0 ||
      count > std::numeric_limits<int64_t>::max() / unit) {
    return absl::InvalidArgumentError(
        "is not a number of bytes; give one such as 1073741824, 1GiB or 512MiB");
  }
  return count * unit;
}

absl::Status ApplyConfigJson(const std::string& text, absl::string_view where) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, std::string(where)));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": is not a JSON object"));
  }
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kNames), std::end(kNames), key) == std::end(kNames)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": \"", key, "\" is not a setting; lorad --help lists them"));
    }
    ASSIGN_OR_RETURN(const std::string scalar, ScalarText(value, key, where));
    std::string error;
    if (!absl::FindCommandLineFlag(key)->ParseFrom(scalar, &error)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": \"", key, "\": ", scalar, " cannot be read: ", error));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ServerConfig> ConfigFromFlags() {
  ServerConfig config;
  RETURN_IF_ERROR(ReadEngineConfig(config.engine));
  config.state_dir = absl::GetFlag(FLAGS_state_dir);
  config.listen = absl::GetFlag(FLAGS_listen);
  config.http_listen = absl::GetFlag(FLAGS_http_listen);
  config.max_queued_jobs = absl::GetFlag(FLAGS_max_queued_jobs);
  config.drain_timeout = absl::GetFlag(FLAGS_drain_timeout);
  config.check_only = absl::GetFlag(FLAGS_check);
  ASSIGN_OR_RETURN(config.log_level, ParseLogLevel(absl::GetFlag(FLAGS_log_level)));
  if (config.engine.model_dir.empty()) {
    return FlagError("model", "", "is required: a Hugging Face directory");
  }
  if (config.state_dir.empty() && !config.check_only) {
    return FlagError("state_dir", "", "is required: a directory for jobs, adapters and datasets");
  }
  ASSIGN_OR_RETURN(config.max_stream_backlog_bytes,
                   ReadBytes("max_stream_backlog", absl::GetFlag(FLAGS_max_stream_backlog)));
  if (config.max_stream_backlog_bytes < 1024 || config.max_stream_backlog_bytes > 1 << 30) {
    return FlagError("max_stream_backlog", absl::GetFlag(FLAGS_max_stream_backlog),
                     "is not in 1KiB..1GiB");
  }
  config.max_stream_stall = absl::GetFlag(FLAGS_max_stream_stall);
  if (config.max_stream_stall < absl::Milliseconds(100) ||
      config.max_stream_stall > absl::Hours(1)) {
    return FlagError("max_stream_stall", absl::FormatDuration(config.max_stream_stall),
                     "is not in 100ms..1h");
  }
  RETURN_IF_ERROR(ParseListenAddress("listen", config.listen).status());
  RETURN_IF_ERROR(ParseListenAddress("http_listen", config.http_listen).status());
  RETURN_IF_ERROR(CheckInt("max_queued_jobs", config.max_queued_jobs, 1, 10'000));
  if (config.drain_timeout < absl::ZeroDuration() || config.drain_timeout > absl::Hours(1)) {
    return FlagError("drain_timeout", absl::FormatDuration(config.drain_timeout),
                     "is not in 0s..1h");
  }
  return config;
}

absl::StatusOr<ServerConfig> ReadConfig(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "holds one 4-bit base model, fine-tunes LoRA adapters as jobs and serves many at once.\n"
      "  lorad --model=DIR --state_dir=DIR\n"
      "Prints one line with its addresses when it is ready. SIGTERM ends it gracefully.");
  absl::FlagsUsageConfig usage;
  usage.version_string = [] { return absl::StrCat("lorad ", kVersion, " ", kRevision, "\n"); };
  // --help shows lorad's flags, not those of the libraries.
  usage.contains_help_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "server/config.cc");
  };
  absl::SetFlagsUsageConfig(usage);
  const std::string path = ConfigPath(argc, argv);
  if (!path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    RETURN_IF_ERROR(ApplyConfigJson(text, path));
  }
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", rest[1], "\" is not a flag; lorad takes flags only, see lorad --help"));
  }
  return ConfigFromFlags();
}

}  // namespace lorad::server
