"""Make short conversations so that the chat markers and the tool call form have a meaning.

Questions about functions come from the docstrings of the corpus; tool calls are made up here.
All conversations are rendered with the same template that ships with the model.
"""

import ast
import json
import random
from pathlib import Path
from typing import Any

import jinja2

Message = dict[str, Any]
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
WRITE_REQUESTS = (
    "Write a Python function `{head}`. {about}",
    "Please write `{head}` in Python: {about}",
    "I need the function `{head}`. {about}",
)
EXPLAIN_REQUESTS = (
    "What does this function do?\n\n```python\n{code}\n```",
    "Explain this code in a sentence.\n\n```python\n{code}\n```",
)
SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are a Python programmer.", "Answer briefly.")
MODULES = (
    "argparse",
    "asyncio",
    "collections",
    "csv",
    "datetime",
    "functools",
    "heapq",
    "itertools",
    "json",
    "logging",
    "os",
    "pathlib",
    "queue",
    "random",
    "re",
    "shutil",
    "socket",
    "string",
    "subprocess",
    "textwrap",
    "threading",
    "time",
    "types",
    "typing",
    "unittest",
    "zipfile",
)
CITIES = ("Berlin", "Cairo", "Lima", "London", "Madrid", "Oslo", "Paris", "Rome", "Tokyo", "Vienna")


def template() -> jinja2.Template:
    """The chat template, with JSON written the way chat clients write it."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def first_sentence(docstring: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(docstring.strip().split("\n\n")[0].split())


def without_docstring(source: list[str], node: ast.FunctionDef) -> str:
    """Source of a function less its docstring."""
    docstring = node.body[0]
    assert docstring.end_lineno is not None
    kept = (
        source[node.lineno - 1 : docstring.lineno - 1]
        + source[docstring.end_lineno : node.end_lineno]
    )
    return "\n".join(line[node.col_offset :] for line in kept)


def function_chats(texts: list[str], seed: int = 0, limit: int = 5000) -> list[str]:
    """Conversations that ask for a function, or for what a function does."""
    generator = random.Random(seed)
    render = template().render
    chats: dict[str, str] = {}
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        source = text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
                continue
            if node.name.startswith("test"):
                continue
            docstring = ast.get_docstring(node)
            if not docstring or node.end_lineno is None or node.end_lineno - node.lineno > 30:
                continue
            about = first_sentence(docstring)
            head = f"{node.name}({ast.unparse(node.args)})"
            if head in chats or not 20 <= len(about) <= 200 or len(head) > 100:
                continue
            code = without_docstring(source, node)
            messages: list[Message] = []
            if generator.random() < 0.3:
                messages.append({"role": "system", "content": generator.choice(SYSTEM_PROMPTS)})
            if generator.random() < 0.6:
                question = generator.choice(WRITE_REQUESTS).format(head=head, about=about)
                answer, thought = f"```python\n{code}\n```", f"I need `{node.name}`. {about}"
            else:
                question = generator.choice(EXPLAIN_REQUESTS).format(code=code)
                answer, thought = about, f"The function is called `{node.name}`."
            messages += [
                {"role": "user", "content": question},
                {
                    "role": "assistant",
                    "content": answer,
                    "reasoning_content": thought if generator.random() < 0.5 else "",
                },
            ]
            chats[head] = render(messages=messages)
    heads = sorted(chats)
    generator.shuffle(heads)
    return [chats[head] for head in heads[:limit]]


def describe(name: str, about: str, /, **arguments: str) -> Message:
    """A tool description in the form that chat clients send."""
    properties = {key: {"type": kind} for key, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    function = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = {
    "read_file": describe("read_file", "Read a text file.", path="string"),
    "list_directory": describe("list_directory", "List the files of a folder.", path="string"),
    "add": describe("add", "Add two integers.", a="integer", b="integer"),
    "get_weather": describe("get_weather", "Weather of a city.", city="string"),
    "search": describe("search", "Search for a pattern in the code.", pattern="string"),
    "import_module": describe("import_module", "Import a Python module.", name="string"),
}


def tool_case(name: str, generator: random.Random) -> tuple[str, Message, str, str]:
    """Question, arguments, tool response and final answer for one tool."""
    module, city = generator.choice(MODULES), generator.choice(CITIES)
    match name:
        case "read_file":
            path = f"{module}.py"
            question = generator.choice(["Show me the file {}.", "Read {}.", "What is in {}?"])
            response = f"import {generator.choice(MODULES)}"
            return question.format(path), {"path": path}, response, f"{path} has: `{response}`"
        case "list_directory":
            path = generator.choice([module, f"Lib/{module}", f"/tmp/{module}"])
            question = generator.choice(["List the files in {}.", "Which files are in {}?"])
            files = ", ".join(f"{item}.py" for item in generator.sample(MODULES, 3))
            return question.format(path), {"path": path}, files, f"{path} holds {files}."
        case "add":
            a, b = generator.randrange(100), generator.randrange(100)
            question = generator.choice(["What is {} + {}?", "Add {} and {}."])
            return question.format(a, b), {"a": a, "b": b}, str(a + b), f"The sum is {a + b}."
        case "get_weather":
            question = generator.choice(["What is the weather in {}?", "Is it warm in {}?"])
            weather = f"{generator.randrange(-5, 35)} degrees"
            return question.format(city), {"city": city}, weather, f"{city} has {weather}."
        case "search":
            question = generator.choice(["Find {} in the code.", "Where is {} used?"])
            place = f"{generator.choice(MODULES)}.py"
            return question.format(module), {"pattern": module}, place, f"{module} is in {place}."
        case _:
            question = generator.choice(["Import {}.", "Load the module {}."])
            return question.format(module), {"name": module}, "ok", f"{module} is imported."


def tool_chats(count: int, seed: int = 1) -> list[str]:
    """Conversations in which the assistant calls one tool and then answers."""
    generator = random.Random(seed)
    render = template().render
    chats = []
    for _ in range(count):
        names = generator.sample(sorted(TOOLS), generator.randint(1, 3))
        name = names[0]
        generator.shuffle(names)
        question, arguments, response, answer = tool_case(name, generator)
        thought = f"I can use {name}." if generator.random() < 0.5 else ""
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        messages: list[Message] = [
            {"role": "user", "content": question},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": thought,
                "tool_calls": [call],
            },
        ]
        if generator.random() < 0.7:
            messages += [
                {"role": "tool", "content": response},
                {"role": "assistant", "content": answer, "reasoning_content": ""},
            ]
        chats.append(render(messages=messages, tools=[TOOLS[item] for item in names]))
    return chats
