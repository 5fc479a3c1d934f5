"""What is derived from the tokens of a batch, in the graph.

B: records of a host's batch, T: L+1 tokens of a record. It follows from the end and padding tokens alone:
in a record documents stand one after another; every piece but the last ends with the end token, which stands nowhere
else; padding is at the end. A piece need not begin with the begin token: it may go on with a document from another
record.

    tokens         b  7  8  e | 9  e | b  5  .  .       b begin, e end, . padding; "9 e" is the rest of a document
    segment_ids    1  1  1  1   2  2   3  3  0  0       documents of the record, from 1; padding 0
    positions      0  1  2  3   0  1   0  1  0  0       within the segment; padding 0
    loss_mask      F  T  T  T   F  T   F  T  F  F       may this token be learnt, given those before it?

With document_masking=False:

    segment_ids    1  1  1  1   1  1   1  1  0  0
    positions      0  1  2  3   4  5   6  7  8  9
    loss_mask      F  T  T  T   T  T   T  T  F  F

The first token of a record is never a label: nothing in the record precedes it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]

from loader.decoding import Format, Tensor

_BITS = 32


def segments(form: Format, tokens_BT: Tensor, document_masking: bool) -> dict[str, Tensor]:
    """segment_ids and positions, int32 [B, T], and loss_mask, bool [B, T], as the module's docstring shows."""
    real_BT = tokens_BT != form.pad
    first_BT = tf.ones_like(real_BT[:, :1])
    if not document_masking:
        return {
            "segment_ids": tf.cast(real_BT, tf.int32),
            "positions": tf.broadcast_to(tf.range(form.capacity), tf.shape(tokens_BT)),
            "loss_mask": tf.concat([~first_BT, real_BT[:, 1:]], axis=1),
        }
    begins_BT = tf.concat([first_BT, tokens_BT[:, :-1] == form.end], axis=1)
    # Of each segment, S of them in the batch: the record it is in, where it begins, its length, its number there.
    at_S2 = tf.where(begins_BT)
    record_S = at_S2[:, 0]
    begin_S = record_S * form.capacity + at_S2[:, 1]
    length_S = tf.concat([begin_S[1:], [tf.size(tokens_BT, tf.int64)]], axis=0) - begin_S
    segments_B = tf.reduce_sum(tf.cast(begins_BT, tf.int32), axis=1)
    before_B = tf.cast(tf.cumsum(segments_B, exclusive=True), tf.int64)
    number_S = tf.range(1, tf.size(begin_S, tf.int64) + 1) - tf.gather(before_B, record_S)
    # Number and position in one value, so that one pass over the tokens makes both: several times as fast as a
    # cumulative sum and a gather.
    both_S = tf.bitwise.left_shift(number_S, np.int64(_BITS))
    both_BT = tf.reshape(tf.ragged.range(both_S, both_S + length_S).flat_values, tf.shape(tokens_BT))
    both_BT = tf.where(real_BT, both_BT, 0)
    return {
        "segment_ids": tf.cast(tf.bitwise.right_shift(both_BT, np.int64(_BITS)), tf.int32),
        "positions": tf.cast(tf.bitwise.bitwise_and(both_BT, np.int64((1 << _BITS) - 1)), tf.int32),
        "loss_mask": real_BT & ~begins_BT,
    }
