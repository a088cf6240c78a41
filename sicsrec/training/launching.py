"""Starts torchrun such that it and its processes end with the one that started them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import torch

from sicsrec.cores import usable_cores
from sicsrec.errors import ConfigError


def check_device(device: torch.device, n_processes: int) -> None:
    """Refuse a device of this host that so many processes cannot share.

    Raises:
        ConfigError: saying what to ask for instead.
    """
    if device.type == "cuda" and torch.cuda.device_count() < n_processes:
        raise ConfigError(
            f"there are {torch.cuda.device_count()} GPUs for {n_processes} processes of this host; "
            "ask for no more (SICSREC_PROCESSES)"
        )
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(
            f"the device {device.type} cannot be shared by {n_processes} processes; ask "
            "for one (SICSREC_PROCESSES) or for the device cpu (SICSREC_DEVICE)"
        )


def torchrun_alone(n_processes: int, meeting: Path) -> list[str]:
    """Return a command whose processes find each other by files, so nothing listens to others.

    Args:
        n_processes: to start.
        meeting: an empty folder for these files.
    """
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1", "--nproc-per-node", str(n_processes), "--local-addr", "127.0.0.1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{meeting}/agent"),
        *("--rdzv-conf", "store_type=file", "--max-restarts", "0"),
    ]


def torchrun_with_others(
    n_processes: int, *, host: int, n_hosts: int, address: str, port: int
) -> list[str]:
    """Return the command of one of several hosts, whose processes meet at the first one's address.

    The static rendezvous: unlike the others it sends no pickles.

    Args:
        n_processes: to start on this host, as on each of the others.
        host: number of this one; 0 listens at the address.
        n_hosts: how many there are.
        address: of host 0, as all of them reach it.
        port: likewise.
    """
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(n_hosts), "--node-rank", str(host)),
        *("--nproc-per-node", str(n_processes), "--max-restarts", "0"),
        *("--master-addr", address, "--master-port", str(port)),
    ]


def network_interface(address: str, port: int) -> str | None:
    """Return the name of the network interface by which this host reaches an address.

    Raises:
        ConfigError: if it cannot be reached at all, or by this host alone.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing, but chooses the way.
            probe.connect((address, port))
            own = probe.getsockname()[0]
    except OSError as err:
        raise ConfigError(
            f"there is no way from this host to {address}, where training hosts are to meet "
            f"({err}); name the first host as the others reach it (SICSREC_TRAINING_ADDRESS)"
        ) from err
    if own.startswith("127.") and address != "localhost" and not address.startswith("127."):
        raise ConfigError(
            f"{address} leads to this host's loopback ({own}), which no other host reaches; name "
            "the first host by an address of its network (SICSREC_TRAINING_ADDRESS)"
        )
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == own for entry in addresses):
            return str(name)
    return None


def loopback_interface() -> str | None:
    """Return the name of the network interface that reaches this host alone."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return names[0] if names else None


@contextmanager
def started(
    command: Sequence[str],
    output: IO[bytes],
    *,
    n_processes: int,
    interface: str | None,
    shares_store: bool = True,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends when this one does, however that comes about.

    Its standard input is a pipe that only this process writes to: when the other end reads an end
    of file, whoever held it is gone.

    Args:
        command: what to start.
        output: receives what it says.
        n_processes: that will share the processors.
        interface: network interface by which the processes reach each other; None lets them find
            one. Variables of the user's win.
        shares_store: whether the processes meet at torchrun's own store.
    """
    environment = dict(os.environ)
    if not shares_store:
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    n_threads = max(1, usable_cores() // n_processes)
    environment.setdefault("OMP_NUM_THREADS", str(n_threads))
    if interface is not None:
        environment.setdefault("GLOO_SOCKET_IFNAME", interface)
        environment.setdefault("NCCL_SOCKET_IFNAME", interface)
    process = subprocess.Popen(  # noqa: S603 - the command is made here
        command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def wait_a_little(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a process ends, but no longer than this."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
