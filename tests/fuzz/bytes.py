"""Damage to bytes, made up by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw, content: bytes) -> bytes:
  """`content` with some bytes changed, put in, left out, moved or cut off; it may stay the same."""
  found = bytearray(content)
  for _ in range(draw(st.integers(1, 3))):
    place = draw(st.integers(0, max(0, len(found) - 1)))
    length = draw(st.sampled_from([1, 2, 4, 8, 100]))
    kind = draw(st.sampled_from(["flip", "set", "insert", "remove", "cut", "repeat", "zero"]))
    if kind == "flip" and found:
      found[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
      found[place : place + length] = draw(st.binary(min_size=length, max_size=length))
    elif kind == "insert":
      found[place:place] = draw(st.binary(min_size=1, max_size=length))
    elif kind == "remove":
      del found[place : place + length]
    elif kind == "cut":
      del found[place:]
    elif kind == "repeat":
      found[place:place] = found[place : place + length]
    elif kind == "zero":
      found[place : place + length] = bytes(length)
  return bytes(found)
