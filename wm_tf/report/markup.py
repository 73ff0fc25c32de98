"""Pieces of HTML, and figures embedded in a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from xml.etree import ElementTree

from wm_tf.report import style, verdicts

Figures = Mapping[str, bytes | str]

MISSING = f'<span class="missing">{verdicts.NOT_RUN}</span>'
_CAPTIONS = {
  "animation": "An episode of the served planner. Left: the environment. Right: the decoded latent "
  "state of the model.",
  "film_strip": "The same steps of an episode: real, reconstructed by the VAE, and dreamed from "
  "the actions alone.",
}


def document(title: str, sections: Iterable[str]) -> str:
  """Returns a whole page of sections. It loads nothing from the network."""
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  head = [
    '<meta charset="utf-8">',
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    f"<title>{escape(title)}</title>",
    f"<style>{style.CSS}</style>",
  ]
  body = ["<body><main>", *sections, "</main></body>", "</html>", ""]
  return "\n".join(["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", *body])


def section(title: str, body: str) -> str:
  """Returns a section with a heading."""
  return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>"


def details(title: str, body: str) -> str:
  """Returns a part of the page that opens on a click."""
  return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def table(heads: Sequence[str], body: Sequence[str], name: str = "") -> str:
  """Returns a table.

  Args:
    heads: column titles. One that starts with ">" is aligned right; one with "?" too, and is left
      out on a phone.
    body: its rows, as HTML.
    name: its class in the style sheet.
  """
  cells = ""
  for head in heads:
    kind = {">": ' class="number"', "?": ' class="number minor"'}.get(head[0], "")
    cells += f'<th scope="col"{kind}>{escape(head.lstrip(">?"))}</th>'
  kind = f' class="{name}"' if name else ""
  rows = "\n".join(body)
  return f"<table{kind}><thead><tr>{cells}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def cell(text: str, minor: bool = False) -> str:
  """Returns a number's cell of a table; a minor one is left out on a phone."""
  return f'<td class="number{" minor" if minor else ""}">{text}</td>'


def verdict(text: str) -> str:
  """Returns a verdict in its colour."""
  kind = text if text != verdicts.INFO else "none"
  return f'<span class="verdict {kind}">{text}</span>'


def checks_table(found: Iterable[verdicts.Check]) -> str:
  """Returns a table of checks by group: measured, usual, verdict and meaning."""
  body, group = [], None
  for check in found:
    if check.group != group:
      group = check.group
      body.append(f'<tr class="group"><th colspan="5" scope="colgroup">{escape(group)}</th></tr>')
    if check.verdict == verdicts.NOT_RUN:
      measured, badge = MISSING, ""
    else:
      measured, badge = escape(check.value), verdict(check.verdict)
    body.append(
      f'<tr><th scope="row">{escape(check.name)}</th><td data-name="measured">{measured}</td>'
      f'<td data-name="usual">{escape(check.reference)}</td>'
      f'<td class="inline">{badge}</td><td class="inline">{escape(check.words)}</td></tr>'
    )
  return table(("figure", "measured", "usual", "verdict", "what it means"), body, name="stack")


class Pictures:
  """The given figures as HTML. Each is shown exactly once."""

  def __init__(self, figures: Figures, captions: Mapping[str, str]):
    self._left = dict(figures)
    self._captions = captions
    self._count = 0

  def take(self, prefix: str) -> str:
    """Returns all figures not shown yet whose key starts with `prefix`."""
    keys = [key for key in self._left if key.startswith(prefix)]
    return "\n".join(self._given(key, self._left.pop(key)) for key in keys)

  def chart(self, svg: str, label: str, caption: bool = True) -> str:
    """Returns a chart drawn for this page.

    Args:
      svg: the chart.
      label: its description for screen readers.
      caption: whether to show the description below the chart.
    """
    self._count += 1
    text = f"<figcaption>{escape(label)}</figcaption>" if caption else ""
    return f"<figure>{_inline_svg(svg, f'f{self._count}-', label)}{text}</figure>"

  def rest(self) -> str:
    """Returns a section of all figures not shown yet; empty if there are none."""
    found = self.take("")
    return section("More figures", found) if found else ""

  def _given(self, key: str, figure: bytes | str) -> str:
    kind = kind_of(key, figure)
    known = next((text for name, text in _CAPTIONS.items() if key.startswith(name)), None)
    caption = self._captions.get(key) or known or key.replace("_", " ")
    if kind == "svg":
      return self.chart(figure, caption)
    data = base64.b64encode(figure).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
    wide = f'<div class="wide">{image}</div>' if kind == "png" else image
    return f"<figure>{wide}<figcaption>{escape(caption)}</figcaption></figure>"


def kind_of(key: str, figure: bytes | str) -> str:
  """Returns "svg", "png" or "gif".

  Raises:
    ValueError: if `figure` is none of them; the message names `key`.
  """
  if isinstance(figure, str) and "<svg" in figure[:400]:
    return "svg"
  if isinstance(figure, bytes) and figure.startswith(b"\x89PNG"):
    return "png"
  if isinstance(figure, bytes) and figure.startswith((b"GIF87a", b"GIF89a")):
    return "gif"
  raise ValueError(
    f"Figure {key!r} is neither PNG or GIF bytes nor SVG text; it starts with {figure[:24]!r}."
  )


def _inline_svg(svg: str, prefix: str, label: str) -> str:
  """Returns the SVG without namespaces, style sheet and size, with `prefix` before its ids."""
  root = ElementTree.fromstring(svg)
  for element in root.iter():
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if "id" in attributes:
      attributes["id"] = prefix + attributes["id"]
    for name, value in attributes.items():
      attributes[name] = value.replace("url(#", f"url(#{prefix}")
    if attributes.get("href", "").startswith("#"):
      attributes["href"] = f"#{prefix}{attributes['href'][1:]}"
    element.attrib.clear()
    element.attrib.update(attributes)
    for child in [child for child in element if child.tag.endswith("}style")]:
      element.remove(child)
  for name in ("width", "height"):
    root.attrib.pop(name, None)
  root.set("role", "img")
  root.set("aria-label", label)
  return ElementTree.tostring(root, encoding="unicode")
