"""config.yml and the environment, to frozen values: Distribution's keys of 2.8 and 3, and registryd's own.

``load`` is all that the program needs; whatever it is given, it gives a Config or raises one ConfigError of one line.
"""

from registryd.config.nodes import ConfigError
from registryd.config.patterns import Pattern
from registryd.config.read import load
from registryd.config.values import (
    Auth,
    Collection,
    Config,
    CredentialHelper,
    Debug,
    Htpasswd,
    Http,
    Limits,
    Log,
    Platform,
    Proxy,
    Purging,
    Retention,
    Silly,
    Storage,
    Tls,
    Token,
    Upstream,
    Urls,
    Validation,
)

__all__ = [
    "Auth",
    "Collection",
    "Config",
    "ConfigError",
    "CredentialHelper",
    "Debug",
    "Htpasswd",
    "Http",
    "Limits",
    "Log",
    "Pattern",
    "Platform",
    "Proxy",
    "Purging",
    "Retention",
    "Silly",
    "Storage",
    "Tls",
    "Token",
    "Upstream",
    "Urls",
    "Validation",
    "load",
]
