// Only the include is legal here: a call of what it declares does not compile.
#pragma once
#include "../cooperative_groups.h"
