"""Writes what follows a translated shader: how its kernels are called on the host and from CUDA."""

from table import Argument, FunctionConstant, Kernel, Table

SPACES = {
    "device": "MSL_SPACE_DEVICE",
    "constant": "MSL_SPACE_CONSTANT",
    "threadgroup": "MSL_SPACE_THREADGROUP",
}


def registration(table: Table, derived: list[str]) -> str:
    """`derived` are the assignments of constants that depend on function constants."""
    lines = ['#line 1 "registration"', "#if defined(MSL_TARGET_CUDA)"]
    lines += [_cuda_entry(kernel) for kernel in table.kernels]
    lines += ["#elif defined(MSL_TARGET_HOST)"]
    lines += [_host_entry(number, kernel) for number, kernel in enumerate(table.kernels)]
    lines += _host_library(table, derived)
    lines += ["#endif", ""]
    return "\n".join(lines)


def _pointer(argument: Argument) -> str:
    return f"{'const ' if argument.constant else ''}{argument.type}*"


def _builtin(argument: Argument) -> str:
    return f"{argument.type}(frame.{argument.builtin}())"


def _cuda_entry(kernel: Kernel) -> str:
    parameters = []
    call = []
    for argument in kernel.arguments:
        name = argument.name
        if argument.kind == "builtin":
            call.append(_builtin(argument))
        elif argument.kind == "threadgroup":
            parameters.append(f"uint {name}")
            call.append(f"reinterpret_cast<{_pointer(argument)}>(msl::threadgroup_memory + {name})")
        elif argument.reference and argument.constant:
            parameters.append(f"const __grid_constant__ {argument.type} {name}")
            call.append(name)
        else:
            parameters.append(f"{_pointer(argument)} {name}")
            call.append(f"*{name}" if argument.reference else name)
    # -DMSL_ONLY -DMSL_ONLY_name leaves out all other kernels, which then cost no compilation.
    only = f"#if !defined(MSL_ONLY) || defined(MSL_ONLY_{kernel.name})\n"
    bounds = f"__launch_bounds__({kernel.max_threads})" if kernel.max_threads else "MSL_BOUNDS"
    return (
        f'{only}extern "C" __global__ void {bounds} msl_{kernel.name}({", ".join(parameters)}) {{\n'
        f"  const msl::Frame frame;\n  {kernel.name}({', '.join(call)});\n}}\n#endif"
    )


def _host_entry(number: int, kernel: Kernel) -> str:
    call = []
    for argument in kernel.arguments:
        if argument.kind == "builtin":
            call.append(_builtin(argument))
            continue
        memory = "buffer" if argument.kind == "buffer" else "threadgroup"
        address = f"static_cast<{_pointer(argument)}>(frame.{memory}({argument.index}))"
        call.append(f"*{address}" if argument.reference else address)
    return (
        f"static void msl_call_{number}() {{\n"
        f"  const msl::Frame frame;\n  {kernel.name}({', '.join(call)});\n}}"
    )


def _row(*fields: object) -> str:
    return "{" + ", ".join(str(field) for field in fields) + "}"


def _array(declarator: str, rows: list[str], last: str = "{}") -> str:
    """Ends with an empty row, for C++ has no arrays without elements."""
    return "\n".join(
        [f"static {declarator}[] = {{", *(f"  {row}," for row in rows), f"  {last}}};"]
    )


def _host_argument(argument: Argument) -> str:
    kind = "MSL_ARGUMENT_BUFFER" if argument.kind == "buffer" else "MSL_ARGUMENT_THREADGROUP"
    assert argument.address_space is not None
    space = SPACES[argument.address_space]
    nbytes = f"sizeof({argument.type})" if argument.reference else "0"
    writable = int(not argument.constant)
    return _row(f'"{argument.name}"', kind, space, argument.index, writable, nbytes)


def _host_kernel(number: int, kernel: Kernel) -> str:
    n_arguments = sum(argument.kind != "builtin" for argument in kernel.arguments)
    arguments = f"msl_arguments_{number}, {n_arguments}"
    constants = f"msl_constants_of_{number}, {len(kernel.constants)}"
    row = _row(f'"{kernel.name}"', arguments, constants, 0)
    return _row(row, f"&msl_call_{number}", kernel.max_threads or 1024)


def _host_constant(constant: FunctionConstant) -> str:
    name = constant.name
    row = _row(f'"{name}"', f'"{constant.type}"', constant.index, f"sizeof({name})")
    return _row(row, f"&{name}")


def _host_library(table: Table, derived: list[str]) -> list[str]:
    lines = []
    for number, kernel in enumerate(table.kernels):
        arguments = [_host_argument(a) for a in kernel.arguments if a.kind != "builtin"]
        constants = [f'"{name}"' for name in kernel.constants]
        lines.append(_array(f"const msl_argument msl_arguments_{number}", arguments))
        lines.append(_array(f"const char* const msl_constants_of_{number}", constants, "nullptr"))
    kernels = [_host_kernel(number, kernel) for number, kernel in enumerate(table.kernels)]
    lines.append(_array("msl::Entry msl_entries", kernels))
    rows = [_host_constant(constant) for constant in table.constants]
    lines.append(_array("const msl::FunctionConstant msl_function_constants", rows))
    lines += ["static void msl_derive_constants() {", *(f"  {text}" for text in derived), "}"]
    entries = f"msl_entries, {len(table.kernels)}"
    constants_of_all = f"msl_function_constants, {len(table.constants)}"
    library = _row(entries, constants_of_all, "&msl_derive_constants")
    lines.append(f"const msl::Library msl::library = {library};")
    return lines
