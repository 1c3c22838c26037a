"""``python -m registryd_gc``."""

from registryd_gc.cli import main

main()
