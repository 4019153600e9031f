#include "client/adapters.h"

#include "absl/strings/str_cat.h"
#include "client/adapter_files.h"
#include "client/list_all.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/adapter_service.grpc.pb.h"

namespace lorad::client {

absl::StatusOr<v1::ImportAdapterResponse> AdapterClient::Import(const std::string& name,
                                                                const std::string& peft_dir) {
  v1::ImportAdapterRequest metadata;
  metadata.mutable_metadata()->set_name(name);
  metadata.mutable_metadata()->set_request_id(NewRequestId());
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  absl::Status local;
  auto reply = connection_->Unary<v1::ImportAdapterResponse>(
      {.idempotent = true, .work = true}, [&](auto* context, auto* out) {
        const auto writer = stub->Import(context, out);
        const auto send = [&](v1::AdapterFileChunk chunk) {
          v1::ImportAdapterRequest request;
          *request.mutable_chunk() = std::move(chunk);
          return writer->Write(request);
        };
        (void)writer->Write(metadata);  // a broken stream is told by Finish
        for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
          if (local.ok()) local = ReadChunks(peft_dir, file, send);
        }
        if (!local.ok()) context->TryCancel();
        writer->WritesDone();
        const grpc::Status status = writer->Finish();
        return local.ok() ? status : StoppedHere();
      });
  RETURN_IF_ERROR(local);
  return reply;
}

absl::StatusOr<v1::Adapter> AdapterClient::Export(const std::string& adapter,
                                                  const std::string& dir) {
  v1::ExportAdapterRequest request;
  request.set_adapter(adapter);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  std::unique_ptr<AdapterWriter> writer;
  v1::Adapter exported;
  absl::Status local;
  const absl::Status status =
      connection_->Run({.idempotent = true, .work = true}, [&](grpc::ClientContext& context) {
        const auto reader = stub->Export(&context, request);
        v1::ExportAdapterResponse reply;
        writer.reset();
        while (local.ok() && reader->Read(&reply)) {
          if (reply.has_adapter()) {
            exported = reply.adapter();
            auto created = AdapterWriter::Create(dir);
            local = created.status();
            if (created.ok()) writer = *std::move(created);
          } else {
            local = writer ? writer->Add(reply.chunk())
                           : absl::DataLossError("the server sent files before the adapter");
          }
        }
        if (!local.ok()) context.TryCancel();
        const grpc::Status status = reader->Finish();
        return local.ok() ? status : StoppedHere();
      });
  RETURN_IF_ERROR(local);
  RETURN_IF_ERROR(status);
  if (!writer) return absl::DataLossError("the server sent nothing");
  RETURN_IF_ERROR(writer->Publish());
  return exported;
}

absl::StatusOr<v1::Adapter> AdapterClient::Get(const std::string& adapter) {
  v1::GetAdapterRequest request;
  request.set_adapter(adapter);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return connection_->Unary<v1::Adapter>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->Get(context, request, out);
  });
}

absl::StatusOr<std::vector<v1::Adapter>> AdapterClient::List(const std::string& name) {
  v1::ListAdaptersRequest request;
  request.set_name(name);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return ListAll<v1::Adapter, v1::ListAdaptersResponse>(
      *connection_, request,
      [&](auto* context, const auto& page, auto* out) { return stub->List(context, page, out); },
      [](auto& reply) { return reply.mutable_adapters(); });
}

absl::Status AdapterClient::Delete(const std::string& adapter) {
  v1::DeleteAdapterRequest request;
  request.set_adapter(adapter);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return connection_
      ->Unary<v1::DeleteAdapterResponse>(
          {}, [&](auto* context, auto* out) { return stub->Delete(context, request, out); })
      .status();
}

absl::StatusOr<v1::Alias> AdapterClient::SetAlias(const std::string& alias,
                                                  const std::string& adapter,
                                                  const std::optional<std::string>& expected) {
  v1::SetAliasRequest request;
  request.set_alias(alias);
  request.set_adapter(adapter);
  if (expected) request.set_expected_adapter(*expected);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  // Not repeated: a compare-and-set whose first answer was lost would find its own effect.
  return connection_->Unary<v1::Alias>(
      {}, [&](auto* context, auto* out) { return stub->SetAlias(context, request, out); });
}

absl::StatusOr<std::vector<v1::Alias>> AdapterClient::ListAliases() {
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return ListAll<v1::Alias, v1::ListAliasesResponse>(
      *connection_, v1::ListAliasesRequest(),
      [&](auto* context, const auto& page, auto* out) {
        return stub->ListAliases(context, page, out);
      },
      [](auto& reply) { return reply.mutable_aliases(); });
}

absl::StatusOr<v1::Adapter> AdapterClient::Load(const std::string& adapter) {
  v1::LoadAdapterRequest request;
  request.set_adapter(adapter);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return connection_->Unary<v1::Adapter>(
      {.idempotent = true, .work = true},
      [&](auto* context, auto* out) { return stub->Load(context, request, out); });
}

absl::StatusOr<v1::Adapter> AdapterClient::Unload(const std::string& adapter) {
  v1::UnloadAdapterRequest request;
  request.set_adapter(adapter);
  const auto stub = v1::AdapterService::NewStub(connection_->channel());
  return connection_->Unary<v1::Adapter>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->Unload(context, request, out);
  });
}

}  // namespace lorad::client
