#include "engine/train/job_memory.h"

#include <algorithm>
#include <limits>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/checkpointing.h"
#include "engine/plan/memory.h"
#include "engine/plan/memory_plan.h"

namespace lorad {
namespace {

// The planner's names as a TrainingSpec has them.
std::string SpecField(const std::string& name) {
  if (name == "activations") return "activation_checkpointing";
  if (name == "batch") return "micro_batch_size";
  if (name == "accumulation") return "gradient_accumulation_steps";
  if (name == "rank") return "r";
  if (name == "seq") return "max_seq_length";
  return name;
}

// "it would fit with optim=paged_adamw_32bit (what that costs), then ...", or that nothing helps.
std::string Advice(const JobSetup& setup, Backend& backend) {
  const MemoryRequest request = PlanRequestOf(setup, backend);
  const auto advice = AdviseMemory(request, request.budget_bytes, /*keeps_base=*/true);
  if (!advice.ok() || advice->empty()) return "lower micro_batch_size or max_seq_length";
  std::string text =
      advice->back().fits ? "it would fit with " : "nothing makes it fit; what helps most is ";
  const char* separator = "";
  for (const MemoryAdvice& one : *advice) {
    absl::StrAppend(&text, separator);
    for (const MemoryAdvice::Setting& setting : one.settings)
      absl::StrAppend(&text, SpecField(setting.name), "=", setting.value, " ");
    absl::StrAppend(&text, "(", one.cost, ")");
    separator = ", then ";
  }
  return text;
}

// Of a job whose layers are computed again one by one.
absl::StatusOr<LayerChain> MeasureChain(const JobSetup& setup, Backend& backend) {
  const ModelConfig& config = setup.model->config();
  LayerChain chain;
  chain.num_layers = config.num_layers;
  chain.input_bytes =
      TensorBytes(backend.activation_dtype(), setup.tokens.micro_batch * config.hidden_size);
  ASSIGN_OR_RETURN(const TrainingMemoryNeeds one,
                   MeasureJob(setup, backend, {.layers_per_segment = 1, .kept_layers = 1}));
  ASSIGN_OR_RETURN(const TrainingMemoryNeeds two,
                   MeasureJob(setup, backend, {.layers_per_segment = 1, .kept_layers = 2}));
  // A layer more that is kept is an input less.
  chain.layer_bytes = two.peak_bytes - one.peak_bytes + chain.input_bytes;
  chain.fixed_bytes = one.peak_bytes - chain.num_layers * chain.input_bytes - chain.layer_bytes;
  return chain;
}

}  // namespace

int64_t TrainingRoom(Backend& backend) {
  const int64_t limit = backend.allocator().Usage(MemoryTag::kTraining).limit_bytes;
  if (limit != 0) return limit;
  int64_t room = backend.info().memory_bytes;
  if (room == 0) return std::numeric_limits<int64_t>::max();  // not known
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const auto tag = static_cast<MemoryTag>(i);
    if (tag != MemoryTag::kTraining && tag != MemoryTag::kPinned)  // kPinned: the host's
      room -= backend.allocator().Usage(tag).used_bytes;
  }
  return room;
}

MemoryRequest PlanRequestOf(const JobSetup& setup, Backend& backend) {
  MemoryRequest request;
  request.model = setup.model->config();
  request.mode = PlanMode::kQlora;
  const QuantSpec& quant = setup.model->quant();
  request.precision = PrecisionOf(quant.format);
  request.quant_block = quant.block;
  request.double_quant = quant.double_quant;
  for (const AdapterModule& module : setup.initial.modules) {
    int64_t& rank = request.ranks[static_cast<int>(module.id.projection)];
    rank = std::max<int64_t>(rank, module.rank);
  }
  request.dropout = setup.pass.dropout;
  request.batch = std::min<int64_t>(setup.spec.micro_batch_size, setup.tokens.micro_batch);
  request.sequence = std::max<int64_t>(1, setup.tokens.micro_batch / request.batch);
  request.accumulation = setup.spec.gradient_accumulation_steps;
  request.optimizer = setup.optimizer;
  request.checkpointing = setup.spec.activation_checkpointing;
  request.device = backend.info().kind == "cpu" ? PlanDevice::kCpu : PlanDevice::kCuda;
  request.cpu_threads = std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
  const int64_t room = TrainingRoom(backend);
  if (room < std::numeric_limits<int64_t>::max())
    request.budget_bytes = std::max<int64_t>(0, room) + ModelWeightBytes(request.model, quant);
  return request;
}

absl::StatusOr<TrainingMemoryNeeds> MeasureJob(const JobSetup& setup, Backend& backend,
                                               const ActivationCheckpointing& checkpointing) {
  PassOptions pass = setup.pass;
  pass.checkpointing = checkpointing;
  return MeasureTrainingMemory(*setup.model, backend, setup.initial, pass, setup.tokens,
                               setup.optimizer);
}

absl::StatusOr<ActivationCheckpointing> FitCheckpointing(const JobSetup& setup, Backend& backend) {
  const int64_t room = TrainingRoom(backend), num_layers = setup.model->config().num_layers;
  for (const bool keeps_act : {true, false}) {
    const ActivationCheckpointing all = {.layers_per_segment = num_layers, .keeps_act = keeps_act};
    ASSIGN_OR_RETURN(const TrainingMemoryNeeds needs, MeasureJob(setup, backend, all));
    if (needs.peak_bytes <= room) return all;
  }
  // A chain is measured by a layer more and a layer less.
  if (num_layers < 3) return ActivationCheckpointing{.layers_per_segment = 1, .offload = true};
  ASSIGN_OR_RETURN(const LayerChain chain, MeasureChain(setup, backend));
  int64_t budget = room;
  // An eval set whose batches are larger counts on top: what is proposed is measured whole, and the
  // budget falls by at least a byte until it fits.
  while (true) {
    const ActivationCheckpointing best = FitSegments(chain, budget);
    if (best.offload) return best;
    ASSIGN_OR_RETURN(const TrainingMemoryNeeds needs, MeasureJob(setup, backend, best));
    if (needs.peak_bytes <= room) return best;
    budget = std::min(budget - (needs.peak_bytes - room), SegmentsCost(chain, best).peak_bytes - 1);
  }
}

absl::Status CheckMemoryFits(int64_t needed_bytes, const JobSetup& setup, Backend& backend) {
  const int64_t room = TrainingRoom(backend);
  if (needed_bytes <= room) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(Name(MemoryTag::kTraining), " memory: the job needs ", needed_bytes, " bytes, ",
                   room, " are free; ", Advice(setup, backend)));
}

}  // namespace lorad
