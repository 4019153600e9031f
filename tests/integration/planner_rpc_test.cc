// PlannerService over a channel: the server's own model and memory are the defaults.
#include <cmath>
#include <cstdlib>

#include "gmock/gmock.h"
#include "lorad/v1/planner_service.grpc.pb.h"
#include "proto/planner/flops.h"
#include "proto/planner/memory.h"
#include "proto/planner/scaling.h"
#include "tests/integration/server_fixture.h"

namespace lorad::server {
namespace {

class PlannerRpcTest : public ServerTest {
 protected:
  grpc::Status PlanMemory(const v1::PlanMemoryRequest& request, v1::PlanMemoryResponse* response) {
    grpc::ClientContext context;
    return v1::PlannerService::NewStub(channel_)->PlanMemory(&context, request, response);
  }
};

TEST_F(PlannerRpcTest, TheServersModelIsTheDefault) {
  v1::PlanMemoryResponse plan;
  ASSERT_GRPC_OK(PlanMemory({}, &plan));
  EXPECT_EQ(plan.spec().mode(), "qlora");
  EXPECT_EQ(plan.spec().precision(), "nf4");
  EXPECT_EQ(plan.spec().account(), "engine");
  EXPECT_EQ(plan.spec().device(), "cpu");
  EXPECT_GT(plan.parameters(), 0);
  int64_t sum = 0;
  for (const v1::MemoryItem& item : plan.items()) sum += item.bytes();
  EXPECT_EQ(sum, plan.total_bytes());
}

// The server holds its model in 4 bits, which nobody can train.
TEST_F(PlannerRpcTest, FullFineTuningOfTheServersModelIsIn16Bits) {
  v1::PlanMemoryRequest request;
  request.mutable_spec()->set_mode("full");
  v1::PlanMemoryResponse plan;
  ASSERT_GRPC_OK(PlanMemory(request, &plan));
  EXPECT_EQ(plan.spec().precision(), "bf16");
  EXPECT_EQ(plan.trained_parameters(), plan.parameters());
}

TEST_F(PlannerRpcTest, AnswersAsWithoutAServer) {
  v1::PlanMemoryRequest request;
  request.mutable_spec()->mutable_model()->set_preset("llama-65b");
  request.mutable_spec()->set_device("cuda");
  request.set_available_bytes(48'000'000'000);
  v1::PlanMemoryResponse plan;
  ASSERT_GRPC_OK(PlanMemory(request, &plan));
  EXPECT_TRUE(plan.fits());
  const auto local = planner::PlanMemory(request);
  ASSERT_TRUE(local.ok());
  EXPECT_EQ(plan.SerializeAsString(), local->SerializeAsString());
}

TEST_F(PlannerRpcTest, NonsenseIsRefusedByName) {
  v1::PlanMemoryRequest request;
  request.mutable_spec()->mutable_model()->set_preset("gpt-5");
  v1::PlanMemoryResponse plan;
  EXPECT_GRPC(PlanMemory(request, &plan), NOT_FOUND, "no model preset \"gpt-5\"");
  request.mutable_spec()->mutable_model()->set_preset("llama-7b");
  request.mutable_spec()->set_batch(-1);
  EXPECT_GRPC(PlanMemory(request, &plan), INVALID_ARGUMENT, "batch is -1; it must be in [1, ");
  request.mutable_spec()->mutable_model()->set_config_json("{}");
  EXPECT_GRPC(PlanMemory(request, &plan), INVALID_ARGUMENT, "config");
}

TEST_F(PlannerRpcTest, DrawsCheckpointing) {
  grpc::ClientContext context;
  v1::PlanCheckpointingRequest request;
  request.set_points(5);
  v1::PlanCheckpointingResponse plan;
  ASSERT_GRPC_OK(
      v1::PlannerService::NewStub(channel_)->PlanCheckpointing(&context, request, &plan));
  EXPECT_EQ(plan.num_layers(), 4);
  EXPECT_EQ(plan.optimal_size(), 5);
  EXPECT_EQ(plan.optimal(4).recomputed_layers(), 0);
}

TEST_F(PlannerRpcTest, CountsOperations) {
  const auto count = [&](const v1::CountFlopsRequest& request, v1::CountFlopsResponse* reply) {
    grpc::ClientContext context;
    return v1::PlannerService::NewStub(channel_)->CountFlops(&context, request, reply);
  };
  v1::CountFlopsRequest request;
  v1::CountFlopsResponse reply;
  ASSERT_GRPC_OK(count(request, &reply));
  EXPECT_EQ(reply.accounts_size(), 2);
  EXPECT_EQ(reply.spec().precision(), "nf4");
  request.mutable_spec()->mutable_model()->set_preset("llama-65b");
  ASSERT_GRPC_OK(count(request, &reply));
  const auto local = planner::CountFlops(request);
  ASSERT_TRUE(local.ok());
  EXPECT_EQ(reply.SerializeAsString(), local->SerializeAsString());
  request.set_card("abacus");
  EXPECT_GRPC(count(request, &reply), NOT_FOUND, "known are t4");
  request.clear_card();
  request.mutable_spec()->set_accumulation(1 << 20);
  EXPECT_GRPC(count(request, &reply), OUT_OF_RANGE, "plan fewer tokens at a time");
}

TEST_F(PlannerRpcTest, FitsScalingLawsAsWithoutAServer) {
  v1::FitScalingLawRequest request;
  const double losses[] = {4.0, 3.2, 2.6, 2.1};
  for (int i = 0; i < 4; ++i) {
    request.mutable_family()->add_points()->set_compute_flops(std::pow(10, 18 + i));
    request.mutable_family()->mutable_points(i)->set_loss(losses[i]);
  }
  request.set_bootstrap_draws(100);
  const auto stub = v1::PlannerService::NewStub(channel_);
  v1::FitScalingLawResponse reply;
  grpc::ClientContext context;
  ASSERT_GRPC_OK(stub->FitScalingLaw(&context, request, &reply));
  EXPECT_EQ(reply.family().form(), v1::SCALING_FORM_KAPLAN);
  const auto local = planner::FitScalingLaw(request);
  ASSERT_TRUE(local.ok());
  EXPECT_EQ(reply.SerializeAsString(), local->SerializeAsString()) << "on any number of threads";
  request.mutable_family()->mutable_points(1)->set_loss(0);
  grpc::ClientContext again;
  EXPECT_GRPC(stub->FitScalingLaw(&again, request, &reply), INVALID_ARGUMENT,
              "point 2: loss is 0; it must be in (0, 1000]");
}

}  // namespace
}  // namespace lorad::server
