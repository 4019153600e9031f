#include "client/cli/training_flags.h"

#include <limits>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/errors.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace lorad::client::cli {
namespace {

using google::protobuf::FieldDescriptor;

struct FieldHelp {
  const char* help;
  const char* default_value;
};

// What --help says of each field; training_flags_test.cc checks that none is missing.
const std::map<std::string, FieldHelp>& Help() {
  static const auto* const help = new std::map<std::string, FieldHelp>{
      {"r", {"LoRA rank", "16"}},
      {"lora_alpha", {"the update is scaled by lora_alpha / r", "16"}},
      {"lora_dropout", {"probability of dropping an input of the adapter, [0, 1)", "0"}},
      {"target_modules",
       {"linear layers that get an adapter: names (q_proj,v_proj), all-linear, or regex:...",
        "all-linear"}},
      {"use_rslora", {"scale by lora_alpha / sqrt(r)", "false"}},
      {"warm_start", {"adapter to start from: name, name@version or alias", ""}},
      {"learning_rate", {"peak learning rate", "2e-4"}},
      {"lr_scheduler_type", {"constant, constant_with_warmup, linear or cosine", "linear"}},
      {"warmup_steps", {"optimiser steps over which the rate rises; wins over warmup_ratio", "0"}},
      {"warmup_ratio", {"the same as a share of all steps, [0, 1]", "0"}},
      {"num_train_epochs", {"passes over the training data, fractions allowed", "3"}},
      {"max_steps", {"optimiser steps; above 0 it wins over num_train_epochs", "0"}},
      {"micro_batch_size", {"rows of max_seq_length tokens with packing, samples without", "8"}},
      {"gradient_accumulation_steps", {"micro-batches per optimiser step", "1"}},
      {"max_seq_length",
       {"longest row in tokens; longer samples are cut and counted", "1024 or the context"}},
      {"packing", {"several samples share a row, their attention kept apart", "true"}},
      {"shuffle", {"a new order of the samples each epoch, by seed", "true"}},
      {"max_grad_norm", {"gradients are scaled down to this global norm; 0: off", "1"}},
      {"weight_decay", {"decoupled weight decay of AdamW", "0"}},
      {"adam_beta1", {"[0, 1)", "0.9"}},
      {"adam_beta2", {"[0, 1)", "0.999"}},
      {"adam_epsilon", {"above 0", "1e-8"}},
      {"optim",
       {"adamw_torch, adamw_8bit, or with the moments in host memory: paged_adamw_32bit, "
        "paged_adamw_8bit",
        "adamw_torch"}},
      {"eval_steps", {"evaluate every so many optimiser steps; 0: once an epoch", "0"}},
      {"save_steps", {"checkpoint every so many optimiser steps; 0: once an epoch", "0"}},
      {"serve_checkpoints",
       {"adapters of checkpoints serve under the job's name, from memory, while it trains; one is "
        "passed over while another is on its way",
        "false"}},
      {"logging_steps", {"a step event every so many optimiser steps", "1"}},
      {"early_stopping_patience",
       {"stop after so many evaluations without a lower loss; 0: off", "0"}},
      {"seed",
       {"of initialisation, order and dropout; the same seed, data and spec give the same "
        "adapter, bit for bit",
        "0"}},
      {"activation_checkpointing",
       {"none, every_layer, every_k:K, sqrt or offload: saves memory, costs time; auto: what the "
        "memory needs",
        "auto"}},
  };
  return *help;
}

OptionType TypeOf(const FieldDescriptor& field) {
  if (field.is_repeated()) return OptionType::kList;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return OptionType::kInt;
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return OptionType::kUint;
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return OptionType::kDouble;
    case FieldDescriptor::CPPTYPE_BOOL:
      return OptionType::kBool;
    default:
      return OptionType::kText;
  }
}

absl::Status SetField(const Arguments& arguments, const FieldDescriptor& field,
                      v1::TrainingSpec& spec) {
  const auto* reflection = v1::TrainingSpec::GetReflection();
  const std::string& name = field.name();
  if (field.is_repeated()) {
    for (std::string& item : arguments.List(name)) {
      reflection->AddString(&spec, &field, std::move(item));
    }
    return absl::OkStatus();
  }
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      const int64_t value = arguments.Int(name);
      using Limits = std::numeric_limits<int32_t>;
      if (value < Limits::min() || value > Limits::max()) {
        return UsageError(absl::StrCat("--", name, "=", value, ": more than 32 bits"));
      }
      reflection->SetInt32(&spec, &field, static_cast<int32_t>(value));
      break;
    }
    case FieldDescriptor::CPPTYPE_INT64:
      reflection->SetInt64(&spec, &field, arguments.Int(name));
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      reflection->SetUInt64(&spec, &field, arguments.Uint(name));
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      reflection->SetDouble(&spec, &field, arguments.Double(name));
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      reflection->SetBool(&spec, &field, arguments.Bool(name));
      break;
    case FieldDescriptor::CPPTYPE_STRING:
      reflection->SetString(&spec, &field, arguments.Text(name));
      break;
    default:
      return UsageError(absl::StrCat("--", name, " cannot be given on the command line"));
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<Option>& TrainingOptions() {
  static const auto* const options = [] {
    auto* all = new std::vector<Option>;
    const auto* descriptor = v1::TrainingSpec::descriptor();
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const FieldDescriptor& field = *descriptor->field(i);
      const auto help = Help().find(field.name());
      const FieldHelp text = help == Help().end() ? FieldHelp{"", ""} : help->second;
      all->push_back({field.name(), TypeOf(field), "", text.help, text.default_value});
    }
    return all;
  }();
  return *options;
}

absl::Status SetTraining(const Arguments& arguments, v1::TrainingSpec& spec) {
  const auto* descriptor = v1::TrainingSpec::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    if (!arguments.Has(field.name())) continue;
    if (absl::Status status = SetField(arguments, field, spec); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace lorad::client::cli
