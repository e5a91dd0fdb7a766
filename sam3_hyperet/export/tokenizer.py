"""SAM 3's tokenizer as one file, which Hugging Face's `tokenizers` reads without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError

TOKENIZER = "tokenizer.json"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


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
    file.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
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
