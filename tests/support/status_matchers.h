// gtest matchers for absl::Status (the packaged Abseil predates absl/status/status_matchers.h).
#ifndef LORAD_TESTS_SUPPORT_STATUS_MATCHERS_H_
#define LORAD_TESTS_SUPPORT_STATUS_MATCHERS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorad {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

// The code is `code` and the message contains `substring`.
MATCHER_P2(StatusIs, code, substring, "") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         std::string(status.message()).find(substring) != std::string::npos;
}

#define ASSERT_OK(expression) ASSERT_THAT(expression, ::lorad::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT(expression, ::lorad::IsOk())
#define ASSERT_OK_AND_ASSIGN(lhs, rexpr) \
  ASSERT_OK_AND_ASSIGN_IMPL_(STATUS_CONCAT_(assign_or_, __LINE__), lhs, rexpr)
#define ASSERT_OK_AND_ASSIGN_IMPL_(tmp, lhs, rexpr) \
  auto tmp = (rexpr);                               \
  ASSERT_TRUE(tmp.ok()) << tmp.status();            \
  lhs = *std::move(tmp)

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_STATUS_MATCHERS_H_
