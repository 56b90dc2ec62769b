"""Rules of Metal that a host compiler does not have. What it refuses too is left to it."""

from dataclasses import dataclass

from declarations import Declarations, Function, Scope, Span, Variable
from kernels import ADDRESS_SPACES, is_kernel

# What Metal 3's language leaves out of C++14, and what this translator leaves out of Metal.
NO_METAL = {
    "asm": "inline assembly",
    "catch": "exceptions",
    "double": "double precision",
    "dynamic_cast": "dynamic_cast",
    "goto": "goto",
    "mutable": "mutable",
    "new": "new",
    "delete": "delete",
    "noexcept": "noexcept",
    "register": "register",
    "std": "the C++ standard library",
    "thread_local": "thread_local",
    "throw": "exceptions",
    "try": "exceptions",
    "typeid": "typeid",
    "virtual": "virtual functions",
}
NOT_TRANSLATED = frozenset(
    {
        "depth2d",
        "fragment",
        "imageblock",
        "intersector",
        "object_data",
        "ray_data",
        "sampler",
        "tensor",
        "texture1d",
        "texture2d",
        "texture3d",
        "texture_buffer",
        "threadgroup_imageblock",
        "vertex",
        "visible_function_table",
    }
)
SPECIFIERS = ("const", "constexpr", "volatile", "unsigned", "signed")
STATEMENT_WORDS = frozenset(
    {"break", "case", "continue", "default", "do", "else", "for", "if", "return", "switch", "while"}
)
POINTERS = ("*", "&", "&&")
NO_ADDRESS_SPACE = "a pointer or reference needs an address space"


@dataclass(frozen=True)
class ThreadgroupVariables:
    """One declaration of threadgroup variables in a kernel's body."""

    kernel: str
    whole: Span  # from `threadgroup` to the semicolon
    names: tuple[str, ...]


def check(declarations: Declarations) -> list[ThreadgroupVariables]:
    """Raises ShaderError for what Metal refuses; otherwise the threadgroup variables."""
    _check_words(declarations)
    _check_recursion(declarations)
    for variable in declarations.variables:
        _check_variable(declarations, variable)
    found = []
    for function in declarations.functions:
        _check_signature(declarations, function)
        if function.body is not None:
            found += _check_body(declarations, function)
    return found


def _check_words(declarations: Declarations) -> None:
    tokens = declarations.tokens
    for i, token in enumerate(tokens):
        text = token.text
        if token.kind == "identifier":
            if text in NO_METAL and (text != "std" or declarations.text(i + 1) == "::"):
                raise declarations.error(i, f"Metal has no {NO_METAL[text]}")
            if text == "long" == declarations.text(i + 1):
                raise declarations.error(i, "Metal has no long long")
            if text in NOT_TRANSLATED and declarations.text(i - 1) not in (".", "->"):
                raise declarations.error(i, f"'{text}' is not translated")
        elif text == "[" and declarations.after_attribute(i) == i and i > 0:
            before = tokens[i - 1]
            inside_attribute = declarations.after_attribute(i - 1) > i - 1
            known = before.text in (")", "]") or before.kind == "identifier"
            if before.text == "return" or not (known or inside_attribute):
                raise declarations.error(i, "Metal has no lambda expressions")
        elif text in POINTERS and declarations.text(i + 1) in (")", ">", ","):
            _check_unnamed_pointer(declarations, i)


def _check_unnamed_pointer(declarations: Declarations, i: int) -> None:
    """A `*` that ends a type: a cast, a template argument or a parameter without a name."""
    if declarations.text(i - 1) == "operator":
        return
    j = i
    while j > 0 and declarations.text(j) not in ("(", "<", ",", ";", "{", "}"):
        if declarations.text(j) in (*ADDRESS_SPACES, "auto"):
            return
        j -= 1
    raise declarations.error(i, NO_ADDRESS_SPACE)


def _check_recursion(declarations: Declarations) -> None:
    """Overloads may call each other; a name defined once may not come back to itself."""
    calls: dict[str, set[str]] = {}
    places: dict[str, list[int]] = {}
    for function in declarations.functions:
        if function.body is not None:
            places.setdefault(function.name, []).append(function.name_index)
            calls.setdefault(function.name, set()).update(
                declarations.text(i)
                for i in range(function.body.first, function.body.end)
                if declarations.text(i + 1) in ("(", "<")
            )
    for name, indexes in places.items():
        seen: set[str] = set()
        waiting = list(calls[name])
        while waiting:
            called = waiting.pop()
            if called in seen or len(places.get(called, ())) != 1:
                continue
            seen.add(called)
            waiting.extend(calls[called])
        if name in seen:
            raise declarations.error(indexes[0], f"'{name}' calls itself, Metal has no recursion")


def _has_space(words: list[str], *others: str) -> bool:
    return any(word in words for word in (*ADDRESS_SPACES, *others))


def _check_variable(declarations: Declarations, variable: Variable) -> None:
    words = declarations.texts(variable.head)
    at = variable.name_index
    if any(pointer in words for pointer in POINTERS) and not _has_space(words):
        raise declarations.error(at, NO_ADDRESS_SPACE)
    if variable.scope is Scope.STRUCT:
        if "static" in words or ("constant" in words and "*" not in words and "&" not in words):
            raise declarations.error(at, "constants inside of structs are not translated")
    elif "constant" not in words:
        raise declarations.error(at, f"'{variable.name}' at program scope has to be 'constant'")


def _check_signature(declarations: Declarations, function: Function) -> None:
    spans = [function.head, *function.parameters]
    for span in spans:
        words = declarations.texts(span)
        if "operator" in words:
            words = words[: words.index("operator")]
        if any(pointer in words for pointer in POINTERS) and not _has_space(words):
            raise declarations.error(span.first, NO_ADDRESS_SPACE)


def _check_body(declarations: Declarations, function: Function) -> list[ThreadgroupVariables]:
    assert function.body is not None
    found = []
    depth = 0
    begins = True
    for i in range(function.body.first, function.body.end):
        text = declarations.text(i)
        if begins and text not in ("{", "}", ";"):
            variables = _check_statement(declarations, function, i)
            if variables is not None:
                if depth > 0:
                    raise declarations.error(
                        i, "threadgroup variables are declared in the outermost block of a kernel"
                    )
                found.append(variables)
        if text == "static":
            raise declarations.error(i, "Metal has no static variables in functions")
        depth += {"{": 1, "}": -1}.get(text, 0)
        begins = text in ("{", "}", ";") or (text == "(" and declarations.text(i - 1) == "for")
    return found


def _check_statement(
    declarations: Declarations, function: Function, first: int
) -> ThreadgroupVariables | None:
    """Of a statement that may be a declaration."""
    kind = first
    while declarations.text(kind) in (*SPECIFIERS, *ADDRESS_SPACES):
        kind += 1
    if declarations.text(kind) in STATEMENT_WORDS:
        return None
    declarator = _after_type(declarations, kind)
    while declarations.text(declarator) in ("const", *ADDRESS_SPACES):
        declarator += 1
    words = declarations.texts(Span(first, declarator))
    if declarator == first or declarations.text(declarator) == "(":
        return None  # no declaration, or e.g. `threadgroup float (&rows)[8] = ...`
    if declarations.text(declarator) in POINTERS:
        _check_local_pointer(declarations, declarator, words)
        return None
    if "constant" in words or "device" in words:
        raise declarations.error(
            first, "variables of functions are in thread or threadgroup memory"
        )
    if "threadgroup" not in words:
        return None
    if not is_kernel(declarations, function):
        raise declarations.error(first, "threadgroup variables are declared in kernels only")
    return _threadgroup_variables(declarations, function.name, first, declarator)


def _check_local_pointer(declarations: Declarations, i: int, words: list[str]) -> None:
    """Of the `*` or `&` at `i`, which may also be an operator between two factors."""
    name = i
    while declarations.text(name) in (*POINTERS, "const"):
        name += 1
    named = declarations.tokens[name].kind == "identifier"
    declared = named and declarations.text(name + 1) in ("=", ";", ",", "[", ":", "{")
    if declared and not _has_space(words, "auto"):
        raise declarations.error(i, NO_ADDRESS_SPACE)


def _after_type(declarations: Declarations, i: int) -> int:
    while declarations.tokens[i].kind == "identifier":
        i += 1
        if declarations.text(i) == "<":
            closing = declarations.angle(i)
            i = i if closing is None else closing + 1
        if declarations.text(i) == "::":
            i += 1
            continue
        if declarations.text(i - 1) not in ("unsigned", "signed", "long", "short"):
            break
    return i


def _threadgroup_variables(
    declarations: Declarations, kernel: str, first: int, declarators: int
) -> ThreadgroupVariables:
    if declarations.text(first) != "threadgroup":
        raise declarations.error(first, "'threadgroup' comes first in a declaration")
    end = declarators
    while declarations.text(end) != ";":
        if declarations.text(end) in ("=", "{"):
            raise declarations.error(end, "threadgroup variables have no initial value")
        end = declarations.closing(end) if declarations.text(end) == "[" else end
        end += 1
    parts = declarations.split(Span(declarators, end))
    names = tuple(declarations.text(part.first) for part in parts)
    return ThreadgroupVariables(kernel, Span(first, end + 1), names)
