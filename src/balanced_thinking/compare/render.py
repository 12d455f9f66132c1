"""A report's blocks as Markdown and as one HTML page that needs nothing beside it.

The page opens from disk without network: plots are inline SVG, pictures data URIs, no script. It follows the reader's
light or dark setting and fits a phone. All text from data is escaped. What it leaves out: the content (``report``).
"""

import base64
import html as escaping
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 3."""

    text: str
    level: int


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the line."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Code:
    """Preformatted text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A plot: its PNG, with an SVG of the same name beside it."""

    title: str
    path: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arm wrote."""

    arm: str
    correct: bool
    response: str


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its pictures, and the answers of all arms."""

    question: str
    pictures: Sequence[Path]
    reference: str
    answers: Sequence[Answer]


Block = Heading | Text | Table | Code | Image | Example


def markdown(blocks: Sequence[Block], output: Path) -> str:
    """The blocks as Markdown that stands in ``output``; plots and pictures are linked."""
    parts, number = [], 0
    for block in blocks:
        match block:
            case Heading():
                parts.append(f"{'#' * block.level} {_flat(block.text)}")
            case Text():
                parts.append(_flat(block.text))
            case Table():
                lines = [block.head, ["---"] * len(block.head), *block.lines]
                parts.append("\n".join("| " + " | ".join(_flat(cell) for cell in line) + " |" for line in lines))
            case Code():
                parts.append(f"```\n{_utf8(block.text)}\n```")
            case Image():
                parts.append(f"![{block.title}]({block.path.relative_to(output).as_posix()})")
            case Example():
                number += 1
                parts.append(_markdown_example(number, block, output))
    return "\n\n".join(parts) + "\n"


def _markdown_example(number: int, example: Example, output: Path) -> str:
    lines = [f"### {number}. {_flat(example.question)}", ""]
    for picture in example.pictures:
        lines += [f"![picture]({picture.relative_to(output).as_posix()})", ""]
    lines += [f"Right answer: {_flat(example.reference)}", ""]
    for answer in example.answers:
        lines.append(f"* **{_flat(answer.arm)}** ({'right' if answer.correct else 'wrong'}): {_flat(answer.response)}")
    return "\n".join(lines)


def html(title: str, blocks: Sequence[Block]) -> str:
    """The blocks as one page."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_safe(block.text)}</h{block.level}>"
        case Text():
            return f"<p>{_safe(block.text)}</p>"
        case Table():
            head = "".join(f'<th scope="col">{_safe(cell)}</th>' for cell in block.head)
            lines = "".join(map(_html_line, block.lines))
            return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        case Code():
            return f"<details><summary>settings and versions</summary><pre>{_safe(block.text)}</pre></details>"
        case Image():
            svg = block.path.with_suffix(".svg").read_text(encoding="utf-8")
            title = _safe(block.title)
            caption = f"<figcaption>{title}</figcaption>"
            return f'<figure role="img" aria-label="{title}"><div class="wide">{svg}</div>{caption}</figure>'
        case Example():
            return _html_example(block)


def _html_line(line: Sequence[str]) -> str:
    cells = "".join(f"<td>{_safe(cell)}</td>" for cell in line[1:])
    return f'<tr><th scope="row">{_safe(line[0])}</th>{cells}</tr>'


def _html_example(example: Example) -> str:
    pictures = "".join(f'<img alt="picture of the question" src="{_data_uri(path)}">' for path in example.pictures)
    answers = "".join(
        f'<dt class="{"right" if answer.correct else "wrong"}">{_safe(answer.arm)} '
        f"({'right' if answer.correct else 'wrong'})</dt><dd>{_safe(answer.response)}</dd>"
        for answer in example.answers
    )
    return (
        f'<article><h3>{_safe(example.question)}</h3><div class="pictures">{pictures}</div>'
        f"<p>Right answer: <strong>{_safe(example.reference)}</strong></p><dl>{answers}</dl></article>"
    )


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _safe(text: str) -> str:
    """Text from data for HTML."""
    return escaping.escape(_utf8(text))


def _utf8(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot write, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _flat(text: str) -> str:
    """Text from data for one line of Markdown."""
    line = " ".join(_utf8(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", line)


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #00734f; --bad: #b34300; }
@media (prefers-color-scheme: dark) { :root { --good: #35c796; --bad: #ff8a4a; } }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; font-size: 1.25rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { white-space: nowrap; } td:last-child { white-space: normal; min-width: 7rem; }
tbody th { font-weight: 600; min-width: min(13rem, 34vw); }
figure { margin: 1.4rem 0; } figure svg { max-width: 100%; height: auto; } figure svg text { fill: currentColor; }
figcaption { opacity: .75; font-size: .9rem; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .2rem 1rem; margin: 1rem 0; }
.pictures img { image-rendering: pixelated; width: 10.5rem; max-width: 45%; margin-right: .6rem; }
dt { font-weight: 600; } dt.right { color: var(--good); } dt.wrong { color: var(--bad); }
dd { margin: 0 0 .6rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
pre { overflow-x: auto; font-size: .85rem; }
@media (max-width: 40rem) {
  td { white-space: normal; } th, td { min-width: 5rem; padding: .25rem .4rem; }
  figure svg { max-width: none; }
}
"""
