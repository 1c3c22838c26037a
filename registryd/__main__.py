"""``python -m registryd``: the same as the ``registryd`` command."""

from registryd.cli import main

main(prog_name="registryd")
