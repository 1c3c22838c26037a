"""What a configuration says, as frozen values: all that the rest of the program sees of it.

Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from registryd.config.patterns import Pattern


@attrs.frozen
class Log:
    """``level``: error, warn, info or debug. ``formatter``: text, json or logstash. ``access``: write an access log."""

    level: str
    formatter: str
    fields: Mapping[str, str]
    access: bool


@attrs.frozen
class Purging:
    """Removal of upload sessions older than ``age``, every ``interval``; with ``dry_run`` they are only logged."""

    age: float
    interval: float
    dry_run: bool


@attrs.frozen
class Storage:
    """``parameters`` are the driver's own keys, typed; ``purging`` is None where it is disabled."""

    driver: str
    parameters: Mapping[str, object] = attrs.field(repr=False)
    rootdirectory: str
    threads: int
    delete: bool
    read_only: bool
    purging: Purging | None


@attrs.frozen
class Tls:
    """``client_auth`` is one of Distribution's four modes, or ``none`` without ``client_cas``.

    ``minimum``: tls1.2 or tls1.3. ``cipher_suites``: IANA names, as in Distribution; none means the default ones.
    """

    certificate: str
    key: str
    client_cas: tuple[str, ...]
    client_auth: str
    minimum: str
    cipher_suites: tuple[str, ...]


@attrs.frozen
class Limits:
    """Bounds on what a client may send; ``upload`` None is no bound. ``idle``: how long a connection may dawdle."""

    header: int = 64 << 10
    manifest: int = 4 << 20
    upload: int | None = None
    idle: float = 60.0


@attrs.frozen
class Debug:
    """A port for operators alone. ``address`` is HOST:PORT; ``metrics`` the path of the metrics, None without them."""

    address: str
    metrics: str | None


@attrs.frozen
class Http:
    """``address`` is HOST:PORT, or a path where ``net`` is unix; empty where systemd hands the socket over.

    ``prefix`` is ``/`` or ``/x/``. ``host`` is an absolute URL without a slash at its end. ``drain_timeout`` 0: none.
    """

    address: str
    net: str
    prefix: str
    host: str | None
    relative_urls: bool
    drain_timeout: float
    headers: Mapping[str, tuple[str, ...]]
    tls: Tls | None
    limits: Limits
    debug: Debug | None = None


@attrs.frozen
class Platform:
    """A platform whose image an index must not lack."""

    os: str
    architecture: str


@attrs.frozen
class Urls:
    """What the ``urls`` of a pushed manifest's layers must and must not match; both empty: none is accepted."""

    allow: tuple[Pattern, ...]
    deny: tuple[Pattern, ...]


@attrs.frozen
class Validation:
    """``urls`` is None where the configuration does not speak of them. ``platforms``: all, none or list."""

    disabled: bool
    urls: Urls | None
    platforms: str
    platform_list: tuple[Platform, ...]


@attrs.frozen
class Retention:
    """Which tags of some repositories (globs) stay; None and empty: no such rule."""

    repositories: tuple[str, ...]
    keep_newest: int | None
    keep_tags: tuple[str, ...]
    delete_unused: float | None
    delete_older: float | None


@attrs.frozen
class Collection:
    """``untagged``: keep or delete. ``interval`` None: the daemon does not collect. ``trash`` None: nothing is kept."""

    grace: float = 24 * 3600.0
    untagged: str = "keep"
    interval: float | None = None
    trash: float | None = None
    retention: tuple[Retention, ...] = ()


@attrs.frozen
class Htpasswd:
    """Users and bcrypt hashes in a file."""

    realm: str
    path: str


@attrs.frozen
class Token:
    """Bearer tokens of an authorization service; at least one of ``root_cert_bundle`` and ``jwks`` is not None.

    ``signing_algorithms`` empty: all that are supported.
    """

    realm: str
    issuer: str
    service: str
    root_cert_bundle: str | None
    jwks: str | None
    auto_redirect: bool
    auto_redirect_path: str
    signing_algorithms: tuple[str, ...]


@attrs.frozen
class Silly:
    """Any Authorization header is good enough."""

    realm: str
    service: str


Auth = Htpasswd | Token | Silly


@attrs.frozen
class CredentialHelper:
    """A program that tells an upstream's credentials. ``lifetime`` None: ask once; 0: for every request."""

    command: str
    lifetime: float | None


@attrs.frozen
class Upstream:
    """A registry that is mirrored; its ``urls`` are tried in order. ``ttl`` None: what is cached never expires."""

    urls: tuple[str, ...]
    username: str
    password: str = attrs.field(repr=False)
    helper: CredentialHelper | None
    ca: str | None
    ttl: float | None
    freshness: float
    max_requests: int


@attrs.frozen
class Proxy:
    """Either ``remote``, which the whole registry then mirrors, or ``upstreams`` by the components of their names.

    A component is what the names of an upstream's repositories begin with in the tree (``registryd.config.hosts``).
    ``default``: whose the names are that name no upstream; ``private``: globs of those that are nobody's.
    ``own_names``: values of ``ns`` that mean this registry, as they are written. ``max_size`` None: no bound.
    """

    remote: Upstream | None
    upstreams: Mapping[str, Upstream]
    default: str | None
    private: tuple[str, ...]
    max_size: int | None
    own_names: tuple[str, ...]
    write_timeout: float


@attrs.frozen
class Config:
    """A whole configuration. ``source`` names its file as it was given, ``path`` from the root.

    ``path`` is None for the embedded default.
    ``warnings`` are lines for the log, each whole. ``unbuilt`` are the keys that ask for what is not built yet.
    """

    source: str
    path: str | None
    log: Log
    storage: Storage
    http: Http
    catalog_max_entries: int
    tags_max: int
    validation: Validation
    collection: Collection
    auth: Auth | None
    proxy: Proxy | None
    warnings: tuple[str, ...]
    unbuilt: tuple[str, ...]
