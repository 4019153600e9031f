#include "proto/planner/planner.h"

#include "engine/core/status_macros.h"
#include "engine/plan/presets.h"

namespace lorad::planner {
namespace {

absl::StatusOr<ModelConfig> Read(const v1::PlanModel& model) {
  switch (model.source_case()) {
    case v1::PlanModel::kPreset:
      return FindPreset(model.preset());
    case v1::PlanModel::kConfigJson:
      return ParseModelConfig(model.config_json());
    case v1::PlanModel::SOURCE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("model: name a preset or give a config.json");
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigOf(const v1::PlanModel& model) {
  ASSIGN_OR_RETURN(ModelConfig config, Read(model));
  RETURN_IF_ERROR(CheckPlannable(config));
  return config;
}

}  // namespace lorad::planner
