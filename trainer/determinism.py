"""The same bits from the same steps."""

from __future__ import annotations

import tensorflow as tf  # type: ignore[import-untyped]


def keep_sums_in_order() -> None:
    """Switch off TensorFlow's rewriting of graphs (Grappler), for this process and all functions traced from now on.

    Its memory optimizer takes a sum of more than two tensors apart where a graph needs more than 200 MB, and adds them
    in the order in which they are ready: another order, and other bits, in every run. That pass has no switch of its
    own. The others bring this model's step nothing (docs/training.md has the measurement).
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
