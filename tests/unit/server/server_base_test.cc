// Errors on the wire, names, page tokens, addresses.
#include "engine/core/status_macros.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "server/base/errors.h"
#include "server/base/listen_address.h"
#include "server/base/names.h"
#include "server/base/thread_pool.h"
#include "server/rpc/paging.h"
#include "tests/support/status_matchers.h"

namespace lorad::server {
namespace {

// The details of one type in a status as it goes over the wire.
template <typename Detail>
std::vector<Detail> Details(const grpc::Status& status) {
  google::rpc::Status proto;
  EXPECT_TRUE(proto.ParseFromString(status.error_details()));
  EXPECT_EQ(proto.code(), static_cast<int>(status.error_code()));
  std::vector<Detail> details;
  for (const auto& any : proto.details()) {
    Detail detail;
    if (any.Is<Detail>() && any.UnpackTo(&detail)) details.push_back(detail);
  }
  return details;
}

TEST(ErrorsTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_OK(WithRetry(WithReason(absl::OkStatus(), "X"), absl::Seconds(1)));
}

TEST(ErrorsTest, EveryErrorHasExactlyOneErrorInfo) {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status = ToGrpc(absl::Status(static_cast<absl::StatusCode>(code), "what"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "what");
    const auto infos = Details<google::rpc::ErrorInfo>(status);
    ASSERT_EQ(infos.size(), 1u);
    EXPECT_EQ(infos[0].domain(), "lorad");
    EXPECT_FALSE(infos[0].reason().empty());
  }
}

TEST(ErrorsTest, AFieldErrorNamesTheField) {
  const grpc::Status status = ToGrpc(FieldError("spec.training.r", "0 must be in [1, 1024]"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "spec.training.r: 0 must be in [1, 1024]");
  const auto bad = Details<google::rpc::BadRequest>(status);
  ASSERT_EQ(bad.size(), 1u);
  EXPECT_EQ(bad[0].field_violations(0).field(), "spec.training.r");
  EXPECT_EQ(Details<google::rpc::ErrorInfo>(status)[0].reason(), "INVALID_FIELD");
}

TEST(ErrorsTest, OnlyAWrongArgumentBecomesAFieldError) {
  EXPECT_THAT(AtField("x", absl::InternalError("oops")),
              StatusIs(absl::StatusCode::kInternal, "oops"));
  EXPECT_TRUE(
      Details<google::rpc::BadRequest>(ToGrpc(AtField("x", absl::InternalError("oops")))).empty());
}

TEST(ErrorsTest, TheFirstReasonStays) {
  const grpc::Status status = ToGrpc(WithReason(
      WithReason(absl::AbortedError("moved"), "ALIAS_MOVED", {{"alias", "a"}}), "OTHER"));
  const auto infos = Details<google::rpc::ErrorInfo>(status);
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].reason(), "ALIAS_MOVED");
  EXPECT_EQ(infos[0].metadata().at("alias"), "a");
}

TEST(ErrorsTest, RetryAndResourceTravel) {
  const auto retry = Details<google::rpc::RetryInfo>(
      ToGrpc(WithRetry(absl::UnavailableError("full"), absl::Milliseconds(1500))));
  ASSERT_EQ(retry.size(), 1u);
  EXPECT_EQ(retry[0].retry_delay().seconds(), 1);
  EXPECT_EQ(retry[0].retry_delay().nanos(), 500'000'000);
  const grpc::Status missing = ToGrpc(NotFound("adapter", "sql", "import it"));
  EXPECT_EQ(missing.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Details<google::rpc::ResourceInfo>(missing)[0].resource_name(), "sql");
  EXPECT_EQ(Details<google::rpc::ErrorInfo>(missing)[0].reason(), "ADAPTER_NOT_FOUND");
}

TEST(ErrorsTest, ALongMessageIsCutAtACharacter) {
  std::string message(1999, 'x');
  for (int i = 0; i < 3000; ++i) message += "\u00e9";
  const grpc::Status status = ToGrpc(absl::InternalError(message));
  EXPECT_EQ(status.error_message(), std::string(1999, 'x') + " ...") << "half an é is left out";
  EXPECT_LT(status.error_details().size(), 4096u);
}

TEST(NamesTest, AcceptsWhatIsSafeEverywhere) {
  for (const char* name : {"a", "sql-v2", "A.b_c-9", "0"})
    EXPECT_OK(CheckName("name", name)) << name;
  EXPECT_OK(CheckName("name", std::string(128, 'a')));
  for (const char* name : {"", "-a", ".hidden", "a/b", "a b", "a@b", "\u00e9", "a\n"}) {
    EXPECT_THAT(CheckName("name", name), StatusIs(absl::StatusCode::kInvalidArgument, "name"))
        << name;
  }
  EXPECT_THAT(CheckName("name", std::string(129, 'a')),
              StatusIs(absl::StatusCode::kInvalidArgument, "129 characters"));
}

TEST(PagingTest, TokensAreGoodForTheirListOnly) {
  const std::string token = EncodePageToken("jobs 3", "17");
  EXPECT_EQ(DecodePageToken("jobs 3", token).value(), "17");
  EXPECT_EQ(DecodePageToken("jobs 3", "").value(), "");
  EXPECT_EQ(EncodePageToken("jobs 3", ""), "") << "no next page";
  for (const std::string& wrong :
       {token + "x", std::string("!!"), EncodePageToken("jobs 4", "17")}) {
    EXPECT_THAT(DecodePageToken("jobs 3", wrong),
                StatusIs(absl::StatusCode::kInvalidArgument, "page_token"));
  }
  EXPECT_EQ(PageSize(0).value(), 100);
  EXPECT_EQ(PageSize(7).value(), 7);
  EXPECT_EQ(PageSize(100'000).value(), 1000);
  EXPECT_THAT(PageSize(-1), StatusIs(absl::StatusCode::kInvalidArgument, "-1"));
}

TEST(ListenAddressTest, ParsesHostsAndPorts) {
  EXPECT_EQ(ParseListenAddress("listen", "127.0.0.1:7430")->port, 7430);
  EXPECT_EQ(ParseListenAddress("listen", "[::1]:0")->host, "::1");
  EXPECT_EQ(WithPort("[::1]:0", 80), "[::1]:80");
  for (const char* wrong : {"7430", ":7430", "localhost:", "localhost:x", "localhost:65536",
                            "::1:80", "[::1:80", "localhost:-1"}) {
    EXPECT_THAT(ParseListenAddress("listen", wrong),
                StatusIs(absl::StatusCode::kInvalidArgument, "--listen"))
        << wrong;
  }
  EXPECT_TRUE(IsLoopback("127.1.2.3"));
  EXPECT_FALSE(IsLoopback("0.0.0.0"));
}

TEST(ThreadPoolTest, RefusesWorkBeyondItsQueueAndRunsTheRestAtTheEnd) {
  std::atomic<int> ran = 0;
  {
    absl::Mutex gate;
    gate.Lock();
    ThreadPool pool(1, 2);
    const auto task = [&] {
      absl::MutexLock lock(&gate);
      ++ran;
    };
    pool.Schedule(task);
    int accepted = 0;
    for (int i = 0; i < 10; ++i) accepted += pool.TrySchedule(task) ? 1 : 0;
    EXPECT_GE(accepted, 1);
    EXPECT_LE(accepted, 2);
    pool.Schedule(task);
    gate.Unlock();
    // The destructor waits for them.
    EXPECT_GE(accepted + 2, 3);
  }
  EXPECT_GE(ran.load(), 3);
}

}  // namespace
}  // namespace lorad::server
