"""One training step beside Hugging Face's DeepseekV3ForCausalLM with torch.compile and fused AdamW.

    python benchmarks/train_step.py [--hf PYTHON] [--preset NAME] [--repeats N]

Same architecture, same first weights (exported and loaded by transformers), same tokens, same cores, one process each.
All are warmed up; then they take turns. Prints the first losses, medians in tokens a second, ratios, and the share of
the rate of one large matrix product that each reaches. --hf names the Python of an environment with torch,
transformers >= 5.23 and safetensors; without it only ours is timed.

Ours also does what the peer's model does not: sequence-wise balance loss, router biases, expert counts, the check for
values that are not finite. Ours at bfloat16 keeps float32 master weights; theirs has bfloat16 weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a checkout need not be installed

import numpy as np  # noqa: E402

from trainer.config import ModelConfig  # noqa: E402
from trainer.presets import preset  # noqa: E402

ROWS, LENGTH, STEPS, SIDE = 8, 512, 2, 2048
PEERS = {"float32": ["float32"], "bfloat16": ["bfloat16"], "bfloat16 eager": ["bfloat16", "--eager"]}


def serve(name: str, tokens_file: str, dtype: str) -> None:
    """Ours: warm up, say `ready LOSS`, then make as many steps as each line of standard input says."""
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415

    from trainer.model import Model, PlainLinear  # noqa: PLC0415
    from trainer.optimizer import OptimizerConfig  # noqa: PLC0415
    from trainer.step import TrainStep, optimizer_of  # noqa: PLC0415

    tokens = np.load(tokens_file)
    batch = {
        "tokens": tf.constant(tokens),
        "segment_ids": tf.ones(tokens.shape, tf.int32),
        "positions": tf.constant(np.tile(np.arange(LENGTH + 1, dtype=np.int32), (ROWS, 1))),
        "loss_mask": tf.constant(np.tile(np.arange(LENGTH + 1) > 0, (ROWS, 1))),
    }
    model = Model(preset(name), seed=1, linear=PlainLinear(tf.as_dtype(dtype)))
    config = OptimizerConfig.model_validate({"moments": dtype})
    step = TrainStep(model, optimizer_of(model, config), ROWS)
    first = float(step(batch, 1e-4, 1e-3).losses.main)
    for _ in range(2):
        float(step(batch, 1e-4, 1e-3).norm)
    print("ready", first, flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            float(step(batch, 1e-4, 1e-3).norm)
        print(time.perf_counter() - begun, flush=True)


def export(name: str, folder: Path) -> None:
    """The first weights of the model, as transformers reads them."""
    from trainer.hf.save import save_pretrained  # noqa: PLC0415
    from trainer.model import Model  # noqa: PLC0415

    save_pretrained(Model(preset(name), seed=1), folder)


def peak(dtype: str) -> float:
    """GFLOP/s of one matrix product of SIDE in each dimension, TensorFlow's: the best of ten."""
    import tensorflow as tf  # noqa: PLC0415

    a = tf.cast(tf.random.stateless_normal([SIDE, SIDE], [1, 2]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(tf.matmul(a, a)[0], tf.float32)))
    product()
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        float(product())
        times.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / min(times) / 1e9


def flops_per_token(config: ModelConfig) -> float:
    """6 N + 6 L H (d_qk + d_v) T: N weights of matrix products that a token meets, attention without causal halving."""
    d, heads = config.hidden_size, config.num_attention_heads
    query = config.q_lora_rank
    projections = [
        (d + heads * config.qk_head_dim) * query if query else d * heads * config.qk_head_dim,
        d * (config.kv_lora_rank + config.qk_rope_head_dim),
        config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim),
        heads * config.v_head_dim * d,
    ]
    dense = config.first_k_dense_replace
    met = (config.num_experts_per_tok + config.n_shared_experts) * config.moe_intermediate_size
    forward = dense * 3 * d * config.intermediate_size
    forward += (config.num_hidden_layers - dense) * (3 * d * met + d * config.n_routed_experts)
    weights = config.num_hidden_layers * sum(projections) + forward + config.vocab_size * d
    attention = config.num_hidden_layers * heads * (config.qk_head_dim + config.v_head_dim) * LENGTH
    return 6.0 * (weights + attention)


class Worker:
    """A process that makes steps when told to."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        word, _, loss = self._line().partition(" ")
        if word != "ready":
            raise SystemExit(f"{' '.join(command)}: no `ready`, but {word!r}")
        self.first_loss = float(loss)

    def turn(self) -> float:
        """Tokens a second over STEPS steps."""
        assert self._process.stdin
        self._process.stdin.write(f"{STEPS}\n")
        self._process.stdin.flush()
        return STEPS * ROWS * LENGTH / float(self._line())

    def stop(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def main() -> None:
    """Parse, warm up, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hf", metavar="PYTHON", help="a Python that has torch and transformers")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        help="theirs to time (default: all; bfloat16 takes minutes a step on a processor without bfloat16 products)",
    )
    parser.add_argument("--preset", default="small", help="the architecture (default: small, 14.4 M weights)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--serve", nargs=2, metavar=("TOKENS", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.preset, *options.serve)
    config = preset(options.preset)
    dtypes = ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        tokens, checkpoint = f"{folder}/tokens.npy", Path(folder) / "model"
        # As skewed as text: low ids are frequent.
        draw = np.random.default_rng(0).zipf(1.2, (ROWS, LENGTH + 1)) % config.vocab_size
        np.save(tokens, draw.astype(np.int32))
        commands = {
            f"ours {dtype}": [sys.executable, __file__, "--preset", options.preset, "--serve", tokens, dtype]
            for dtype in dtypes
        }
        if options.hf:
            export(options.preset, checkpoint)
            # -P: the modules beside the script are not those that transformers looks for by the same names.
            peer = [options.hf, "-P", str(ROOT / "benchmarks" / "hf_train_step.py"), str(checkpoint), tokens]
            commands |= {f"transformers {mode}": [*peer, *PEERS[mode]] for mode in options.peers}
        workers = {}
        for name, command in commands.items():
            print(f"{name}: compiling and warming up", file=sys.stderr, flush=True)
            workers[name] = Worker(command)
        print(f"{options.repeats} turns of each", file=sys.stderr, flush=True)
        peaks = {dtype: peak(dtype) for dtype in dtypes}
        rates: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(options.repeats):
            for name, worker in workers.items():
                rates[name].append(worker.turn())
        for worker in workers.values():
            worker.stop()
    report(config, peaks, {name: worker.first_loss for name, worker in workers.items()}, rates)


def report(
    config: ModelConfig, peaks: dict[str, float], losses: dict[str, float], rates: dict[str, list[float]]
) -> None:
    """Print a table, and ratios to the best of theirs at the same precision."""
    work = flops_per_token(config) / 1e9
    print(f"{ROWS} x {LENGTH} tokens, {work * 1e3:.0f} MFLOP a token; one product of {SIDE}: ", end="")
    print(", ".join(f"{dtype} {rate:.0f} GFLOP/s" for dtype, rate in peaks.items()))
    median = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        dtype = next(dtype for dtype in peaks if dtype in name)
        print(
            f"{name:28} {median[name]:7.0f} tokens/s (from {min(found):.0f} to {max(found):.0f}), "
            f"{median[name] * work / peaks[dtype]:.0%} of the product's rate, first loss {losses[name]:.5f}"
        )
    for dtype in peaks:
        theirs = {name: rate for name, rate in median.items() if name.startswith("transformers") and dtype in name}
        if theirs:
            best = max(theirs, key=lambda name: theirs[name])
            print(f"ours {dtype} / {best}: {median[f'ours {dtype}'] / theirs[best]:.2f}")
    if "transformers float32" in median:
        print(f"ours bfloat16 / transformers float32: {median['ours bfloat16'] / median['transformers float32']:.2f}")


if __name__ == "__main__":
    main()
