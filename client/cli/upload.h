// Local files as datasets.
#ifndef LORAD_CLIENT_CLI_UPLOAD_H_
#define LORAD_CLIENT_CLI_UPLOAD_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/cli/session.h"
#include "client/datasets.h"

namespace lorad::client::cli {

// Uploads with a progress bar on a terminal. After a failure it says how to continue.
absl::StatusOr<v1::UploadDatasetResponse> UploadWithProgress(Session& session,
                                                             UploadDatasetOptions options);

// The name of a dataset for what --train or --eval was given: a local file is uploaded under
// DatasetNameFor() unless it is there already; anything else is the name of a dataset.
absl::StatusOr<std::string> ResolveDataset(Session& session, const std::string& file_or_dataset);

// "train-2fd4e1c67a2d" for data/train.jsonl: the same content always gets the same name.
std::string DatasetNameFor(std::string_view path, std::string_view sha256);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_UPLOAD_H_
