"""Errors that are the user's to mend: each message names the file, key or record, what was found and expected."""

_MOST = 1_600  # characters of a message


class UserError(Exception):
    """Bad input, said in one clear message; the command line prints it and exits with status 1.

    Whatever a file has that a message quotes, it is shown as one line of bounded length.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > _MOST:
            text = f"{text[: _MOST - 400]} … {text[-400:]}"
        if text.isprintable():
            return text
        text = " ".join(text.splitlines())
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class ConfigError(UserError, ValueError):
    """A key or value of a configuration that cannot be."""


class DataError(UserError, ValueError):
    """A file or record of a data set that cannot be used."""


class CheckpointError(UserError, RuntimeError):
    """Weights that do not belong to this model, or a file that holds none."""


class HostError(UserError, RuntimeError):
    """The installed sam3 is missing, or not the one this package knows how to extend."""


class StorageError(UserError, OSError):
    """A file that cannot be written: no space, a quota, no permission."""
