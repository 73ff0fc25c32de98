"""Finds the functions of a SavedModel that require XLA, which the official server rejects.

TensorFlow Serving disables XLA compilation: a function with `jit_compile=True` loads, but calling
it fails. TensorFlow in Python would compile it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc
from tensorflow.core.framework import graph_pb2, node_def_pb2

from serving.errors import ServingError

_MUST_COMPILE = "_XlaMustCompile"


class XlaCheck:
  """Rejects fetches of a graph that require XLA."""

  def __init__(self, graph: graph_pb2.GraphDef):
    """
    Args:
      graph: the graph of the loaded model, with its library of functions.
    """
    self._nodes = {node.name: node for node in graph.node}
    self._functions = {function.signature.name: function for function in graph.library.function}
    # Most models have no such function; the search is then skipped.
    self._any = any(map(_must_compile, self._all_nodes(graph))) or any(
      map(_must_compile, self._functions.values())
    )

  def require_none(self, fetches: Iterable[str]) -> None:
    """Raises an error if any of the given tensors depends on XLA.

    Args:
      fetches: names of tensors, such as `StatefulPartitionedCall:0`.

    Raises:
      ServingError: INTERNAL, with the official server's message.
    """
    if not self._any:
      return
    for node in self._needed(fetches):
      found = self._find(node, "", set())
      if found:
        raise ServingError(grpc.StatusCode.INTERNAL, f"XLA compilation disabled\n\t [[{found}]]")

  def _all_nodes(self, graph: graph_pb2.GraphDef) -> Iterator[node_def_pb2.NodeDef]:
    yield from graph.node
    for function in graph.library.function:
      yield from function.node_def

  def _needed(self, fetches: Iterable[str]) -> Iterator[node_def_pb2.NodeDef]:
    """Yields the nodes that compute the given tensors."""
    todo, seen = [_node_name(fetch) for fetch in fetches], set()
    while todo:
      name = todo.pop()
      if name in self._nodes and name not in seen:
        seen.add(name)
        node = self._nodes[name]
        todo += map(_node_name, node.input)
        yield node

  def _find(self, node: node_def_pb2.NodeDef, function: str, seen: set[str]) -> str | None:
    """Returns where a node or a function that it calls requires XLA, in TensorFlow's format."""
    here = f"{{{{node {node.name}}}}}"
    if function:
      here = f"{{{{function_node {function}}}}}{here}"
    called = [self._functions[name] for name in _called(node) if name in self._functions]
    if _must_compile(node) or any(map(_must_compile, called)):
      return here
    for definition in called:
      name = definition.signature.name
      if name not in seen:
        seen.add(name)
        for inner in definition.node_def:
          found = self._find(inner, name, seen)
          if found:
            return found
    return None


def _must_compile(node_or_function) -> bool:
  attributes = node_or_function.attr
  return _MUST_COMPILE in attributes and attributes[_MUST_COMPILE].b


def _called(node: node_def_pb2.NodeDef) -> Iterator[str]:
  """Yields the functions that a node calls, by its op or by attributes as in `While` and `If`."""
  yield node.op
  for value in node.attr.values():
    if value.HasField("func"):
      yield value.func.name
    for function in value.list.func:
      yield function.name


def _node_name(tensor: str) -> str:
  return tensor.removeprefix("^").partition(":")[0]
