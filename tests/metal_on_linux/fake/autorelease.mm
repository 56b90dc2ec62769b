// The autorelease pool functions of the Objective-C ABI, which GCC's runtime lacks.
#import <Foundation/Foundation.h>

extern "C" {
void* objc_autoreleasePoolPush(void) { return [[NSAutoreleasePool alloc] init]; }
void objc_autoreleasePoolPop(void* pool) { [static_cast<NSAutoreleasePool*>(pool) release]; }
}
