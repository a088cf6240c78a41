"""The Dask cluster that takes over parts of a step's work: one that runs, or one of this machine.

Dask sends calls as pickles, so whoever reaches its scheduler runs what he likes there: a cluster of
several machines belongs into a network of its own, or behind Dask's TLS (``tls://`` addresses).
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sicsrec.cluster import Cluster
from sicsrec.errors import ConfigError

_SECONDS_TO_CONNECT = 30


@contextmanager
def open_cluster(where: str | None) -> Iterator[Cluster | None]:
    """Connect to a cluster for the time of a step.

    Args:
        where: see :attr:`tasks.settings.Settings.dask`; None gives None.

    Raises:
        ConfigError: if Dask is not installed, ``where`` is neither, or nothing answers there.
    """
    if where is None:
        yield None
        return
    try:
        import distributed
    except ImportError as err:
        raise ConfigError("SICSREC_DASK needs Dask: pip install 'sicsrec[dask]'") from err
    # Dask has no types.
    dask: Any = distributed
    local = re.fullmatch(r"local:([1-9][0-9]*)", where)
    if not local and not re.fullmatch(r"(tcp|tls)://\S+:[0-9]+", where):
        raise ConfigError(
            f"SICSREC_DASK is {where!r}; expected local:<processes> or the address of a scheduler, "
            "e.g. tcp://host:8786"
        )
    if local:
        with (
            _environment_kept(),
            dask.LocalCluster(
                n_workers=int(local[1]),
                threads_per_worker=1,
                host="127.0.0.1",
                # Without an address Dask serves its status to all interfaces, at one fixed port.
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            dask.Client(cluster, set_as_default=False) as client,
        ):
            yield _cluster_of(client)
        return
    try:
        client = dask.Client(where, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except OSError as err:
        raise ConfigError(f"no Dask scheduler answers at SICSREC_DASK = {where}: {err}") from err
    with client:
        yield _cluster_of(client)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Put the environment back: Dask sets the workers' number of threads in this process too, and
    whatever it starts later, a training for one, would compute with one.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cluster_of(client: Any) -> Cluster:
    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
    except TimeoutError as err:
        raise ConfigError(f"the Dask scheduler {client.scheduler.address} has no worker") from err
    n_workers = sum(client.nthreads().values())
    return Cluster(client.get_executor(), n_workers)
