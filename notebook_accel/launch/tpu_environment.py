"""The environment that a TPU's runtime should find: what a platform's image has set wrong is left out.

``torch_xla`` only fills in what is not set, so a wrong value stays and the runtime does not start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from notebook_accel import process
from notebook_accel.errors import NotAvailableError

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9a-fA-F:.]+")
# torch_xla writes them for each of its processes; an image that sets them means one process for all chips.
_WRITTEN_BY_TORCH_XLA = ("TPU_PROCESS_ADDRESSES", "CLOUD_TPU_TASK_ID", "TPU_PROCESS_PORT", "TPU_VISIBLE_CHIPS")
_HOST_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ADDRS")


def hosts(variables: Mapping[str, str]) -> list[str]:
    """Give the machines of the TPU slice that the environment names, none where it names no plain list of them.

    Example:
        >>> hosts({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
        ['host-0', 'host-1']
        >>> hosts({"TPU_WORKER_HOSTNAMES": "WARNING: could not determine hostnames, please set it"})
        []
    """
    for name in _HOST_LISTS:
        listed = [host.strip() for host in variables.get(name, "").split(",")]
        if all(map(_HOST.fullmatch, listed)):
            return listed
    return []


def check_hosts(variables: Mapping[str, str]) -> None:
    """Refuse a slice of several machines.

    Raises:
        NotAvailableError: the environment names more than one.
    """
    found = hosts(variables)
    if len(found) > 1:
        what = f"this TPU slice has {len(found)} machines ({', '.join(found)}); more than one is not built yet"
        raise NotAvailableError(what, "use a slice of one machine")


def check_free(variables: Mapping[str, str]) -> None:
    """Refuse chips that this very process holds: a chip belongs to one process, and no rank could start on it.

    Args:
        variables: this process's environment.

    Raises:
        NotAvailableError: the runtime of the chips is initialised here.
    """
    live = process.live_tpu_runtime()
    if live is not None and variables.get("PJRT_DEVICE") != "CPU":
        what = f"{live} is initialised in this process, which so holds the TPU's chips: no rank could start on them"
        raise NotAvailableError(what, "restart the kernel, and use the TPU inside of the launched function only")


def cleaned(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Leave out what would keep the runtime of a single machine from starting.

    Args:
        variables: the environment as it is.

    Returns:
        The environment as it should be, and what the user should know of it, a line each.

    Example:
        >>> cleaned({"TPU_PROCESS_ADDRESSES": "local", "HOME": "/h"})[0]
        {'HOME': '/h'}
    """
    wrong = [name for name in _WRITTEN_BY_TORCH_XLA if name in variables]
    wrong += [
        name for name in _HOST_LISTS if name in variables and not hosts({"TPU_WORKER_HOSTNAMES": variables[name]})
    ]
    kept = {name: value for name, value in variables.items() if name not in wrong}
    if variables.get("CLOUD_TPU_TASK_ID", "").isdecimal():  # torch_xla takes it for the machine's number, and needs one
        kept.setdefault("TPU_WORKER_ID", variables["CLOUD_TPU_TASK_ID"])
    if not wrong:
        return kept, []
    said = ", ".join(f"{name}={_short(variables[name])}" for name in wrong)
    return kept, [f"left out of the ranks' environment, where the TPU would not start with it: {said}"]


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:37]}...")  # noqa: PLR2004 - what fits a line
