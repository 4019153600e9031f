#include "server/rpc/adapter_service.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/base/names.h"
#include "server/rpc/adapter_files.h"
#include "server/rpc/calls.h"
#include "server/rpc/paging.h"

namespace lorad::server {
namespace {

constexpr char kAliasList[] = "aliases";

absl::StatusOr<ResolvedAdapter> ResolveRequired(const Services& services,
                                                const std::string& adapter) {
  if (adapter.empty()) return FieldError("adapter", "is required");
  return services.adapters->Resolve(adapter);
}

}  // namespace

grpc::ServerReadReactor<v1::ImportAdapterRequest>* AdapterServiceImpl::Import(
    grpc::CallbackServerContext*, v1::ImportAdapterResponse* response) {
  return StartImport(services_, response);
}

grpc::ServerWriteReactor<v1::ExportAdapterResponse>* AdapterServiceImpl::Export(
    grpc::CallbackServerContext*, const v1::ExportAdapterRequest* request) {
  return StartExport(services_, *request);
}

grpc::ServerUnaryReactor* AdapterServiceImpl::Get(grpc::CallbackServerContext* context,
                                                  const v1::GetAdapterRequest* request,
                                                  v1::Adapter* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ResolvedAdapter adapter,
                     ResolveRequired(*services_, request->adapter()));
    ASSIGN_OR_RETURN(*response, services_->adapters->Get(adapter.ref));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::List(grpc::CallbackServerContext* context,
                                                   const v1::ListAdaptersRequest* request,
                                                   v1::ListAdaptersResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    const std::string list = absl::StrCat("adapters ", request->name());
    ASSIGN_OR_RETURN(const int limit, PageSize(request->page_size()));
    ASSIGN_OR_RETURN(std::string position, DecodePageToken(list, request->page_token()));
    const std::vector<v1::Adapter> page =
        services_->adapters->List(request->name(), limit, position);
    response->mutable_adapters()->Assign(page.begin(), page.end());
    response->set_next_page_token(EncodePageToken(list, position));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::Delete(grpc::CallbackServerContext* context,
                                                     const v1::DeleteAdapterRequest* request,
                                                     v1::DeleteAdapterResponse*) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ResolvedAdapter adapter,
                     ResolveRequired(*services_, request->adapter()));
    RETURN_IF_ERROR(services_->jobs->CheckAdapterUnused(adapter.ref));
    return services_->adapters->Delete(request->adapter());
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::SetAlias(grpc::CallbackServerContext* context,
                                                       const v1::SetAliasRequest* request,
                                                       v1::Alias* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    RETURN_IF_ERROR(CheckName("alias", request->alias()));
    std::optional<std::string> expected;
    if (request->has_expected_adapter()) expected = request->expected_adapter();
    ASSIGN_OR_RETURN(*response,
                     services_->adapters->SetAlias(request->alias(), request->adapter(), expected));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::ListAliases(grpc::CallbackServerContext* context,
                                                          const v1::ListAliasesRequest* request,
                                                          v1::ListAliasesResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const int limit, PageSize(request->page_size()));
    ASSIGN_OR_RETURN(std::string position, DecodePageToken(kAliasList, request->page_token()));
    const std::vector<v1::Alias> page = services_->adapters->ListAliases(limit, position);
    response->mutable_aliases()->Assign(page.begin(), page.end());
    response->set_next_page_token(EncodePageToken(kAliasList, position));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::Load(grpc::CallbackServerContext* context,
                                                   const v1::LoadAdapterRequest* request,
                                                   v1::Adapter* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotDraining(*services_));
    ASSIGN_OR_RETURN(const ResolvedAdapter adapter,
                     ResolveRequired(*services_, request->adapter()));
    RETURN_IF_ERROR(services_->engine->LoadAdapter(adapter.id));
    ASSIGN_OR_RETURN(*response, services_->adapters->Get(adapter.ref));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::Unload(grpc::CallbackServerContext* context,
                                                     const v1::UnloadAdapterRequest* request,
                                                     v1::Adapter* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ResolvedAdapter adapter,
                     ResolveRequired(*services_, request->adapter()));
    // Bounded even when the caller set no deadline: the thread is one of a few.
    const absl::Time latest = absl::Now() + absl::Seconds(60);
    const absl::Time deadline = absl::FromChrono(context->deadline());
    RETURN_IF_ERROR(
        services_->engine->UnloadAdapter(adapter.id, deadline < latest ? deadline : latest));
    ASSIGN_OR_RETURN(*response, services_->adapters->Get(adapter.ref));
    return absl::OkStatus();
  });
}

}  // namespace lorad::server
