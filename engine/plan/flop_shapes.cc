#include "engine/plan/flop_shapes.h"

#include <algorithm>
#include <string>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/presets.h"

namespace lorad {
namespace {

using Wide = absl::int128;
constexpr int64_t kMostLength = int64_t{1} << 32;  // tokens of a sequence, sequences of a group
constexpr int64_t kMostTokens = int64_t{1} << 40;

absl::Status CheckRange(const std::string& name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be in [", least, ", ", most, "]"));
}

// `times` the groups' tokens are added to `tokens`, which holds those of other groups.
absl::Status AddTokens(absl::Span<const SequenceGroup> sequences, int64_t times, int64_t& tokens) {
  if (sequences.empty()) return absl::InvalidArgumentError("there is no sequence; give at least 1");
  for (const SequenceGroup& group : sequences) {
    RETURN_IF_ERROR(CheckRange("sequence length", group.length, 1, kMostLength));
    RETURN_IF_ERROR(CheckRange("number of sequences", group.count, 1, kMostLength));
    const Wide all = tokens + Wide{group.length} * group.count * times;
    if (all > kMostTokens)
      return absl::InvalidArgumentError(absl::StrCat("there are ", static_cast<double>(all),
                                                     " tokens; at most ", kMostTokens,
                                                     " can be planned for"));
    tokens = static_cast<int64_t>(all);
  }
  return absl::OkStatus();
}

}  // namespace

int64_t MicroBatchShape::tokens() const {
  int64_t sum = 0;
  for (const SequenceGroup& group : sequences) sum += group.length * group.count;
  return sum;
}

int64_t MicroBatchShape::targets() const {
  if (target_tokens >= 0) return target_tokens;
  int64_t sum = 0;
  for (const SequenceGroup& group : sequences) sum += (group.length - 1) * group.count;
  return sum;
}

std::vector<AdaptedModule> AdaptProjections(const ModelConfig& config,
                                            absl::Span<const Projection> projections, int64_t rank,
                                            int64_t first_layer) {
  std::vector<AdaptedModule> modules;
  for (int64_t layer = first_layer; layer < config.num_layers; ++layer)
    for (const Projection p : projections)
      modules.push_back({{static_cast<int32_t>(layer), p}, rank});
  return modules;
}

int64_t AdapterParameterCount(const AdaptedModel& model) {
  int64_t parameters = 0;
  for (const AdaptedModule& module : model.modules)
    parameters += module.rank * (InFeatures(model.config, module.id.projection) +
                                 OutFeatures(model.config, module.id.projection));
  return parameters;
}

absl::Status Check(const AdaptedModel& model) {
  RETURN_IF_ERROR(CheckPlannable(model.config));
  std::vector<bool> seen(model.config.num_layers * kNumProjections);
  for (const AdaptedModule& module : model.modules) {
    RETURN_IF_ERROR(
        CheckRange("layer of an adapted module", module.id.layer, 0, model.config.num_layers - 1));
    const Projection p = module.id.projection;
    const int64_t most = std::min(InFeatures(model.config, p), OutFeatures(model.config, p));
    RETURN_IF_ERROR(
        CheckRange(absl::StrCat("rank of ", std::string(ProjectionName(p))), module.rank, 1, most));
    if (seen[module.id.index()])
      return absl::InvalidArgumentError(
          absl::StrCat(ModulePath(module.id), " is adapted twice; name it once"));
    seen[module.id.index()] = true;
  }
  return absl::OkStatus();
}

absl::Status Check(const AdaptedModel& model, const TrainingShape& shape) {
  RETURN_IF_ERROR(Check(model));
  if (shape.micro_batches.empty())
    return absl::InvalidArgumentError("the step has no micro-batch; give at least 1");
  const int64_t layers = model.config.num_layers;
  RETURN_IF_ERROR(
      CheckRange("layers_per_segment", shape.checkpointing.layers_per_segment, 1, layers));
  RETURN_IF_ERROR(CheckRange("kept_layers", shape.checkpointing.kept_layers, 0, layers));
  int64_t tokens = 0;
  for (const MicroBatchShape& batch : shape.micro_batches) {
    RETURN_IF_ERROR(CheckRange("number of micro-batches", batch.count, 1, kMostLength));
    RETURN_IF_ERROR(AddTokens(batch.sequences, batch.count, tokens));
    RETURN_IF_ERROR(CheckRange("target_tokens", batch.target_tokens, -1, batch.tokens()));
  }
  return absl::OkStatus();
}

absl::Status Check(const AdaptedModel& model, const PrefillShape& shape) {
  RETURN_IF_ERROR(Check(model));
  const SequenceGroup prompts = {shape.prompt_tokens, shape.prompts};
  int64_t tokens = 0;
  RETURN_IF_ERROR(CheckRange("prompt_tokens", shape.prompt_tokens, 1, kMostLength));
  RETURN_IF_ERROR(AddTokens(absl::MakeConstSpan(&prompts, 1), /*times=*/1, tokens));
  RETURN_IF_ERROR(CheckRange("cached_tokens", shape.cached_tokens, 0, shape.prompt_tokens - 1));
  return CheckRange("chunk_tokens", shape.chunk_tokens, 0, kMostLength);
}

absl::Status Check(const AdaptedModel& model, absl::Span<const SequenceGroup> sequences) {
  RETURN_IF_ERROR(Check(model));
  int64_t tokens = 0;
  return AddTokens(sequences, /*times=*/1, tokens);
}

}  // namespace lorad
