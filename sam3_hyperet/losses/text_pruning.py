"""Random text pruning (RTP) [4]: more general texts for the same object, for losses between embeddings.

Grounding would need exhaustive annotations, which the more general phrase does not have.
"""

import torch

_PREPOSITIONS = (
    "about above across against along among around at behind below beneath beside between beyond by for from in inside "
    "into near of off on onto opposite out outside over past through to toward towards under up upon with within "
    "without"
)
PREPOSITIONS = frozenset(_PREPOSITIONS.split())


def pruned(text: str, probability: float) -> str:
    """The noun phrase with parts dropped at random, by PyTorch's global generator: "small red car" → "red car", "car".

    The head noun, the last word before the first preposition, always stays. Each word before it is dropped with
    `probability`, and so is what follows it, as a whole: "window of a house" → "window". A text that begins with a
    preposition comes back unchanged.
    """
    words = text.split()
    end = next((place for place, word in enumerate(words) if word.lower() in PREPOSITIONS), len(words))
    if end == 0 or len(words) == 1:
        return text
    drop = (torch.rand(end) < probability).tolist()  # the last number is for what follows the head
    kept = [word for word, dropped in zip(words[: end - 1], drop, strict=False) if not dropped]
    return " ".join([*kept, words[end - 1], *([] if drop[-1] else words[end:])])
