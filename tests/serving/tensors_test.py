"""TensorProto conversion, held to TensorFlow's own `Tensor::FromProto` (through `parse_tensor`)."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from serving import protos, tensors

RNG = np.random.default_rng(0)
ARRAYS = [
  RNG.normal(size=(2, 3)).astype(np.float32),
  RNG.normal(size=(2, 0, 3)),
  RNG.normal(size=(4,)).astype(np.float16),
  RNG.normal(size=(4,)).astype(ml_dtypes.bfloat16),
  RNG.integers(0, 255, (2, 4, 4, 3)).astype(np.uint8),
  np.array([-128, 127], np.int8),
  np.array([-32768, 32767], np.int16),
  np.array([0, 65535], np.uint16),
  np.array(-(2**31), np.int32),
  np.array([2**32 - 1], np.uint32),
  np.array([-(2**63), 2**63 - 1], np.int64),
  np.array([2**64 - 1], np.uint64),
  np.array([[True], [False]]),
  (RNG.normal(size=(3,)) + 1j).astype(np.complex64),
  RNG.normal(size=(3,)) + 2j,
  np.array([[b"a\x00\xff", b""]], object),
  np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
]


@pytest.mark.parametrize("message", [TensorProto, protos.TensorProto])
@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_round_trip_also_through_tensorflow(array, as_content, message):
  proto = message()
  tensors.encode(array, proto, as_content)
  wire = proto.SerializeToString()
  back = tf.make_ndarray(TensorProto.FromString(wire))
  parsed = tf.io.parse_tensor(wire, tf.as_dtype(TensorProto.FromString(wire).dtype)).numpy()
  for result in (tensors.decode(proto), back, parsed):
    assert result.shape == array.shape
    np.testing.assert_array_equal(result.astype(array.dtype), array)
  assert tensors.decode(proto).dtype == array.dtype
  if not as_content and array.dtype.kind in "fiub":
    assert not proto.tensor_content


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_decodes_what_tensorflow_writes(array):
  np.testing.assert_array_equal(tensors.decode(tf.make_tensor_proto(array)), array)


def _random_proto(rng):
  """A proto that is wrong, sparse or odd in a random way."""
  proto = TensorProto(dtype=int(rng.choice([0, 1, 2, 3, 4, 7, 9, 10, 19, 20, 99])))
  for _ in range(rng.integers(0, 3)):
    proto.tensor_shape.dim.add().size = int(
      rng.choice([-1, 0, 1, 2, 3], p=[0.05, 0.1, 0.4, 0.3, 0.15])
    )
  proto.tensor_shape.unknown_rank = bool(rng.random() < 0.03)
  if rng.random() < 0.3:
    proto.tensor_content = bytes(
      rng.integers(0, 2, int(rng.choice([1, 2, 4, 8, 12, 16, 24]))).astype(np.uint8)
    )
  for field in ("float_val", "double_val", "int_val", "int64_val", "bool_val", "half_val"):
    getattr(proto, field).extend(rng.integers(0, 2, rng.integers(0, 5)).tolist())
  proto.string_val.extend([b"ab", b"", b"c"][: rng.integers(0, 4)])
  return proto


def test_accepts_and_refuses_the_same_protos_as_tensorflow():
  rng = np.random.default_rng(1)
  agreed = refused = 0
  for _ in range(1500):
    proto = _random_proto(rng)
    try:
      expected = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    except (tf.errors.OpError, TypeError):
      expected = None
    try:
      result = tensors.decode(proto)
    except ValueError:
      result = None
    assert (result is None) == (expected is None), proto
    if result is None:
      refused += 1
    else:
      agreed += 1
      np.testing.assert_array_equal(result, np.asarray(expected, result.dtype), err_msg=str(proto))
  assert min(agreed, refused) > 200


def test_a_few_bytes_cannot_ask_for_terabytes():
  proto = TensorProto(dtype=4, int_val=[1])
  for size in (2**20, 2**20, 2**30):
    proto.tensor_shape.dim.add().size = size
  with pytest.raises(ValueError, match="too large"):
    tensors.decode(proto)


def test_shapes_that_nothing_was_sent_for_end_somewhere():
  for sizes, values in (([2**31, 0], []), ([0, 2**40], []), ([2**17], [1]), ([2**12, 2**13], [])):
    proto = TensorProto(dtype=3, int_val=values)
    for size in sizes:
      proto.tensor_shape.dim.add().size = size
    with pytest.raises(ValueError, match="too large for the values sent"):
      tensors.decode(proto)
  proto = TensorProto(dtype=3, int_val=range(2**17))
  proto.tensor_shape.dim.add().size = 2**17
  assert len(tensors.decode(proto)) == 2**17


def test_values_outside_the_dtype_are_refused():
  proto = TensorProto(dtype=4, int_val=[256])
  proto.tensor_shape.dim.add().size = 1
  with pytest.raises(ValueError, match="256"):
    tensors.decode(proto)


def test_unknown_numpy_dtypes_are_named():
  with pytest.raises(ValueError, match="datetime64"):
    tensors.encode(np.array("2020-01-01", "datetime64[D]"), TensorProto())
