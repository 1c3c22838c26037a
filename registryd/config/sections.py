"""Who may come in, what is mirrored, what is collected: sections to the values that they ask for."""

from __future__ import annotations

from types import MappingProxyType

from registryd.config.kinds import Values, closest
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

DAY = 24 * 3600.0
SIGNING_ALGORITHMS = (
    *("EdDSA", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512"),
    *("ES256", "ES384", "ES512", "PS256", "PS384", "PS512"),
)


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
    upstreams = values.mapping("upstreams")
    remote = values.texts("remoteurl")
    if not upstreams and not any(remote):
        return None
    if upstreams and any(remote):
        raise values.error("remoteurl", "cannot stand beside proxy.upstreams: write it as one of them")
    default = values.text("default") or None
    _check_default(values, default)
    sections = {name: item for name, item in upstreams.items() if isinstance(item, Values)}
    return Proxy(
        remote=_upstream(values, values) if any(remote) else None,
        upstreams=MappingProxyType({name: _upstream(section, values) for name, section in sections.items()}),
        default=default,
        private=values.texts("private"),
        max_size=values.optional("maxsize", int),
        own_names=values.texts("self"),
        write_timeout=values.get("cachewritetimeout", float, 300.0),
    )


def _check_default(values: Values, default: str | None) -> None:
    upstreams = values.mapping("upstreams")
    if default is not None and default not in upstreams:
        close = closest(default, upstreams)
        hint = f": did you mean {close}?" if close else ": name one of them"
        raise values.error("default", f"{default!r} is none of proxy.upstreams{hint}")
    if default is None and values.texts("private"):
        raise values.error("private", "means something only beside proxy.default: without it every name is private")


def _upstream(section: Values, proxy: Values) -> Upstream:
    urls = section.texts("remoteurl")
    if not urls or not all(urls):
        raise section.error("remoteurl", "missing: write for example https://registry-1.docker.io")
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
