"""Prefill and decode speed of transformers in bfloat16, told as bench/decode.py tells ours.

transformers does not read MLX codes: the network has the checkpoint's shapes and random weights in
bfloat16, 3.6 times the bytes of 4 bits. Needs torch and transformers, and memory for it all. Of two
prompts the second counts.

usage: python bench/transformers_speed.py CHECKPOINT [--tokens 16] [--prompt-tokens 64]
       [--threads 1] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def random_model(checkpoint: Path, device: str) -> Any:
    """The checkpoint's network; weights so small that nothing overflows, and of no meaning."""
    config = json.loads((checkpoint / "config.json").read_text())
    text = config.get("text_config", config)
    text.setdefault("model_type", config["model_type"])
    shapes = AutoConfig.for_model(**text)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(shapes, dtype=torch.bfloat16).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = random_model(arguments.checkpoint, arguments.device)
    with torch.inference_mode():
        for _ in range(2):
            result = measure(model, arguments.prompt_tokens, arguments.tokens)
    print(json.dumps(result))


def measure(model: Any, n_prompt: int, n_tokens: int) -> dict[str, float]:
    """Prefill a random prompt, then decode greedily; each step ends with its token on the host."""
    prompt = torch.randint(2, model.config.vocab_size, (1, n_prompt), device=model.device)
    seconds = []
    started, processor_started = time.perf_counter(), time.process_time()
    step = model(prompt, use_cache=True, logits_to_keep=1)
    token = step.logits[:, -1].argmax(-1, keepdim=True)
    token.item()
    prefill_seconds = time.perf_counter() - started
    for _ in range(n_tokens):
        started = time.perf_counter()
        step = model(token, past_key_values=step.past_key_values, use_cache=True)
        token = step.logits[:, -1].argmax(-1, keepdim=True)
        token.item()
        seconds.append(time.perf_counter() - started)
    return {
        "decode_tokens_per_second": 1 / statistics.median(seconds),
        "prefill_tokens_per_second": n_prompt / prefill_seconds,
        "processor_seconds": time.process_time() - processor_started,
    }


if __name__ == "__main__":
    main()
