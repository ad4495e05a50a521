"""How much of a machine training takes while others want it, too."""

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def give_way(nice: int) -> None:
    """Let this process, and all that it starts from now on, wait for others on its machine.

    Args:
        nice: Unix's, on top of what it has: 0 changes nothing, 19 takes what nobody wants.
    """
    if not nice:
        return
    os.nice(nice)
    # Linux may share the processor among sessions first, and among their processes then. Where
    # it does not, or does not let us, there is nothing to set.
    with suppress(OSError):
        _AUTOGROUP.write_text(str(nice))
