"""Reads the arguments and attributes of kernels and the program-scope constants."""

from dataclasses import dataclass

from declarations import Declarations, Function, Scope, Span, Variable
from table import CONSTANT_TYPES, Argument, FunctionConstant, Kernel, Table

MAX_INDEX = 30
POSITIONS = frozenset(
    {
        "thread_position_in_grid",
        "thread_position_in_threadgroup",
        "threadgroup_position_in_grid",
        "threads_per_grid",
        "threads_per_threadgroup",
        "threadgroups_per_grid",
        "dispatch_threads_per_threadgroup",
    }
)
SCALARS = frozenset(
    {
        "thread_index_in_threadgroup",
        "thread_index_in_simdgroup",
        "simdgroup_index_in_threadgroup",
        "simdgroups_per_threadgroup",
        "threads_per_simdgroup",
    }
)
BUILTIN_SCALARS = ("uint", "ushort")
ADDRESS_SPACES = ("device", "constant", "threadgroup", "thread")
# Attributes that say nothing to a host compiler.
IGNORED_ATTRIBUTES = ("maybe_unused", "unused", "always_inline", "noinline", "fallthrough")


@dataclass(frozen=True)
class Attribute:
    """One name between double brackets, with what stands in its parentheses."""

    name: str
    value: str
    index: int  # its token

    @classmethod
    def of(cls, declarations: Declarations, span: Span) -> "list[Attribute]":
        """Those of all `[[...]]` inside the span."""
        attributes = []
        for brackets in declarations.attributes_in(span):
            for part in declarations.split(Span(brackets.first + 2, brackets.end - 2)):
                value = ""
                if declarations.text(part.first + 1) == "(":
                    inner = Span(part.first + 2, declarations.closing(part.first + 1))
                    value = " ".join(declarations.texts(inner))
                attributes.append(cls(declarations.text(part.first), value, part.first))
        return attributes


def is_kernel(declarations: Declarations, function: Function) -> bool:
    if function.body is None:
        return False
    if "kernel" in declarations.texts(function.head):
        return True
    return any(a.name == "kernel" for a in Attribute.of(declarations, function.head))


def read_table(declarations: Declarations) -> Table:
    constants: list[FunctionConstant] = []
    for variable in declarations.variables:
        if not is_function_constant(declarations, variable):
            continue
        constant = _function_constant(declarations, variable)
        for other in constants:
            if constant.name == other.name or constant.index == other.index:
                raise declarations.error(
                    variable.name_index,
                    f"function constant {constant.index} '{constant.name}' clashes with "
                    f"{other.index} '{other.name}' of {other.file}:{other.line}",
                )
        constants.append(constant)
    kernels: list[Kernel] = []
    for function in declarations.functions:
        if not is_kernel(declarations, function):
            continue
        used = _used_constants(declarations, function, {constant.name for constant in constants})
        kernel = _kernel(declarations, function, used)
        if any(kernel.name == other.name for other in kernels):
            raise declarations.error(function.name_index, f"a second kernel '{kernel.name}'")
        kernels.append(kernel)
    return Table(tuple(kernels), tuple(constants))


def is_function_constant(declarations: Declarations, variable: Variable) -> bool:
    attributes = Attribute.of(declarations, variable.whole)
    return any(attribute.name == "function_constant" for attribute in attributes)


def derived_constants(declarations: Declarations, table: Table) -> list[Variable]:
    """Program-scope constants whose value depends on function constants, in order."""
    names = {constant.name for constant in table.constants}
    derived = []
    for variable in declarations.variables:
        if variable.scope is Scope.STRUCT or variable.name in names:
            continue
        rest = variable.rest()
        if not names & set(declarations.texts(rest)):
            continue
        for i in range(rest.first, rest.end - 1):
            called = declarations.text(i)
            calls = declarations.text(i + 1) == "(" and declarations.tokens[i].kind == "identifier"
            if calls and called not in CONSTANT_TYPES:
                raise declarations.error(
                    i, f"'{variable.name}' depends on function constants and calls '{called}'"
                )
        if declarations.text(rest.first) != "=":
            raise declarations.error(rest.first, "a derived constant is a scalar with '='")
        names.add(variable.name)
        derived.append(variable)
    return derived


def _function_constant(declarations: Declarations, variable: Variable) -> FunctionConstant:
    at = variable.name_index
    if variable.scope is not Scope.FILE:
        raise declarations.error(at, "function constants are declared outside of namespaces")
    words = declarations.texts(variable.head)
    if words[:1] != ["constant"] or len(words) != 2 or words[1] not in CONSTANT_TYPES:
        raise declarations.error(
            at, f"a function constant is 'constant SCALAR', got '{' '.join(words)}'"
        )
    attributes = Attribute.of(declarations, variable.whole)
    if declarations.texts(variable.rest()) or len(attributes) != 1:
        raise declarations.error(at, "a function constant has one attribute and no value")
    index = _index(declarations, attributes[0], 65535)
    file, line = declarations.source.location(declarations.tokens[at].start)
    return FunctionConstant(variable.name, words[1], index, file, line)


def _index(declarations: Declarations, attribute: Attribute, largest: int) -> int:
    if not attribute.value.isdigit() or int(attribute.value) > largest:
        raise declarations.error(
            attribute.index,
            f"{attribute.name}({attribute.value}): wanted a number from 0 to {largest}",
        )
    return int(attribute.value)


def _used_constants(
    declarations: Declarations, kernel: Function, names: set[str]
) -> tuple[str, ...]:
    """Follows calls and derived constants by name, so overloads count together."""
    bodies: dict[str, set[str]] = {}
    for function in declarations.functions:
        if function.body is not None:
            words = bodies.setdefault(function.name, set())
            words.update(declarations.texts(function.body))
    for variable in declarations.variables:
        bodies.setdefault(variable.name, set()).update(declarations.texts(variable.rest()))
    seen: set[str] = set()
    waiting = [kernel.name]
    while waiting:
        word = waiting.pop()
        if word not in seen:
            seen.add(word)
            waiting.extend(bodies.get(word, ()))
    return tuple(sorted(seen & names))


def _kernel(declarations: Declarations, function: Function, used: tuple[str, ...]) -> Kernel:
    at = function.name_index
    if function.templated:
        raise declarations.error(at, f"kernel '{function.name}' is a template")
    if function.scope is not Scope.FILE:
        raise declarations.error(at, f"kernel '{function.name}' is not at file scope")
    max_threads = None
    for attribute in Attribute.of(declarations, function.head):
        if attribute.name == "max_total_threads_per_threadgroup":
            max_threads = _index(declarations, attribute, 1024)
        elif attribute.name != "kernel":
            raise declarations.error(attribute.index, f"unknown attribute '{attribute.name}'")
    words = [w for w in declarations.texts(function.head) if w not in ("kernel", "static")]
    if words != ["void"]:
        returned = " ".join(words)
        raise declarations.error(at, f"kernel '{function.name}' returns {returned}, not void")
    arguments = tuple(_argument(declarations, parameter) for parameter in function.parameters)
    _check_arguments(declarations, function, arguments)
    file, line = declarations.source.location(declarations.tokens[at].start)
    return Kernel(function.name, file, line, arguments, used, max_threads)


def _argument(declarations: Declarations, parameter: Span) -> Argument:
    words = declarations.texts(parameter)
    name = words[-1]
    at = parameter.first
    attributes = [
        a for a in Attribute.of(declarations, parameter) if a.name not in IGNORED_ATTRIBUTES
    ]
    if len(attributes) != 1:
        raise declarations.error(at, f"argument '{name}' needs one attribute such as [[buffer(0)]]")
    attribute = attributes[0]
    if "=" in words or "[" in words:
        raise declarations.error(at, f"argument '{name}' is an array or has a default")
    symbols = [word for word in words if word in ("*", "&")]
    spaces = [word for word in words if word in ADDRESS_SPACES]
    core = [w for w in words[:-1] if w not in ("const", "restrict", "volatile", *ADDRESS_SPACES)]
    base = " ".join(word for word in core if word not in symbols).replace(" :: ", "::")
    if attribute.name in POSITIONS | SCALARS:
        _check_builtin(declarations, attribute, base, bool(symbols or spaces))
        return Argument(name, "builtin", base, builtin=attribute.name)
    if attribute.name not in ("buffer", "threadgroup"):
        raise declarations.error(attribute.index, f"unknown attribute '{attribute.name}'")
    allowed = ("threadgroup",) if attribute.name == "threadgroup" else ("device", "constant")
    if len(symbols) != 1 or len(spaces) != 1 or spaces[0] not in allowed:
        raise declarations.error(
            at, f"argument '{name}' is no pointer or reference to {' or '.join(allowed)} memory"
        )
    constant = spaces[0] == "constant" or "const" in words[: words.index(symbols[0])]
    index = _index(declarations, attribute, MAX_INDEX)
    reference = symbols[0] == "&"
    return Argument(
        name,
        attribute.name,
        base,
        index=index,
        address_space=spaces[0],
        constant=constant,
        reference=reference,
    )


def _check_builtin(
    declarations: Declarations, attribute: Attribute, base: str, indirect: bool
) -> None:
    allowed = list(BUILTIN_SCALARS)
    if attribute.name in POSITIONS:
        allowed += [f"{scalar}{n}" for scalar in BUILTIN_SCALARS for n in (2, 3)]
    if indirect or base not in allowed:
        raise declarations.error(
            attribute.index, f"{attribute.name} is {' or '.join(allowed)}, got {base}"
        )


def _check_arguments(
    declarations: Declarations, function: Function, arguments: tuple[Argument, ...]
) -> None:
    seen: dict[tuple[str, int | str | None], str] = {}
    widths: dict[str, str] = {}
    for parameter, argument in zip(function.parameters, arguments, strict=True):
        key = argument.kind, argument.builtin or argument.index
        if key in seen:
            raise declarations.error(
                parameter.first, f"'{argument.name}' has the attribute of '{seen[key]}'"
            )
        seen[key] = argument.name
        if argument.builtin in POSITIONS and argument.type[-1].isdigit():
            widths[argument.type[-1]] = argument.name
    if len(widths) > 1:
        names = " and ".join(sorted(widths.values()))
        raise declarations.error(
            function.name_index, f"vector positions of one kernel have one width: {names} differ"
        )
