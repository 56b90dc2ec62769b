"""Records demo.trace.gz: which experts the demo model routes to, over prompts of several kinds.

usage: python tests/traces/make_demo_trace.py
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import moeflux
from moeflux.engine.routes import RouteRecorder, trace_header
from moeflux.experts.trace import TraceWriter

FOLDER = Path(__file__).parent
N_DECODED = 192
TEMPERATURE = 0.8
PROMPTS = (
    "def read_lines(path):\n",
    "class Queue:\n    def __init__(self, maxsize=0):\n",
    "import json\nimport sys\n\n\ndef main():\n    parser = ",
    "The following example shows how to sort a list of dictionaries:\n\n",
    "async def fetch(session, url):\n    async with session.get(url) as response:\n",
    "for index, (key, value) in enumerate(sorted(table.items())):\n    print(",
    "Raises ValueError if the argument is not a positive integer.\n\n",
    'class TestParser(unittest.TestCase):\n    def test_empty(self):\n        """',
    "matrix = [[1, 2, 3], [4, 5, 6]]\ntransposed = ",
    "Changed in version 3.9: ",
    "try:\n    import ssl\nexcept ImportError:\n",
    "What is the difference between a list and a tuple in Python?",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, moeflux.load("demo") as model:
        path = Path(folder) / "demo.trace"
        model.runtime.records_guesses = True
        header = trace_header(model.config, model.runtime.experts)
        with TraceWriter(path, header) as writer:
            for sequence, prompt in enumerate(PROMPTS):
                routes = RouteRecorder(writer.write, first_sequence=sequence)
                for _ in model.generate(
                    prompt,
                    max_tokens=N_DECODED,
                    temperature=TEMPERATURE,
                    seed=sequence,
                    routes=routes,
                ):
                    pass
        # Without a time stamp the same routes give the same bytes.
        data = gzip.compress(path.read_bytes(), mtime=0)
    (FOLDER / "demo.trace.gz").write_bytes(data)


if __name__ == "__main__":
    main()
