// Lists of dispatches, copies and replays of the CPU backend. Knows no threads and no queue.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "cpu/kernel.h"
#include "device.h"

namespace moeflux::cpu {

class ThreadPool;

// A kernel specialised for one target.
class CpuPipeline final : public Pipeline {
 public:
  CpuPipeline(const Kernel& kernel, Constants constants, Target target);

  const std::string& kernel() const override { return name_; }
  const Constants& constants() const override { return constants_; }
  std::size_t n_buffers() const { return n_buffers_; }
  std::size_t params_nbytes() const { return params_nbytes_; }
  void run(const Arguments& arguments, ThreadPool& threads) const;

 private:
  std::string name_;
  Constants constants_;
  std::size_t n_buffers_;
  std::size_t params_nbytes_;
  KernelFunction function_;
};

class CpuRecording;

// Collects when kernels, copies and clears ran.
struct Timings {
  std::chrono::steady_clock::time_point origin;
  std::vector<KernelTiming> kernels;

  double now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - origin).count(); }
};

// Checked commands in order. Keeps the buffers, pipelines and recordings that they use.
class CommandList {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers, std::span<const std::byte> params);
  void copy(const Buffer& source, const Buffer& destination);
  void zero(const Buffer& destination);
  void replay(std::shared_ptr<Recording> recording);

  std::size_t size() const { return commands_.size(); }
  void clear() { commands_.clear(); }
  // Throws what a kernel throws, prefixed with its name; the commands after it do not run. `timings` may be null.
  void run(Step step, ThreadPool& threads, Timings* timings) const;

 private:
  struct Dispatch {
    const std::string& name() const { return pipeline->kernel(); }

    std::shared_ptr<CpuPipeline> pipeline;
    std::vector<std::shared_ptr<Allocation>> allocations;
    std::vector<std::byte*> addresses;
    std::vector<std::byte> params;
  };
  struct Copy {
    std::string name() const { return "copy"; }

    Buffer source;
    Buffer destination;
  };
  struct Zero {
    std::string name() const { return "zero"; }

    Buffer destination;
  };
  struct Replay {
    std::shared_ptr<CpuRecording> recording;
  };

  static void run(const Dispatch& dispatch, Step step, ThreadPool& threads);
  static void run(const Copy& copy, Step step, ThreadPool& threads);
  static void run(const Zero& zero, Step step, ThreadPool& threads);
  static void run(const Replay& replay, Step step, ThreadPool& threads, Timings* timings);
  static void run(const auto& command, Step step, ThreadPool& threads, Timings* timings);

  std::vector<std::variant<Dispatch, Copy, Zero, Replay>> commands_;
};

class CpuRecording final : public Recording {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override;
  void copy(const Buffer& source, const Buffer& destination) override;
  void zero(const Buffer& destination) override;
  std::size_t size() const override { return commands_.size(); }

  // From here on the recording is immutable, so that any thread may run it.
  void freeze() { frozen_ = true; }
  const CommandList& commands() const { return commands_; }

 private:
  CommandList& open_commands();

  CommandList commands_;
  std::atomic<bool> frozen_{false};
};

}  // namespace moeflux::cpu
