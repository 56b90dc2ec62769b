// The interface every backend implements. Knows devices, buffers and dispatches; no model, no file format.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "params.h"

namespace moeflux {

class Mapping;

// Carries bytes between a thread of the CPU and one allocation that the CPU cannot address. Used by one thread.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Memory to be filled, the same until `send`; its alignment and size suit direct reads. Throws DeviceError.
  virtual std::span<std::byte> block() = 0;
  // Starts to copy the first `nbytes` of the block to `offset` of the allocation. Throws DeviceError.
  virtual void send(std::size_t offset, std::size_t nbytes) = 0;
  // Starts to copy bytes that stay as they are until `finish` to `offset` of the allocation. Throws DeviceError.
  virtual void send_from(std::span<const std::byte> bytes, std::size_t offset) = 0;
  // Blocks until all that was sent has arrived. Throws DeviceError.
  virtual void finish() = 0;
  // A copy of bytes of the allocation, at most a block of them, valid until the next call. Throws DeviceError.
  virtual std::span<const std::byte> fetch(std::size_t offset, std::size_t nbytes) = 0;
};

// Bytes that a device can address. Views share it; it lives as long as any Buffer, Recording or unfinished
// CommandBuffer uses it.
class Allocation {
 public:
  Allocation(std::size_t nbytes, bool host) : nbytes_(nbytes), host_(host) {}
  virtual ~Allocation() = default;
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  std::size_t nbytes() const { return nbytes_; }
  bool host() const { return host_; }
  // The address the CPU may use for `host` buffers and for reads from disk; null where there is none.
  virtual std::byte* address() = 0;
  // Where there is no address: what reads from disk go through. Null otherwise. Throws DeviceError.
  virtual std::unique_ptr<Transfer> transfer() { return nullptr; }
  // False for mapped files.
  virtual bool writable() const { return true; }
  // Starts to put memory behind every page, in the background, so that the first writes do not wait for it.
  virtual void populate() {}

 private:
  std::size_t nbytes_;
  bool host_;
};

// A range of an allocation; copying it is cheap and shares the bytes.
struct Buffer {
  std::shared_ptr<Allocation> allocation;
  std::size_t offset = 0;
  std::size_t nbytes = 0;

  Buffer view(std::size_t view_offset, std::size_t view_nbytes) const;
  std::byte* address() const { return allocation->address() + offset; }
};

using Constants = std::map<std::string, std::uint32_t>;

// One kernel specialised by its function constants.
class Pipeline {
 public:
  virtual ~Pipeline() = default;
  virtual const std::string& kernel() const = 0;
  virtual const Constants& constants() const = 0;
};

// What can be dispatched into: a command buffer (once) or a recording (to be replayed).
class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                        std::span<const std::byte> params) = 0;
  virtual void copy(const Buffer& source, const Buffer& destination) = 0;
  virtual void zero(const Buffer& destination) = 0;
};

// A list of dispatches bound once; immutable from its first replay on.
class Recording : public Encoder {
 public:
  virtual std::size_t size() const = 0;
};

// When a kernel ran, in seconds since the commit of its command buffer.
struct KernelTiming {
  std::string kernel;
  double begin;
  double end;
};

// Work submitted in one piece. Keeps its buffers until it has finished.
class CommandBuffer : public Encoder {
 public:
  virtual const std::string& label() const = 0;
  virtual void replay(std::shared_ptr<Recording> recording) = 0;
  virtual void commit() = 0;
  // Blocks until the work has finished; throws DeviceError if it failed.
  virtual void wait() = 0;
  virtual bool done() const = 0;
  virtual double gpu_seconds() const = 0;
  // Notes when each kernel runs; asked for before the commit. A backend that cannot tell notes nothing.
  virtual void keep_timings() {}
  // In the order of execution; empty unless they were kept. Throws DeviceError before it is done.
  virtual std::vector<KernelTiming> timings() const { return {}; }
};

// Runs command buffers one after the other, in the order of their commits, asynchronously.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual std::shared_ptr<CommandBuffer> command_buffer(Step step, std::string label) = 0;
};

// What a GPU trace records: all work of the device, of its queue, or that between begin_scope and end_scope.
enum class CaptureTarget { device, queue, scope };

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;         // "cpu", "metal", "cuda"
  virtual std::string description() const = 0;  // hardware and instruction set, for people
  // Zeroed, aligned to 2 MiB when at least that large, else to a page.
  virtual Buffer buffer(std::size_t nbytes, bool host) = 0;
  // Memory of the host from which copies to the device are fast, else from which they work. Throws OutOfMemoryError.
  virtual Buffer record_memory(std::size_t nbytes) { return buffer(nbytes, true); }
  // The mapping stays mapped as long as the buffer is used. No copy where CPU and device share memory.
  virtual Buffer wrap(std::shared_ptr<Mapping> mapping) = 0;
  virtual Buffer upload(std::span<const std::byte> bytes) = 0;
  // Copies out of any buffer; the caller has waited for the work that writes it.
  virtual void download(const Buffer& source, std::span<std::byte> destination) = 0;
  virtual std::shared_ptr<Pipeline> pipeline(const std::string& kernel, const Constants& constants) = 0;
  virtual std::shared_ptr<Queue> queue() = 0;
  virtual std::shared_ptr<Recording> record() = 0;
  virtual std::vector<std::string> kernels() const = 0;

  // Compiles what was asked for so far, so that no dispatch has to wait for the compiler.
  virtual void warm_all() {}
  // Compiled variants of kernels.
  virtual std::size_t n_compiled() const { return 0; }
  // Tokens of a prompt that keep the device busy: more of them at once are hardly faster.
  virtual std::uint32_t tokens_at_once() const { return 256; }
  // Bytes by name: what the device advises, what is allocated, what is resident. Empty where the device cannot tell.
  virtual std::map<std::string, std::uint64_t> memory() const { return {}; }

  // GPU traces, for a debugger. One at a time in a process; they hold what is committed between start and stop.
  virtual bool supports_capture() const { return false; }
  virtual bool is_capturing() const { return false; }
  // Throws CaptureError.
  virtual void start_capture(const std::string& path, CaptureTarget target);
  // Waits for committed work first. Does nothing if no capture is under way.
  virtual void stop_capture() {}
  virtual void begin_scope() {}
  virtual void end_scope() {}
};

}  // namespace moeflux
