// Run-time dispatch of vector kernels: the compiler clones a function for AVX-512, AVX2+FMA and the baseline, the loader picks one.
#ifndef CONCLAVE_BASE_SIMD_H_
#define CONCLAVE_BASE_SIMD_H_

// Write it before a non-template function; put the loop into a CONCLAVE_INLINE template that it calls, so that the clone's
// instruction set reaches the loop. Sanitizer builds turn cloning off: their runtime is not up when clones are resolved.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(CONCLAVE_NO_SIMD_CLONES)
#define CONCLAVE_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CONCLAVE_SIMD
#endif
#define CONCLAVE_INLINE inline __attribute__((always_inline))

#endif  // CONCLAVE_BASE_SIMD_H_
