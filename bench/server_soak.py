"""Whether a server stays well under mixed load with clients that misbehave, for as long as wanted.

usage: python bench/server_soak.py [MODEL] [--seconds 1800] [--clients 8] [--seed 1] [--memory SIZE]
       [--read-faults]

Starts `moeflux serve` on a free port of this machine and asks it in all of its APIs, whole and
streamed, with tools and schemas; other clients leave in the middle, send half a body, too much,
bytes that are no text, or do not read. Every response must be whole or a proper error. At the end,
memory must be flat, and threads and descriptors those of the beginning. With --read-faults, reads
of weights fail, are cut short, stand still or bring wrong bytes all the while: a request that
suffers from it gets an error that names the expert, and every other answer is what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from moeflux.memory import parse_size
from read_faults import TOLD, ReadFaults

ERRORS = {400, 404, 408, 413, 429, 503}
"""That a client of this bench may be given."""
SERVER_ERROR = 500
N_PROBES = 6
"""Questions that are asked again and again, always with the same answer."""
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["count"],
    "additionalProperties": False,
}
ALLOWED_GROWTH = 0.05
"""Of resident memory, from the second quarter of the time to the last, beyond noise."""
NOISE_NBYTES = 8 * 2**20
SETTLE_SECONDS = 60
SAMPLE_SECONDS = 0.5
JUDGED_SECONDS = 300
"""Of load, from which on memory is judged: before, what is made once still comes in."""


@dataclass
class Load:
    """What clients share."""

    address: str
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    reads_fail: bool = False
    answers: dict[str, str] = field(default_factory=dict)
    """By question, what the model said before any read failed."""

    def question(self) -> list[dict[str, str]]:
        words = [self.random.choice(("sort", "list", "file", "sum", "read")) for _ in range(20)]
        return [{"role": "user", "content": " ".join(words)}]

    def body(self, **fields: Any) -> dict[str, Any]:
        """A request with what all have in common."""
        n_tokens = self.random.choice((1, 8, 24))
        return {"model": "soak", "max_tokens": n_tokens, "seed": self.random.randrange(9)} | fields

    def is_error(self, status: int, text: str) -> bool:
        """Whether a client may be given this error."""
        if status == SERVER_ERROR:
            return self.reads_fail and TOLD.search(text) is not None
        return status in ERRORS and "error" in text

    def check(self, kind: str, condition: bool, text: str) -> None:
        """Note a response that is neither whole nor an error."""
        self.counts[kind] += 1
        if not condition:
            self.wrong.append(f"{kind}: {text[:300]!r}")


Client = Callable[[Load, httpx.AsyncClient], Awaitable[None]]


async def ask(
    load: Load, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> dict[str, Any] | None:
    """A whole response; None for a proper error, which is noted."""
    response = await http.post(path, json=body)
    if response.status_code != 200:
        is_error = load.is_error(response.status_code, response.text)
        load.check(f"{response.status_code}", is_error, response.text)
        return None
    found: dict[str, Any] = response.json()
    return found


async def chat(load: Load, http: httpx.AsyncClient) -> None:
    found = await ask(load, http, "/v1/chat/completions", load.body(messages=load.question()))
    if found is not None:
        choice = found["choices"][0]
        is_whole = choice["finish_reason"] in ("stop", "length")
        load.check("chat", is_whole and found["usage"]["completion_tokens"] > 0, str(found))


async def probe(load: Load, http: httpx.AsyncClient) -> None:
    """A question whose answer is known: the first answer to it, with no fault, is right."""
    question = f"What does function number {load.random.randrange(N_PROBES)} do?"
    messages = [{"role": "user", "content": question}]
    body = {"model": "soak", "max_tokens": 12, "temperature": 0, "messages": messages}
    found = await ask(load, http, "/v1/chat/completions", body)
    if found is not None:
        text = str(found["choices"][0]["message"])
        load.check("probe", load.answers.setdefault(question, text) == text, text)


async def call(load: Load, http: httpx.AsyncClient) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    body = load.body(messages=load.question(), tools=tools, tool_choice="required", max_tokens=120)
    found = await ask(load, http, "/v1/chat/completions", body)
    if found is None:
        return
    choice = found["choices"][0]
    calls = choice["message"].get("tool_calls", [])
    is_valid = all("city" in json.loads(c["function"]["arguments"]) for c in calls)
    is_whole = bool(calls) or choice["finish_reason"] == "length"
    load.check("call", is_valid and is_whole, str(found))


async def schema(load: Load, http: httpx.AsyncClient) -> None:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    body = load.body(messages=load.question(), output_config=wanted, max_tokens=60)
    found = await ask(load, http, "/v1/messages", body)
    if found is None:
        return
    text = found["content"][0]["text"] if found["content"] else ""
    is_cut = found["stop_reason"] == "max_tokens"
    load.check("schema", is_cut or "count" in json.loads(text), str(found))


async def stream(load: Load, http: httpx.AsyncClient) -> None:
    """One of the streaming APIs, read to its end."""
    question = load.question()
    path, body, end = load.random.choice(
        [
            ("/v1/chat/completions", load.body(messages=question), "data: [DONE]"),
            ("/v1/completions", load.body(prompt=question[0]["content"]), "data: [DONE]"),
            ("/v1/messages", load.body(messages=question), "event: message_stop"),
            ("/v1/responses", load.body(input=question), "event: response."),
        ]
    )
    if path == "/v1/responses":
        body["max_output_tokens"] = body.pop("max_tokens")
    async with http.stream("POST", path, json=body | {"stream": True}) as response:
        text = (await response.aread()).decode()
    if response.status_code != 200:
        load.check(f"{response.status_code}", load.is_error(response.status_code, text), text)
        return
    last = [part for part in text.split("\n\n") if part][-1]
    is_told = "error" in last and load.is_error(SERVER_ERROR, last)
    load.check("stream cut" if is_told else "stream", is_told or last.startswith(end), text[-300:])


async def leave(load: Load, http: httpx.AsyncClient) -> None:
    """Read a little of a long answer and go."""
    body = load.body(messages=load.question(), max_tokens=1000) | {"stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode()
            load.check(f"{response.status_code}", load.is_error(response.status_code, text), text)
            return
        n_wanted = load.random.randrange(1, 6)
        async for _ in response.aiter_lines():
            n_wanted -= 1
            if not n_wanted:
                break
    load.counts["left"] += 1


async def misbehave(load: Load, http: httpx.AsyncClient) -> None:
    """A request that must be refused, by a status and in JSON."""
    path = load.random.choice(("/v1/chat/completions", "/v1/messages", "/v1/responses"))
    good = json.dumps(load.body(messages=load.question())).encode()
    content, status = load.random.choice(
        [
            (good[: len(good) // 2], 400),
            (b"\xff\xfe" + good, 400),
            (b"[" * 1000, 400),
            (json.dumps({"model": "other", "messages": []}).encode(), 400),
            (b"x" * 70_000, 413),
            (json.dumps(load.body(messages=[{"role": "user", "content": "x " * 20_000}])), 400),
        ]
    )
    response = await http.post(path, content=content, headers={"content-type": "application/json"})
    is_told = "error" in response.json()
    load.check("refused", response.status_code == status and is_told, response.text)


async def break_off(load: Load, _: httpx.AsyncClient) -> None:
    """Bytes that are no request, or half of one, and no reading."""
    url = httpx.URL(load.address)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{"
    body = json.dumps(load.body(messages=load.question(), stream=True)).encode()
    whole = head.replace(b"500", b"%d" % len(body))[:-1] + body
    writer.write(load.random.choice((b"\x00\x01\x02\r\n\r\n", head, head[:20], b"", whole)))
    await writer.drain()
    await asyncio.sleep(load.random.random() * 0.2)
    writer.transport.abort()
    load.counts["broken off"] += 1


CLIENTS: tuple[tuple[int, Client], ...] = (
    (4, chat),
    (3, probe),
    (3, call),
    (3, schema),
    (6, stream),
    (4, leave),
    (4, misbehave),
    (3, break_off),
)


async def client(load: Load, until: float, is_hasty: bool) -> None:
    n_refused = 0
    weights, kinds = zip(*CLIENTS, strict=True)
    async with httpx.AsyncClient(base_url=load.address, timeout=120) as http:
        while time.monotonic() < until:
            (kind,) = load.random.choices(kinds, weights)
            # One client never waits, so that the queue is always found full at times.
            if load.counts["429"] > n_refused and not is_hasty:
                await asyncio.sleep(load.random.random())
            n_refused = load.counts["429"]
            try:
                await kind(load, http)
            except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                load.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Sample:
    """The server's process at one moment."""

    resident_nbytes: int
    n_threads: int
    n_descriptors: int


@dataclass(frozen=True)
class Watched:
    """The server before the load, after it, and meanwhile."""

    first: Sample
    last: Sample
    samples: list[Sample]


def sample(process: psutil.Process) -> Sample:
    with process.oneshot():
        return Sample(process.memory_info().rss, process.num_threads(), process.num_fds())


async def watch(process: psutil.Process, until: float, samples: list[Sample]) -> None:
    while time.monotonic() < until:
        samples.append(sample(process))
        await asyncio.sleep(SAMPLE_SECONDS)


async def settle(address: str, process: psutil.Process, wanted: Sample) -> Sample:
    """The server once nothing runs and clients are gone; as it is if that does not come."""
    async with httpx.AsyncClient(base_url=address, timeout=120) as http:
        for _ in range(2 * SETTLE_SECONDS):
            health = (await http.get("/health", headers={"connection": "close"})).json()
            now = sample(process)
            is_idle = not health["n_active"] and not health["n_queued"]
            if (
                is_idle
                and now.n_threads <= wanted.n_threads
                and (now.n_descriptors <= wanted.n_descriptors)
            ):
                break
            await asyncio.sleep(0.5)
    return now


async def start(
    model: str, options: list[str], environment: dict[str, str] | None
) -> tuple[asyncio.subprocess.Process, str]:
    """The server, ready, and its address."""
    common = ["--port", "0", "--alias", "soak", "--max-active", "3", "--max-queued", "3"]
    common += ["--max-body", "65536"]
    command = [sys.executable, "-m", "moeflux.cli", "serve", model, *common, *options]
    server = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert server.stderr is not None
    address = ""
    while (line := (await server.stderr.readline()).decode()) and "API key" not in line:
        if "/health says" in line:
            address = line.split()[2].removesuffix("/health")
    if not line:
        raise SystemExit("the server did not start")
    return server, address


async def drain(stderr: asyncio.StreamReader, lines: list[str]) -> None:
    lines += [line.decode().rstrip() async for line in stderr]


async def soak(arguments: argparse.Namespace, faults: ReadFaults | None) -> int:
    options = ["--memory", arguments.memory] if arguments.memory else []
    if faults is None:
        server, address = await start(arguments.model, options, None)
    else:
        options = options or faults.memory_options()
        server, address = await start(str(faults.model), options, faults.environment)
    assert server.stderr is not None
    lines: list[str] = []
    draining = asyncio.create_task(drain(server.stderr, lines))
    process = psutil.Process(server.pid)
    load = Load(address, random.Random(arguments.seed))
    async with httpx.AsyncClient(base_url=address, timeout=120) as http:
        # Threads and descriptors that are made once are not leaks.
        await asyncio.gather(*(kind(load, http) for _, kind in CLIENTS for _ in range(3)))
        while len(load.answers) < N_PROBES:
            await probe(load, http)
    first = await settle(address, process, Sample(0, 10**6, 10**6))
    until = time.monotonic() + arguments.seconds
    samples: list[Sample] = []
    clients = [client(load, until, n == 0) for n in range(arguments.clients)]
    if faults is not None:
        load.reads_fail = True
        clients.append(faults.rage(until))
    await asyncio.gather(watch(process, until, samples), *clients)
    if faults is not None:
        print(f"{'spoiled':>12} {faults.n_fired} reads")
        if not faults.n_fired:
            load.wrong.append("no read was spoiled")
    last = await settle(address, process, first)
    server.terminate()
    code = await server.wait()
    await draining
    cap = parse_size(options[options.index("--memory") + 1]) if "--memory" in options else None
    return report(load, Watched(first, last, samples), cap, code, lines)


def report(load: Load, watched: Watched, cap: int | None, code: int, lines: list[str]) -> int:
    """Print what was found; the exit code of the program."""
    first, last, samples = watched.first, watched.last, watched.samples
    resident = [one.resident_nbytes for one in samples]
    quarter = max(1, len(resident) // 4)
    early, late = median(resident[quarter : 2 * quarter] or resident), median(resident[-quarter:])
    wrong = list(load.wrong)
    is_judged = len(samples) * SAMPLE_SECONDS >= JUDGED_SECONDS
    if is_judged and late > early * (1 + ALLOWED_GROWTH) + NOISE_NBYTES:
        wrong.append(f"memory grew from {early / 1e6:.1f} MB to {late / 1e6:.1f} MB")
    if cap is not None and max(resident) > cap:
        wrong.append(f"memory of {max(resident) / 1e6:.1f} MB is above the cap of {cap / 1e6:.1f}")
    wrong += [
        f"{name}: {getattr(first, name)} before, {getattr(last, name)} after"
        for name in ("n_threads", "n_descriptors")
        if getattr(last, name) > getattr(first, name)
    ]
    if code != 0:
        wrong.append(f"the server ended with {code}")
    for kind, count in sorted(load.counts.items()):
        print(f"{kind:>12} {count}")
    print(f"memory {early / 1e6:.1f} MB early, {late / 1e6:.1f} MB late")
    print(f"threads {first.n_threads} -> {last.n_threads}", end=", ")
    print(f"descriptors {first.n_descriptors} -> {last.n_descriptors}")
    for text in wrong[:20] + (lines[-20:] if wrong else []):
        print("  ", text)
    tenth = max(1, len(resident) // 10)
    series = " ".join(f"{nbytes / 1e6:.0f}" for nbytes in resident[::tenth])
    print(f"memory over time, in MB: {series}")
    found = {
        "responses": sum(load.counts.values()),
        "counts": dict(load.counts),
        "resident_nbytes_early": early,
        "resident_nbytes_late": late,
        "n_wrong": len(wrong),
    }
    print(json.dumps(found))
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory")
    parser.add_argument("--read-faults", action="store_true")
    arguments = parser.parse_args()
    if not arguments.read_faults:
        return asyncio.run(soak(arguments, None))
    with TemporaryDirectory() as folder:
        return asyncio.run(soak(arguments, ReadFaults(arguments.model, Path(folder), 1)))


if __name__ == "__main__":
    raise SystemExit(main())
