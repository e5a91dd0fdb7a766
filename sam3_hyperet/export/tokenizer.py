"""SAM 3's tokenizer as one file, which Hugging Face's `tokenizers` reads without PyTorch."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError

TOKENIZER = "tokenizer.json"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


_TYPOGRAPHY = ((0x132, 0x1F3), (0x2BC, 0x2BC), (0x2018, 0x201F), (0xFB00, 0xFB06), (0xFF01, 0xFFEE))
"""Ligatures, curly quotes, full-width and half-width forms: the first and the last code of each."""


def write_tokenizer(model: host.Sam3Image, folder: Path, phrases: Sequence[str]) -> Path:
    """Write a model's tokenizer: ids of a phrase between start and end, padded with 0.

    Raises ConfigError for one of `phrases` whose ids would be others than SAM 3's, which repairs broken encodings of
    letters and reads HTML's entities first.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    ours, length = model.backbone.language_backbone.tokenizer, host.CONTEXT_LENGTH
    start, end = (ours.decoder[i] for i in (ours.sot_token_id, ours.eot_token_id))
    merges = [pair for pair in ours.bpe_ranks if len(pair) == 2]
    file = Tokenizer(models.BPE(vocab=ours.encoder, merges=merges, end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    plain = [normalizers.Replace(Regex(f"[{odd}]"), text) for text, odd in _typography(ours.clean_fn).items()]
    file.normalizer = normalizers.Sequence([*plain, normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    file.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    ends = [(start, ours.sot_token_id), (end, ours.eot_token_id)]
    file.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    file.enable_truncation(length)
    file.enable_padding(length=length, pad_id=0, pad_token=ours.decoder[0])
    for phrase, ids in zip(phrases, ours(list(phrases), context_length=length).tolist(), strict=True):
        if (found := file.encode(phrase).ids) != ids:
            raise ConfigError(f"the prompt {phrase!r}: {TOKENIZER} would read it as {found}, SAM 3 as {ids}")
    path = folder / TOKENIZER
    file.save(str(path))
    return path


def _typography(clean: Callable[[str], str]) -> dict[str, str]:
    """Plain texts that SAM 3's tokenizer reads typographical characters as, each with all of these characters."""
    found: dict[str, str] = {}
    for character in (chr(code) for first, last in _TYPOGRAPHY for code in range(first, last + 1)):
        plain = clean(character)
        if plain != unicodedata.normalize("NFC", character).lower():
            found[plain] = found.get(plain, "") + character
    return found
