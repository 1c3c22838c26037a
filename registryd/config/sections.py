"""Who may come in, what is mirrored, what is collected: sections to the values that they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from registryd.config.hosts import component_of
from registryd.config.kinds import Values, closest
from registryd.config.nodes import ConfigError
from registryd.config.values import (
    Auth,
    Collection,
    CredentialHelper,
    Htpasswd,
    Proxy,
    Retention,
    Silly,
    Token,
    Upstream,
)
from registryd.reference import is_name

DAY = 24 * 3600.0
SIGNING_ALGORITHMS = (
    *("EdDSA", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512"),
    *("ES256", "ES384", "ES512", "PS256", "PS384", "PS512"),
)

_HOST = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


def auth(values: Values) -> Auth | None:
    """Who may come in; None is everybody."""
    kinds = list(values.origins)
    if len(kinds) > 1:
        raise values.error(kinds[-1], f"must provide exactly one type. Provided: [{' '.join(kinds)}]")
    for kind in values.unknown:
        raise values.error(kind, "no such type: use htpasswd, token, silly or none")
    if "htpasswd" in values.present:
        section = values.section("htpasswd")
        return Htpasswd(realm=_required(section, "realm"), path=_required(section, "path"))
    if "silly" in values.present:
        section = values.section("silly")
        return Silly(realm=_required(section, "realm"), service=_required(section, "service"))
    return _token(values.section("token")) if "token" in values.present else None


def _token(section: Values) -> Token:
    bundle, keys = section.text("rootcertbundle") or None, section.text("jwks") or None
    if bundle is None and keys is None:
        raise section.error("rootcertbundle", "missing, and jwks too: one must tell whose signatures are trusted")
    for algorithm in section.texts("signingalgorithms"):
        if algorithm not in SIGNING_ALGORITHMS:
            raise section.error("signingalgorithms", f"{algorithm!r} is none of {', '.join(SIGNING_ALGORITHMS)}")
    return Token(
        realm=_required(section, "realm"),
        issuer=_required(section, "issuer"),
        service=_required(section, "service"),
        root_cert_bundle=bundle,
        jwks=keys,
        auto_redirect=section.get("autoredirect", bool, False),
        auto_redirect_path=section.text("autoredirectpath", "/auth/token"),
        signing_algorithms=section.texts("signingalgorithms"),
    )


def _required(section: Values, key: str) -> str:
    value = section.text(key)
    if not value:
        raise section.error(key, f"missing: {section.key} needs it")
    return value


def proxy(values: Values) -> Proxy | None:
    """What is mirrored; None is nothing."""
    sections = _by_component(values)
    remote = values.texts("remoteurl")
    if not sections and not any(remote):
        return None
    if sections and any(remote):
        raise values.error("remoteurl", "cannot stand beside proxy.upstreams: write it as one of them")
    default = values.text("default") or None
    _check_default(values, default, sections)
    _check_own_names(values, sections)
    return Proxy(
        remote=_upstream(values, values) if any(remote) else None,
        upstreams=MappingProxyType({name: _upstream(section, values) for name, section in sections.items()}),
        default=component_of(default) if default is not None else None,
        private=values.texts("private"),
        max_size=values.optional("maxsize", int),
        own_names=values.texts("self"),
        write_timeout=values.get("cachewritetimeout", float, 300.0),
    )


def _by_component(values: Values) -> Mapping[str, Values]:
    """The sections of the upstreams, by the component that each one's mirrored repositories begin with."""
    sections: dict[str, Values] = {}
    for name, section in values.mapping("upstreams").items():
        assert isinstance(section, Values)
        component = component_of(name)
        if "/" in component or not is_name(component):
            problem = "no name of a registry: write for example docker.io or mirror.example.com:5000"
            raise ConfigError(section.origin, section.key[:256], problem)
        if component in sections:
            raise ConfigError(section.origin, section.key, f"the same registry as {sections[component].key}: keep one")
        sections[component] = section
    return sections


def _check_default(values: Values, default: str | None, sections: Mapping[str, Values]) -> None:
    if default is not None and component_of(default) not in sections:
        close = closest(default, values.mapping("upstreams"))
        hint = f": did you mean {close}?" if close else ": name one of them"
        raise values.error("default", f"{default!r} is none of proxy.upstreams{hint}")
    if default is None and values.texts("private"):
        raise values.error("private", "means something only beside proxy.default: without it every name is private")
    for glob in values.texts("private"):
        first, slash, _ = glob.partition("/")
        if slash and component_of(first) in sections:
            raise values.error("private", f"{glob!r} is never private: what begins with {first}/ is that upstream's")


def _check_own_names(values: Values, sections: Mapping[str, Values]) -> None:
    for host in values.texts("self"):
        if _HOST.fullmatch(host) is None:
            raise values.error("self", f"{host[:256]!r} is no host: write for example mirror.example.com:5000")
        if component_of(host) in sections:
            raise values.error("self", f"{host!r} is one of proxy.upstreams: it cannot be this registry too")


def _upstream(section: Values, proxy: Values) -> Upstream:
    urls = section.texts("remoteurl")
    if not urls or not all(urls):
        raise section.error("remoteurl", "missing: write for example https://registry-1.docker.io")
    if any("@" in urlsplit(url).netloc for url in urls):
        raise section.error("remoteurl", "must not have a login in it: there are username and password for that")
    ttl = section.get("ttl", float, proxy.get("ttl", float, 7 * DAY))
    requests = section.get("maxrequests", int, proxy.get("maxrequests", int, 16))
    if requests < 1:
        raise section.error("maxrequests", f"{requests} is too few: at least 1")
    return Upstream(
        urls=urls,
        username=section.text("username"),
        password=section.text("password"),
        helper=_helper(section.section("exec")),
        ca=section.text("ca") or None,
        ttl=ttl if ttl > 0 else None,
        freshness=section.get("freshness", float, proxy.get("freshness", float, 60.0)),
        max_requests=requests,
    )


def remark_short_lives(values: Values, proxy: Proxy | None, grace: float, remark: Callable[[str], None]) -> None:
    """Remark on what is to expire sooner than the collector takes anything; ``grace`` in seconds."""
    if proxy is None:
        return
    sections = _by_component(values)
    upstreams = proxy.upstreams.items() if proxy.remote is None else (("", proxy.remote),)
    where: dict[str, Values] = {}
    for component, upstream in upstreams:
        if upstream.ttl is not None and upstream.ttl < grace:
            section = sections.get(component, values)
            section = section if "ttl" in section.present else values
            where[section.dotted("ttl")] = section
    if where:
        written = next(iter(where.values())).at("ttl")
        problem = f"shorter than gc.grace ({grace / 3600:g}h): what is cached expires only after that"
        remark(written.says(", ".join(where), problem))


def _helper(section: Values) -> CredentialHelper | None:
    if not section.present:
        return None
    return CredentialHelper(_required(section, "command"), section.optional("lifetime", float))


def collection(values: Values) -> Collection:
    """What the collector keeps."""
    return Collection(
        grace=values.get("grace", float, DAY),
        untagged=values.text("untagged", "keep"),
        interval=values.optional("interval", float) or None,
        trash=values.optional("trash", float) or None,
        retention=tuple(_retention(rule) for rule in values.sections("retention")),
    )


def _retention(rule: Values) -> Retention:
    newest = rule.optional("keepnewest", int)
    if newest is not None and newest < 0:
        raise rule.error("keepnewest", f"{newest} is negative")
    if not rule.texts("repositories"):
        raise rule.error("repositories", 'missing: write for example ["team/**"]')
    return Retention(
        repositories=rule.texts("repositories"),
        keep_newest=newest,
        keep_tags=rule.texts("keeptags"),
        delete_unused=rule.optional("deleteunused", float),
        delete_older=rule.optional("deleteolder", float),
    )
