"""Train the byte-level BPE tokenizer and encode the corpus with it.

Writes `tokenizer.json` and `tokenizer_config.json` into the model folder, and for each split
`NAME.npy` (uint16 tokens, every document followed by <|endoftext|>), `NAME_starts.npy` (index of
each document's first token) and `NAME_bytes.npy` (UTF-8 length of each document).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from chat_examples import TEMPLATE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 8192
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
MARKER_TOKENS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# The split of Qwen3.5: words, single digits, punctuation with its line end, line ends, and runs of
# spaces that leave the last space to the word behind them: indentation costs one token.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_texts(path: Path) -> Iterator[str]:
    """Texts of a JSON-lines file, in order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def train(texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE: no normaliser, so that decoding gives back every byte of the input."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL_TOKENS) + len(MARKER_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
        + [AddedToken(token, special=False, normalized=False) for token in MARKER_TOKENS]
    )
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write the two tokenizer files; the chat template goes into the second."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def encode(tokenizer: Tokenizer, source: Path, target: Path) -> None:
    """Encode one split and check that every document survives the round trip."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    tokens: list[np.ndarray] = []
    starts, sizes, length = [], [], 0
    for text in read_texts(source):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        starts.append(length)
        sizes.append(len(text.encode()))
        tokens.append(np.array([*ids, end], np.uint16))
        length += len(tokens[-1])
    np.save(target.with_suffix(".npy"), np.concatenate(tokens))
    np.save(target.with_name(target.name + "_starts.npy"), np.array(starts, np.int64))
    np.save(target.with_name(target.name + "_bytes.npy"), np.array(sizes, np.int64))
    print(f"{target.name}: {length} tokens, {sum(sizes) / length:.3f} bytes per token")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.jsonl and heldout.jsonl")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--context", type=int, default=4096)
    options = parser.parse_args()
    options.model.mkdir(parents=True, exist_ok=True)
    tokenizer = train(read_texts(options.data / "train.jsonl"))
    save(tokenizer, options.model, options.context)
    for split in ("train", "heldout"):
        encode(tokenizer, options.data / f"{split}.jsonl", options.data / split)


if __name__ == "__main__":
    main()
