#include "engine/train/job_setup.h"

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "engine/plan/activation_checkpointing.h"
#include "engine/train/data_stream.h"
#include "engine/train/job_memory.h"
#include "engine/train/lora_init.h"
#include "engine/train/output.h"
#include "engine/train/spec_check.h"

namespace lorad {
namespace {

PackingOptions MakePacking(const TrainingSpec& spec) {
  return {.packing = spec.packing,
          .shuffle = spec.shuffle,
          .seed = spec.seed,
          .max_seq_length = spec.max_seq_length,
          .micro_batch_size = spec.micro_batch_size,
          .accumulation_steps = spec.gradient_accumulation_steps};
}

absl::StatusOr<LearningRateSchedule> MakeSchedule(const TrainingSpec& spec, int64_t num_steps) {
  return LearningRateSchedule::Create(spec.lr_scheduler_type, spec.learning_rate, spec.warmup_steps,
                                      spec.warmup_ratio, num_steps);
}

absl::StatusOr<HostAdapter> MakeAdapter(const TrainingSpec& spec, const ModelConfig& config) {
  if (spec.warm_start_dir.empty()) return InitialAdapter(spec.lora, config, spec.seed);
  return WarmStartAdapter(spec.lora, config, spec.warm_start_dir);
}

TokenCounts CountTokens(const JobSetup& setup) {
  TokenCounts tokens;
  tokens.micro_batch = MaxMicroBatchTokens(setup.train, setup.packing);
  // A step never reaches past the end of an epoch.
  tokens.step = std::min(tokens.micro_batch * setup.spec.gradient_accumulation_steps,
                         setup.train.report.tokens);
  if (setup.eval) tokens.eval_micro_batch = MaxMicroBatchTokens(*setup.eval, setup.packing);
  return tokens;
}

absl::Status FillPlan(JobSetup& setup, Backend& backend) {
  TrainingPlan& plan = setup.plan;
  plan.train = setup.train.report;
  if (setup.eval) plan.eval = setup.eval->report;
  plan.trainable_parameters = setup.initial.num_parameters();
  plan.adapted_modules = static_cast<int64_t>(setup.initial.modules.size());
  setup.tokens = CountTokens(setup);
  setup.pass.max_seqlen = setup.train.report.longest_sample_tokens;
  const int64_t num_layers = setup.model->config().num_layers;
  ASSIGN_OR_RETURN(const ActivationPolicy policy,
                   ParseActivationPolicy(setup.spec.activation_checkpointing, num_layers));
  setup.pass.checkpointing = policy.checkpointing;
  if (policy.fits_to_memory) {
    ASSIGN_OR_RETURN(setup.pass.checkpointing, FitCheckpointing(setup, backend));
  }
  plan.activation_checkpointing = Describe(setup.pass.checkpointing, num_layers);
  ASSIGN_OR_RETURN(const TrainingMemoryNeeds needs,
                   MeasureJob(setup, backend, setup.pass.checkpointing));
  plan.adapter_bytes = needs.adapter_bytes;
  plan.activation_bytes = needs.activation_bytes;
  plan.workspace_bytes = needs.workspace_bytes;
  plan.peak_bytes = needs.peak_bytes;
  plan.pinned_bytes = needs.pinned_bytes;
  return CheckMemoryFits(plan.peak_bytes, setup, backend);
}

std::string TokenDigest(const TokenDataset& dataset) {
  Sha256 sha;
  for (const std::vector<int32_t>* values : {&dataset.ids, &dataset.labels})
    sha.Update({reinterpret_cast<const char*>(values->data()), values->size() * sizeof(int32_t)});
  sha.Update({reinterpret_cast<const char*>(dataset.begins.data()),
              dataset.begins.size() * sizeof(int64_t)});
  return sha.HexDigest();
}

std::string Text(double value) { return absl::StrFormat("%.17g", value); }
std::string Text(bool value) { return value ? "true" : "false"; }

// Paths, logging_steps, save_steps and activation_checkpointing change nothing in the result. Nor
// does paging, but a checkpoint goes with the optim that wrote it.
JobIdentity MakeIdentity(const JobSetup& setup) {
  const TrainingSpec& spec = setup.spec;
  JobIdentity identity = {
      {"base_model", setup.model->digest()},
      {"train_data", setup.train.sha256},
      {"train_tokens", TokenDigest(setup.train)},
      {"initial_adapter", AdapterDigest(setup.initial)},
      {"lora_dropout", Text(spec.lora.lora_dropout)},
      {"max_seq_length", absl::StrCat(spec.max_seq_length)},
      {"packing", Text(spec.packing)},
      {"shuffle", Text(spec.shuffle)},
      {"learning_rate", Text(spec.learning_rate)},
      {"lr_scheduler_type", spec.lr_scheduler_type},
      {"warmup_steps", absl::StrCat(setup.schedule.warmup_steps())},
      {"steps", absl::StrCat(setup.plan.steps)},
      {"micro_batch_size", absl::StrCat(spec.micro_batch_size)},
      {"gradient_accumulation_steps", absl::StrCat(spec.gradient_accumulation_steps)},
      {"max_grad_norm", Text(spec.max_grad_norm)},
      {"weight_decay", Text(spec.weight_decay)},
      {"adam_beta1", Text(spec.adam_beta1)},
      {"adam_beta2", Text(spec.adam_beta2)},
      {"adam_epsilon", Text(spec.adam_epsilon)},
      {"eval_steps", absl::StrCat(spec.eval_steps)},
      {"early_stopping_patience", absl::StrCat(spec.early_stopping_patience)},
      {"seed", absl::StrCat(spec.seed)}};
  // Unset where it is the default, as in checkpoints from before there was a choice.
  if (setup.optimizer != OptimizerKind::kAdamW) identity["optim"] = spec.optim;
  if (setup.eval) {
    identity["eval_data"] = setup.eval->sha256;
    identity["eval_tokens"] = TokenDigest(*setup.eval);
  }
  return identity;
}

absl::Status CheckDirectories(JobSetup& setup, const ModelConfig& config) {
  if (!setup.spec.checkpoint_dir.empty()) {
    ASSIGN_OR_RETURN(setup.checkpoint,
                     ReadNewestCheckpoint(setup.spec.checkpoint_dir, setup.identity, config));
  }
  // A job that resumes may have written its output just before it was interrupted.
  if (setup.checkpoint.snapshot) return absl::OkStatus();
  return CheckOutputUnused(setup.spec.output_dir);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobSetup>> PrepareJob(const TrainingSpec& spec,
                                                     std::shared_ptr<const Model> model,
                                                     const Tokenizer* tokenizer, Backend& backend) {
  const ModelConfig& config = model->config();
  RETURN_IF_ERROR(CheckTrainingSpec(spec));
  // Before files are read; FillPlan settles the policy.
  RETURN_IF_ERROR(ParseActivationPolicy(spec.activation_checkpointing, config.num_layers).status());
  ASSIGN_OR_RETURN(const OptimizerKind optimizer, ParseOptimizerKind(spec.optim));
  ASSIGN_OR_RETURN(LearningRateSchedule schedule, MakeSchedule(spec, /*num_steps=*/1));
  ASSIGN_OR_RETURN(HostAdapter initial, MakeAdapter(spec, config));
  ASSIGN_OR_RETURN(TokenDataset train,
                   ReadDataset(spec.train_path, spec.max_seq_length, config, tokenizer));
  auto setup = std::make_unique<JobSetup>(JobSetup{
      .spec = spec,
      .model = std::move(model),
      .train = std::move(train),
      .eval = std::nullopt,
      .packing = MakePacking(spec),
      .initial = std::move(initial),
      .pass = {.backward = true, .checkpointing = {}, .dropout = spec.lora.lora_dropout > 0},
      .optimizer = optimizer,
      .schedule = schedule,
      .tokens = {},
      .plan = {},
      .identity = {},
      .checkpoint = {}});
  if (!spec.eval_path.empty()) {
    ASSIGN_OR_RETURN(setup->eval,
                     ReadDataset(spec.eval_path, spec.max_seq_length, config, tokenizer));
  }
  setup->plan.steps = spec.max_steps > 0
                          ? spec.max_steps
                          : CountSteps(setup->train, setup->packing, spec.num_train_epochs);
  ASSIGN_OR_RETURN(setup->schedule, MakeSchedule(spec, setup->plan.steps));
  RETURN_IF_ERROR(FillPlan(*setup, backend));
  setup->identity = MakeIdentity(*setup);
  RETURN_IF_ERROR(CheckDirectories(*setup, config));
  return setup;
}

}  // namespace lorad
