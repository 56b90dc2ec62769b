// GNUstep's headers look for blocks here.
#pragma once
#include <Block.h>
