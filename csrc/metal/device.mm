// The Metal backend: a device with its one queue, its libraries, and the cache of pipelines.
#import <Metal/Metal.h>

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "error.h"
#include "file.h"
#include "metal/allocation.h"
#include "metal/autorelease_pool.h"
#include "metal/capture.h"
#include "metal/command.h"
#include "metal/failure.h"
#include "metal/library.h"
#include "metal/metal.h"
#include "metal/objects.h"

namespace moeflux::metal {
namespace {

class MetalDevice final : public Device {
 public:
  MetalDevice(objc_ptr<id<MTLDevice>> device, objc_ptr<id<MTLCommandQueue>> queue)
      : objects_(make_process_owned<DeviceObjects>(device, std::move(queue))),
        submissions_(make_process_owned<Submissions>(objects_)),
        libraries_(make_process_owned<Libraries>(std::move(device), MathMode::safe)),
        capture_(make_process_owned<Capture>(*submissions_)) {}

  std::string name() const override { return "metal"; }

  std::string description() const override {
    objects_->check_process();
    const AutoreleasePool pool;
    const id<MTLDevice> device = objects_->device.get();
    const char* memory = [device hasUnifiedMemory] ? ", unified memory" : "";
    return text_of([device name]) + memory + ", " + std::to_string(objects_->residency.budget() >> 20) +
           " MiB recommended working set";
  }

  Buffer buffer(std::size_t nbytes, bool host) override {
    objects_->check_process();
    if (nbytes == 0) throw std::invalid_argument("a buffer needs at least 1 byte, got 0");
    return Buffer{MetalAllocation::make(objects_, nbytes, host), 0, nbytes};
  }

  Buffer wrap(std::shared_ptr<Mapping> mapping) override {
    objects_->check_process();
    const std::size_t nbytes = mapping->nbytes();
    return Buffer{MetalAllocation::wrap(objects_, std::move(mapping)), 0, nbytes};
  }

  Buffer upload(std::span<const std::byte> bytes) override {
    Buffer copy = buffer(bytes.size(), false);
    std::memcpy(copy.address(), bytes.data(), bytes.size());
    return copy;
  }

  void download(const Buffer& source, std::span<std::byte> destination) override {
    if (source.nbytes != destination.size()) {
      throw DeviceError("download of " + std::to_string(source.nbytes) + " bytes into " +
                        std::to_string(destination.size()));
    }
    if (!destination.empty()) std::memcpy(destination.data(), source.address(), source.nbytes);
  }

  std::shared_ptr<Pipeline> pipeline(const std::string& kernel, const Constants& constants) override {
    objects_->check_process();
    const Kernel& description = gpu::gpu_kernel(kernel);
    const std::lock_guard lock(mutex_);
    const std::pair key(kernel, constants);
    if (const auto known = pipelines_.find(key); known != pipelines_.end()) return known->second;
    auto made = std::make_shared<MetalPipeline>(libraries_, description, constants);
    return pipelines_.emplace(key, std::move(made)).first->second;
  }

  std::shared_ptr<Queue> queue() override {
    objects_->check_process();
    return std::make_shared<MetalQueue>(submissions_);
  }

  std::shared_ptr<Recording> record() override { return std::make_shared<MetalRecording>(); }

  std::vector<std::string> kernels() const override {
    std::vector<std::string> names;
    for (const Kernel& kernel : gpu::gpu_kernels()) names.emplace_back(kernel.name);
    return names;
  }

  void warm_all() override {
    objects_->check_process();
    libraries_->compile_all();
    const std::lock_guard lock(mutex_);
    for (const auto& [key, pipeline] : pipelines_) pipeline->warm();
  }

  std::uint32_t tokens_at_once() const override { return 512; }
  std::size_t n_compiled() const override { return libraries_->n_pipeline_states(); }

  std::map<std::string, std::uint64_t> memory() const override {
    objects_->check_process();
    const AutoreleasePool pool;
    const id<MTLDevice> device = objects_->device.get();
    return {{"recommended", objects_->residency.budget()},
            {"allocated", [device currentAllocatedSize]},
            {"resident", objects_->residency.nbytes()},
            {"largest_buffer", [device maxBufferLength]}};
  }

  bool supports_capture() const override { return capture_->supported(); }
  bool is_capturing() const override { return capture_->is_capturing(); }
  void start_capture(const std::string& path, CaptureTarget target) override { capture_->start(path, target); }
  void stop_capture() override { capture_->stop(); }
  void begin_scope() override { capture_->begin_scope(); }
  void end_scope() override { capture_->end_scope(); }

 private:
  // Destroyed from the last to the first: pipelines and libraries, then the work, then queue and device.
  std::shared_ptr<DeviceObjects> objects_;
  std::shared_ptr<Submissions> submissions_;
  std::shared_ptr<Libraries> libraries_;
  ProcessOwned<Capture> capture_;
  std::mutex mutex_;
  std::map<std::pair<std::string, Constants>, std::shared_ptr<MetalPipeline>> pipelines_;
};

objc_ptr<id<MTLDevice>> default_device() { return objc_ptr<id<MTLDevice>>::adopt(MTLCreateSystemDefaultDevice()); }

}  // namespace

bool available() {
  const AutoreleasePool pool;
  return static_cast<bool>(default_device());
}

std::shared_ptr<Device> open_device() {
  const AutoreleasePool pool;
  objc_ptr<id<MTLDevice>> device = default_device();
  if (!device) throw NoDeviceError("this machine has no Metal device");
  auto queue = objc_ptr<id<MTLCommandQueue>>::adopt([device.get() newCommandQueue]);
  if (!queue) throw DeviceError("the Metal device gave no command queue");
  [queue.get() setLabel:@"moeflux"];
  return std::make_shared<MetalDevice>(std::move(device), std::move(queue));
}

}  // namespace moeflux::metal
