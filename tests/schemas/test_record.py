"""The record: protobuf's and TFRecord's bytes exactly, and no damage that goes unnoticed."""

import io
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.record import (
    CorruptRecord,
    decode_example,
    encode_example,
    end_checksums,
    frame,
    frame_examples,
    read_records,
    record_size,
    token_dtype,
    write_records,
)

DTYPES = st.sampled_from([np.dtype("<u2"), np.dtype("<i4")])


@st.composite
def token_vectors(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(DTYPES)
    length = draw(st.one_of(st.integers(0, 200), st.sampled_from([4097, 8200, 131073])))
    low, high = (0, 1 << 16) if dtype.itemsize == 2 else (-(1 << 31), 1 << 31)
    return np.random.default_rng(draw(st.integers(0, 99))).integers(low, high, length).astype(dtype)


def example_class() -> type:
    """tf.train.Example as TensorFlow's example.proto and feature.proto define it for bytes."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str]) -> descriptor_pb2.DescriptorProto:
        result = file.message_type.add(name=name)
        for label, number, kind, type_name in fields:
            result.field.add(
                name=label,
                number=number,
                type=kind,
                type_name=type_name or None,
                label=field.LABEL_REPEATED if label in ("value_list", "feature") else field.LABEL_OPTIONAL,
            )
        return result

    message("BytesList", ("value_list", 1, field.TYPE_BYTES, ""))
    feature = message("Feature", ("bytes_list", 1, field.TYPE_MESSAGE, ".tensorflow.BytesList"))
    feature.oneof_decl.add(name="kind")
    feature.field[0].oneof_index = 0
    features = message("Features", ("feature", 1, field.TYPE_MESSAGE, ".tensorflow.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Feature",
        label=field.LABEL_OPTIONAL,
    )
    message("Example", ("features", 1, field.TYPE_MESSAGE, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


EXAMPLE = example_class()


@given(token_vectors())
@settings(max_examples=60, deadline=None)
def test_an_example_is_what_protobuf_would_write(tokens: np.ndarray) -> None:
    example = EXAMPLE()
    example.features.feature["tokens"].bytes_list.value_list.append(tokens.tobytes())
    encoded = encode_example(tokens)
    assert encoded == example.SerializeToString(deterministic=True)
    decoded = decode_example(encoded, tokens.dtype)
    assert decoded.dtype == tokens.dtype
    assert np.array_equal(decoded, tokens)


def test_golden_bytes() -> None:
    tokens = np.array([1, 258, 65535], dtype=np.uint16)
    example = b"\x0a\x16\x0a\x14\x0a\x06tokens\x12\x0a\x0a\x08\x0a\x06\x01\x00\x02\x01\xff\xff"
    assert encode_example(tokens) == example
    # The frame of an empty payload and of "abc", as TensorFlow's TFRecordWriter writes them.
    assert frame(b"").hex() == "0000000000000000" + "29039807" + "d8ea82a2"
    framed = frame(example)
    assert framed[:8] == struct.pack("<Q", len(example))
    assert framed[12:-4] == example
    for data, stored in ((framed[:8], framed[8:12]), (example, framed[-4:])):
        crc = google_crc32c.value(data)
        rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
        assert struct.unpack("<I", stored)[0] == (rotated + 0xA282EAD8) % 2**32


def test_token_dtype_is_two_bytes_as_long_as_the_ids_fit() -> None:
    assert token_dtype(65536) == np.dtype("<u2")
    assert token_dtype(65537) == np.dtype("<i4")


@pytest.mark.parametrize("length", [1, 7, 60, 63, 127, 4096, 32768, 131072])
@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_a_matrix_is_framed_as_its_rows_are(length: int, dtype: str) -> None:
    tokens = np.random.default_rng(length).integers(0, 60_000, (3, length + 1)).astype(dtype)
    framed = frame_examples(tokens)
    assert framed == b"".join(frame(encode_example(row)) for row in tokens)
    assert len(framed) == 3 * record_size(length, dtype)
    assert frame_examples(tokens[:0]) == b""


def test_other_byte_orders_and_strides_are_encoded_by_value() -> None:
    tokens = np.arange(24, dtype=np.uint16).reshape(4, 6)
    assert frame_examples(tokens.astype(">u2")[:, ::2]) == frame_examples(tokens[:, ::2].copy())
    assert encode_example(tokens[:, 1].astype(">u2")) == encode_example(tokens[:, 1].copy())


@pytest.mark.parametrize("tokens", [np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 3), np.uint16)])
def test_other_tokens_are_not_encoded(tokens: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint16 or int32"):
        encode_example(tokens)


@given(token_vectors(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_example_never_decodes_to_other_lengths(tokens: np.ndarray, data: st.DataObject) -> None:
    encoded = encode_example(tokens[:200])
    envelope = len(encoded) - tokens[:200].nbytes
    position = data.draw(st.integers(0, envelope - 1))
    damaged = bytearray(encoded)
    damaged[position] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(damaged), encoded[:position], encoded + b"\x00", encoded[:-1] if tokens.size else b""):
        with pytest.raises(CorruptRecord, match="record of"):
            decode_example(bad, tokens.dtype)


def test_a_length_that_is_not_the_shortest_varint_is_refused() -> None:
    encoded = encode_example(np.array([5], dtype=np.uint16))
    with pytest.raises(CorruptRecord, match="record of tokens"):
        decode_example(encoded[:1] + bytes([encoded[1] | 0x80, 0]) + encoded[2:], np.uint16)


def test_an_odd_number_of_bytes_is_no_tokens() -> None:
    encoded = encode_example(np.array([5], dtype=np.uint16))
    with pytest.raises(CorruptRecord, match="2 token bytes holds no whole number of int32"):
        decode_example(encoded, np.int32)


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_records_are_read_as_written(payloads: list[bytes]) -> None:
    file = io.BytesIO()
    assert write_records(file, payloads) == len(payloads)
    file.seek(0)
    assert list(read_records(file)) == payloads


def test_a_file_that_gives_few_bytes_at_a_time_is_read_whole() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 5))

    payloads = [b"a" * 40, b"", b"b" * 7]
    assert list(read_records(Trickle(b"".join(map(frame, payloads))))) == payloads


@given(st.integers(0, 2), st.data())
@settings(max_examples=150, deadline=None)
def test_any_altered_byte_is_found_and_located(index: int, data: st.DataObject) -> None:
    payloads = [b"first", b"the second", b"x" * 100]
    frames = [frame(payload) for payload in payloads]
    offset = sum(map(len, frames[:index]))
    damaged = bytearray(b"".join(frames))
    damaged[offset + data.draw(st.integers(0, len(frames[index]) - 1))] ^= data.draw(st.integers(1, 255))
    read = []
    with pytest.raises(CorruptRecord, match=f"record {index} at byte {offset} "):
        read.extend(read_records(io.BytesIO(bytes(damaged))))


def test_a_cut_file_is_found_and_named(tmp_path: Path) -> None:
    whole = frame(b"first") + frame(b"second")
    first = len(frame(b"first"))
    path = tmp_path / "train-00000-of-00001.tfrecord"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with path.open("rb") as file:
            if end in (0, first):
                assert len(list(read_records(file))) == (end > 0)
                continue
            index = int(end > first)
            with pytest.raises(CorruptRecord, match=f"00001.tfrecord: record {index} at byte {index * first} is cut"):
                list(read_records(file))


@given(st.integers(1, 5), st.integers(1, 9))
def test_end_checksums_are_those_of_the_first_and_last_frame(records: int, tokens: int) -> None:
    matrix = np.random.default_rng(records * 10 + tokens).integers(0, 1000, (records, tokens)).astype(np.uint16)
    data = frame_examples(matrix)
    size = record_size(tokens - 1, np.uint16)
    first, last = frame(encode_example(matrix[0])), frame(encode_example(matrix[-1]))
    assert end_checksums(io.BytesIO(data), size, records) == (first[-4:] + last[-4:]).hex()
