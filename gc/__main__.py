"""``registryd-gc``, and ``python -m registryd_gc``."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command; an interruption is one line from the very start: importing all of it takes a moment."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from registryd_gc.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("registryd-gc: interrupted: the store is whole, and the next run goes on\n")
        sys.exit(1)
    sys.exit()


if __name__ == "__main__":
    main()
