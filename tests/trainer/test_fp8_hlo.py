"""What XLA is given of `fp8_tensor`: the operations its GPU compiler looks for, and nothing between them.

Its rewriter makes a product of FP8 where both factors of a `dot` are multiply(convert(FP8), broadcast(a scalar)). Read
here is the program before any pass, which is the same for all devices; compiled is it for the CPU alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.numeric import relative
from trainer.model import linear as plain
from trainer.precision import linear_for

ROWS, INPUTS, OUTPUTS = 32, 64, 48
LINE = re.compile(r"^ *(?:ROOT )?%(\S+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\((.*?)\)(?:,|$)", re.MULTILINE)


class Instruction(NamedTuple):
    dtype: str
    shape: str
    operation: str
    operands: list[str]


def program(hlo: str) -> dict[str, Instruction]:
    """Instructions of the entry computation by name."""
    entry = hlo[hlo.index("\nENTRY ") :]
    return {
        name: Instruction(dtype, shape, operation, re.findall(r"%([\w.-]+)", operands))
        for name, dtype, shape, operation, operands in LINE.findall(entry)
    }


def factors(found: dict[str, Instruction], dot: Instruction) -> Iterator[Instruction]:
    """The factors of a product, transpositions left out: the rewriter passes over those."""
    for name in dot.operands:
        factor = found[name]
        while factor.operation == "transpose":
            factor = found[factor.operands[0]]
        yield factor


def step(x: tf.Tensor, w: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = linear_for("fp8_tensor")(x, w)
    return y, *tape.gradient(y, [x, w], dy)


@pytest.fixture
def arguments() -> tuple[tf.Tensor, ...]:
    rng = np.random.default_rng(0)
    x, w, dy = (
        tf.constant(rng.standard_normal(shape), tf.float32)
        for shape in ([ROWS, INPUTS], [OUTPUTS, INPUTS], [ROWS, OUTPUTS])
    )
    return tf.cast(x, tf.bfloat16), w, tf.cast(dy, tf.bfloat16)


def test_each_product_is_of_converted_fp8_times_a_scalar(
    arguments: tuple[tf.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on devices with products of bfloat16. This processor may have none, and would get casts to float32 between.
    monkeypatch.setattr(plain, "_bfloat16_is_cut_off", lambda: False)
    hlo = tf.function(step, jit_compile=True).experimental_get_compiler_ir(*arguments)(stage="hlo")
    found = program(hlo)
    dots = [each for each in found.values() if each.operation == "dot"]
    x, w, dy = f"{ROWS},{INPUTS}", f"{OUTPUTS},{INPUTS}", f"{ROWS},{OUTPUTS}"
    assert sorted((each.dtype, each.shape) for each in dots) == [("bf16", dy), ("bf16", x), ("f32", w)]
    for dot in dots:
        for factor in factors(found, dot):
            assert factor.operation == "multiply"
            value, scale = (found[name] for name in factor.operands)
            assert value.operation == "convert"
            assert found[value.operands[0]].dtype == "f8e4m3fn"
            assert value.dtype == factor.dtype == dot.dtype
            assert scale.operation == "broadcast"
            assert found[scale.operands[0]].shape == ""


def test_block_scales_are_not_that_pattern(arguments: tuple[tf.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above is known to see a difference; and why fp8_block is no faster anywhere."""
    monkeypatch.setattr(plain, "_bfloat16_is_cut_off", lambda: False)
    x, w, _ = arguments
    product = tf.function(linear_for("fp8_block"), jit_compile=True)
    block = product.experimental_get_compiler_ir(x, w, parts=1)(stage="hlo")
    assert "f8e4m3fn" not in block
    found = program(block)
    (dot,) = (each for each in found.values() if each.operation == "dot")
    assert all(factor.operation != "multiply" for factor in factors(found, dot))


def test_compiled_products_are_those_of_the_graph(arguments: tuple[tf.Tensor, ...]) -> None:
    """The casts to FP8 and back are not taken out as if they changed nothing."""
    compiled, plainly = (tf.function(step, jit_compile=jit)(*arguments) for jit in (True, False))
    for one, other in zip(compiled, plainly, strict=True):
        assert relative(tf.cast(one, tf.float32), tf.cast(other, tf.float32)) < 1e-3
    x, w, _ = arguments
    assert relative(tf.cast(compiled[0], tf.float32), tf.cast(x, tf.float32) @ tf.transpose(w)) > 1e-2
