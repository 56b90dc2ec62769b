"""A decode loop of your own: greedy, layer by layer. Usage: decode.py MODEL PROMPT."""

import sys

import numpy as np

import moeflux
from moeflux.blocks.decoder import routed_experts

model = moeflux.load(sys.argv[1])
run, decoder, work = model.runtime, model.runtime.decoder, model.runtime.decode_work
experts, table, state = run.experts, run.decode_tables[0], decoder.new_state(model.device, 512)
token_buffer = model.device.buffer(4, host=True)
logits = work.rows("logits", decoder.vocabulary, host=True)


def decode(token: int, position: int) -> int:
    np.frombuffer(token_buffer, np.int32)[0] = token
    commands = run.queue.command_buffer(step := moeflux.Step(position, 1))
    decoder.encode_embedding(commands, token_buffer, work)
    for layer, layer_state in zip(decoder.layers, state, strict=True):
        decoder.encode_mixer(commands, layer, layer_state, work)
        run.finish(commands)
        experts.release_all()
        routed = np.frombuffer(routed_experts(work, layer.mlp.top_k).experts, np.int32).tolist()
        table.set_token(routed, experts.fetch(layer.index, routed))
        commands = run.queue.command_buffer(step)
        decoder.encode_moe(commands, layer, table.batch, work)
    decoder.encode_logits(commands, decoder.normed(work), logits)
    run.finish(commands)
    return int(np.frombuffer(logits.buffer, np.float32).argmax())


tokens = model.tokenizer.encode(sys.argv[2], add_bos=True)
for position in range(last := len(tokens) + 31):
    following = decode(tokens[position], position)
    tokens += [following] if position + 1 == len(tokens) else []
print(model.tokenizer.decode(tokens[last - 31 :]))
