// What the files of the fake Metal share: counted objects, settings and figures, errors, and misuse.
#pragma once
#import <Metal/Metal.h>

#include <cstdint>
#include <string>

// Counted, so that a test can tell that nothing leaks.
@interface FakeObject : NSObject
@end

@interface FakeLabelled : FakeObject {
 @public
  NSString* labelText;
}
- (NSString*)label;
- (void)setLabel:(NSString*)label;
@end

namespace fake {

// What Metal's validation layer aborts over.
[[noreturn]] void misuse(const std::string& what);
// The same where nothing may be thrown.
[[noreturn]] void abort_over_misuse(const std::string& what);

NSError* make_error(NSString* domain, NSInteger code, const std::string& reason);

std::string text_of(NSString* string);

// Faults to inject and figures to look at, by name; the environment variable FAKE_METAL_<NAME> is a setting's first
// value, 0 otherwise.
std::int64_t get(const std::string& name);
void set(const std::string& name, std::int64_t value);
void add(const std::string& name, std::int64_t amount);
// Counts a setting down to 0; true if it was not there yet.
bool take(const std::string& name);
// The last text of that name, for tests to look at.
std::string get_text(const std::string& name);
void set_text(const std::string& name, const std::string& text);
std::string text_setting(const std::string& name, const std::string& fallback);

// The host's steady clock in seconds, and the fake GPU's clock: other ticks, another start.
double now();
MTLTimestamp gpu_ticks();

}  // namespace fake
