"""Translates a .metal file to C++ for the host and for CUDA, line for line.

One output serves all: prelude.h, its first line, chooses what the words of Metal mean.

    translate.py shaders/matmul.metal -o matmul.cpp --table matmul.json
    translate.py shaders/matmul.metal --flatten -o matmul.metal
    translate.py shaders/*.metal --kernels
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from declarations import Declarations, Scope, Span, Struct
from flatten import Flattener
from kernels import (
    ADDRESS_SPACES,
    IGNORED_ATTRIBUTES,
    Attribute,
    derived_constants,
    is_function_constant,
    is_kernel,
    read_table,
)
from registration import registration
from rules import NO_METAL, ThreadgroupVariables, check
from source import TOKEN, ShaderError, Source, blank, quoted
from table import Table

ADDRESS_SPACE_MACROS = {space: f"MSL_{space.upper()}" for space in ADDRESS_SPACES}


@dataclass(frozen=True)
class Translation:
    """C++ and the table of its kernels."""

    text: str
    table: Table


class Translator:
    """The edits of one flattened shader."""

    def __init__(self, source: Source) -> None:
        self._declarations = Declarations(source, source.code())
        self._source = source
        self._edits: list[tuple[int, int, str]] = []
        self.table = read_table(self._declarations)
        self._derived = derived_constants(self._declarations, self.table)
        threadgroup_variables = check(self._declarations)
        self._functions()
        self._program_constants()
        for struct in self._declarations.structs:
            self._struct(struct)
        for number, variables in enumerate(threadgroup_variables):
            self._threadgroup_variables(number, variables)
        self._attributes()
        self._directives()
        self._address_spaces()

    def translation(self) -> Translation:
        body = []
        end = 0
        for start, stop, text in sorted(self._edits):
            assert start >= end, self._source.text[start:stop]
            body += [self._source.text[end:start], text]
            end = stop
        body.append(self._source.text[end:])
        assignments = []
        for variable in self._derived:
            tokens = self._declarations.tokens
            begin = tokens[variable.name_index].start
            stop = tokens[variable.whole.end - 1].end
            assignments.append(self._source.text[begin:stop])
        defaults = "".join(
            f"#ifndef MSL_VALUE_{constant.name}\n#define MSL_VALUE_{constant.name} 0\n#endif\n"
            for constant in self.table.constants
        )
        text = (
            f'{defaults}#include "prelude.h"\n#line 1 {quoted(self._source.name)}\n'
            f"{''.join(body)}\n{registration(self.table, assignments)}"
        )
        return Translation(text, self.table)

    def _edit(self, span: Span, text: str) -> None:
        """Replaces tokens; lines of the replaced text stay."""
        tokens = self._declarations.tokens
        start, end = tokens[span.first].start, tokens[span.end - 1].end
        lines = "\n" * (self._source.text.count("\n", start, end) - text.count("\n"))
        self._edits.append((start, end, text + lines))

    def _insert(self, i: int, text: str) -> None:
        start = self._declarations.tokens[i].start
        self._edits.append((start, start, text))

    def _functions(self) -> None:
        for function in self._declarations.functions:
            if not is_kernel(self._declarations, function):
                self._insert(function.head.first, "MSL_FUNCTION ")
                continue
            words = range(function.head.first, function.head.end)
            self._insert(words[0], "MSL_KERNEL_FUNCTION ")
            for i in words:
                if self._declarations.text(i) in ("kernel", "static", "inline"):
                    inside = self._declarations.attributes_in(function.head)
                    if not any(a.first <= i < a.end for a in inside):
                        self._edit(Span(i, i + 1), " " * len(self._declarations.text(i)))

    def _program_constants(self) -> None:
        for variable in self._declarations.variables:
            if variable.scope is Scope.STRUCT:
                continue
            if is_function_constant(self._declarations, variable):
                constant = next(c for c in self.table.constants if c.name == variable.name)
                text = f"MSL_FUNCTION_CONSTANT({constant.type}, {constant.name});"
                self._edit(variable.whole, text)
                continue
            macro = "MSL_DERIVED_CONSTANT" if variable in self._derived else "MSL_PROGRAM_CONSTANT"
            for i in range(variable.head.first, variable.head.end):
                word = self._declarations.text(i)
                if word == "constant":
                    self._edit(Span(i, i + 1), macro)
                elif word in ("static", "const") or (word == "constexpr" and "DERIVED" in macro):
                    self._edit(Span(i, i + 1), " " * len(word))

    def _struct(self, struct: Struct) -> None:
        """Names the members once more, for a check that has to write constructors."""
        texts = self._declarations.texts
        plain = all(not texts(member.rest()) for member in struct.members)
        if struct.has_functions or not struct.members or not plain:
            return
        members = []
        for member in struct.members:
            words = [ADDRESS_SPACE_MACROS.get(word, word) for word in texts(member.head)]
            members.append(f"{' '.join(words)} {member.name} = {{}}")
        self._insert(struct.body.first, f"MSL_STRUCT({struct.name}, {', '.join(members)}) ")

    def _threadgroup_variables(self, number: int, variables: ThreadgroupVariables) -> None:
        kernel = [kernel.name for kernel in self.table.kernels].index(variables.kernel)
        whole = variables.whole
        names = " ".join(f"MSL_THREADGROUP_NAME({number}, {name})" for name in variables.names)
        self._edit(Span(whole.first, whole.first + 1), f"MSL_THREADGROUP_BEGIN({number})")
        end = f"; MSL_THREADGROUP_END({number}, {kernel}) {names}"
        self._edit(Span(whole.end - 1, whole.end), end)

    def _attributes(self) -> None:
        known = {"kernel", "max_total_threads_per_threadgroup"}
        kernels = [f for f in self._declarations.functions if is_kernel(self._declarations, f)]
        in_kernels = [span for f in kernels for span in (f.head, *f.parameters)]
        for span in self._declarations.attributes:
            if self._is_edited(span):
                continue
            inside = any(s.first <= span.first and span.end <= s.end for s in in_kernels)
            for attribute in Attribute.of(self._declarations, span):
                if not inside and attribute.name not in IGNORED_ATTRIBUTES:
                    place = "here" if attribute.name in known else ""
                    message = f"unknown attribute '{attribute.name}' {place}".rstrip()
                    raise self._declarations.error(attribute.index, message)
            tokens = self._declarations.tokens
            text = self._source.text[tokens[span.first].start : tokens[span.end - 1].end]
            self._edit(span, blank(text))

    def _is_edited(self, span: Span) -> bool:
        tokens = self._declarations.tokens
        start = tokens[span.first].start
        return any(edit[0] <= start < edit[1] for edit in self._edits)

    def _address_spaces(self) -> None:
        for i, token in enumerate(self._declarations.tokens):
            macro = ADDRESS_SPACE_MACROS.get(token.text)
            if macro is None or self._declarations.text(i - 1) in (".", "->", "::"):
                continue
            if self._is_edited(Span(i, i + 1)):
                continue
            self._edit(Span(i, i + 1), macro)
            if token.text == "constant":  # becomes `const`, which may stand once only
                for neighbour in (i - 1, i + 1):
                    if self._declarations.text(neighbour) == "const":
                        self._edit(Span(neighbour, neighbour + 1), "     ")

    def _directives(self) -> None:
        for token in self._source.tokens():
            if token.kind != "directive":
                continue
            keyword = token.text.lstrip(" \t#").split()[0]
            if keyword == "include" or (keyword == "pragma" and "METAL" in token.text):
                self._edits.append((token.start, token.end, blank(token.text)))
            elif keyword == "define":
                self._define(token.start, token.text)

    def _define(self, offset: int, text: str) -> None:
        if re.search(r"\bkernel\b|\[\s*\[", text):
            raise self._source.error(offset, "a macro makes kernels or attributes")
        for match in TOKEN.finditer(text, text.index("define")):
            word = match[0]
            if match.lastgroup == "identifier" and word in NO_METAL:
                raise self._source.error(offset + match.start(), f"Metal has no {NO_METAL[word]}")
            if match.lastgroup == "identifier" and word in ADDRESS_SPACE_MACROS:
                edit = (offset + match.start(), offset + match.end(), ADDRESS_SPACE_MACROS[word])
                self._edits.append(edit)


def translate(text: str, name: str) -> Translation:
    """Of flattened text; `name` is what places without a `#line` marker are called."""
    return Translator(Source(text, name)).translation()


def all_kernels(translations: list[Translation]) -> dict[str, object]:
    """The table of several shaders, which share no kernel and agree on constants' indexes."""
    names: dict[str, str] = {}
    indexes: dict[str, int] = {}
    for translation in translations:
        for kernel in translation.table.kernels:
            if kernel.name in names:
                place = f"{kernel.file}:{kernel.line}"
                raise ShaderError(
                    f"{place}: error: kernel '{kernel.name}' is also in {names[kernel.name]}"
                )
            names[kernel.name] = kernel.file
        for constant in translation.table.constants:
            if indexes.setdefault(constant.name, constant.index) != constant.index:
                raise ShaderError(
                    f"{constant.file}:{constant.line}: error: function constant '{constant.name}' "
                    f"has index {constant.index}, elsewhere {indexes[constant.name]}"
                )
    return {
        "kernels": [kernel for t in translations for kernel in t.table.json()["kernels"]],
        "constants": indexes,
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shaders", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="standard output if not given")
    parser.add_argument("-I", "--include", action="append", type=Path, default=[], metavar="DIR")
    parser.add_argument("--root", type=Path, help="files are named relative to it in #line markers")
    parser.add_argument("--table", type=Path, help="where to write the table of kernels as JSON")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--flatten", action="store_true", help="put quote includes in, no more")
    mode.add_argument("--kernels", action="store_true", help="the table of all files as JSON")
    options = parser.parse_args(arguments)
    if len(options.shaders) > 1 and not options.kernels:
        parser.error("several shaders go with --kernels only")
    try:
        flattened = [Flattener(options.include, options.root).file(s) for s in options.shaders]
        if options.flatten:
            output = flattened[0]
        else:
            translations = [
                translate(text, str(path))
                for text, path in zip(flattened, options.shaders, strict=True)
            ]
            output = translations[0].text
            table = json.dumps(all_kernels(translations), indent=1) + "\n"
            if options.kernels:
                output = table
            if options.table:
                options.table.write_text(table, encoding="utf-8")
    except (ShaderError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.output:
        options.output.write_text(output, encoding="utf-8")
    else:
        sys.stdout.write(output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
