// RETURN_IF_ERROR / ASSIGN_OR_RETURN for absl::Status.
// Written here because the packaged Abseil (20220623) predates
// absl/status/status_macros.h (20260526). Delete when the floor moves.
#ifndef LORAD_ENGINE_CORE_STATUS_MACROS_H_
#define LORAD_ENGINE_CORE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                                      \
  do {                                                             \
    if (absl::Status status_ = (expr); !status_.ok()) [[unlikely]] \
      return status_;                                              \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL_(STATUS_CONCAT_(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) [[unlikely]]                  \
    return tmp.status();                       \
  lhs = *std::move(tmp)
#define STATUS_CONCAT_(a, b) STATUS_CONCAT_INNER_(a, b)
#define STATUS_CONCAT_INNER_(a, b) a##b

#endif  // LORAD_ENGINE_CORE_STATUS_MACROS_H_
