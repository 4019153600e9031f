// The engine's façade: the one engine header, besides engine/core and engine/io, that server/
// includes. engine/README.md is the normative contract of threads, ownership and states.
#ifndef LORAD_ENGINE_ENGINE_H_
#define LORAD_ENGINE_ENGINE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/core/quant_spec.h"
#include "engine/device/memory.h"
#include "engine/engine_observer.h"
#include "engine/infer/request.h"
#include "engine/train/spec.h"

namespace lorad {

class Tokenizer;  // engine/io/tokenizer.h

struct EngineConfig {
  std::string model_dir;        // Hugging Face directory
  std::string device = "auto";  // auto | cpu | cuda:N
  std::string quant = "nf4";    // text of a QuantSpec: nf4 | fp4 | int4 | int8 | none, ",block=N",
                                // ",double_quant=false"
  bool quant_head = false;      // ModelOptions'; with EngineParts: how their model was made
  int64_t memory_limit_bytes = 0;  // of the device; 0: what it has, less a reserve
  int64_t kv_cache_tokens = 0;     // 0: chosen from the memory that is left
  // Of the host, page-locked: adapters that are ready for the device.
  int64_t adapter_host_memory_bytes = int64_t{4} << 30;
  int32_t max_batch_tokens = 2048;    // tokens of one step, prefill included
  int32_t max_running_requests = 64;  // sequences that decode together
  int32_t max_queued_requests = 1024;
  bool prefix_cache = true;  // prompts are kept for others that begin with the same tokens
  // What running requests should wait between two tokens while a job trains beside them, at most:
  // 1 to 60000, or 0: no target, and in each step training takes as long as serving did.
  double itl_target_ms = 0;
  // With a target: served steps in a row without a training slice that was short enough, after
  // which one is run all the same; and passes that decoding shared with prompts after which a
  // larger one is tried.
  int32_t training_patience_steps = 100;
  int32_t num_threads = 0;             // of the CPU backend; 0: all cores
  EngineObserver* observer = nullptr;  // not owned; outlives the engine
};

struct ModelInfo {
  std::string name;          // last part of the directory
  std::string architecture;  // "LlamaForCausalLM"
  std::string digest;        // sha256 of config and weights: what adapters and caches are keyed by
  std::string quant;         // text of the QuantSpec in force
  QuantSpec quant_spec;
  std::string config_json;  // the text of its config.json, for plans
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // on the device
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
  int32_t context_tokens = 0;  // longest sequence
  bool has_tokenizer = false;
  std::string device;       // "cpu", "NVIDIA H200"
  std::string device_kind;  // "cpu" or "cuda"
  std::string device_note;  // why "auto" did not take a GPU; empty otherwise
};

// An adapter's files, read and checked against the base model.
struct AdapterInfo {
  std::string id;  // sha256 of the canonical content: its identity
  int32_t r = 0;   // the largest, where modules differ
  double lora_alpha = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules;
  int64_t adapted_modules = 0;
  int64_t parameters = 0;
  int64_t device_bytes = 0;  // of whole pages
};

enum class AdapterTier { kDisk, kHost, kDevice };
struct AdapterResidency {
  std::string id;
  AdapterTier tier = AdapterTier::kDisk;
  int32_t running_requests = 0;  // that hold it
  int64_t device_bytes = 0;
};

struct EngineStats {
  int32_t queued_requests = 0;
  int32_t running_requests = 0;
  int64_t preemptions = 0;  // since the start: requests that gave their pages back for a time
  int64_t kv_pages = 0, kv_pages_used = 0;  // without the pages that adapters have
  int64_t kv_pages_cached = 0;  // hold prompts that no request uses: free for whoever needs them
  int64_t prefix_query_tokens = 0;    // of the prompts whose answers have begun
  int64_t prefix_hit_tokens = 0;      // of these: not run, because they were run before
  int64_t prefix_evicted_tokens = 0;  // given up for others
  int32_t kv_page_tokens = 0;
  std::array<MemoryUsage, kNumMemoryTags> memory;  // by MemoryTag
  int32_t adapters_device = 0, adapters_host = 0, adapters_disk = 0;
  bool training = false;
  double training_share = 0;  // of the last seconds, 0 to 1
  bool healthy = true;  // false: a device error has poisoned the engine; the process must restart
};

using RequestId = uint64_t;
using TrainingId = uint64_t;

// Thread-safe. One engine thread owns every mutable device object; the calls here check their
// arguments, put work into bounded queues, and return.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual const ModelInfo& model() const = 0;
  // nullptr when the model directory has no tokenizer.json: it serves ids alone.
  virtual const Tokenizer* tokenizer() const = 0;
  virtual EngineStats Stats() const = 0;

  // What Generate would refuse of a constraint, by name. What passes is kept for the requests to
  // come. May take some seconds.
  virtual absl::Status CheckConstraint(const ConstraintSpec& constraint) const = 0;
  // Serving. kInvalidArgument: a parameter out of range, prompt longer than the context.
  // kNotFound: unknown adapter. kResourceExhausted: the queue is full. kUnavailable: shutting down.
  // A request that waits past `deadline` for its first slot, or runs past it, ends with kDeadline.
  virtual absl::StatusOr<RequestId> Generate(GenerateRequest request, absl::Time deadline,
                                             std::shared_ptr<GenerateSink> sink) = 0;
  // Several requests at once: all are accepted, or none is. Ids in the order of `submissions`.
  virtual absl::StatusOr<std::vector<RequestId>> GenerateAll(std::vector<Submission> submissions,
                                                             absl::Time deadline) = 0;
  // The request ends with kCancelled before the next step. No effect on an unknown or ended one.
  virtual void Cancel(RequestId id) = 0;
  // `done` is called once, on the engine thread, unless an error is returned here.
  virtual absl::Status Score(ScoreRequest request,
                             std::function<void(absl::StatusOr<ScoreResult>)> done) = 0;

  // Adapters. Any tensor unmatched, missing, misshapen or not finite is refused by name.
  virtual absl::StatusOr<AdapterInfo> InspectAdapter(const std::string& peft_dir) const = 0;
  // Makes the adapter in `peft_dir` usable by its id; it is read when first used, and again after
  // an eviction, so the directory must stay. Registering it again is no error.
  virtual absl::StatusOr<AdapterInfo> RegisterAdapter(const std::string& peft_dir) = 0;
  // What is known of a registered adapter. kNotFound.
  virtual absl::StatusOr<AdapterInfo> FindAdapter(const std::string& id) const = 0;
  // Forgets the id. Requests in flight end on it; kNotFound for new ones.
  virtual absl::Status UnregisterAdapter(const std::string& id) = 0;
  // Brings it onto the device now. Blocks until done.
  virtual absl::Status LoadAdapter(const std::string& id) = 0;
  // Blocks until the device bytes are free, or `deadline`: requests in flight end first.
  virtual absl::Status UnloadAdapter(const std::string& id, absl::Time deadline) = 0;
  virtual std::vector<AdapterResidency> Adapters() const = 0;

  // Training. Reads and tokenises a dataset: kInvalidArgument names the line and what is wrong.
  virtual absl::StatusOr<DatasetReport> ValidateDataset(const std::string& path,
                                                        int32_t max_seq_length) const = 0;
  // Everything that StartTraining would refuse, and what the job will need; the spec's directories
  // need not be known yet. kResourceExhausted
  // names the needed and the free bytes.
  virtual absl::StatusOr<TrainingPlan> PlanTraining(const TrainingSpec& spec) const = 0;
  // One job runs at a time: kFailedPrecondition while another does.
  virtual absl::StatusOr<TrainingId> StartTraining(const TrainingSpec& spec,
                                                   std::shared_ptr<TrainingSink> sink) = 0;
  // The job stops after the running step; with `checkpoint` it writes one first. OnStopped follows.
  virtual void StopTraining(TrainingId id, bool checkpoint) = 0;

  // Ends gracefully: refuses new work, lets requests in flight end until `deadline`, stops a job
  // with a checkpoint after its running step. Blocks until the engine thread has ended.
  virtual void Shutdown(absl::Time deadline) = 0;
};

// Loads the model and starts the engine thread. kNotFound: a file is missing. kInvalidArgument or
// kUnimplemented: what the model is or has is not supported, by name. kResourceExhausted: memory.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineConfig& config);

// What the arenas will hold, by tag, without loading weights: `lorad --check` prints it.
absl::StatusOr<std::array<int64_t, kNumMemoryTags>> PlanEngineMemory(const EngineConfig& config);

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_H_
