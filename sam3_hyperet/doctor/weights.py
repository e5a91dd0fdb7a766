"""Base weights before a model is built: access to the hub, and what a checkpoint has for the model."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from sam3_hyperet.doctor.findings import Examination, Finding, failed, ok, warning
from sam3_hyperet.doctor.machine import size_text
from sam3_hyperet.modeling.config import ModelOptions

_SECONDS = 10  # for the hub's answer
_LOCAL = "or model.checkpoint=PATH of a local copy"


def on_hub(checkpoint: str | None) -> bool:
    """Whether a checkpoint names a repository of the Hugging Face hub."""
    from sam3_hyperet.modeling.layouts.base_files import HUB_FILES

    return checkpoint in HUB_FILES


def cached(repository: str) -> Path | None:
    """The file of a repository in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    from sam3_hyperet.modeling.layouts.base_files import HUB_FILES

    found = try_to_load_from_cache(repository, HUB_FILES[repository])
    return Path(found) if isinstance(found, str) else None


def hub_rows(repository: str, ask: Callable[[str], None] | None = None) -> Iterator[Finding]:
    """Whether the file of a repository is here already, or can be fetched; `ask` raises what the hub answers."""
    import httpx
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    from sam3_hyperet.modeling.hub_errors import why_refused
    from sam3_hyperet.modeling.layouts.base_files import HUB_FILES

    if (here := cached(repository)) is not None:
        yield ok("hub", f"{repository}: {here} is here already")
    elif HF_HUB_OFFLINE:
        remedy = f"unset HF_HUB_OFFLINE, {_LOCAL}"
        yield failed("hub", f"{repository} is not in the cache, and HF_HUB_OFFLINE is set", "the file", remedy)
    elif not get_token():
        remedy = f"ask for access on the page of {repository}, then `hf auth login`, {_LOCAL}"
        yield failed("hub", f"{repository} is gated, and nobody is logged in", "a login with access", remedy)
    else:
        try:
            (ask or _access)(repository)
        except GatedRepoError:
            remedy = f"ask for access on its page, {_LOCAL}"
            yield failed("hub", f"{repository}: this login has no access", "access", remedy)
        except LocalEntryNotFoundError as error:
            found = f"{repository}: no answer within {_SECONDS} s ({type(error).__name__})"
            yield failed("hub", found, "a connection to the hub", f"fetch {HUB_FILES[repository]} elsewhere, {_LOCAL}")
        except EntryNotFoundError:
            yield ok("hub", f"{repository}: this login has access")
        except httpx.HTTPError as error:
            why, _, remedy = why_refused(error).rpartition("; ")
            yield failed("hub", f"{repository}: {why}", "access", f"{remedy}, {_LOCAL}")
        else:
            yield ok("hub", f"{repository}: this login has access")


def rows(
    examination: Examination, options: ModelOptions, model: Callable[[], object], *needs: str
) -> Iterator[Finding]:
    """The checks of base weights for a model without memory, which is asked for when `needs` have passed."""
    checkpoint, wanted = options.checkpoint, list(needs)
    if checkpoint is not None and on_hub(checkpoint):
        yield from examination.check("hub", lambda: hub_rows(checkpoint), *needs[:1])
        if "hub" in examination.passed and cached(checkpoint) is None:
            yield Finding("checkpoint", "skipped", f"{checkpoint} is not fetched yet; the run does it")
            return
        wanted.append("hub")
    yield from examination.check("checkpoint", lambda: checkpoint_rows(options, model()), *wanted)


def checkpoint_rows(options: ModelOptions, model: object) -> Iterator[Finding]:
    """What a file of base weights has for the model, which need not have memory; every weight is read once."""
    from torch import nn

    from sam3_hyperet.modeling.build import check_weights_named
    from sam3_hyperet.modeling.checkpoint import load_base
    from sam3_hyperet.modeling.layouts.base_files import locate_base, read_official

    check_weights_named(options.name, options.checkpoint)
    assert isinstance(model, nn.Module)
    if options.is_random:
        remedy = "model.checkpoint=sam3.pt, or facebook/sam3"
        yield warning("checkpoint", "random weights, which know nothing", "weights to adapt", remedy)
        return
    if options.checkpoint is None:
        yield ok("checkpoint", "the weights in the package")
        return
    path = cached(options.checkpoint) if on_hub(options.checkpoint) else Path(options.checkpoint).expanduser()
    assert path is not None  # a checkpoint of the hub is checked once it is here
    file = locate_base(path)
    with _logged(logging.getLogger(load_base.__module__)) as lines:
        load_base(model, file)
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in read_official(file)[0].values())
    of_kinds = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    yield ok("checkpoint", f"{' '.join(lines)}; tensors in it: {of_kinds}; {size_text(file.stat().st_size)}")


@contextlib.contextmanager
def _logged(logger: logging.Logger) -> Iterator[list[str]]:
    """The messages that a logger gets meanwhile."""
    lines: list[str] = []
    handler, level = logging.Handler(), logger.level
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _access(repository: str) -> None:
    """Ask the hub for a small file of a gated repository; it refuses before it says whether the file exists."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(repository, "config.json", etag_timeout=_SECONDS)
