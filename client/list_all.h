// Internal to client/: all pages of a List call.
#ifndef LORAD_CLIENT_LIST_ALL_H_
#define LORAD_CLIENT_LIST_ALL_H_

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"

namespace lorad::client {

// `call` is (ClientContext*, const Request&, Reply*) -> grpc::Status; `items` gives a reply's
// repeated field.
template <typename Item, typename Reply, typename Request, typename Call, typename Items>
absl::StatusOr<std::vector<Item>> ListAll(Connection& connection, Request request, Call call,
                                          Items items) {
  std::vector<Item> all;
  do {
    auto reply = connection.Unary<Reply>({.idempotent = true}, [&](auto* context, auto* out) {
      return call(context, request, out);
    });
    if (!reply.ok()) return reply.status();
    for (Item& item : *items(*reply)) all.push_back(std::move(item));
    request.set_page_token(reply->next_page_token());
  } while (!request.page_token().empty());
  return all;
}

}  // namespace lorad::client

#endif  // LORAD_CLIENT_LIST_ALL_H_
