// Queues, command buffers and recordings of the CPU backend, with kernels made for the test.
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "backends.h"
#include "check.h"
#include "cpu/commands.h"
#include "cpu/queue.h"
#include "error.h"

using namespace moeflux;
using namespace moeflux::cpu;

namespace {

// A kernel of one int32 buffer and an int32 parameter that does what `body` says.
using Body = std::function<void(std::int32_t&, std::int32_t, Step)>;

std::shared_ptr<Pipeline> make_pipeline(Body body) {
  const Kernel kernel{"test_kernel", 1, sizeof(std::int32_t), {}, [body](const Constants&, InstructionSet) {
                        return [body](const Arguments& arguments, ThreadTeam&) {
                          body(*arguments.buffer<std::int32_t>(0), arguments.params<std::int32_t>(), arguments.step);
                        };
                      }};
  return std::make_shared<CpuPipeline>(kernel, Constants{}, InstructionSet::baseline);
}

// value = value * 10 + parameter: shows the order of the dispatches.
std::shared_ptr<Pipeline> append_digit() {
  return make_pipeline([](std::int32_t& value, std::int32_t digit, Step) { value = value * 10 + digit; });
}

struct Fixture {
  std::shared_ptr<Device> device = open_device("cpu", {.n_threads = 2});
  std::shared_ptr<Queue> queue = device->queue();
  Buffer buffer = device->buffer(sizeof(std::int32_t), true);

  std::int32_t value() const {
    std::int32_t result;
    std::memcpy(&result, buffer.address(), sizeof result);
    return result;
  }
  std::shared_ptr<CommandBuffer> commands(const char* label = "test", Step step = {0, 1, 0}) const {
    return queue->command_buffer(step, label);
  }
};

void dispatch(Encoder& encoder, std::shared_ptr<Pipeline> pipeline, const Buffer& buffer, std::int32_t parameter) {
  encoder.dispatch(std::move(pipeline), std::span(&buffer, 1), std::as_bytes(std::span(&parameter, 1)));
}

// Holds up the queue until opened.
struct Barrier {
  std::atomic<bool> open{false};
  std::shared_ptr<Pipeline> pipeline() {
    return make_pipeline([this](std::int32_t&, std::int32_t, Step) {
      while (!open) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }
};

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(dispatches_run_in_order) {
  const Fixture f;
  const auto commands = f.commands();
  for (int digit = 1; digit <= 5; ++digit) dispatch(*commands, append_digit(), f.buffer, digit);
  commands->commit();
  commands->wait();
  CHECK_EQUAL(f.value(), 12345);
}

TEST(command_buffers_run_in_the_order_of_their_commits) {
  const Fixture f;
  const auto first = f.commands();
  const auto second = f.commands();
  dispatch(*second, append_digit(), f.buffer, 2);
  dispatch(*first, append_digit(), f.buffer, 1);
  first->commit();
  second->commit();
  second->wait();
  CHECK(first->done());
  CHECK_EQUAL(f.value(), 12);
}

TEST(queues_of_a_device_share_the_order_of_commits) {
  const Fixture f;
  const auto other = f.device->queue()->command_buffer({0, 1, 0}, "other");
  const auto mine = f.commands();
  dispatch(*mine, append_digit(), f.buffer, 1);
  dispatch(*other, append_digit(), f.buffer, 2);
  mine->commit();
  other->commit();
  other->wait();
  CHECK_EQUAL(f.value(), 12);
}

TEST(commit_does_not_wait_for_the_work) {
  const Fixture f;
  Barrier barrier;
  const auto commands = f.commands();
  dispatch(*commands, barrier.pipeline(), f.buffer, 0);
  dispatch(*commands, append_digit(), f.buffer, 1);
  commands->commit();
  CHECK(!commands->done());
  CHECK_THROWS(DeviceError, commands->gpu_seconds());
  CHECK_EQUAL(f.value(), 0);
  barrier.open = true;
  commands->wait();
  CHECK(commands->done());
  CHECK_EQUAL(f.value(), 1);
  CHECK(commands->gpu_seconds() > 0);
}

TEST(many_threads_may_wait_for_one_command_buffer) {
  const Fixture f;
  Barrier barrier;
  const auto commands = f.commands();
  dispatch(*commands, barrier.pipeline(), f.buffer, 0);
  commands->commit();
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) waiters.emplace_back([&] { commands->wait(); });
  barrier.open = true;
  for (std::thread& waiter : waiters) waiter.join();
  CHECK(commands->done());
}

TEST(a_kernel_sees_the_step_of_its_command_buffer) {
  const Fixture f;
  const auto commands = f.commands("step", {41, 7, 0});
  dispatch(*commands, make_pipeline([](std::int32_t& value, std::int32_t, Step step) {
    value = static_cast<std::int32_t>(step.position * 100 + step.n_tokens);
  }),
           f.buffer, 0);
  commands->commit();
  commands->wait();
  CHECK_EQUAL(f.value(), 4107);
}

TEST(an_error_in_a_kernel_is_thrown_by_wait_and_stops_its_command_buffer_only) {
  const Fixture f;
  const auto failing = f.commands("layer 12");
  dispatch(*failing, make_pipeline([](std::int32_t&, std::int32_t, Step) { throw std::runtime_error("broken"); }),
           f.buffer, 0);
  dispatch(*failing, append_digit(), f.buffer, 1);
  const auto next = f.commands("layer 13");
  dispatch(*next, append_digit(), f.buffer, 2);
  failing->commit();
  next->commit();
  next->wait();
  for (int repeat = 0; repeat < 2; ++repeat) {
    const std::string message = CHECK_THROWS(DeviceError, failing->wait());
    for (const char* part : {"layer 12", "test_kernel", "broken"}) CHECK(contains(message, part));
  }
  CHECK(failing->done());
  CHECK_EQUAL(f.value(), 2);
}

TEST(misuse_of_a_command_buffer_names_its_label) {
  const Fixture f;
  const auto commands = f.commands("layer 3");
  CHECK(contains(CHECK_THROWS(DeviceError, commands->wait()), "layer 3"));
  CHECK(contains(CHECK_THROWS(DeviceError, commands->gpu_seconds()), "layer 3"));
  commands->commit();
  CHECK(contains(CHECK_THROWS(DeviceError, commands->commit()), "layer 3"));
  CHECK(contains(CHECK_THROWS(DeviceError, dispatch(*commands, append_digit(), f.buffer, 1)), "layer 3"));
  CHECK(contains(CHECK_THROWS(DeviceError, commands->zero(f.buffer)), "layer 3"));
  CHECK(contains(CHECK_THROWS(DeviceError, commands->copy(f.buffer, f.device->buffer(4, true))), "layer 3"));
  CHECK(contains(CHECK_THROWS(DeviceError, commands->replay(f.device->record())), "layer 3"));
  commands->wait();
}

TEST(a_dispatch_of_wrong_size_says_what_was_wanted_and_got) {
  const Fixture f;
  const auto commands = f.commands();
  const std::vector<Buffer> two{f.buffer, f.buffer};
  const std::vector<std::byte> params(sizeof(std::int32_t));
  std::string message = CHECK_THROWS(DeviceError, commands->dispatch(append_digit(), two, params));
  CHECK(contains(message, "test_kernel needs 1 buffers, got 2"));
  const std::vector<std::byte> long_params(12);
  message = CHECK_THROWS(DeviceError, commands->dispatch(append_digit(), std::span(two).first(1), long_params));
  CHECK(contains(message, "test_kernel needs params of 4 bytes, got 12"));
}

TEST(constants_must_be_those_of_the_kernel) {
  const Fixture f;
  std::string message = CHECK_THROWS(DeviceError, f.device->pipeline("rms_norm", {}));
  CHECK(contains(message, "weight_dtype"));
  message = CHECK_THROWS(DeviceError, f.device->pipeline("rms_norm", {{"weight_dtype", 0}, {"colour", 1}}));
  CHECK(contains(message, "colour"));
  CHECK(contains(CHECK_THROWS(DeviceError, f.device->pipeline("no_such_kernel", {})), "no_such_kernel"));
}

TEST(a_pipeline_is_compiled_once) {
  const Fixture f;
  CHECK(f.device->pipeline("rms_norm", {{"weight_dtype", 0}}) == f.device->pipeline("rms_norm", {{"weight_dtype", 0}}));
  CHECK(f.device->pipeline("rms_norm", {{"weight_dtype", 0}}) != f.device->pipeline("rms_norm", {{"weight_dtype", 2}}));
}

TEST(a_recording_replays_with_the_step_of_each_command_buffer) {
  const Fixture f;
  const auto recording = f.device->record();
  dispatch(*recording, make_pipeline([](std::int32_t& value, std::int32_t factor, Step step) {
    value += factor * static_cast<std::int32_t>(step.position);
  }),
           f.buffer, 10);
  for (const std::uint32_t position : {1u, 2u, 3u}) {
    const auto commands = f.commands("replay", {position, 1, 0});
    commands->replay(recording);
    commands->commit();
    commands->wait();
  }
  CHECK_EQUAL(f.value(), 60);
}

TEST(a_recording_is_immutable_after_its_first_replay) {
  const Fixture f;
  const auto recording = f.device->record();
  dispatch(*recording, append_digit(), f.buffer, 1);
  CHECK_EQUAL(recording->size(), 1u);
  f.commands()->replay(recording);
  CHECK_THROWS(DeviceError, dispatch(*recording, append_digit(), f.buffer, 2));
  CHECK_THROWS(DeviceError, recording->zero(f.buffer));
  CHECK_THROWS(DeviceError, recording->copy(f.buffer, f.device->buffer(4, true)));
  CHECK_EQUAL(recording->size(), 1u);
}

TEST(copy_and_zero_run_in_order_with_dispatches) {
  const Fixture f;
  const Buffer other = f.device->buffer(sizeof(std::int32_t), true);
  const auto commands = f.commands();
  dispatch(*commands, append_digit(), f.buffer, 4);
  commands->copy(f.buffer, other);
  commands->zero(f.buffer);
  dispatch(*commands, append_digit(), f.buffer, 7);
  dispatch(*commands, append_digit(), other, 2);
  commands->commit();
  commands->wait();
  CHECK_EQUAL(f.value(), 7);
  std::int32_t copied;
  std::memcpy(&copied, other.address(), sizeof copied);
  CHECK_EQUAL(copied, 42);
}

TEST(large_copies_are_whole) {
  const Fixture f;
  const std::size_t nbytes = (std::size_t{3} << 20) + 17;
  const Buffer source = f.device->buffer(nbytes, true);
  const Buffer destination = f.device->buffer(nbytes, true);
  for (std::size_t i = 0; i < nbytes; ++i) source.address()[i] = static_cast<std::byte>(i * 31 >> 3);
  const auto commands = f.commands();
  commands->copy(source, destination);
  commands->commit();
  commands->wait();
  CHECK(std::memcmp(source.address(), destination.address(), nbytes) == 0);
}

TEST(copies_of_unequal_or_overlapping_ranges_are_refused) {
  const Fixture f;
  const Buffer buffer = f.device->buffer(100, true);
  const auto commands = f.commands();
  CHECK_THROWS(DeviceError, commands->copy(buffer.view(0, 10), buffer.view(50, 11)));
  CHECK_THROWS(DeviceError, commands->copy(buffer.view(0, 10), buffer.view(9, 10)));
  commands->copy(buffer.view(0, 10), buffer.view(10, 10));
}

TEST(work_keeps_its_buffers_until_done_and_no_longer) {
  Fixture f;
  Barrier barrier;
  std::weak_ptr<Allocation> allocation = f.buffer.allocation;
  const auto commands = f.commands();
  dispatch(*commands, barrier.pipeline(), f.buffer, 0);
  dispatch(*commands, append_digit(), f.buffer, 1);
  f.buffer = Buffer{};
  commands->commit();
  CHECK(!allocation.expired());
  barrier.open = true;
  commands->wait();
  CHECK(allocation.expired());
}

TEST(committed_work_finishes_although_all_handles_are_gone) {
  Buffer buffer;
  {
    Fixture f;
    buffer = f.buffer;
    for (int digit = 1; digit <= 3; ++digit) {
      const auto commands = f.commands();
      dispatch(*commands, make_pipeline([](std::int32_t& value, std::int32_t next, Step) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        value = value * 10 + next;
      }),
               buffer, digit);
      commands->commit();
    }
  }
  std::int32_t value;
  std::memcpy(&value, buffer.address(), sizeof value);
  CHECK_EQUAL(value, 123);
}

TEST_MAIN
