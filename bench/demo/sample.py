"""Continue prompts with the shipped model, or record which experts its tokens choose."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import load, load_transformers
from tokenizers import Tokenizer


@torch.inference_mode()
def continue_text(folder: Path, prompt: str, count: int, temperature: float, seed: int) -> str:
    """Greedy at temperature 0, else drawn from the most likely 90 % of the probability."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    torch.manual_seed(seed)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.9, "top_k": 0}
    output = load_transformers(folder).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        eos_token_id=ends,
        pad_token_id=ends[0],
        **sampling,
    )
    text: str = tokenizer.decode(output[0].tolist(), skip_special_tokens=False)
    return text


@torch.inference_mode()
def record_routes(folder: Path, data: Path, documents: int, length: int, target: Path) -> None:
    """Save `experts` uint8 [T, layers, K], `tokens` [T] and `starts` of held-out documents."""
    model = load(folder)
    tokens = np.load(data / "heldout.npy")
    starts = np.load(data / "heldout_starts.npy")
    sizes = np.diff(np.append(starts, len(tokens)))
    layers: list[list[np.ndarray]] = [[] for _ in model.routers()]
    for router, kept in zip(model.routers(), layers, strict=True):

        def keep(_router: Any, _inputs: Any, routing: Any, kept: Any = kept) -> None:
            kept.append(routing.experts.numpy().astype(np.uint8))

        router.register_forward_hook(keep)
    used, boundaries = [], [0]
    for start in starts[sizes >= length][:documents]:
        part = tokens[start : start + length].astype(np.int64)
        model.logits(torch.from_numpy(part)[None])
        used.append(part.astype(np.uint16))
        boundaries.append(boundaries[-1] + len(part))
    experts = np.stack([np.concatenate(kept) for kept in layers], 1)
    np.savez_compressed(
        target, experts=experts, tokens=np.concatenate(used), starts=np.array(boundaries)
    )
    print(f"{target}: {experts.shape} from {len(used)} documents")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", action="append", default=[])
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routes", type=Path, help="record routes into this .npz instead")
    parser.add_argument("--data", type=Path, help="folder of the encoded corpus, for --routes")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    if options.routes:
        record_routes(
            options.model, options.data, options.documents, options.length, options.routes
        )
    for prompt in options.prompt:
        text = continue_text(
            options.model,
            prompt.replace("\\n", "\n"),
            options.tokens,
            options.temperature,
            options.seed,
        )
        print(f"--- temperature {options.temperature}\n{text}\n")


if __name__ == "__main__":
    main()
