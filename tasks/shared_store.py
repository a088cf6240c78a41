"""The storage that machines share, as the settings name it. Imports no Prefect."""

from functools import lru_cache

from sicsrec.shared_store import SharedStore


@lru_cache(maxsize=1)
def open_shared_store(url: str | None) -> SharedStore | None:
    """Return the shared store; the same one all the time, as it knows when it was away.

    Args:
        url: what :attr:`tasks.settings.Settings.shared_store` says; None: there is none.

    Raises:
        ConfigError: if it is no URL, or the package for this kind of storage is not installed.
    """
    return None if url is None else SharedStore(url)
