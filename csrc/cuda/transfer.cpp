#include "cuda/transfer.h"

#include <algorithm>

#include "cuda/failure.h"

namespace moeflux::cuda {
namespace {

// A multiple of what direct reads need.
constexpr std::size_t kBlockNbytes = StagingLane::kNbytes / 2;

}  // namespace

StagingLane::StagingLane(DeviceObjects& objects) : objects_(objects), blocks_{Block(objects), Block(objects)} {
  const DriverFunctions& call = objects_.call();
  check_allocation(objects_.driver(), call.host_alloc(&allocated_, kNbytes, kHostPortable), kNbytes);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].address = static_cast<std::byte*>(allocated_) + i * kBlockNbytes;
  }
  const Result result = call.stream_create(&stream_, kStreamNonBlocking);
  if (result != kSuccess) call.host_free(allocated_);
  objects_.driver().check(result, "the GPU gave no stream for reads");
}

StagingLane::~StagingLane() {
  const ReleaseScope scope(objects_);
  if (!scope.usable()) return;
  objects_.call().stream_destroy(stream_);
  objects_.call().host_free(allocated_);
}

StagingLane::Block& StagingLane::block() {
  Block& block = blocks_[next_];
  objects_.driver().check(wait(block), "a copy of read bytes to the GPU");
  return block;
}

Result StagingLane::mark(Block& block) {
  const Result result = objects_.call().event_record(block.sent.get(), stream_);
  block.is_under_way = result == kSuccess;
  if (result != kSuccess) objects_.drain(stream_);
  return result;
}

Result StagingLane::wait(Block& block) {
  if (!block.is_under_way) return kSuccess;
  block.is_under_way = false;
  const Result result = objects_.wait_for_copy(block.sent.get());
  if (result != kSuccess) objects_.drain(stream_);
  return result;
}

Result StagingLane::finish() {
  Result first = kSuccess;
  for (Block& block : blocks_) {
    const Result result = wait(block);
    if (first == kSuccess) first = result;
  }
  return first;
}

CudaTransfer::CudaTransfer(std::shared_ptr<DeviceObjects> objects, DevicePointer address)
    : objects_(std::move(objects)), address_(address), scope_(*objects_), lane_(objects_->take_lane()) {}

CudaTransfer::~CudaTransfer() {
  // After a failure copies may still be under way; whose destination is needed no more is freed.
  lane_->finish();
  objects_->put_lane(std::move(lane_));
}

std::span<std::byte> CudaTransfer::block() { return {lane_->block().address, kBlockNbytes}; }

void CudaTransfer::send(std::size_t offset, std::size_t nbytes) {
  StagingLane::Block& block = lane_->block();
  copy(block, block.address, offset, nbytes);
}

void CudaTransfer::send_from(std::span<const std::byte> bytes, std::size_t offset) {
  copy(lane_->block(), bytes.data(), offset, bytes.size());
}

void CudaTransfer::copy(StagingLane::Block& block, const std::byte* source, std::size_t offset, std::size_t nbytes) {
  const Driver& driver = objects_->driver();
  const std::string what = "a copy of " + std::to_string(nbytes) + " read bytes to the GPU";
  driver.check(driver.call().copy_to_device_async(address_ + offset, source, nbytes, lane_->stream()), what);
  driver.check(lane_->mark(block), what);
  lane_->turn();
}

void CudaTransfer::finish() { objects_->driver().check(lane_->finish(), "a copy of read bytes to the GPU"); }

std::span<const std::byte> CudaTransfer::fetch(std::size_t offset, std::size_t nbytes) {
  StagingLane::Block& block = lane_->block();
  const std::size_t n_fetched = std::min(nbytes, kBlockNbytes);
  const Driver& driver = objects_->driver();
  const std::string what = "a copy of " + std::to_string(n_fetched) + " bytes from the GPU";
  driver.check(driver.call().copy_to_host_async(block.address, address_ + offset, n_fetched, lane_->stream()), what);
  driver.check(lane_->mark(block), what);
  driver.check(lane_->wait(block), what);
  return {block.address, n_fetched};
}

}  // namespace moeflux::cuda
