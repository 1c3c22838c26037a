"""Every key of config.yml: Distribution's of 2.8 and 3, and registryd's own.

Source: Distribution's configuration reference and its ``configuration`` package; docs/configuration.md explains each.
"""

from __future__ import annotations

from collections.abc import Iterator

from registryd.config import scalars
from registryd.config.drivers import DRIVERS
from registryd.config.kinds import Kind, Leaf, ListOf, MapOf, Section
from registryd.config.leaves import (
    ANYTHING,
    BOOLEAN,
    HEADERS,
    INTEGER,
    NOT_NEGATIVE,
    PATH,
    PATHS,
    PATTERNS,
    POSITIVE,
    SECONDS,
    SIZE,
    TEXT,
    TEXTS,
    URL,
)

LOG_LEVELS = ("error", "warn", "info", "debug")
LEVEL = Leaf("a log level", scalars.choice(*LOG_LEVELS, fold=True))
CLIENT_AUTH = (
    "request-client-cert",
    "require-any-client-cert",
    "verify-client-cert-if-given",
    "require-and-verify-client-cert",
)

LOG = Section(
    {
        "accesslog": Section({"disabled": BOOLEAN}),
        "level": LEVEL,
        "formatter": Leaf("a formatter", scalars.choice("text", "json", "logstash")),
        "fields": MapOf(ANYTHING),
        "hooks": ListOf(
            Section(
                {
                    "disabled": BOOLEAN,
                    "type": TEXT,
                    "levels": TEXTS,
                    "options": Section(
                        {
                            "smtp": Section({"addr": TEXT, "username": TEXT, "password": TEXT, "insecure": BOOLEAN}),
                            "from": TEXT,
                            "to": TEXTS,
                        }
                    ),
                },
                variables={"options": "MAILOPTIONS"},
                off="disabled",
            )
        ),
        "reportcaller": BOOLEAN,
    }
)

BLOB_CACHE = Leaf("a cache", scalars.choice("inmemory", "redis"))

STORAGE = Section(
    {
        **DRIVERS,
        "delete": Section({"enabled": BOOLEAN}),
        "redirect": Section({"disable": BOOLEAN}),
        "cache": Section({"blobdescriptor": BLOB_CACHE, "layerinfo": BLOB_CACHE, "blobdescriptorsize": INTEGER}),
        "tag": Section({"concurrencylimit": INTEGER}),
        "maintenance": Section(
            {
                "uploadpurging": Section(
                    {"enabled": BOOLEAN, "age": NOT_NEGATIVE, "interval": POSITIVE, "dryrun": BOOLEAN}
                ),
                "readonly": Section({"enabled": BOOLEAN}),
            }
        ),
    },
    open=True,
)

AUTH = Section(
    {
        "silly": Section({"realm": TEXT, "service": TEXT}, bare=True),
        "token": Section(
            {
                **dict.fromkeys(("realm", "issuer", "service", "autoredirectpath"), TEXT),
                "rootcertbundle": PATH,
                "jwks": PATH,
                "autoredirect": BOOLEAN,
                "signingalgorithms": TEXTS,
            },
            bare=True,
        ),
        "htpasswd": Section({"realm": TEXT, "path": PATH}, bare=True),
        "none": Section({}),
    },
    open=True,
)

MIDDLEWARE = ListOf(Section({"name": TEXT, "disabled": BOOLEAN, "options": MapOf(ANYTHING)}, off="disabled"))

HTTP = Section(
    {
        **dict.fromkeys(("addr", "prefix", "secret"), TEXT),
        "net": Leaf("a kind of network", scalars.choice("tcp", "unix")),
        "host": URL,
        "relativeurls": BOOLEAN,
        "draintimeout": NOT_NEGATIVE,
        "tls": Section(
            {
                "certificate": PATH,
                "key": PATH,
                "clientcas": PATHS,
                "clientauth": Leaf("a mode", scalars.choice(*CLIENT_AUTH)),
                "minimumtls": Leaf("a version of TLS", scalars.choice("tls1.2", "tls1.3")),
                "ciphersuites": TEXTS,
                "letsencrypt": Section(
                    {"cachefile": PATH, "email": TEXT, "hosts": TEXTS, "directoryurl": TEXT}, on=("cachefile",)
                ),
            }
        ),
        "headers": HEADERS,
        "debug": Section({"addr": TEXT, "prometheus": Section({"enabled": BOOLEAN, "path": TEXT})}, on=("addr",)),
        "http2": Section({"disabled": BOOLEAN}),
        "h2c": Section({"enabled": BOOLEAN}),
        "limits": Section({"headers": SIZE, "manifest": SIZE, "upload": SIZE, "idletimeout": POSITIVE}),
    }
)

NOTIFICATIONS = Section(
    {
        "events": Section({"includereferences": BOOLEAN}),
        "endpoints": ListOf(
            Section(
                {
                    "name": TEXT,
                    "disabled": BOOLEAN,
                    "url": TEXT,
                    "headers": HEADERS,
                    "timeout": NOT_NEGATIVE,
                    "threshold": INTEGER,
                    "backoff": NOT_NEGATIVE,
                    "ignoredmediatypes": TEXTS,
                    "ignore": Section({"mediatypes": TEXTS, "actions": TEXTS}),
                },
                off="disabled",
            )
        ),
    },
    variables={"events": "EVENTCONFIG"},
    on=("endpoints",),
)

REDIS = Section(
    {
        **dict.fromkeys(("addr", "clientname", "username", "password", "mastername", "identitysuffix"), TEXT),
        **dict.fromkeys(("sentinelusername", "sentinelpassword"), TEXT),
        **dict.fromkeys(("db", "protocol", "maxretries", "poolsize", "minidleconns", "maxidleconns"), INTEGER),
        **dict.fromkeys(("maxactiveconns", "maxredirects"), INTEGER),
        **dict.fromkeys(("dialtimeout", "readtimeout", "writetimeout", "pooltimeout"), SECONDS),
        **dict.fromkeys(("minretrybackoff", "maxretrybackoff", "connmaxidletime", "connmaxlifetime"), SECONDS),
        **dict.fromkeys(("contexttimeoutenabled", "poolfifo", "readonly", "routebylatency"), BOOLEAN),
        **dict.fromkeys(("routerandomly", "disableidentity", "isclustermode", "unstableresp3"), BOOLEAN),
        "addrs": TEXTS,
        "tls": Section({"enabled": BOOLEAN, "certificate": PATH, "key": PATH, "rootcas": PATHS, "clientcas": PATHS}),
        "pool": Section({"maxidle": INTEGER, "maxactive": INTEGER, "idletimeout": SECONDS}),
    },
    on=("addr", "addrs"),
)

CHECK: dict[str, Kind] = {"interval": NOT_NEGATIVE, "threshold": INTEGER}

HEALTH = Section(
    {
        "storagedriver": Section({"enabled": BOOLEAN, **CHECK}, on=("enabled",)),
        "file": ListOf(Section({"file": PATH, **CHECK})),
        "http": ListOf(
            Section({"uri": TEXT, "headers": HEADERS, "statuscode": INTEGER, "timeout": NOT_NEGATIVE, **CHECK})
        ),
        "tcp": ListOf(Section({"addr": TEXT, "timeout": NOT_NEGATIVE, **CHECK})),
    },
    variables={"file": "FILECHECKERS", "http": "HTTPCHECKERS", "tcp": "TCPCHECKERS"},
)

UPSTREAM: dict[str, Kind] = {
    "remoteurl": ListOf(URL, single=True),
    "username": TEXT,
    "password": TEXT,
    "exec": Section({"command": TEXT, "lifetime": SECONDS}),
    "ca": PATH,
    "ttl": SECONDS,
    "freshness": NOT_NEGATIVE,
    "maxrequests": INTEGER,
}

PROXY = Section(
    {
        **UPSTREAM,
        "cachewritetimeout": SECONDS,
        "upstreams": MapOf(Section(UPSTREAM)),
        "default": TEXT,
        "private": TEXTS,
        "maxsize": SIZE,
        "self": ListOf(TEXT, single=True),
    },
    on=("remoteurl", "upstreams"),
)

VALIDATION = Section(
    {
        "enabled": BOOLEAN,
        "disabled": BOOLEAN,
        "manifests": Section(
            {
                "urls": Section({"allow": PATTERNS, "deny": PATTERNS}),
                "indexes": Section(
                    {
                        "platforms": Leaf("a word", scalars.choice("all", "none", "list", fold=True)),
                        "platformlist": ListOf(Section({"os": TEXT, "architecture": TEXT})),
                    }
                ),
            }
        ),
    }
)

GC = Section(
    {
        "grace": NOT_NEGATIVE,
        "untagged": Leaf("a word", scalars.choice("keep", "delete")),
        "interval": NOT_NEGATIVE,
        "trash": NOT_NEGATIVE,
        "retention": ListOf(
            Section(
                {
                    "repositories": ListOf(TEXT, single=True),
                    "keepnewest": INTEGER,
                    "keeptags": ListOf(TEXT, single=True),
                    "deleteunused": POSITIVE,
                    "deleteolder": POSITIVE,
                }
            )
        ),
    }
)

ROOT = Section(
    {
        "version": TEXT,
        "log": LOG,
        "loglevel": LEVEL,
        "storage": STORAGE,
        "auth": AUTH,
        "middleware": Section(dict.fromkeys(("registry", "repository", "storage"), MIDDLEWARE)),
        "reporting": Section(
            {
                "bugsnag": Section({"apikey": TEXT, "releasestage": TEXT, "endpoint": TEXT}, on=("apikey",)),
                "newrelic": Section({"licensekey": TEXT, "name": TEXT, "verbose": BOOLEAN}, on=("licensekey",)),
            }
        ),
        "http": HTTP,
        "notifications": NOTIFICATIONS,
        "redis": REDIS,
        "health": HEALTH,
        "catalog": Section({"maxentries": INTEGER}),
        "tags": Section({"maxtags": INTEGER}),
        "proxy": PROXY,
        "compatibility": Section(
            {
                "schema1": Section(
                    {"signingkeyfile": PATH, "enabled": BOOLEAN},
                    variables={"signingkeyfile": "TRUSTKEY"},
                    on=("enabled",),
                )
            }
        ),
        "validation": VALIDATION,
        "policy": Section({"repository": Section({"classes": TEXTS})}),
        "gc": GC,
    }
)


def dotted_keys(kind: Kind = ROOT, key: str = "") -> Iterator[str]:
    """Every key below a kind, sections included; what the operator names is left out of a key."""
    if isinstance(kind, Section):
        for name, child in kind.keys.items():
            dotted = f"{key}.{name}" if key else name
            yield dotted
            yield from dotted_keys(child, dotted)
    elif isinstance(kind, ListOf):
        yield from dotted_keys(kind.item, key)
    elif isinstance(kind, MapOf):
        yield from dotted_keys(kind.value, key)


def variables(kind: Kind = ROOT, name: str = "REGISTRY") -> Iterator[str]:
    """The environment variables of all keys, but for those whose names hold an index or a name of the operator's.

    A key that itself holds a ``_`` (some of azure's) has none.
    """
    if isinstance(kind, Section):
        for key, child in kind.keys.items():
            variable = f"{name}_{kind.variable(key)}"
            if "_" not in key:
                yield variable
                yield from variables(child, variable)
