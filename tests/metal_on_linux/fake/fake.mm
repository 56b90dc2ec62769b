#import "fake.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>

namespace fake {
namespace {

struct Figures {
  std::mutex mutex;
  std::map<std::string, std::int64_t> values;
  std::map<std::string, std::string> texts;
};

// Outlives every object, also those that a finishing process leaves behind.
Figures& figures() {
  static auto* const all = new Figures;
  return *all;
}

std::string variable(const std::string& name) {
  std::string text = "FAKE_METAL_";
  for (const char letter : name) text += static_cast<char>(std::toupper(letter));
  return text;
}

std::int64_t& value_of(Figures& all, const std::string& name) {
  const auto known = all.values.find(name);
  if (known != all.values.end()) return known->second;
  const char* text = std::getenv(variable(name).c_str());
  return all.values.emplace(name, text == nullptr ? 0 : std::strtoll(text, nullptr, 10)).first->second;
}

}  // namespace

void misuse(const std::string& what) {
  add("misuses", 1);
  throw std::logic_error("Metal validation: " + what);
}

void abort_over_misuse(const std::string& what) {
  std::fprintf(stderr, "Metal validation: %s\n", what.c_str());
  std::abort();
}

NSError* make_error(NSString* domain, NSInteger code, const std::string& reason) {
  NSString* text = [NSString stringWithUTF8String:reason.c_str()];
  return [NSError errorWithDomain:domain
                             code:code
                         userInfo:[NSDictionary dictionaryWithObject:text forKey:NSLocalizedDescriptionKey]];
}

std::string text_of(NSString* string) { return string == nil ? "" : [string UTF8String]; }

std::int64_t get(const std::string& name) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  return value_of(all, name);
}

void set(const std::string& name, std::int64_t value) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  value_of(all, name) = value;
}

void add(const std::string& name, std::int64_t amount) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  value_of(all, name) += amount;
}

bool take(const std::string& name) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  std::int64_t& value = value_of(all, name);
  if (value == 0) return false;
  --value;
  return true;
}

void set_text(const std::string& name, const std::string& text) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  all.texts[name] = text;
}

std::string get_text(const std::string& name) {
  Figures& all = figures();
  const std::lock_guard lock(all.mutex);
  return all.texts[name];
}

std::string text_setting(const std::string& name, const std::string& fallback) {
  const char* text = std::getenv(variable(name).c_str());
  return text == nullptr ? fallback : text;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

MTLTimestamp gpu_ticks() { return 1'000'000 + static_cast<MTLTimestamp>(now() * 24e6); }

}  // namespace fake

@implementation FakeObject
- (id)init {
  if ((self = [super init])) fake::add("live_objects", 1);
  return self;
}
- (void)dealloc {
  fake::add("live_objects", -1);
  [super dealloc];
}
@end

@implementation FakeLabelled
- (NSString*)label {
  return labelText;
}
- (void)setLabel:(NSString*)label {
  NSString* copy = [label copy];
  [labelText release];
  labelText = copy;
}
- (void)dealloc {
  [labelText release];
  [super dealloc];
}
@end

// For ctypes.
extern "C" {
__attribute__((visibility("default"))) std::int64_t fake_metal_get(const char* name) { return fake::get(name); }
__attribute__((visibility("default"))) const char* fake_metal_text(const char* name) {
  static thread_local std::string text;
  text = fake::get_text(name);
  return text.c_str();
}
__attribute__((visibility("default"))) void fake_metal_set(const char* name, std::int64_t value) {
  fake::set(name, value);
}
}
