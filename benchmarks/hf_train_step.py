"""The peer of train_step.py: transformers' DeepseekV3ForCausalLM trained by torch, in an environment that has both.

    PYTHON benchmarks/hf_train_step.py CHECKPOINT TOKENS.npy float32|bfloat16 [--eager]

Compiles and warms up, says `ready LOSS` (of the first step, before it), then, for each number n read from standard
input, makes n steps and prints the seconds they took. bfloat16: all weights and moments, the fastest torch has;
float32 is plain. AdamW is the fused one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DeepseekV3ForCausalLM


def main() -> None:
    """Serve turns until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("tokens")
    parser.add_argument("dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = DeepseekV3ForCausalLM.from_pretrained(options.checkpoint, dtype=getattr(torch, options.dtype))
    model.train()
    tokens = torch.from_numpy(np.load(options.tokens).astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    compiled = loss_of if options.eager else torch.compile(loss_of)

    def step() -> float:
        loss = compiled(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    first = step()
    for _ in range(2):
        step()
    print("ready", first, flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
