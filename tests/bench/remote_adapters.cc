#include "tests/bench/remote_adapters.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/lora/peft.h"
#include "tests/bench/random_adapters.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {

absl::StatusOr<std::unique_ptr<RemoteAdapters>> RemoteAdapters::Import(
    std::shared_ptr<client::Connection> connection, const ModelConfig& model, int64_t count,
    int32_t rank, uint64_t seed) {
  std::unique_ptr<RemoteAdapters> adapters(new RemoteAdapters(std::move(connection)));
  const RandomAdapters random(model, rank, seed);
  for (int64_t i = 0; i < count; ++i) {
    const ScratchDir dir;  // of one at a time
    if (!dir.ok()) return absl::UnavailableError("cannot make a folder for temporary files");
    const std::string path = dir.File("adapter");
    RETURN_IF_ERROR(WritePeftAdapter(random.Make(i), path));
    ASSIGN_OR_RETURN(const v1::ImportAdapterResponse imported,
                     adapters->client_.Import(absl::StrCat("bench-grpc-", i), path));
    adapters->refs_.push_back(imported.adapter().ref());
  }
  return adapters;
}

RemoteAdapters::~RemoteAdapters() {
  for (const std::string& ref : refs_) {
    const absl::Status status = client_.Delete(ref);
    if (!status.ok())
      std::fprintf(stderr, "%s stays: %s\n", ref.c_str(), status.ToString().c_str());
  }
}

}  // namespace lorad::bench
