"""Leaves out of an answer what no passage supports.

An answer keeps sentences with a supported or weak citation, sentences which say that the memories do not tell, and the
headings, introducing lines and table heads of what is kept. Everything else goes: sentences with unsupported citations
only, sentences without citations, and code. A list item, row or line that has no sentence left goes as a whole, so the
answer stays well-formed Markdown. This module does not know how the verdicts are found.
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
class SupportedText:
    """The part of an answer that passages support.

    Attributes:
        citations: the citations of its sentences, with places in this text.
        removed: the sentences that were left out, in order.
    """

    text: str
    citations: tuple[Citation, ...]
    removed: tuple[str, ...]


def keep_supported(text: str, sentences: Sequence[Sentence], citations: Sequence[Sequence[Citation]]) -> SupportedText:
    """Leave out the sentences that no passage supports.

    Args:
        text: the answer.
        sentences: the sentences of the text.
        citations: the citations of each sentence.
    """
    stays = [_is_supported(one, own) for one, own in zip(sentences, citations, strict=True)]
    if any(stays):
        # Each line as the positions of its sentences.
        lines = [list(group) for _, group in groupby(range(len(sentences)), key=lambda i: sentences[i].line)]
        _keep_leads(text, sentences, lines, stays)
        kept_text, new_spans = _TextRebuilder(text, sentences).rebuild(lines, stays)
    else:
        kept_text, new_spans = NOTHING_LEFT, {}
    moved = (
        citation.model_copy(update={"answer_span": span}) for i, span in new_spans.items() for citation in citations[i]
    )
    removed = (text[one.start : one.stop] for one, stay in zip(sentences, stays, strict=True) if not stay)
    return SupportedText(kept_text, tuple(moved), tuple(removed))


def _is_supported(sentence: Sentence, citations: Sequence[Citation]) -> bool:
    return sentence.kind is Kind.SILENT or any(citation.verdict != "unsupported" for citation in citations)


def _keep_leads(text: str, sentences: Sequence[Sentence], lines: Sequence[Sequence[int]], stays: list[bool]) -> None:
    """Keep a heading if anything up to the next heading stays, and any other lead if its first block stays."""
    is_any_kept = is_block_kept = is_block_below = False
    # From the last line up, so that it is known for each line what stays below it.
    for line in reversed(lines):
        first, last = sentences[line[0]], line[-1]
        is_heading = "#" in text[first.line : first.start]
        if sentences[last].kind is Kind.LEAD:
            stays[last] = is_any_kept if is_heading else is_block_kept
        is_kept = any(stays[i] for i in line)
        is_any_kept = (is_kept or is_any_kept) and not is_heading
        # Neighbouring items or rows are one block.
        is_block = _BLOCK.match(text, first.line) is not None
        is_block_kept = is_kept or (is_block and is_block_below and is_block_kept)
        is_block_below = is_block


class _TextRebuilder:
    """Puts the kept sentences of an answer together, line by line."""

    def __init__(self, text: str, sentences: Sequence[Sentence]) -> None:
        self._text = text
        self._sentences = sentences
        self._new = ""
        self._new_spans: dict[int, tuple[int, int]] = {}
        self._indent: int | None = None

    def rebuild(self, lines: Sequence[Sequence[int]], stays: Sequence[bool]) -> tuple[str, dict[int, tuple[int, int]]]:
        """Return the new text, and the place in it of each kept sentence."""
        is_apart, was_kept, rule, end = False, False, "", 0
        for line in lines:
            kept = [i for i in line if stays[i]]
            begin = self._sentences[line[0]].line
            # Between two lines with sentences: empty lines, and the rule under a table's head.
            gap = self._text[end:begin]
            rules = [part for part in gap.split("\n") if _TABLE_RULE.fullmatch(part)]
            is_apart = is_apart or gap.count("\n") - len(rules) > 1
            rule = rules[0] if rules and was_kept else rule
            end = self._sentences[line[-1]].stop
            was_kept = bool(kept)
            if kept:
                if self._new:
                    self._new += f"\n{rule}" * bool(rule) + "\n" * (1 + is_apart)
                self._append_line(kept, self._text[begin : self._sentences[line[0]].start])
                is_apart, rule = False, ""
        return self._new, self._new_spans

    def _append_line(self, kept: Sequence[int], prefix: str) -> None:
        item = _ITEM.match(prefix)
        indent = len(item[1]) if item else None
        if item and indent is not None:
            # An item that is deeper than the list around it, because its parent was left out, would be read as code.
            indent_max = 0 if self._indent is None else self._indent + _INDENT_STEP
            prefix = prefix[max(0, indent - indent_max) :]
            indent = min(indent, indent_max)
        self._indent = indent
        self._new += prefix
        for i, before in zip(kept, [None, *kept], strict=False):
            sentence = self._sentences[i]
            if before is not None:
                # Neighbours keep the text between them. Over a gap one space is enough.
                gap = self._text[self._sentences[before].stop : sentence.start]
                self._new += gap if before == i - 1 else " "
            self._new_spans[i] = (len(self._new), len(self._new) + sentence.stop - sentence.start)
            self._new += self._text[sentence.start : sentence.stop]
