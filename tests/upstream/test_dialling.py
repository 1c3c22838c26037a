"""How an upstream is reached: TLS and whom it is believed from, proxies of the environment."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver, IResolutionReceiver
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI
from zope.interface import implementer

from registryd.interfaces import IFetch
from registryd.upstream import AuthorityError, UpstreamRegistry
from registryd.upstream.agent import https_policy
from registryd.upstream.proxies import Proxies
from tests.clients.certificates import Certificates, issue
from tests.upstream.case import LATEST, NAME, SECRET, UpstreamCase, folder_of
from tests.upstream.hostile import Hostile
from tests.upstream.proxy import Proxy
from tests.values import Sink

LAYER = b"layer" * 50_000


class TlsCase(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = folder_of(self)
        self.files = issue(self.folder, ["127.0.0.1"], ["localhost", "registry.test"])
        self.secure = self.serving(self.files)

    def serving(self, files: Certificates, host: str = "localhost") -> Hostile:
        hostile = self.another(tls=files, host=host)
        self.manifest, (self.digest,) = hostile.content.image(NAME, LATEST, LAYER)
        return hostile


class Tls(TlsCase):
    async def test_given_authority(self) -> None:
        for host in ("localhost", "127.0.0.1"):
            registry = self.upstream(self.secure.url.replace("localhost", host), ca=str(self.files.authority))
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.assertEqual(await self.fetched(registry, self.digest), LAYER)

    async def test_unknown_authority(self) -> None:
        error = await self.unavailable(self.upstream(self.secure.url).get_manifest(NAME, LATEST))
        self.assertIn("certificate verify failed", str(error))
        self.assertEqual(self.secure.requests, [])

    async def test_another_name(self) -> None:
        (self.folder / "other").mkdir()
        files = issue(self.folder / "other", [], ["registry.test"])
        other = self.serving(files)
        error = await self.unavailable(self.upstream(other.url, ca=str(files.authority)).get_manifest(NAME, LATEST))
        self.assertIn("localhost", str(error))
        self.assertEqual(other.requests, [])

    async def test_authorities_of_the_system_hold_beside_the_given_one(self) -> None:
        (self.folder / "other").mkdir()
        files = issue(self.folder / "other", [], ["localhost"], "another authority")
        self.trust_in_system(self.files.authority)
        registry = self.upstream(self.secure.url, ca=str(files.authority))
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        registry = self.upstream(self.serving(files).url, ca=str(files.authority))
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)

    def trust_in_system(self, authority: Path) -> None:
        """Let a file stand for the system's authorities, as OpenSSL looks for them."""
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(authority)
        if before is None:
            self.addCleanup(os.environ.pop, "SSL_CERT_FILE")
        else:
            self.addCleanup(os.environ.__setitem__, "SSL_CERT_FILE", before)

    async def test_no_redirect_without_tls(self) -> None:
        self.secure.switches.redirect_to = self.hostile.url
        registry = self.upstream(self.secure.url, ca=str(self.files.authority))
        error = await self.unavailable(registry.fetch_blob(NAME, self.digest, 0))
        self.assertIn("without TLS", str(error))
        self.assertEqual(self.hostile.requests, [])

    async def test_no_token_service_without_tls(self) -> None:
        self.secure.switches.auth = "token"
        self.secure.switches.realm = f"{self.hostile.url.replace('127.0.0.1', 'localhost')}/token"
        registry = self.upstream(self.secure.url, ca=str(self.files.authority), username="u", password=SECRET)
        error = await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("without TLS", str(error))
        self.assertEqual(self.hostile.requests, [])

    async def test_broken_off_and_abandoned(self) -> None:
        registry = self.upstream(self.secure.url, ca=str(self.files.authority))
        self.secure.switches.break_after = 100_000
        fetch = await registry.fetch_blob(NAME, self.digest, 0)
        sink = Sink()
        await self.unavailable(fetch.deliver_to(sink))
        self.assertEqual(sink.content, LAYER[:100_000])
        self.secure.switches.break_after, self.secure.switches.stall_after = None, 10
        (await registry.fetch_blob(NAME, self.digest, 0)).abandon()
        await self.until(lambda: not self.secure.active)

    async def test_a_peer_that_does_not_agree_to_close(self) -> None:
        registry = self.upstream(self.secure.url, ca=str(self.files.authority))
        self.secure.switches.stall_after = 10
        fetch = await registry.fetch_blob(NAME, self.digest, 0)
        for channel in self.secure._channels:
            channel.transport.pauseProducing()
        fetch.abandon()
        await self.until(lambda: not registry._dialling._open.connections)


@implementer(IHostnameResolver)
class _AllHere:
    """A resolver that knows every name as this machine's, and addresses as what they are."""

    def resolveHostName(
        self, resolutionReceiver: IResolutionReceiver, hostName: str, portNumber: int = 0, *more: Any
    ) -> None:
        six = ":" in hostName
        address = IPv6Address("TCP", hostName, portNumber) if six else IPv4Address("TCP", "127.0.0.1", portNumber)
        resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()


class Hosts(UpstreamCase):
    """Hosts that are valid to dial, and no names of domains."""

    def setUp(self) -> None:
        super().setUp()
        self.install(_AllHere())
        self.six = self.another(host="[::1]", interface="::1")
        self.underscore = self.another(host="my_reg.test")
        for hostile in (self.hostile, self.six, self.underscore):
            self.manifest, (self.digest,) = hostile.content.image(NAME, LATEST, LAYER)

    def install(self, resolver: IHostnameResolver) -> None:
        pluggable = IReactorPluggableNameResolver(reactor)
        self.addCleanup(pluggable.installNameResolver, pluggable.installNameResolver(resolver))

    async def test_are_asked(self) -> None:
        for hostile in (self.six, self.underscore):
            registry = self.upstream(hostile.url)
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.assertEqual(await self.fetched(registry, self.digest), LAYER)
            self.assertEqual(hostile.requests[0].headers["host"], hostile.address)

    async def test_are_redirected_to(self) -> None:
        registry = self.upstream()
        for store in (self.six, self.underscore):
            self.hostile.switches.redirect_to = store.url
            self.assertEqual(await self.fetched(registry, self.digest), LAYER)
            self.assertEqual(store.counts["GET blobs"], 1)

    async def test_give_tokens(self) -> None:
        self.hostile.switches.auth = "token"
        for service in (self.six, self.underscore):
            service.tokens = self.hostile.tokens
            self.hostile.switches.realm = f"{service.url}/token?of=them#fragment"
            self.assertEqual(await self.upstream().get_manifest(NAME, LATEST), self.manifest)
            (asked,) = service.requests
            self.assertTrue(asked.path.startswith("/token?of=them&service=hostile%2C+inc.&scope="), asked.path)
            self.assertEqual(asked.headers["host"], service.address)

    async def test_that_cannot_be_dialled(self) -> None:
        unknown = ("a..b", ".a", "x" * 64, "a%20b", "*")
        rows = [(f"{scheme}://{host}", "its name is not known") for host in unknown for scheme in ("http", "https")]
        for url, reason in (*rows, ("https://xn--a", "nonsense")):
            for asking in (self.upstream(url).get_manifest(NAME, LATEST), self.redirected(url)):
                self.assertEqual(str(await self.unavailable(asking)), f"{url}: {reason}")

    def redirected(self, url: str) -> Deferred[IFetch]:
        self.hostile.switches.redirect_to = url
        return self.upstream().fetch_blob(NAME, self.digest, 0)


class Authorities(SynchronousTestCase):
    def test_errors_name_the_file(self) -> None:
        folder = folder_of(self)
        broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
        for name, content, text in (
            ("none", None, "No such file"),
            ("empty", "", "no certificate"),
            ("broken", broken, "PEM"),
        ):
            path = folder / name
            if content is not None:
                path.write_text(content)
            with self.assertRaises(AuthorityError) as raised:
                https_policy(str(path))
            self.assertIn(str(path), str(raised.exception))
            self.assertIn(text, str(raised.exception))


class ThroughProxies(TlsCase):
    def setUp(self) -> None:
        super().setUp()
        self.hostile.content.image(NAME, LATEST, LAYER)
        self.proxy = Proxy(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.proxy.close()))

    def named(self, registry: Hostile, name: str = "registry.test") -> str:
        """The URL of a registry under a name that only the proxy knows."""
        self.proxy.leads_to = int(registry.url.rpartition(":")[2])
        return registry.url.replace("127.0.0.1", name).replace("localhost", name)

    def through(self, url: str, **environment: str) -> UpstreamRegistry:
        return self.upstream(url, ca=str(self.files.authority), environment=environment)

    async def check(self, registry: UpstreamRegistry) -> None:
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(await self.fetched(registry, self.digest, 10), LAYER[10:])

    async def test_http(self) -> None:
        url = self.named(self.hostile)
        await self.check(self.through(url, http_proxy=f"http://{self.proxy.address}"))
        self.assertTrue(self.proxy.asked[0].startswith(f"GET {url}/v2/team/app/manifests/latest"))
        self.assertEqual(f"http://{self.hostile.requests[0].headers['host']}", url)

    async def test_https_by_connect(self) -> None:
        url = self.named(self.secure)
        await self.check(self.through(url, HTTPS_PROXY=self.proxy.address))
        (asked,) = self.proxy.asked
        host = url.removeprefix("https://")
        self.assertTrue(asked.startswith(f"CONNECT {host} HTTP/1.1\r\nHost: {host}"))

    async def test_the_name_is_verified_through_a_proxy_too(self) -> None:
        registry = self.through(self.named(self.secure, "another.test"), HTTPS_PROXY=self.proxy.address)
        error = await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("another.test", str(error))
        self.assertEqual(self.secure.requests, [])

    async def test_password_of_a_proxy(self) -> None:
        self.proxy.password = "Basic " + base64.b64encode(f"me:{SECRET}@".encode()).decode()
        address = f"http://me:{SECRET}%40@{self.proxy.address}"
        for registry, variable in ((self.hostile, "http_proxy"), (self.secure, "https_proxy")):
            await self.check(self.through(self.named(registry), **{variable: address}))
        self.assertNotIn("proxy-authorization", self.secure.requests[-1].headers)

    async def test_a_proxy_that_refuses(self) -> None:
        self.proxy.password = "another"
        address = f"http://me:{SECRET}@{self.proxy.address}"
        for registry, variable in ((self.hostile, "http_proxy"), (self.secure, "https_proxy")):
            asking = self.through(self.named(registry), **{variable: address}).get_manifest(NAME, LATEST)
            self.assertIn("407", str(await self.unavailable(asking)))

    async def test_a_proxy_that_answers_nonsense(self) -> None:
        for refusal in (b"nonsense\r\n\r\n", b"SSH-2.0-x\r\n" * 2000, b"HTTP/1.1\r\n\r\n"):
            self.proxy.refusal = refusal
            registry = self.through(self.named(self.secure), https_proxy=self.proxy.address)
            error = await self.unavailable(registry.get_manifest(NAME, LATEST))
            self.assertIn("proxy", str(error))

    async def test_a_proxy_that_is_not_there(self) -> None:
        registry = self.through(self.named(self.secure), https_proxy="http://127.0.0.1:1")
        await self.unavailable(registry.get_manifest(NAME, LATEST))

    async def test_a_proxy_that_says_nothing(self) -> None:
        self.proxy.refusal = b""
        registry = self.through(self.named(self.secure), https_proxy=self.proxy.address)
        asking = registry.get_manifest(NAME, LATEST)
        await self.until(lambda: self.proxy.asked)
        self.clock.advance(30)
        await self.unavailable(asking)
        await self.until(lambda: not self.proxy.open)

    async def test_what_is_on_this_machine_needs_none(self) -> None:
        await self.check(self.through(self.hostile.url, http_proxy="http://127.0.0.1:1"))


class Variables(SynchronousTestCase):
    def chosen(self, url: bytes, environment: Mapping[str, str]) -> str | None:
        proxy: Any = Proxies(environment).proxy_for(URI.fromBytes(url))
        return None if proxy is None else f"{proxy.scheme}://{proxy.host}:{proxy.port}"

    def test_rows(self) -> None:
        for url, environment, expected in (
            (b"http://a.test/", {}, None),
            (b"http://a.test/", {"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
            (b"http://a.test/", {"HTTP_PROXY": "http://p:3128", "http_proxy": "q"}, "http://q:80"),
            (b"http://a.test/", {"HTTP_PROXY": "http://p:3128", "http_proxy": ""}, None),
            (b"http://a.test/", {"HTTP_PROXY": "http://p:3128", "REQUEST_METHOD": "GET"}, None),
            (b"https://a.test/", {"HTTP_PROXY": "http://p:3128"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "https://p"}, "https://p:443"),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": ".test"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "a.test:443"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "a.test:444"}, "http://p:1"),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "b.test, *"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "test"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "*.test:443"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "A.Test"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "est,.a.test,*.a.test,,b.a.test"}, "http://p:1"),
            (b"https://10.1.2.3/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, None),
            (b"https://10.1.2.3/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "10.1.2.3:443"}, None),
            (b"https://10.1.2.3/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "11.0.0.0/8,10.1.2.3:80,2.4"}, "http://p:1"),
            (b"https://10.1.2.3/", {"HTTPS_PROXY": "p:1", "NO_PROXY": ".2.3"}, None),
            (b"https://10.1.2.3/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "::ffff:10.1.2.3"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8,a.test/"}, "http://p:1"),
            (b"https://[fd00::1]/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "fd00::/8"}, None),
            (b"https://[fd00::1]/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "[fd00::1]:443"}, None),
            (b"https://[fd00::1]/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "fd00:0::1"}, None),
            (b"https://[fd00::1]/", {"HTTPS_PROXY": "p:1", "NO_PROXY": "[fd00::1]:444"}, "http://p:1"),
            (b"https://localhost:5000/", {"HTTPS_PROXY": "p:1"}, None),
            (b"https://127.1.2.3/", {"HTTPS_PROXY": "p:1"}, None),
            (b"https://[::1]/", {"HTTPS_PROXY": "p:1"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "socks5://p:1"}, None),
            (b"https://a.test/", {"HTTPS_PROXY": "http://p:port"}, None),
        ):
            self.assertEqual(self.chosen(url, environment), expected, (url, environment))
