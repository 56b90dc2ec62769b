// The CPU backend: memory, the cache of pipelines, and what joins queue, threads and kernels.
#include "cpu/cpu.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "cpu/commands.h"
#include "cpu/functions.h"
#include "cpu/kernels.h"
#include "cpu/processor.h"
#include "cpu/queue.h"
#include "error.h"
#include "file.h"
#include "pages.h"
#include "population.h"

namespace moeflux::cpu {
namespace {

constexpr unsigned kMostThreads = 1024;

class PagesAllocation final : public Allocation {
 public:
  PagesAllocation(std::size_t nbytes, bool host) : Allocation(nbytes, host), pages_(nbytes) {}
  std::byte* address() override { return pages_.address(); }
  void populate() override {
    if (!population_) population_ = make_process_owned<Population>(pages_.address(), nbytes());
  }

 private:
  Pages pages_;
  ProcessOwned<Population> population_;
};

class MappingAllocation final : public Allocation {
 public:
  explicit MappingAllocation(std::shared_ptr<Mapping> mapping)
      : Allocation(mapping->nbytes(), false), mapping_(std::move(mapping)) {}
  std::byte* address() override { return mapping_->address(); }
  bool writable() const override { return false; }

 private:
  std::shared_ptr<Mapping> mapping_;
};

class CpuDevice final : public Device {
 public:
  CpuDevice(unsigned n_threads, Target target) : target_(target), executor_(std::make_shared<Executor>(n_threads)) {
    for (Kernel& kernel : all_kernels()) {
      const std::string name(kernel.name);
      kernels_.emplace(name, std::move(kernel));
    }
  }

  std::string name() const override { return "cpu"; }

  std::string description() const override {
    return processor_name() + ", " + std::string(instruction_set_name(target_)) + ", " +
           (target_.activations == Activations::int8 ? "int8 activations, " : "") +
           std::to_string(executor_->n_threads()) + (executor_->n_threads() == 1 ? " thread" : " threads");
  }

  Buffer buffer(std::size_t nbytes, bool host) override {
    if (nbytes == 0) throw std::invalid_argument("a buffer needs at least 1 byte, got 0");
    return Buffer{std::make_shared<PagesAllocation>(nbytes, host), 0, nbytes};
  }

  Buffer wrap(std::shared_ptr<Mapping> mapping) override {
    const std::size_t nbytes = mapping->nbytes();
    return Buffer{std::make_shared<MappingAllocation>(std::move(mapping)), 0, nbytes};
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
    const auto found = kernels_.find(kernel);
    if (found == kernels_.end()) throw DeviceError("the cpu device has no kernel '" + kernel + "'");
    const std::lock_guard lock(mutex_);
    const std::pair key(kernel, constants);
    if (const auto cached = pipelines_.find(key); cached != pipelines_.end()) return cached->second;
    auto compiled = std::make_shared<CpuPipeline>(found->second, constants, target_);
    return pipelines_.emplace(key, std::move(compiled)).first->second;
  }

  std::shared_ptr<Queue> queue() override { return std::make_shared<CpuQueue>(executor_); }

  std::shared_ptr<Recording> record() override { return std::make_shared<CpuRecording>(); }

  std::vector<std::string> kernels() const override {
    std::vector<std::string> names;
    for (const auto& [name, kernel] : kernels_) names.push_back(name);
    return names;
  }

 private:
  Target target_;
  std::map<std::string, Kernel> kernels_;
  std::mutex mutex_;
  std::map<std::pair<std::string, Constants>, std::shared_ptr<Pipeline>> pipelines_;
  std::shared_ptr<Executor> executor_;
};

InstructionSet find_instruction_set(const std::string& name) {
  const std::vector<InstructionSet> available = available_instruction_sets();
  if (name.empty()) return available.front();
  std::string names;
  for (const InstructionSet set : available) {
    if (instruction_set_name(set) == name) return set;
    names += (names.empty() ? "" : ", ") + std::string(instruction_set_name(set));
  }
  throw DeviceError("instruction set '" + name + "' is not available; this processor and build have " + names);
}

Target find_target(const std::string& instruction_set, const std::string& activations) {
  const InstructionSet set = find_instruction_set(instruction_set);
  if (activations == "float32") return Target(set);
  if (activations != "int8") throw DeviceError("activations must be float32 or int8, got '" + activations + "'");
  return Target(set, Activations::int8);
}

}  // namespace

std::shared_ptr<Device> open_device(unsigned n_threads, const std::string& instruction_set,
                                    const std::string& activations) {
  if (n_threads > kMostThreads) {
    throw DeviceError("the cpu device runs at most " + std::to_string(kMostThreads) + " threads, got " +
                      std::to_string(n_threads));
  }
  return std::make_shared<CpuDevice>(n_threads == 0 ? n_available_cores() : n_threads,
                                     find_target(instruction_set, activations));
}

}  // namespace moeflux::cpu
