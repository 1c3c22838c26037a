"""Logins: challenges, tokens, passwords, credential helpers, and who is told what."""

from __future__ import annotations

import os
import stat
import sys

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.process import ProcessReader
from twisted.trial.unittest import SynchronousTestCase

from registryd.config.values import CredentialHelper
from registryd.errors import BlobUnknown
from registryd.reference import RepositoryName
from registryd.upstream.origins import Origin
from registryd.upstream.redirects import MOST_REDIRECTS
from registryd.upstream.tokens import LONGEST_LIFETIME, MARGIN, lifetime
from tests.upstream.case import LATEST, NAME, SECRET, UpstreamCase, folder_of
from tests.upstream.trickling import Trickling

OTHER = RepositoryName("team/other")


class Tokens(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, (self.digest,) = self.hostile.content.image(NAME, LATEST, b"layer")
        self.hostile.content.image(OTHER, LATEST, b"layer")
        self.hostile.switches.auth = "token"

    async def test_anonymous(self) -> None:
        registry = self.upstream()
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(dict(self.hostile.counts), {"GET manifests": 2, "GET token": 1})
        (asked,) = [asked for asked in self.hostile.requests if asked.path.startswith("/token")]
        self.assertNotIn("authorization", asked.headers)
        self.assertIn("service=hostile%2C+inc.", asked.path)
        self.assertIn("scope=repository%3Ateam%2Fapp%3Apull", asked.path)

    async def test_with_credentials(self) -> None:
        self.hostile.switches.username, self.hostile.switches.password = "user", SECRET
        registry = self.upstream(username="user", password=SECRET)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        told = [asked.headers.get("authorization", "") for asked in self.hostile.requests]
        self.assertEqual([value.split(" ")[0] for value in told], ["", "Basic", "Bearer"])

    async def test_token_is_kept_per_scope_until_it_ends(self) -> None:
        registry = self.upstream()
        for _ in range(3):
            await registry.get_manifest(NAME, LATEST)
            await registry.resolve_blob(NAME, self.digest)
        self.assertEqual(self.hostile.counts["GET token"], 1)
        await registry.get_manifest(OTHER, LATEST)
        self.assertEqual(self.hostile.counts["GET token"], 2)
        self.clock.advance(289)
        await registry.get_manifest(NAME, LATEST)
        self.assertEqual(self.hostile.counts["GET token"], 2)
        self.clock.advance(1)
        await registry.get_manifest(NAME, LATEST)
        self.assertEqual(self.hostile.counts["GET token"], 3)

    async def test_a_second_scope_needs_no_401(self) -> None:
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        self.hostile.reset()
        await registry.get_manifest(OTHER, LATEST)
        self.assertEqual(dict(self.hostile.counts), {"GET manifests": 1, "GET token": 1})

    async def test_scope_that_the_challenge_does_not_name(self) -> None:
        self.hostile.switches.scope_told = False
        self.assertEqual(await self.upstream().get_manifest(NAME, LATEST), self.manifest)

    async def test_access_token_and_default_lifetime(self) -> None:
        self.hostile.switches.token_field = "access_token"
        self.hostile.switches.token_lifetime = None
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        self.clock.advance(49)
        await registry.get_manifest(NAME, LATEST)
        self.assertEqual(self.hostile.counts["GET token"], 1)
        self.clock.advance(1)
        await registry.get_manifest(NAME, LATEST)
        self.assertEqual(self.hostile.counts["GET token"], 2)

    async def test_a_lifetime_beyond_all_numbers(self) -> None:
        self.hostile.switches.token_lifetime = 10**400
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        self.clock.advance(LONGEST_LIFETIME)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(self.hostile.counts["GET token"], 2)

    async def test_many_wait_for_one_token(self) -> None:
        registry = self.upstream()
        self.hostile.switches.token_delay = 0.02
        asking = [registry.get_manifest(NAME, LATEST) for _ in range(8)]
        asking[0].addErrback(lambda failure: failure.trap(CancelledError))
        await self.until(lambda: self.hostile.counts["GET token"])
        asking[0].cancel()
        for answer in asking[1:]:
            self.assertEqual(await answer, self.manifest)
        self.assertEqual(self.hostile.counts["GET token"], 1)

    async def test_token_that_is_revoked_is_got_anew_once(self) -> None:
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        self.hostile.switches.revoked = list(self.hostile.tokens)
        self.hostile.reset()
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(dict(self.hostile.counts), {"GET manifests": 2, "GET token": 1})

    async def test_refusal_ends_and_is_not_repeated_for_a_while(self) -> None:
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        self.hostile.switches.refuse_tokens = True
        self.hostile.reset()
        error = await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("refused the login", str(error))
        self.assertEqual(dict(self.hostile.counts), {"GET manifests": 2, "GET token": 1})
        await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertEqual(sum(self.hostile.counts.values()), 3)
        self.hostile.switches.refuse_tokens = False
        self.assertTrue(await registry.get_manifest(OTHER, LATEST))
        self.clock.advance(60)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_refused_credentials(self) -> None:
        self.hostile.switches.username, self.hostile.switches.password = "user", "another"
        registry = self.upstream(username="user", password=SECRET)
        for _ in range(3):
            error = await self.unavailable(registry.get_manifest(NAME, LATEST))
            self.assertIn("refused the login", str(error))
        self.assertEqual(self.hostile.counts["GET token"], 1)

    async def test_blob_head_that_wants_a_login_for_ever_costs_no_tokens(self) -> None:
        self.hostile.switches.head_blobs = 401
        registry = self.upstream()
        await registry.get_manifest(NAME, LATEST)
        for _ in range(3):
            with self.assertRaises(BlobUnknown):
                await registry.resolve_blob(NAME, self.digest)
            self.assertEqual(await self.fetched(registry, self.digest), b"layer")
        self.assertEqual(self.hostile.counts["GET token"], 1)

    async def test_token_service_that_fails(self) -> None:
        registry = self.upstream()
        for status in (404, 400, 302):
            self.hostile.switches.token_status = status
            error = await self.unavailable(self.upstream().get_manifest(NAME, LATEST))
            self.assertIn(str(status), str(error))
        self.hostile.switches.token_status = None
        self.hostile.switches.token_field = "none"
        await self.unavailable(registry.get_manifest(NAME, LATEST))

    async def test_credentials_do_not_go_to_the_token_service_of_others(self) -> None:
        other = self.another()
        self.hostile.switches.realm = f"http://localhost:{other.url.rpartition(':')[2]}/token"
        registry = self.upstream(username="user", password=SECRET)
        await self.unavailable(registry.get_manifest(NAME, LATEST))
        (asked,) = other.requests
        self.assertNotIn("authorization", asked.headers)
        self.assertNotIn("account", asked.path)
        self.assertTrue(self.said("is asked without credentials"))

    async def test_credentials_go_to_another_port_of_the_same_host(self) -> None:
        other = self.another()
        self.hostile.switches.realm = f"{other.url}/token"
        registry = self.upstream(username="user", password=SECRET)
        await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("authorization", other.requests[0].headers)

    async def test_token_service_that_redirects(self) -> None:
        for code in (301, 302, 303, 307, 308):
            other = self.another()
            other.tokens = self.hostile.tokens
            self.hostile.switches.token_redirect, self.hostile.switches.redirect_code = other.url, code
            self.assertEqual(await self.upstream().get_manifest(NAME, LATEST), self.manifest)
            (asked,) = other.requests
            self.assertEqual(asked.path.count("scope="), 1)

    async def test_token_service_that_redirects_to_itself_is_told_the_password(self) -> None:
        self.hostile.switches.username, self.hostile.switches.password = "user", SECRET
        self.hostile.switches.token_redirect = f"{self.hostile.url}/other"
        registry = self.upstream(username="user", password=SECRET)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_token_service_that_redirects_to_others_tells_them_no_password(self) -> None:
        for host in ("127.0.0.1", "localhost"):
            other = self.another()
            self.hostile.switches.token_redirect = other.url.replace("127.0.0.1", host)
            await self.unavailable(self.upstream(username="user", password=SECRET).get_manifest(NAME, LATEST))
            (asked,) = other.requests
            self.assertNotIn("authorization", asked.headers)

    async def test_token_service_that_redirects_for_ever_or_nowhere(self) -> None:
        for target in (self.hostile.url, "ftp://127.0.0.1"):
            self.hostile.reset()
            self.hostile.switches.token_redirect = target
            error = await self.unavailable(self.upstream().get_manifest(NAME, LATEST))
            self.assertIn("redirects", str(error))
            self.assertLessEqual(self.hostile.counts["GET token"], MOST_REDIRECTS + 1)

    async def test_a_form_is_sent_to_its_own_service_alone(self) -> None:
        other = self.another()
        self.hostile.switches.token_redirect = other.url
        await self.unavailable(self.upstream(username="<token>", password=SECRET).get_manifest(NAME, LATEST))
        self.assertEqual(self.hostile.counts["POST token"], 1)
        self.assertEqual(other.requests, [])

    async def test_token_service_that_does_not_say_all_is_not_asked_again_for_a_while(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        self.hostile.switches.realm = f"{server.listen(self)}/token"
        registry = self.upstream()
        asking = registry.get_manifest(NAME, LATEST)
        await self.until(lambda: server.open)
        await self.turns()
        self.clock.advance(20)
        self.assertIn("does not say all", str(await self.unavailable(asking)))
        self.assertIn("does not say all", str(await self.unavailable(registry.get_manifest(NAME, LATEST))))

    async def test_token_service_that_breaks_off_is_asked_again(self) -> None:
        server = Trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        self.hostile.switches.realm = f"{server.listen(self)}/token"
        registry = self.upstream()
        asking = registry.get_manifest(NAME, LATEST)
        await self.until(lambda: server.open)
        server.open[-1].transport.loseConnection()
        await self.unavailable(asking)
        self.hostile.switches.realm = None
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_realm_that_is_nonsense(self) -> None:
        for realm in ("ftp://127.0.0.1/", "nothing", "http://[", "http://127.0.0.1:99999/"):
            self.hostile.switches.realm = realm
            await self.unavailable(self.upstream().get_manifest(NAME, LATEST))


class Lifetimes(SynchronousTestCase):
    def test_rows(self) -> None:
        now = 1_800_000_000.0  # 2027-01-15T08:00:00Z
        for document, expected in (
            ({}, 50.0),
            ({"expires_in": 300}, 290.0),
            ({"expires_in": 20}, 15.0),
            ({"expires_in": 0}, 50.0),
            ({"expires_in": "x"}, 50.0),
            ({"expires_in": True}, 50.0),
            ({"expires_in": 10**400}, LONGEST_LIFETIME - MARGIN),
            ({"expires_in": float("inf")}, LONGEST_LIFETIME - MARGIN),
            ({"expires_in": -(10**400)}, 50.0),
            ({"expires_in": float("nan")}, 50.0),
            ({"expires_in": 300, "issued_at": "2027-01-15T07:58:20Z"}, 190.0),
            ({"expires_in": 300, "issued_at": "2027-01-15T07:58:20.123456789Z"}, 190.0),
            ({"expires_in": 300, "issued_at": "2027-01-15T09:58:20+02:00"}, 190.0),
            ({"expires_in": 300, "issued_at": "2027-01-15T07:00:00Z"}, 290.0),
            ({"expires_in": 300, "issued_at": "2027-01-15T09:00:00Z"}, 290.0),
            ({"expires_in": 300, "issued_at": "yesterday"}, 290.0),
        ):
            self.assertEqual(lifetime(document, now), expected, document)


class Trust(UpstreamCase):
    """Whom credentials may be told."""

    def test_hosts(self) -> None:
        rows = [
            ("https://registry-1.docker.io", "https://auth.docker.io", True),
            ("https://registry.example.co.uk", "https://auth.example.co.uk:8443", True),
            ("https://a.example.co.uk", "https://b.other.co.uk", False),
            ("https://registry.redhat.io", "https://sso.redhat.com", False),
            ("https://quay.io", "https://quay.io", True),
            ("https://quay.io", "http://quay.io", False),
            ("http://registry.test", "https://registry.test", True),
            ("https://me.github.io", "https://you.github.io", False),
            ("https://10.0.0.1", "https://20.0.0.1", False),
            ("https://10.0.0.1:5000", "https://10.0.0.1", True),
            ("https://10.0.0.1", "https://11.0.0.1", False),
            ("https://[fd00::1]", "https://[fd00::2]", False),
            ("https://localhost", "https://other", False),
            ("https://registry.corp.lan", "https://gitlab.corp.lan", True),
            ("https://registry.corp.lan", "https://registry.other.lan", False),
            ("https://registry.lan", "https://gitlab.lan", False),
        ]
        for upstream, realm, trusted in rows:
            self.assertIs(Origin.of(upstream).trusts(Origin.of(realm)), trusted, (upstream, realm))

    def test_who_is_the_same(self) -> None:
        rows = [
            ("https://a.test", "https://a.test:443", True),
            ("http://a.test", "https://a.test", True),
            ("https://a.test", "http://a.test", False),
            ("https://a.test", "https://a.test:444", False),
            ("http://a.test:5000", "https://a.test", False),
            ("https://a.test:80", "https://a.test", False),
            ("http://a.test", "https://a.test:5000", False),
            ("http://a.test", "https://b.test", False),
        ]
        for one, other, same in rows:
            self.assertIs(Origin.of(one).is_also(Origin.of(other)), same, (one, other))


class Basic(UpstreamCase):
    def setUp(self) -> None:
        super().setUp()
        self.manifest, _ = self.hostile.content.image(NAME, LATEST, b"layer")
        self.hostile.switches.auth = "basic"
        self.hostile.switches.username, self.hostile.switches.password = "user", SECRET

    async def test_basic(self) -> None:
        registry = self.upstream(username="user", password=SECRET)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual(self.hostile.counts["GET manifests"], 3)

    async def test_without_credentials(self) -> None:
        error = await self.unavailable(self.upstream().get_manifest(NAME, LATEST))
        self.assertIn("none is configured", str(error))

    async def test_wrong_password(self) -> None:
        registry = self.upstream(username="user", password=SECRET + "!")
        for _ in range(3):
            error = await self.unavailable(registry.get_manifest(NAME, LATEST))
            self.assertIn("refused the login", str(error))
        self.assertEqual(self.hostile.counts["GET manifests"], 2)
        self.clock.advance(60)
        await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertEqual(self.hostile.counts["GET manifests"], 3)


class Helpers(UpstreamCase):
    """docker-credential-helpers, as programs."""

    def setUp(self) -> None:
        super().setUp()
        self.manifest, _ = self.hostile.content.image(NAME, LATEST, b"layer")
        self.hostile.switches.auth = "basic"
        self.hostile.switches.username, self.hostile.switches.password = "user", SECRET
        self.folder = folder_of(self)
        self.log = self.folder.absolute() / "log"
        self.environment = {"PATH": f"{self.folder.absolute()}{os.pathsep}{os.environ['PATH']}"}

    def program(self, body: str, name: str = "docker-credential-test") -> None:
        path = self.folder / name
        path.write_text(
            f"#!{sys.executable} -I\nimport json, sys\nserver = sys.stdin.read()\n"
            f"open({str(self.log)!r}, 'a').write(f'{{sys.argv[1:]}} {{server}}\\n')\n{body}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def answer(self, username: str = "user", secret: str = SECRET) -> str:
        return f"print(json.dumps({{'ServerURL': server, 'Username': {username!r}, 'Secret': {secret!r}}}))"

    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    async def test_asked_once_for_the_server(self) -> None:
        self.program(self.answer())
        for command in ("test", "docker-credential-test", str(self.folder.absolute() / "docker-credential-test")):
            self.log.unlink(missing_ok=True)
            registry = self.upstream(helper=CredentialHelper(command, None), environment=self.environment)
            for _ in range(3):
                self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.assertEqual(self.runs(), [f"['get'] {self.hostile.address}"])

    async def test_lifetime(self) -> None:
        self.program(self.answer())
        registry = self.upstream(helper=CredentialHelper("test", 100.0), environment=self.environment)
        for seconds, runs in ((0, 1), (99, 1), (1, 2), (99, 2)):
            self.clock.advance(seconds)
            await registry.get_manifest(NAME, LATEST)
            self.assertEqual(len(self.runs()), runs)

    async def test_for_every_request(self) -> None:
        self.program(self.answer())
        registry = self.upstream(helper=CredentialHelper("test", 0.0), environment=self.environment)
        for runs in (1, 2, 3):
            await registry.get_manifest(NAME, LATEST)
            self.assertEqual(len(self.runs()), runs)

    async def test_refused_credentials_are_asked_for_anew(self) -> None:
        for runs, refusal in enumerate((401, 403), 1):
            self.hostile.switches.password, self.hostile.switches.refusal = SECRET, refusal
            self.program(self.answer())
            registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
            await registry.get_manifest(NAME, LATEST)
            self.hostile.switches.password = SECRET + "2"
            self.program(self.answer(secret=SECRET + "2"))
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.assertEqual(len(self.runs()), 2 * runs)

    async def test_a_helper_that_fails_leaves_a_refusal_as_it_is(self) -> None:
        self.program(self.answer())
        registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
        await registry.get_manifest(NAME, LATEST)
        self.hostile.switches.password, self.hostile.switches.refusal = "another", 403
        self.program("exit 1")
        self.assertIn("refused the login", str(await self.unavailable(registry.get_manifest(NAME, LATEST))))
        self.hostile.switches.password = SECRET
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)

    async def test_what_nobody_may_have_is_asked_for_anew_once_in_a_while(self) -> None:
        self.program(self.answer())
        registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
        await registry.get_manifest(NAME, LATEST)
        self.hostile.switches.password, self.hostile.switches.refusal = "another", 403
        for runs in (2, 2, 3):
            await self.unavailable(registry.get_manifest(NAME, LATEST))
            self.assertEqual(len(self.runs()), runs)
            self.clock.advance(40)

    async def test_failures(self) -> None:
        for body, text in (
            ("print('credentials not found in native keychain'); sys.exit(1)", "credentials not found"),
            ("print('nothing')", "nonsense"),
            ("print('{}')", "nonsense"),
            ("print('[]')", "nonsense"),
            ("print('x' * 100000)", "too much"),
            (f'print(\'{{"Secret": "{SECRET}"}}\'); sys.exit(1)', "failed"),
        ):
            self.program(body)
            registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
            error = await self.unavailable(registry.get_manifest(NAME, LATEST))
            self.assertIn(text, str(error))

    async def test_no_such_program(self) -> None:
        registry = self.upstream(helper=CredentialHelper("none-such", None), environment=self.environment)
        error = await self.unavailable(registry.get_manifest(NAME, LATEST))
        self.assertIn("none-such: no such command", str(error))

    async def test_one_that_hangs_is_ended(self) -> None:
        self.program("import time; time.sleep(600)")
        registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
        asking = registry.get_manifest(NAME, LATEST)
        await self.until(self.runs)
        self.clock.advance(30)
        error = await self.unavailable(asking)
        self.assertIn("30 s", str(error))
        await self.until(lambda: not any(isinstance(reader, ProcessReader) for reader in reactor.getReaders()))

    async def test_identity_token(self) -> None:
        self.hostile.switches.auth = "token"
        self.program(self.answer("<token>"))
        registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
        self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
        self.assertEqual((self.hostile.counts["POST token"], self.hostile.counts["GET token"]), (1, 0))

    async def test_identity_token_that_is_replaced(self) -> None:
        self.hostile.switches.auth = "token"
        self.hostile.switches.rotate_identity = True
        self.program(self.answer("<token>"))
        registry = self.upstream(helper=CredentialHelper("test", None), environment=self.environment)
        for _ in range(3):
            self.assertEqual(await registry.get_manifest(NAME, LATEST), self.manifest)
            self.clock.advance(300)
        self.assertEqual(self.hostile.counts["POST token"], 3)
