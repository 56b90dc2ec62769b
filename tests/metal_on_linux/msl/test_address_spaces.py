import pytest
from shader_library import ErrorOf

pytestmark = pytest.mark.metal_bench

FAULTS = {
    "threadgroup pointer for a device parameter": (
        (
            "inline float first(device const float* p) { return p[0]; }\n"
            "kernel void k(device float* x [[buffer(0)]]) { threadgroup float s[2]; s[0] = x[0];\n"
            "  x[1] = first(s); }"
        ),
        5,
    ),
    "write to constant memory": (
        (
            "kernel void k(device float* x [[buffer(0)]],\n constant uint& n [[buffer(1)]]) {\n"
            "  x[0] = 0.0f; n = 2; }"
        ),
        5,
    ),
    "write through a const pointer": (
        "kernel void k(device const float* x [[buffer(0)]]) {\n  x[0] = 1.0f; }",
        4,
    ),
    "a cast into another address space": (
        (
            "kernel void k(device float* x [[buffer(0)]]) {\n"
            "  threadgroup float* s = (threadgroup float*)x; s[0] = 1.0f; }"
        ),
        4,
    ),
    "a local's address for a device parameter": (
        (
            "inline void clear(device float* p) { p[0] = 0.0f; }\n"
            "kernel void k(device float* x [[buffer(0)]]) { float y = x[0];\n  clear(&y); }"
        ),
        5,
    ),
    "a member function of an object in constant memory": (
        (
            "struct Size { uint n; uint twice() const { return 2 * n; } };\n"
            "kernel void k(device uint* x [[buffer(0)]], constant Size& size [[buffer(1)]]) {\n"
            "  x[0] = size.twice(); }"
        ),
        5,
    ),
    "as_type between sizes": (
        "inline float f(ulong bits) {\n  return as_type<float>(bits); }",
        4,
    ),
    "a vector of too few components": (
        "inline float4 f(float2 v) {\n  return float4(v, 1.0f); }",
        4,
    ),
    "vectors of two element types": (
        "inline float4 f(float4 v, uint4 w) {\n  return v * w; }",
        4,
    ),
    "min of two types": (
        "inline uint f(uint a, int b) {\n  return min(a, b); }",
        4,
    ),
    "shuffle of 64 bits": (
        "inline ulong f(ulong a) {\n  return simd_shuffle_xor(a, 1); }",
        4,
    ),
    "C++17": (
        (
            "template <uint n> inline uint f() {\n"
            "  if constexpr (n > 1) return 1; else return 0; }\n"
            "inline uint g() { return f<2>(); }"
        ),
        4,
    ),
    "an index behind the end of an array": (
        "inline uint f() { uint words[2] = {1u, 2u};\n  return words[2]; }",
        4,
    ),
}

SOUND = {
    "pointers of their own address spaces": (
        "inline float first(device const float* p) { return p[0]; }\n"
        "inline float first_shared(threadgroup const float* p) { return p[0]; }\n"
        "kernel void k(device float* x [[buffer(0)]]) { threadgroup float s[2]; s[0] = x[0];\n"
        "  x[1] = first(x) + first_shared(s); float y = x[0]; thread float* z = &y; *z = 1.0f; }"
    ),
    "structures copied out of every memory": (
        "struct Size { uint n; float scale; };\n"
        "inline uint twice(Size size) { return 2 * size.n; }\n"
        "kernel void k(device Size* x [[buffer(0)]], constant Size& size [[buffer(1)]]) {\n"
        "  threadgroup Size s[2]; s[0] = size; const Size y = x[0]; x[1] = s[0];\n"
        "  x[0].n = twice(size) + twice(y) + twice({1u, 2.0f}); }"
    ),
    "vectors": (
        "inline float4 f(float2 v, half4 h, uint4 u) {\n"
        "  float4 r = float4(v, 1.0f, 2.0f) * 2.0f + float4(h) - float4(u);\n"
        "  r.xy = v.yx; r.w += 1.0f;\n"
        "  return max(r, float4(0.0f)).wzyx; }"
    ),
    "matrices and atomics of device and threadgroup memory": (
        "kernel void k(device float* x [[buffer(0)]],\n"
        "              device atomic_uint* n [[buffer(1)]]) {\n"
        "  threadgroup float s[64]; threadgroup atomic_uint m; simdgroup_float8x8 a, b;\n"
        "  simdgroup_load(a, x, 8); simdgroup_load(b, s, 8, ulong2(0, 0), true);\n"
        "  simdgroup_multiply_accumulate(a, a, b, a); simdgroup_store(a, s);\n"
        "  atomic_store_explicit(&m, 0u, memory_order_relaxed);\n"
        "  const uint count = atomic_load_explicit(&m, memory_order_relaxed);\n"
        "  atomic_fetch_add_explicit(n, count, memory_order_relaxed); }"
    ),
    "names that OpenCL keeps for itself": (
        "inline float f(float global) { const float local = global; return local; }"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_address_space_or_type_is_refused(fault: str, check_error: ErrorOf) -> None:
    text, line = FAULTS[fault]
    assert f"planted.metal:{line}:" in check_error(text + "\n")


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_passes(text: str, check_error: ErrorOf) -> None:
    assert check_error(SOUND[text] + "\n") == ""
