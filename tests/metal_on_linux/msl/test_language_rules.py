import pytest
from shader_library import ErrorOf

pytestmark = pytest.mark.metal_bench

# The text stands on line 3; "..." becomes a kernel's arguments.
ARGUMENTS = "device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]"

FAULTS = [
    ("kernel void k(...) { double y = x[i]; }", "double precision"),
    ("kernel void k(...) { x[i] = std::sqrt(x[i]); }", "the C++ standard library"),
    ("kernel void k(...) { goto end; end: return; }", "goto"),
    ("kernel void k(...) { auto f = [](float y) { return y; }; x[i] = f(x[i]); }", "lambda"),
    ("struct A { uint a; }; struct B : A { uint b; };", "derived classes"),
    ("struct A { virtual float f() { return 1.0f; } };", "virtual"),
    ("inline float f(float y) { return y > 1.0f ? f(y - 1.0f) : y; }", "'f' calls itself"),
    (("inline float g(float y); inline float f(float y) { return g(y); } "
     "inline float g(float y) { return f(y); }"), "recursion"),
    ("inline float f(const float* y) { return y[0]; }", "needs an address space"),
    ("kernel void k(...) { float* y = x; x[i] = y[0]; }", "needs an address space"),
    ("kernel void k(...) { float y = 0.0f; float& z = y; x[i] = z; }", "needs an address space"),
    ("kernel void k(...) { x[i] = ((const float*)x)[0]; }", "needs an address space"),
    ("kernel void k(...) { x[i] = reinterpret_cast<float*>(x)[0]; }", "needs an address space"),
    ("struct A { float* y; };", "needs an address space"),
    ("float table[2] = {0.0f, 1.0f};", "has to be 'constant'"),
    ("inline float f() { static float y = 0.0f; return y; }", "static variables"),
    ("inline float f(float y) { threadgroup float s[2]; return s[0]; }", "in kernels only"),
    ("kernel void k(...) { if (i > 0) { threadgroup float s; s = 1.0f; } }", "outermost block"),
    ("kernel void k(...) { threadgroup float s = 1.0f; x[i] = s; }", "no initial value"),
    ("kernel void k(device float* x) { x[0] = 0.0f; }", "needs one attribute"),
    ("kernel void k(device uint* x [[buffer(1)]], device uint* y [[buffer(1)]]) {}", "'x'"),
    ("kernel void k(device float* x [[buffer(31)]]) {}", "from 0 to 30"),
    ("kernel void k(threadgroup float* x [[buffer(0)]]) {}", "device or constant memory"),
    ("kernel void k(device float* x [[texture(0)]]) {}", "unknown attribute 'texture'"),
    ("kernel void k(float i [[thread_position_in_grid]]) {}", "got float"),
    ("kernel void k(uint2 i [[thread_index_in_simdgroup]]) {}", "got uint2"),
    ("kernel void k(uint2 i [[threads_per_grid]], uint3 j [[threadgroups_per_grid]]) {}", "differ"),
    ("kernel float k(...) { return 1.0f; }", "not void"),
    ("template <typename T> kernel void k(device T* x [[buffer(0)]]) {}", "is a template"),
    ("namespace a { kernel void k(...) {} }", "not at file scope"),
    ("namespace a::b { struct C { uint c; }; }", "C++17"),
    ("constant uint a [[function_constant(0)]]; constant int b [[function_constant(0)]];", "clash"),
    ("constant uint format [[function_constant(0)]] = 3;", "no value"),
    (("inline constexpr uint f(uint y) { return y; } constant uint a [[function_constant(0)]]; "
     "constant uint bits = f(a);"), "calls 'f'"),
    ("inline float4 f(texture2d<float> t) { return t.read(uint2(0u)); }", "is not translated"),
    ("#define KERNEL(name) kernel void name() {}", "a macro makes kernels"),
    ("#include <vector>", "<vector> is not a header of Metal"),
    ("#pragma omp parallel", "unknown '#pragma omp parallel'"),
    ("kernel void k(...) { x[i] = 0.0f; ", "is not closed"),
]  # fmt: skip

SOUND = [
    "kernel void k(...) { float y = x[i]; thread float& z = y; thread float* p = &y; *p = z; }",
    "inline float f(thread const float* y, device const float* z) { return y[0] * z[0]; }",
    "inline float f(float y) { return y; } inline float2 f(float2 y) { return float2(f(y.x)); }",
    "kernel void k(...) { threadgroup float s[2], t; if (i == 0) { s[0] = s[1] = t = x[0]; } }",
    "kernel void k(...) { threadgroup float* p; threadgroup float s[2]; p = s; p[0] = x[i]; }",
    "kernel void k(uint2 i [[thread_position_in_grid]], uint j [[thread_index_in_threadgroup]]) {}",
    "constant uint format [[function_constant(0)]]; constant uint bits = format & 255u;",
    "namespace a { constant float b[2] = {0.0f, 1.0f}; inline float f(uint i) { return b[i]; } }",
    "struct A { device const float* y; threadgroup float* z; float w[4]; };",
    "kernel void k(...) { for (uint j = 0; j < i && j * i > 3; ++j) x[j] = x[j] * x[i]; }",
    "kernel [[max_total_threads_per_threadgroup(256)]] void k(...) { x[i] = 0.0f; }",
    "// kernel void k() { double }\n/* std::vector */ inline float f() { return 1.0f; }",
]


def completed(text: str) -> str:
    return text.replace("(...)", f"({ARGUMENTS})") + "\n"


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_what_metal_refuses_is_an_error_with_its_line(
    text: str, message: str, translate_error: ErrorOf
) -> None:
    error = translate_error(completed(text))
    assert message in error
    assert "planted.metal:3: error: " in error


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_is_translated(text: str, translate_error: ErrorOf) -> None:
    assert translate_error(completed(text)) == ""
