"""Leaves out of an answer what no passage supports.

Kept are sentences with a citation that is supported or weak, sentences which say that the memories do not tell, and the
headings, introducing lines and table heads of what is kept. All else goes: sentences with unsupported citations alone,
sentences and code without any. A list item, a row or a line that is left without a sentence goes whole, so the answer
stays well-formed Markdown. Knows verdicts, not how they are found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from research.grounding.claims import Kind, Sentence
from vector_memory.research import Citation

NOTHING_LEFT: Final = "No statement of the answer is supported by the memories that it cites."

_BLOCK = re.compile(r"\s*(?:[-*+•>|]|[0-9]{1,3}[.)]\s)")
_ITEM = re.compile(r"([^\S\n]*)(?:[-*+•]|[0-9]{1,3}[.)])[^\S\n]")
_INDENT_STEP = 4
_TABLE_RULE = re.compile(r"[^\S\n]*\|[\s:|-]+")


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer with less in it.

    Attributes:
        citations: of its sentences, with places in the new text.
        removed: sentences that went, as they stood there, in order.
    """

    text: str
    citations: tuple[Citation, ...]
    removed: tuple[str, ...]


def keep_supported(text: str, sentences: Sequence[Sentence], citations: Sequence[Sequence[Citation]]) -> Kept:
    """Leave out what nothing vouches for.

    Args:
        text: the answer.
        sentences: of the text.
        citations: of each sentence.
    """
    stays = [_is_vouched_for(one, cited) for one, cited in zip(sentences, citations, strict=True)]
    if not any(stays):
        return Kept(NOTHING_LEFT, (), tuple(text[one.start : one.stop] for one in sentences))
    lines = [list(group) for _, group in groupby(range(len(sentences)), key=lambda i: sentences[i].line)]
    _keep_leads(text, sentences, lines, stays)
    new, moved = _Writer(text, sentences).written([[i for i in line if stays[i]] for line in lines], lines)
    left = tuple(
        citation.model_copy(update={"answer_span": moved[i]})
        for i in range(len(sentences))
        if stays[i]
        for citation in citations[i]
    )
    return Kept(
        new, left, tuple(text[one.start : one.stop] for one, stay in zip(sentences, stays, strict=True) if not stay)
    )


def _is_vouched_for(sentence: Sentence, cited: Sequence[Citation]) -> bool:
    return sentence.kind is Kind.SILENT or any(citation.verdict != "unsupported" for citation in cited)


def _keep_leads(text: str, sentences: Sequence[Sentence], lines: Sequence[Sequence[int]], stays: list[bool]) -> None:
    """What only introduces stays with the first block of what it introduces; a heading with all up to the next."""
    follows_any = follows_block = False
    below_is_block = False
    for line in reversed(lines):
        last = line[-1]
        at = text[sentences[line[0]].line : sentences[line[0]].start]
        is_heading = "#" in at
        if sentences[last].kind is Kind.LEAD:
            stays[last] = follows_any if is_heading else follows_block
        kept = any(stays[i] for i in line)
        follows_any = (kept or follows_any) and not is_heading
        is_block = _BLOCK.match(text, sentences[line[0]].line) is not None
        follows_block = kept or (is_block and below_is_block and follows_block)
        below_is_block = is_block


class _Writer:
    """Puts the kept sentences of an answer together, line by line."""

    def __init__(self, text: str, sentences: Sequence[Sentence]) -> None:
        self._text = text
        self._sentences = sentences
        self._new = ""
        self._moved: dict[int, tuple[int, int]] = {}
        self._indent: int | None = None

    def written(
        self, kept: Sequence[Sequence[int]], lines: Sequence[Sequence[int]]
    ) -> tuple[str, dict[int, tuple[int, int]]]:
        """The new text, and where in it each kept sentence is."""
        is_apart, was_kept, rule, end = False, False, "", 0
        for stay, line in zip(kept, lines, strict=True):
            begin = self._sentences[line[0]].line
            gap = self._text[end:begin]
            rules = [part for part in gap.split("\n") if _TABLE_RULE.fullmatch(part)]
            is_apart = is_apart or gap.count("\n") - len(rules) > 1
            rule = rules[0] if rules and was_kept else rule
            end = self._sentences[line[-1]].stop
            was_kept = bool(stay)
            if stay:
                if self._new:
                    self._new += f"\n{rule}" * bool(rule) + "\n" * (1 + is_apart)
                self._line(stay, begin, self._sentences[line[0]].start)
                is_apart, rule = False, ""
        return self._new, self._moved

    def _line(self, stay: Sequence[int], begin: int, first: int) -> None:
        prefix = self._text[begin:first]
        item = _ITEM.match(prefix)
        indent = len(item[1]) if item else None
        if item and indent is not None:
            # A deeper item whose parent went would be read as code.
            most = 0 if self._indent is None else self._indent + _INDENT_STEP
            prefix = prefix[max(0, indent - most) :]
            indent = min(indent, most)
        self._indent = indent
        self._new += prefix
        for i, before in zip(stay, [None, *stay], strict=False):
            one = self._sentences[i]
            if before is not None:
                gap = self._text[self._sentences[before].stop : one.start]
                self._new += gap if before == i - 1 else " "
            self._moved[i] = (len(self._new), len(self._new) + one.stop - one.start)
            self._new += self._text[one.start : one.stop]
