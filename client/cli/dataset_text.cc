#include "client/cli/dataset_text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/table.h"

namespace lorad::client::cli {

std::string DatasetKindName(v1::DatasetKind kind) {
  return absl::AsciiStrToLower(v1::DatasetKind_Name(kind).substr(sizeof("DATASET_KIND_") - 1));
}

std::string DatasetReportText(const v1::DatasetReport& report) {
  return KeyValues({
      {"kind", DatasetKindName(report.kind())},
      {"samples", absl::StrCat(report.samples())},
      {"tokens", absl::StrCat(report.tokens())},
      {"target tokens", absl::StrCat(report.target_tokens())},
      {"longest sample", absl::StrCat(report.longest_sample_tokens(), " tokens")},
      {"cut samples", absl::StrCat(report.truncated_samples())},
  });
}

std::string DatasetText(const v1::Dataset& dataset) {
  return absl::StrCat(KeyValues({
                          {"dataset", dataset.name()},
                          {"sha256", dataset.sha256()},
                          {"size", FormatBytes(dataset.size_bytes())},
                          {"created", TimeText(dataset.create_time())},
                      }),
                      DatasetReportText(dataset.report()));
}

}  // namespace lorad::client::cli
