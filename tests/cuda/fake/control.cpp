// What tests tell the fake driver, and ask of it.
#include "state.h"

#define CONTROL extern "C" __attribute__((visibility("default")))

// The call after the next `n_before` of an entry point fails, and so do those behind it up to `n_failing`.
CONTROL void fake_fail(const char* name, int result, int n_before, int n_failing) {
  const std::lock_guard lock(state().mutex);
  state().failures[name] = {result, n_before, n_failing};
}
// The next kernel fails while it runs.
CONTROL void fake_fail_next_kernel(int result) { state().next_kernel = result; }
CONTROL void fake_hang(int hangs) {
  const std::lock_guard lock(state().mutex);
  for (FakeStream* stream : state().streams) stream->hang(hangs != 0);
}
CONTROL void fake_set(const char* name, long value) {
  const std::string what = name;
  if (what == "capability") state().capability = static_cast<int>(value);
  if (what == "driver_version") state().driver_version = static_cast<int>(value);
  if (what == "n_devices") state().n_devices = static_cast<int>(value);
  if (what == "total_nbytes") state().total_nbytes = static_cast<std::size_t>(value);
}
CONTROL void fake_reset() {
  fake_hang(0);
  const std::lock_guard lock(state().mutex);
  state().failures.clear();
  state().counts.clear();
  state().live.clear();
  state().sticky = SUCCESS;
  state().next_kernel = SUCCESS;
  state().capability = 90;
  state().driver_version = 13000;
  state().n_devices = 1;
  state().total_nbytes = std::size_t{8} << 30;
}
CONTROL long fake_calls(const char* name) {
  const std::lock_guard lock(state().mutex);
  return state().counts[name];
}
CONTROL long fake_live(const char* what) {
  const std::lock_guard lock(state().mutex);
  return state().live[what];
}
CONTROL int fake_context_depth() { return context_depth; }
