// Shadows the C library's: a failing assert of a kernel is CUDA's error 710, not the end of the process.
#undef assert
#ifdef NDEBUG
#define assert(condition) ((void)0)
#else
#define assert(condition) ((condition) ? (void)0 : emulator_device_assert(#condition, __FILE__, __LINE__))
#endif
