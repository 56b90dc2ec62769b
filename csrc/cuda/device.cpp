// The CUDA backend: a GPU with its memory, its kernels and the order of its work.
#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "cuda/allocation.h"
#include "cuda/command.h"
#include "cuda/cuda.h"
#include "cuda/library.h"
#include "cuda/transfer.h"
#include "error.h"
#include "file.h"
#include "pages.h"

namespace moeflux::cuda {
namespace {

// As major * 10 + minor: the oldest that NVRTC 13 compiles for.
constexpr int kLeastCapability = 75;
constexpr std::size_t kMostCompilers = 8;

class CudaDevice final : public Device {
 public:
  CudaDevice(std::shared_ptr<DeviceObjects> objects, std::shared_ptr<Library> library)
      : objects_(std::move(objects)),
        library_(std::move(library)),
        submissions_(make_process_owned<Submissions>(objects_)) {}

  std::string name() const override { return "cuda"; }

  std::string description() const override {
    char name[256] = {};
    const Driver& driver = objects_->driver();
    driver.check(driver.call().device_name(name, sizeof name, objects_->device()), "the GPU's name");
    std::size_t nbytes = 0;
    driver.check(driver.call().device_total_memory(&nbytes, objects_->device()), "the GPU's memory");
    const int capability = library_->capability();
    return std::string(name) + ", " + std::to_string(nbytes >> 20) + " MiB, compute capability " +
           std::to_string(capability / 10) + "." + std::to_string(capability % 10) + ", driver for CUDA " +
           version_text(driver.version()) + ", NVRTC " + version_text(library_->compiler().version());
  }

  Buffer buffer(std::size_t nbytes, bool host) override {
    if (nbytes == 0) throw std::invalid_argument("a buffer needs at least 1 byte, got 0");
    const ContextScope scope(*objects_);
    if (host) return host_buffer(nbytes, nbytes >= kHugePageSize ? kHugePageSize : page_size());
    auto allocation = std::make_shared<DeviceAllocation>(objects_, nbytes);
    allocation->memory().clear();
    return Buffer{std::move(allocation), 0, nbytes};
  }

  Buffer record_memory(std::size_t nbytes) override {
    if (nbytes == 0) throw std::invalid_argument("a buffer needs at least 1 byte, got 0");
    try {
      const ContextScope scope(*objects_);
      return host_buffer(nbytes, page_size());
    } catch (const DeviceError&) {
      // The driver limits what may be page-locked; copies from other memory are slower.
      return Buffer{std::make_shared<PageableAllocation>(nbytes), 0, nbytes};
    }
  }

  Buffer wrap(std::shared_ptr<Mapping> mapping) override {
    objects_->check_process();
    const std::size_t nbytes = mapping->nbytes();
    return Buffer{std::make_shared<MappedAllocation>(objects_, std::move(mapping)), 0, nbytes};
  }

  Buffer upload(std::span<const std::byte> bytes) override {
    if (bytes.empty()) throw std::invalid_argument("a buffer needs at least 1 byte, got 0");
    const ContextScope scope(*objects_);
    auto allocation = std::make_shared<DeviceAllocation>(objects_, bytes.size());
    allocation->memory().upload(bytes);
    return Buffer{std::move(allocation), 0, bytes.size()};
  }

  void download(const Buffer& source, std::span<std::byte> destination) override {
    if (source.nbytes != destination.size()) {
      throw DeviceError("download of " + std::to_string(source.nbytes) + " bytes into " +
                        std::to_string(destination.size()));
    }
    auto* const allocation = dynamic_cast<CudaAllocation*>(source.allocation.get());
    if (allocation == nullptr) throw DeviceError("the cuda device cannot download a buffer of another device");
    allocation->download(source.offset, destination);
  }

  std::shared_ptr<Pipeline> pipeline(const std::string& kernel, const Constants& constants) override {
    objects_->check_process();
    const gpu::Kernel& description = gpu::gpu_kernel(kernel);
    const std::lock_guard lock(mutex_);
    const std::pair key(kernel, constants);
    if (const auto known = pipelines_.find(key); known != pipelines_.end()) return known->second;
    auto made = std::make_shared<CudaPipeline>(library_, description, constants);
    return pipelines_.emplace(key, std::move(made)).first->second;
  }

  std::shared_ptr<Queue> queue() override {
    objects_->check_process();
    return std::make_shared<CudaQueue>(submissions_);
  }

  std::shared_ptr<Recording> record() override { return std::make_shared<CudaRecording>(); }

  std::vector<std::string> kernels() const override {
    std::vector<std::string> names;
    for (const gpu::Kernel& kernel : gpu::gpu_kernels()) names.emplace_back(kernel.name);
    return names;
  }

  void warm_all() override;

  std::uint32_t tokens_at_once() const override { return 1024; }
  std::size_t n_compiled() const override { return library_->n_functions(); }

  std::map<std::string, std::uint64_t> memory() const override {
    const ContextScope scope(*objects_);
    std::size_t free = 0, total = 0;
    objects_->driver().check(objects_->call().memory_info(&free, &total), "the GPU's memory");
    return {{"total", total},
            {"free", free},
            {"allocated", objects_->allocated_nbytes()},
            {"staging", StagingLane::kNbytes}};
  }

 private:
  Buffer host_buffer(std::size_t nbytes, std::size_t alignment) {
    return Buffer{std::make_shared<HostAllocation>(objects_, nbytes, alignment), 0, nbytes};
  }

  // Destroyed from the last to the first: pipelines, then the work, then kernels and the context.
  std::shared_ptr<DeviceObjects> objects_;
  std::shared_ptr<Library> library_;
  std::shared_ptr<Submissions> submissions_;
  std::mutex mutex_;
  std::map<std::pair<std::string, Constants>, std::shared_ptr<CudaPipeline>> pipelines_;
};

// The compiler takes most of the time and uses one core, so functions are made ready side by side.
void CudaDevice::warm_all() {
  objects_->check_process();
  std::vector<std::pair<std::shared_ptr<CudaPipeline>, std::string_view>> wanted;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, pipeline] : pipelines_) {
      for (const std::string_view function : pipeline->description().functions) wanted.emplace_back(pipeline, function);
    }
  }
  std::atomic<std::size_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    try {
      const ContextScope scope(*objects_);
      for (std::size_t i = next++; i < wanted.size(); i = next++) wanted[i].first->function(wanted[i].second);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  const std::size_t n_threads =
      std::min({wanted.size(), kMostCompilers, std::size_t{std::max(1u, std::thread::hardware_concurrency())}});
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < n_threads; ++i) threads.push_back(start_thread(work));
  work();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

// What there has to be before a GPU is used.
struct Found {
  std::shared_ptr<const Driver> driver;
  std::shared_ptr<const Compiler> compiler;
  int device;
  int capability;
};

Found find(const Options& options) {
  Found found{Driver::load(options.driver), nullptr, 0, 0};
  const DriverFunctions& call = found.driver->call();
  int count = 0;
  const Result counted = call.device_count(&count);
  if (counted != kSuccess) throw NoDeviceError("the CUDA driver finds no GPU: " + found.driver->text_of(counted));
  if (count == 0) throw NoDeviceError("the CUDA driver finds no GPU");
  found.driver->check(call.device_get(&found.device, 0), "the first GPU");
  int major = 0, minor = 0;
  found.driver->check(call.device_attribute(&major, kComputeCapabilityMajor, found.device), "the GPU's capability");
  found.driver->check(call.device_attribute(&minor, kComputeCapabilityMinor, found.device), "the GPU's capability");
  found.capability = major * 10 + minor;
  if (found.capability < kLeastCapability) {
    throw NoDeviceError("the GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                        ", 7.5 or later is needed");
  }
  found.compiler = Compiler::load(options.compilers, found.driver->version());
  if (!found.compiler->supports(found.capability)) {
    throw NoDeviceError("NVRTC " + version_text(found.compiler->version()) +
                        " compiles nothing for compute capability " + std::to_string(major) + "." +
                        std::to_string(minor) + "; a newer one may (pip install --upgrade 'moeflux[cuda]')");
  }
  return found;
}

}  // namespace

bool available(const Options& options) {
  try {
    find(options);
    return true;
  } catch (const DeviceError&) {
    // open_device says why.
    return false;
  }
}

std::shared_ptr<Device> open_device(const Options& options) {
  Found found = find(options);
  std::shared_ptr<DeviceObjects> objects =
      make_process_owned<DeviceObjects>(found.driver, found.device, options.longest_wait_seconds);
  auto library = std::make_shared<Library>(objects, found.compiler, found.capability, options.kernel_folder);
  return std::make_shared<CudaDevice>(std::move(objects), std::move(library));
}

}  // namespace moeflux::cuda
