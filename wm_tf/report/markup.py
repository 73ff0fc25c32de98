"""HTML elements, and figures embedded in a page."""

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
  """Returns a whole HTML page, which loads nothing from the network.

  Args:
    title: the page's title.
    sections: the sections as HTML.
  """
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
  """Returns a section with a heading.

  Args:
    title: the heading.
    body: the content as HTML.
  """
  return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>"


def details(title: str, body: str) -> str:
  """Returns a section that opens on a click.

  Args:
    title: the text to click on.
    body: the content as HTML.
  """
  return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def table(heads: Sequence[str], body: Sequence[str], name: str = "") -> str:
  """Returns a table.

  Args:
    heads: column titles. One that starts with ">" is aligned right; one that starts with "?" is
      aligned right and hidden on a phone.
    body: the rows as HTML.
    name: the table's class in the style sheet.
  """
  cells = ""
  for head in heads:
    kind = {">": ' class="number"', "?": ' class="number minor"'}.get(head[0], "")
    cells += f'<th scope="col"{kind}>{escape(head.lstrip(">?"))}</th>'
  kind = f' class="{name}"' if name else ""
  rows = "\n".join(body)
  return f"<table{kind}><thead><tr>{cells}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def cell(text: str, minor: bool = False) -> str:
  """Returns a table cell with a number.

  Args:
    text: the number as HTML.
    minor: whether the cell is hidden on a phone.
  """
  return f'<td class="number{" minor" if minor else ""}">{text}</td>'


def verdict(text: str) -> str:
  """Returns a verdict in its colour.

  Args:
    text: GOOD, USABLE, POOR or INFO.
  """
  kind = text if text != verdicts.INFO else "none"
  return f'<span class="verdict {kind}">{text}</span>'


def checks_table(found: Iterable[verdicts.Check]) -> str:
  """Returns a table of checks by group: measured and usual value, verdict and meaning.

  Args:
    found: the checks, sorted by group.
  """
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
  """Converts the given figures to HTML. Each figure is shown once."""

  def __init__(self, figures: Figures, captions: Mapping[str, str]):
    """Creates the converter.

    Args:
      figures: PNG or GIF bytes or SVG text by key.
      captions: the caption of each figure, by key.
    """
    self._left = dict(figures)
    self._captions = captions
    self._count = 0

  def take(self, prefix: str) -> str:
    """Returns the HTML of all figures not shown yet whose key starts with a prefix.

    Args:
      prefix: the prefix; empty for all figures.
    """
    keys = [key for key in self._left if key.startswith(prefix)]
    return "\n".join(self._given(key, self._left.pop(key)) for key in keys)

  def chart(self, svg: str, label: str, caption: bool = True) -> str:
    """Returns the HTML of a chart.

    Args:
      svg: the chart.
      label: its description for screen readers.
      caption: whether to show the description below the chart.
    """
    self._count += 1
    text = f"<figcaption>{escape(label)}</figcaption>" if caption else ""
    return f"<figure>{_inline_svg(svg, f'f{self._count}-', label)}{text}</figure>"

  def rest(self) -> str:
    """Returns a section with all figures not shown yet; empty if there are none."""
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
  """Returns the format of a figure: "svg", "png" or "gif".

  Args:
    key: the figure's key, for the error message.
    figure: PNG or GIF bytes or SVG text.

  Raises:
    ValueError: if the figure has another format.
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
  """Returns the SVG without namespaces, style sheets and size, and with `prefix` before its ids."""
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
