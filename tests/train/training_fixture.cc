#include "tests/train/training_fixture.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/check.h"
#include "engine/core/philox.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

std::string TokensLine(const std::vector<int32_t>& ids, const std::vector<int32_t>& labels) {
  return absl::StrCat("{\"input_ids\": [", absl::StrJoin(ids, ", "), "], \"labels\": [",
                      absl::StrJoin(labels, ", "), "]}\n");
}

}  // namespace

TrainingFixture::TrainingFixture(const std::string& golden_model)
    : TrainingFixture(golden_model, CreateCpuBackend()) {}

TrainingFixture::TrainingFixture(const std::string& golden_model, std::unique_ptr<Backend> backend)
    : golden_(golden_model), backend_(std::move(backend)) {
  auto model = Model::Load(golden_.model_dir(), QuantSpec{}, *backend_);
  EXPECT_TRUE(model.ok()) << model.status();
  LORAD_CHECK(model.ok());
  model_ = *std::move(model);
}

std::string TrainingFixture::NewDir(const std::string& name) {
  return temp_.File(absl::StrCat(name, "-", dirs_++));
}

TrainingSpec TrainingFixture::GoldenSpec(const std::string& train_path) {
  TrainingSpec spec;
  spec.lora.r = 8;
  spec.lora.lora_alpha = 16;
  spec.warm_start_dir = golden_.AdapterDir("adapter_init");
  spec.train_path = train_path;
  spec.max_seq_length = 48;
  spec.packing = false;
  spec.shuffle = false;
  spec.micro_batch_size = 3;
  spec.max_steps = 8;
  spec.learning_rate = 1e-3;
  spec.lr_scheduler_type = "constant";
  spec.weight_decay = 0.01;
  spec.max_grad_norm = 0.5;
  spec.output_dir = NewDir("out");
  return spec;
}

TrainingSpec TrainingFixture::SmallSpec() {
  TrainingSpec spec;
  spec.lora.r = 4;
  spec.lora.lora_alpha = 8;
  spec.train_path = WriteRandomRows("small.jsonl", 40, 1);
  spec.max_seq_length = 64;
  spec.micro_batch_size = 2;
  spec.gradient_accumulation_steps = 2;
  spec.num_train_epochs = 2;
  spec.learning_rate = 2e-3;
  spec.lr_scheduler_type = "cosine";
  spec.warmup_steps = 2;
  spec.seed = 11;
  spec.output_dir = NewDir("out");
  return spec;
}

std::vector<std::vector<int32_t>> TrainingFixture::GoldenRows(const std::string& tensor) const {
  const std::vector<int32_t> all = golden_.Ints(tensor);
  const int64_t row = golden_.View(tensor).shape[1];
  std::vector<std::vector<int32_t>> rows;
  for (auto begin = all.begin(); begin != all.end(); begin += row)
    rows.emplace_back(begin, begin + row);
  return rows;
}

std::string TrainingFixture::WriteGoldenRows() {
  const auto ids = GoldenRows("input_ids"), labels = GoldenRows("labels");
  std::string lines;
  for (size_t i = 0; i < ids.size(); ++i) lines += TokensLine(ids[i], labels[i]);
  return temp_.Write("golden.jsonl", lines);
}

std::string TrainingFixture::WriteRandomRows(const std::string& name, int samples, uint64_t seed) {
  const auto vocab = static_cast<uint32_t>(model_->config().vocab_size);
  std::string lines;
  for (int s = 0; s < samples; ++s) {
    const PhiloxBlock shape = Philox4x32(seed, s, 0, 0, 1);
    const uint32_t tokens = 4 + shape.words[0] % 37, prompt = 1 + shape.words[1] % (tokens - 2);
    std::vector<int32_t> ids, labels;
    for (uint32_t t = 0; t < tokens; ++t) {
      ids.push_back(static_cast<int32_t>(Philox4x32(seed, s, t, 0, 2).words[0] % vocab));
      labels.push_back(t < prompt ? -100 : ids.back());
    }
    lines += TokensLine(ids, labels);
  }
  return temp_.Write(name, lines);
}

std::shared_ptr<RecordingSink> TrainingFixture::Run(
    const TrainingSpec& spec, const std::function<bool(TrainingJob&, const RecordingSink&)>& stop) {
  auto sink = std::make_shared<RecordingSink>();
  absl::StatusOr<std::unique_ptr<TrainingJob>> job =
      TrainingJob::Create(spec, model_, nullptr, *backend_);
  if (!job.ok()) {
    sink->error = job.status();
    return sink;
  }
  // Errors of Start are in sink->error too.
  if (!(*job)->Start(sink, /*publish=*/nullptr).ok()) return sink;
  while ((*job)->Advance() == TrainingState::kRunning) {
    if ((*job)->waiting()) {  // no slice
      absl::SleepFor(absl::Microseconds(100));
    } else if (stop != nullptr && stop(**job, *sink)) {
      break;
    }
  }
  return sink;
}

}  // namespace lorad
