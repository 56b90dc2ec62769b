"""Prefill and decode speed of mlx-lm on an MLX checkpoint, told as bench/decode.py tells ours.

Needs mlx and mlx-lm, which run on one thread of a processor whatever --threads says.

usage: python bench/mlx_speed.py CHECKPOINT [--tokens 16] [--prompt-tokens 64] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    model, config = load_model(arguments.checkpoint)
    # Its kernels for bfloat16 are far slower on a processor; codes stay as they are.
    model.set_dtype(mx.float32)
    vocabulary = config.get("text_config", config)["vocab_size"]
    prompt = np.random.default_rng(0).integers(2, vocabulary, arguments.prompt_tokens)
    cache = make_prompt_cache(model)
    started, processor_started = time.perf_counter(), time.process_time()
    logits = model(mx.array(prompt[None]), cache=cache)[0, -1]
    token = int(mx.argmax(logits).item())
    prefill_seconds = time.perf_counter() - started
    seconds = []
    for _ in range(arguments.tokens):
        started = time.perf_counter()
        token = int(mx.argmax(model(mx.array([[token]]), cache=cache)[0, -1]).item())
        seconds.append(time.perf_counter() - started)
    result = {
        "decode_tokens_per_second": 1 / statistics.median(seconds),
        "prefill_tokens_per_second": arguments.prompt_tokens / prefill_seconds,
        "processor_seconds": time.process_time() - processor_started,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
