"""What the Hugging Face hub refuses, and a connection that breaks, as errors of one sentence. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from sam3_hyperet.errors import CheckpointError

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@contextmanager
def hub_errors(what: object, deed: str, *, no_file: str = "", instead: str = "") -> Iterator[None]:
    """Turn the hub's refusals and a broken connection into a CheckpointError of one sentence.

    what, deed: a repository, and what is tried there. no_file: what to expect where a repository lacks a file.
    instead: a remedy for whatever the reason.
    """
    import httpx
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (httpx.HTTPError, EntryNotFoundError, OfflineModeIsEnabled) as error:
        parts = [f"{what}: cannot {deed}: {why_refused(error)}"]
        parts += [no_file] if no_file and _lacks_file(error) else []
        raise CheckpointError("; ".join([*parts, *filter(None, [instead])])) from error


def why_refused(error: Exception) -> str:
    """Why the hub or the connection refused, then the remedy behind a semicolon, where there is one.

    What the hub sent is not quoted but for its own message: its addresses may be signed.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"the repository is gated; ask for access on its page, then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such repository, or a private one that needs a login; {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return "no such revision; expected a branch, a tag or a whole commit of the repository"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        is_offline = constants.is_offline_mode()
        why = "HF_HUB_OFFLINE is set" if is_offline else f"{constants.ENDPOINT} cannot be reached"
        return f"{why}, and it is not in the cache; fetch it once with a connection"
    if _lacks_file(error):
        return "the repository has no such file"
    if isinstance(error, HfHubHTTPError):
        return _answer(error)
    remedy = "try again, or set HF_HUB_OFFLINE=1 to use what is in the cache"
    return f"{constants.ENDPOINT} does not answer ({type(error).__name__}); {remedy}"


def _lacks_file(error: Exception) -> bool:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _answer(error: object) -> str:
    """The hub's answer in words: by its status, with its own message where there is one."""
    response, message = getattr(error, "response", None), getattr(error, "server_message", None)
    status = getattr(response, "status_code", 0)
    remedy = {401: _LOG_IN, 403: "expected a token that may do so"}.get(status, "try again later")
    said = f": {' '.join(str(message).split())[:200]}" if message else ""
    return f"the hub answered with status {status}{said}; {remedy}"
