"""Estimates how many tokens a text has, without a tokenizer.

The service does not know which model its endpoint serves, so it carries no tokenizer. The weights lie above the
counts of Llama 3's own tokenizer for prose in a dozen scripts, for code, JSON, tables, dates and URLs (a third too
much for English). Too low they are for random letters such as base64, by up to 40 %, and for most scripts but Latin
with a small tokenizer such as SmolLM2's; an overrun of the window is then refused by the endpoint, in its words.
"""

from collections import Counter

# Twelfths of a token for one character: words are tokens of some four letters with their space, digits and signs
# are often tokens of their own, and what lies beyond 16 bits (emoji, rare scripts) may be spelt out in four bytes.
_LETTER, _SPACE, _DIGIT, _SIGN, _NOT_ASCII, _BEYOND_16_BITS = 4, 3, 12, 9, 12, 48

TEMPLATE_TOKENS = 64
"""What a chat template puts around two messages; Llama 3.1's also states two dates, together about 40 tokens."""

# The lightest character is the space, so no more characters than this can be one token.
CHARS_PER_TOKEN_MAX = 12 // _SPACE


def estimate_tokens(text: str) -> int:
    """The tokens of a text, at a guess that is rather too high than too low."""
    twelfths = sum(count * _twelfths(char) for char, count in Counter(text).items())
    return -(-twelfths // 12)


def _twelfths(char: str) -> int:
    if not char.isascii():
        return _NOT_ASCII if ord(char) < 0x10000 else _BEYOND_16_BITS
    if char.isalpha():
        return _LETTER
    if char.isdigit():
        return _DIGIT
    return _SPACE if char == " " else _SIGN
