"""Benchmarks: registryd beside CNCF Distribution and nginx, in CPU seconds of the server. `python -m bench --help`."""
