"""The configuration: every rule that Distribution's has, each error with its line; and no text gets anything else."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registryd.config import (
    Collection,
    Config,
    ConfigError,
    CredentialHelper,
    Debug,
    Htpasswd,
    Http,
    Limits,
    Log,
    Platform,
    Purging,
    Retention,
    Silly,
    Storage,
    Tls,
    Token,
    Upstream,
    Urls,
    Validation,
    load,
)
from registryd.config.built import BUILT
from registryd.config.nodes import Origin, ScalarNode
from registryd.config.patterns import Pattern
from registryd.config.scalars import Invalid, boolean, flag, integer, seconds, size
from registryd.config.schema import ROOT, dotted_keys, variables

PROJECT = Path(__file__).parent.parent
TEMPORARY = tempfile.TemporaryDirectory(prefix="registryd-config-")
FOLDER = Path(TEMPORARY.name)
HEAD = "version: 0.1\nstorage: {filesystem: {rootdirectory: /data}}\n"
BASE = f'{HEAD}http:\n  addr: ":5000"\n'
DAY = 24 * 3600.0


def read(text: str | bytes, environ: Mapping[str, str] | None = None) -> Config:
    """What a file of this text says."""
    path = FOLDER / "config.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return load(str(path), environ or {})


def refused(text: str | bytes, environ: Mapping[str, str] | None = None) -> str:
    """The line that a file of this text, or an environment, is refused with."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    return str(caught.value).replace(f"{FOLDER}/", "")


def remarks(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    return [line.replace(f"{FOLDER}/", "") for line in read(text, environ).warnings]


def scalar(text: str, plain: bool = True) -> ScalarNode:
    return ScalarNode(Origin("here", 1), text, plain)


class TestSources:
    """Where a configuration comes from."""

    def test_embedded_default(self) -> None:
        assert load(None, {}) == Config(
            source="embedded default",
            path=None,
            log=Log("info", "text", {}, True),
            storage=Storage(
                driver="filesystem",
                parameters={"rootdirectory": "./var/registry"},
                rootdirectory="./var/registry",
                threads=100,
                delete=False,
                read_only=False,
                purging=Purging(7 * DAY, DAY, False),
            ),
            http=Http("127.0.0.1:5000", "tcp", "/", None, False, 30.0, {}, None, Limits(65536, 4 << 20, None, 60.0)),
            catalog_max_entries=1000,
            tags_max=1000,
            validation=Validation(False, None, "all", ()),
            collection=Collection(DAY, "keep", None, None, ()),
            auth=None,
            proxy=None,
            warnings=(),
            unbuilt=(),
        )

    def test_environment_over_embedded_default(self) -> None:
        config = load(None, {"REGISTRY_HTTP_ADDR": "127.0.0.1:0", "REGISTRY_STORAGE_DELETE_ENABLED": "true"})
        assert (config.http.address, config.storage.delete) == ("127.0.0.1:0", True)

    def test_variable_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "other.yml"
        path.write_text(BASE)
        config = load(None, {"REGISTRY_CONFIGURATION_PATH": str(path)})
        assert (config.source, config.storage.rootdirectory, config.warnings) == (str(path), "/data", ())
        assert config.path == str(path)

    def test_path_from_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "other.yml").write_text(BASE)
        monkeypatch.chdir(tmp_path)
        config = load("./other.yml", {})
        assert (config.source, config.path) == ("./other.yml", str(tmp_path / "other.yml"))

    def test_argument_wins_over_variable(self) -> None:
        assert read(BASE, {"REGISTRY_CONFIGURATION_PATH": "/nonexistent"}).storage.rootdirectory == "/data"

    @pytest.mark.parametrize("path", ["/nonexistent/config.yml", "/", "\0"])
    def test_unreadable(self, path: str) -> None:
        with pytest.raises(ConfigError, match="cannot be read: ") as caught:
            load(path, {})
        assert str(caught.value).startswith(path.replace("\0", "\\x00")) and "\n" not in str(caught.value)

    def test_byte_order_mark(self) -> None:
        assert read(b"\xef\xbb\xbf" + BASE.encode()).storage.rootdirectory == "/data"


class TestVersion:
    @pytest.mark.parametrize("version", ["0.1", '"0.1"', "'0.1'"])
    def test_supported(self, version: str) -> None:
        assert read(BASE.replace("0.1", version)).storage.driver == "filesystem"

    @pytest.mark.parametrize("version", ["0.2", "1", "0.10", "v0.1", "~"])
    def test_unsupported(self, version: str) -> None:
        line = refused(f"# first\n{BASE.replace('0.1', version)}")
        assert line.startswith("config.yml:2: version: ") and line.endswith(": use 0.1")

    def test_missing(self) -> None:
        assert refused("http:\n  addr: x\n").startswith("config.yml:1: version: missing")
        assert refused("").startswith("config.yml: version: missing")
        assert refused("- a\n").startswith("config.yml:1: needs a mapping")


class TestStorage:
    def test_driver_as_a_word(self) -> None:
        config = read(BASE.replace("{filesystem: {rootdirectory: /data}}", "inmemory"))
        assert (config.storage.driver, config.storage.rootdirectory) == ("inmemory", "")

    @pytest.mark.parametrize("nothing", ["", "~", "{}"])
    def test_driver_without_parameters(self, nothing: str) -> None:
        config = read(BASE.replace("{rootdirectory: /data}", nothing))
        assert (config.storage.driver, config.storage.rootdirectory) == ("filesystem", "/var/lib/registry")

    @pytest.mark.parametrize("storage", ["", "~", "{}", "{delete: {enabled: true}, cache: {}, tag: {}, redirect: {}}"])
    def test_no_driver(self, storage: str) -> None:
        line = refused(BASE.replace("{filesystem: {rootdirectory: /data}}", storage))
        assert line.startswith("config.yml:2: storage: no storage configuration provided")

    def test_no_storage(self) -> None:
        assert "no storage configuration provided" in refused("version: 0.1\n")

    def test_two_drivers(self) -> None:
        line = refused("version: 0.1\nstorage:\n  filesystem:\n  s3: {bucket: b}\n")
        assert line.startswith(
            "config.yml:4: storage.s3: must provide exactly one storage type. Provided: [filesystem s3]"
        )

    def test_unknown_driver(self) -> None:
        line = refused("version: 0.1\nstorage:\n  filesytem:\n")
        assert line.startswith("config.yml:3: storage.filesytem: no such storage driver: use filesystem, inmemory, s3")
        assert line.endswith("(did you mean filesystem by filesytem?)")

    def test_mistyped_section_is_taken_for_a_driver(self) -> None:
        line = refused("version: 0.1\nstorage:\n  filesystem:\n  delte: {enabled: true}\n")
        assert "Provided: [filesystem delte] (did you mean delete by delte?)" in line

    def test_second_driver_from_the_environment(self) -> None:
        line = refused(BASE, {"REGISTRY_STORAGE_S3_BUCKET": "b"})
        assert line.startswith("REGISTRY_STORAGE_S3_BUCKET: storage.s3: multiple storage drivers specified in ")
        assert "configuration or environment: filesystem, s3" in line

    def test_environment_overrides_the_same_driver(self) -> None:
        config = read(BASE, {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"})
        assert (config.storage.rootdirectory, config.storage.parameters) == ("/x", {"rootdirectory": "/x"})

    @pytest.mark.parametrize(
        ("threads", "meant"),
        [("", 100), ("200", 200), ("25", 25), ("24", 25), ("-3", 25), ('"0x40"', 64), ('"30"', 30)],
    )
    def test_threads(self, threads: str, meant: int) -> None:
        assert read(BASE.replace("/data", f"/data, maxthreads: {threads}")).storage.threads == meant

    def test_parameters_are_typed(self) -> None:
        text = (
            "{s3: {bucket: 1234, region: on, secure: 'false', encrypt: yes, chunksize: '5242880', rootdirectory: /p}}"
        )
        storage = read(BASE.replace("{filesystem: {rootdirectory: /data}}", text)).storage
        assert storage.parameters == {
            "bucket": "1234",
            "region": "on",
            "secure": False,
            "encrypt": True,
            "chunksize": 5242880,
            "rootdirectory": "/p",
        }
        assert (storage.driver, storage.rootdirectory) == ("s3", "/p")

    def test_every_documented_driver_is_parsed(self) -> None:
        for driver, text in {
            "gcs": "{bucket: b, keyfile: /k, credentials: {type: t, private_key: k}, chunksize: 5242880}",
            "azure": "{accountname: a, accountkey: k, container: c, max_retries: 10, retry_delay: 100ms}",
            "swift": "{username: u, password: p, authurl: https://a, container: c, insecureskipverify: true}",
            "oss": "{accesskeyid: a, accesskeysecret: s, region: r, bucket: b, internal: false}",
        }.items():
            config = read(BASE.replace("{filesystem: {rootdirectory: /data}}", f"{{{driver}: {text}}}"))
            assert (config.storage.driver, config.warnings) == (driver, ())
            assert config.unbuilt == (f"storage.{driver}",)

    def test_sections(self) -> None:
        storage = read("version: 0.1\nstorage:\n  filesystem:\n  delete: {enabled: true}\n  maintenance:\n"
                       "    readonly: {enabled: true}\nhttp: {addr: 'h:1'}\n").storage  # fmt: skip
        assert (storage.delete, storage.read_only) == (True, True)

    @pytest.mark.parametrize(
        ("section", "meant"),
        [
            ("", Purging(7 * DAY, DAY, False)),
            ("{enabled: true, age: 1h, interval: 90s, dryrun: true}", Purging(3600.0, 90.0, True)),
            ("{age: 48h}", Purging(2 * DAY, DAY, False)),
            ("{enabled: false}", None),
        ],
    )
    def test_purging(self, section: str, meant: Purging | None) -> None:
        text = f"storage:\n  filesystem:\n  maintenance:\n    uploadpurging: {section}\n"
        assert read(f"version: 0.1\n{text}http: {{addr: 'h:1'}}\n").storage.purging == meant


class TestValues:
    """Single values, as Go and yaml.v2 read them."""

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("168h", 7 * DAY), ("1h30m", 5400.0), ("500ms", 0.5), ("1.5h", 5400.0), (".5s", 0.5), ("1.s", 1.0),
            ("10.10s", 10.1),
            ("-1h", -3600.0), ("+3s", 3.0), ("1h1m1s1ms1us1ns", 3661.001001001),
            ("2\u00b5s", 2e-6), ("2\u03bcs", 2e-6), ("0", 0.0), ("+0", 0.0), ("0s", 0.0), ("100", 1e-7),
            ("1000000000", 1.0),
            ("1_000_000_000", 1.0), ("1e9", 1.0), ("-1", -1e-9),
        ],
    )  # fmt: skip
    def test_duration(self, text: str, meant: float) -> None:
        assert seconds(scalar(text)) == pytest.approx(meant, rel=1e-12)

    @pytest.mark.parametrize(
        "text", ["", "h", "1", "1d", "1 h", "s", ".s", "1h-1m", "--1h", "1H", "300y", "9999999h", "∞"]
    )
    def test_no_duration(self, text: str) -> None:
        with pytest.raises(Invalid, match="is not a duration: write for example 90s"):
            seconds(scalar(text, plain=False))

    @pytest.mark.parametrize("text", ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"])
    def test_true(self, text: str) -> None:
        assert boolean(scalar(text)) is True

    @pytest.mark.parametrize("text", ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"])
    def test_false(self, text: str) -> None:
        assert boolean(scalar(text)) is False

    @pytest.mark.parametrize("text", ["1", "0", "", "tRUE", "enabled"])
    def test_no_boolean(self, text: str) -> None:
        with pytest.raises(Invalid, match="neither true nor false"):
            boolean(scalar(text))

    def test_quoted_boolean_is_a_text(self) -> None:
        with pytest.raises(Invalid, match="'true' in quotes is a text: write true without them"):
            boolean(scalar("true", plain=False))
        assert flag(scalar("true", plain=False)) is True

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("0", 0),
            ("-12", -12),
            ("0x1F", 31),
            ("010", 8),
            ("0o17", 15),
            ("08", 8),
            ("0b11", 3),
            ("1_000", 1000),
            ("1e3", 1000),
        ],
    )
    def test_integer(self, text: str, meant: int) -> None:
        assert integer(scalar(text)) == meant

    @pytest.mark.parametrize("text", ["", "x", "1.5", "1 000", "9223372036854775808", "1" * 5000, "1e999", "\u0661"])
    def test_no_integer(self, text: str) -> None:
        with pytest.raises(Invalid, match="is not a whole number"):
            integer(scalar(text))

    @pytest.mark.parametrize(
        ("text", "meant"),
        [("4194304", 4 << 20), ("4MB", 4_000_000), ("4MiB", 4 << 20), ("4mib", 4 << 20), ("200GB", 200 * 10**9),
         ("1.5 GiB", 3 << 29), ("1TiB", 1 << 40), ("7B", 7), ("3kB", 3000), ("3KiB", 3072)],
    )  # fmt: skip
    def test_size(self, text: str, meant: int) -> None:
        assert size(scalar(text)) == meant

    @pytest.mark.parametrize("text", ["", "0", "-1", "4M", "MB", "4 M B", "99999999999999999999", "0.1B", "x"])
    def test_no_size(self, text: str) -> None:
        with pytest.raises(Invalid, match="write for example 4194304, 4MiB, 200GB"):
            size(scalar(text))

    @pytest.mark.parametrize("password", ["1234", "yes", "0x10", "1.0", "'~'", "2001-01-01", "!!str 7"])
    def test_texts_stay_texts(self, password: str) -> None:
        config = read(f"{BASE}proxy: {{remoteurl: https://r.example, password: {password}}}\n")
        assert config.proxy is not None and config.proxy.remote is not None
        assert config.proxy.remote.password == password.strip("'").removeprefix("!!str ")

    @pytest.mark.parametrize("url", ["http://r.example", "https://u:p@r.example:5000/a/b", "https://[::1]:5000"])
    def test_urls(self, url: str) -> None:
        assert read(f"{BASE}  host: {url}\n").http.host == url

    @pytest.mark.parametrize(
        "url", ["ftp://r", "//r", "https://", "https:///x", "https://r?q", "https://r#f", "https://[r"]
    )
    def test_no_urls(self, url: str) -> None:
        assert "http.host: needs a whole URL" in refused(f"{BASE}  host: {url}\n")

    def test_tags_of_types(self) -> None:
        text = "gc: {grace: !!float '1e9', interval: !!int '0'}\ncatalog: {maxentries: !!str 5}\n"
        config = read(f"{BASE}{text}tags: !!null x\nlog: {{accesslog: {{disabled: !!bool 'true'}}}}\n")
        assert (config.collection.grace, config.catalog_max_entries, config.log.access) == (1.0, 5, False)

    @pytest.mark.parametrize("nothing", ["", "~", "null", "Null"])
    def test_null_is_absent(self, nothing: str) -> None:
        config = read(f"{BASE}  host: {nothing}\n  draintimeout: {nothing}\n  tls: {nothing}\nlog: {nothing}\n")
        assert (config.http.host, config.http.drain_timeout, config.http.tls) == (None, 30.0, None)

    def test_bare_nanoseconds_are_doubted(self) -> None:
        assert remarks(f"{BASE}  draintimeout: 30\n") == [
            "config.yml:5: http.draintimeout: '30' without a unit means nanoseconds: write 30s if seconds are meant"
        ]
        assert remarks(f"{BASE}  draintimeout: 0\n") == []
        assert remarks(f"{BASE}  draintimeout: 30000000000\n") == []


class TestLog:
    def test_defaults(self) -> None:
        assert read(BASE).log == Log("info", "text", {}, True)

    def test_all(self) -> None:
        fields = "{a: 1, b: yes, c: [x, ~], d: ~}"
        text = f"log: {{level: WARN, formatter: json, fields: {fields}, accesslog: {{disabled: true}}}}\n"
        meant = {"a": "1", "b": "yes", "c": '["x", null]', "d": ""}
        assert read(BASE + text).log == Log("warn", "json", meant, False)

    def test_deprecated_level(self) -> None:
        assert read(f"{BASE}loglevel: debug\n").log.level == "debug"
        assert read(f"{BASE}loglevel: debug\nlog: {{level: error}}\n").log.level == "error"


class TestHttp:
    def test_defaults(self) -> None:
        http = read(BASE).http
        assert (http.prefix, http.host, http.relative_urls, http.drain_timeout) == ("/", None, False, 30.0)
        assert (http.headers, http.tls, http.limits) == ({}, None, Limits(65536, 4 << 20, None, 60.0))

    def test_all(self) -> None:
        http = read(
            f"{HEAD}http:\n  addr: /run/registryd.sock\n  net: unix\n  prefix: /my/nested\n  host: https://r.example:5000/\n"
            "  relativeurls: true\n  draintimeout: 0\n  headers: {X-Content-Type-Options: [nosniff], X-A: [b, c]}\n"
            "  limits: {headers: 32KiB, manifest: 8MiB, upload: 200GB, idletimeout: 2m}\n"
        ).http
        assert (http.address, http.net, http.prefix) == ("/run/registryd.sock", "unix", "/my/nested/")
        assert (http.host, http.relative_urls, http.drain_timeout) == ("https://r.example:5000", True, 0.0)
        assert http.headers == {"X-Content-Type-Options": ("nosniff",), "X-A": ("b", "c")}
        assert http.limits == Limits(32 << 10, 8 << 20, 200 * 10**9, 120.0)

    @pytest.mark.parametrize(
        "address", [":5000", "localhost:5000", "127.0.0.1:0", "[::1]:5000", "[fe80::1%eth0]:1", ":65535"]
    )
    def test_addresses(self, address: str) -> None:
        assert read(f"{HEAD}http:\n  addr: '{address}'\n").http.address == address

    @pytest.mark.parametrize("address", ["5000", ":", ":x", ":65536", "::1:5000", "a:b:1", "/run/x.sock", "http://a:1"])
    def test_no_addresses(self, address: str) -> None:
        assert refused(f"{HEAD}http:\n  addr: '{address}'\n").startswith("config.yml:4: http.addr: ")

    def test_without_an_address_a_socket_has_to_be_handed_over(self) -> None:
        assert load_without_address({}).http.address == ""

    @pytest.mark.parametrize(
        ("prefix", "meant"),
        [("/", "/"), ("''", "/"), ("/x/", "/x/"), ("/x", "/x/"), ("x", "/x/"), ("/a/b.c/", "/a/b.c/")],
    )
    def test_prefix(self, prefix: str, meant: str) -> None:
        assert read(f"{BASE}  prefix: {prefix}\n").http.prefix == meant

    @pytest.mark.parametrize("prefix", ["/a//b/", "/../", "/a?b/", "/a b/", "/./x"])
    def test_no_prefix(self, prefix: str) -> None:
        assert refused(f"{BASE}  prefix: {prefix}\n").startswith("config.yml:5: http.prefix: ")

    def test_tls(self) -> None:
        assert read(f"{BASE}  tls: {{certificate: /c, key: /k}}\n").http.tls == Tls(
            "/c", "/k", (), "none", "tls1.2", ()
        )

    def test_tls_all(self) -> None:
        tls = read(
            f"{BASE}  tls: {{certificate: /c, key: /k, clientcas: [/a, /b], clientauth: verify-client-cert-if-given,\n"
            "    minimumtls: tls1.2, ciphersuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}\n"
        ).http.tls
        suites = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",)
        assert tls == Tls("/c", "/k", ("/a", "/b"), "verify-client-cert-if-given", "tls1.2", suites)

    def test_client_certificates_are_demanded_by_default(self) -> None:
        tls = read(f"{BASE}  tls: {{certificate: /c, key: /k, clientcas: [/a]}}\n").http.tls
        assert tls is not None and tls.client_auth == "require-and-verify-client-cert"

    def test_cipher_suites_of_tls_13(self) -> None:
        text = (
            f"{BASE}  tls: {{certificate: /c, key: /k, minimumtls: tls1.3, ciphersuites: [TLS_AES_128_GCM_SHA256]}}\n"
        )
        tls = read(text).http.tls
        assert tls is not None and (tls.minimum, tls.cipher_suites) == ("tls1.3", ())
        assert remarks(text) == ["config.yml:5: http.tls.ciphersuites: ignored: TLS 1.3 leaves no choice"]


def load_without_address(environ: Mapping[str, str]) -> Config:
    return read(HEAD, environ)


class TestListing:
    @pytest.mark.parametrize(("text", "meant"), [("", 1000), ("{maxentries: 5}", 5), ("{maxentries: 0}", 1000),
                                                 ("{maxentries: -5}", 1000)])  # fmt: skip
    def test_catalog(self, text: str, meant: int) -> None:
        assert read(f"{BASE}catalog: {text}\n").catalog_max_entries == meant

    @pytest.mark.parametrize(("text", "meant"), [("", 1000), ("{maxtags: 5}", 5), ("{maxtags: 0}", 1000)])
    def test_tags(self, text: str, meant: int) -> None:
        assert read(f"{BASE}tags: {text}\n").tags_max == meant


class TestValidation:
    def test_defaults(self) -> None:
        validation = read(BASE).validation
        assert (validation.disabled, validation.urls, validation.platforms, validation.platform_list) == (
            False,
            None,
            "all",
            (),
        )

    @pytest.mark.parametrize("urls", ["", "{}", "{allow: [], deny: }"])
    def test_urls_without_lists_refuse_all(self, urls: str) -> None:
        assert read(f"{BASE}validation:\n  manifests:\n    urls: {urls}\n").validation.urls == Urls((), ())

    def test_urls(self) -> None:
        text = r"urls: {allow: ['^https?://([^/]+\.)*example\.com/'], deny: ['^https?://www\.example\.com/']}"
        urls = read(f"{BASE}validation: {{manifests: {{{text}}}}}\n").validation.urls
        assert urls is not None
        assert urls.allow[0].search("https://a.example.com/x") and not urls.allow[0].search("https://example.org/")
        assert urls.deny[0].search("http://www.example.com/") and not urls.deny[0].search("http://a.example.com/")

    def test_platforms(self) -> None:
        text = "indexes: {platforms: List, platformlist: [{os: linux, architecture: amd64}, {os: windows}]}"
        validation = read(f"{BASE}validation: {{disabled: true, manifests: {{{text}}}}}\n").validation
        assert (validation.disabled, validation.platforms) == (True, "list")
        assert validation.platform_list == (Platform("linux", "amd64"), Platform("windows", ""))


class TestAuth:
    @pytest.mark.parametrize("text", ["", "none", "{none: }", "{none: {}}"])
    def test_none(self, text: str) -> None:
        config = read(f"{BASE}auth: {text}\n")
        assert (config.auth, config.unbuilt) == (None, ())

    def test_htpasswd(self) -> None:
        assert read(f"{BASE}auth: {{htpasswd: {{realm: 12, path: /p}}}}\n").auth == Htpasswd("12", "/p")

    def test_silly(self) -> None:
        assert read(f"{BASE}auth: {{silly: {{realm: r, service: s}}}}\n").auth == Silly("r", "s")

    def test_token(self) -> None:
        text = "{token: {realm: r, issuer: i, service: s, rootcertbundle: /b}}"
        assert read(f"{BASE}auth: {text}\n").auth == Token("r", "i", "s", "/b", None, False, "/auth/token", ())

    def test_token_all(self) -> None:
        text = (
            "{token: {realm: r, issuer: i, service: s, jwks: /j, autoredirect: true, autoredirectpath: /t,\n"
            " signingalgorithms: [ES256, PS512]}}"
        )
        meant = Token("r", "i", "s", None, "/j", True, "/t", ("ES256", "PS512"))
        assert read(f"{BASE}auth: {text}\n").auth == meant

    def test_by_environment_alone(self) -> None:
        environ = {
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "Registry Realm",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/auth/htpasswd",
        }
        assert read(BASE, environ).auth == Htpasswd("Registry Realm", "/auth/htpasswd")


class TestProxy:
    def test_none(self) -> None:
        assert read(f"{BASE}proxy: {{remoteurl: , ttl: 3h}}\n").proxy is None

    def test_distribution(self) -> None:
        text = (
            "proxy: {remoteurl: https://registry-1.docker.io/, username: u, password: 1234, ttl: 1h,\n"
            "  cachewritetimeout: 10s, exec: {command: helper, lifetime: 0}}\n"
        )
        proxy = read(BASE + text).proxy
        helper = CredentialHelper("helper", 0.0)
        remote = Upstream(("https://registry-1.docker.io",), "u", "1234", helper, None, 3600.0, 60.0, 16)
        assert proxy is not None
        assert (proxy.remote, proxy.upstreams, proxy.write_timeout) == (remote, {}, 10.0)

    def test_secrets_are_not_shown(self) -> None:
        config = read(f"{BASE}proxy: {{remoteurl: https://r.example, password: hunter2}}\n")
        assert "hunter2" not in repr(config)

    def test_upstreams(self) -> None:
        proxy = read(
            f"{BASE}proxy:\n  upstreams:\n    docker.io: {{remoteurl: https://registry-1.docker.io, username: u}}\n"
            "    quay.io: {remoteurl: [https://a.example, https://b.example], ca: /ca.pem, ttl: 720h, maxrequests: 2}\n"
            "  default: docker.io\n  private: ['team/**', 'base/*']\n  ttl: 0\n  maxsize: 200GB\n  freshness: 5s\n"
            "  maxrequests: 3\n  self: r.example\n"
        ).proxy
        assert proxy is not None
        assert proxy.upstreams == {
            "docker.io": Upstream(("https://registry-1.docker.io",), "u", "", None, None, None, 5.0, 3),
            "quay.io": Upstream(("https://a.example", "https://b.example"), "", "", None, "/ca.pem", 30 * DAY, 5.0, 2),
        }
        assert (proxy.remote, proxy.default, proxy.private) == (None, "docker.io", ("team/**", "base/*"))
        assert (proxy.max_size, proxy.own_names, proxy.write_timeout) == (200 * 10**9, ("r.example",), 300.0)

    @pytest.mark.parametrize(
        ("ttl", "meant"), [("", 7 * DAY), ("ttl: 0", None), ("ttl: -1h", None), ("ttl: 2h", 7200.0)]
    )
    def test_ttl(self, ttl: str, meant: float | None) -> None:
        proxy = read(f"{BASE}proxy: {{remoteurl: https://r.example, {ttl}}}\n").proxy
        assert proxy is not None and proxy.remote is not None and proxy.remote.ttl == meant

    def test_ttl_below_the_grace(self) -> None:
        late = "shorter than gc.grace (24h): what is cached expires only after that"
        remote = f"{BASE}proxy:\n  remoteurl: https://r.example\n"
        assert remarks(f"{remote}  ttl: 23h\n") == [f"config.yml:7: proxy.ttl: {late}"]
        assert remarks(f"{remote}  ttl: 1h\ngc: {{grace: 90m}}\n") == [
            f"config.yml:7: proxy.ttl: {late.replace('24h', '1.5h')}"
        ]
        assert remarks(f"{remote}gc: {{grace: 200h}}\n") == [f"config.yml:5: proxy.ttl: {late.replace('24h', '200h')}"]
        for enough in ("  ttl: 24h\n", "  ttl: 0\n", "", "  ttl: 2h\ngc: {grace: 2h}\n"):
            assert remarks(remote + enough) == []
        assert remarks(f"{BASE}proxy: {{remoteurl: , ttl: 3h}}\n") == []

    def test_beside_a_storage_that_is_only_read(self) -> None:
        text = "version: 0.1\nstorage:\n  filesystem: {}\n  maintenance:\n    readonly: {enabled: true}\n"
        told = "storage.maintenance.readonly: proxy fetches nothing: nothing could be stored"
        assert remarks(f"{text}proxy: {{remoteurl: https://r.example}}\n") == [f"config.yml:5: {told}"]
        assert remarks(text) == []

    def test_a_login_in_a_url_is_refused_and_not_shown(self) -> None:
        said = refused(f"{BASE}proxy: {{remoteurl: https://me:hunter2@r.example}}\n")
        assert "must not have a login in it" in said and "hunter2" not in said

    def test_the_first_example_of_the_documentation(self) -> None:
        text = re.search("```yaml\n(.*?)```", (PROJECT / "docs" / "mirror.md").read_text("utf-8"), re.DOTALL)
        assert text is not None
        config = read(text[1])
        assert (config.warnings, config.unbuilt) == ((), ())
        assert config.proxy is not None
        assert (config.proxy.default, config.proxy.private) == ("docker.io", ("team/**",))

    def test_ttls_below_the_grace_are_named_in_one_line(self) -> None:
        upstreams = (
            "  upstreams:\n    docker.io: {remoteurl: https://r.example}\n    ghcr.io: {remoteurl: https://ghcr.io}\n"
            "    Quay.io: {remoteurl: https://q.example, ttl: 2h}\n    r.example: {remoteurl: https://r.co, ttl: 48h}\n"
        )
        assert remarks(f"{BASE}proxy:\n  ttl: 1h\n{upstreams}") == [
            "config.yml:6: proxy.ttl, proxy.upstreams.Quay.io.ttl: shorter than gc.grace (24h): "
            "what is cached expires only after that"
        ]
        # Nobody's where each has its own.
        own = "    quay.io: {remoteurl: https://q.example, ttl: 0}\n"
        assert remarks(f"{BASE}proxy:\n  ttl: 1h\n  upstreams:\n{own}") == []


class TestDebug:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("", None),
            ("{addr: '', prometheus: {enabled: true}}", None),
            ("{addr: ':5001'}", Debug(":5001", None)),
            ("{addr: 'localhost:5001', prometheus: {enabled: false, path: /m}}", Debug("localhost:5001", None)),
            ("{addr: '[::1]:5001', prometheus: {enabled: true}}", Debug("[::1]:5001", "/metrics")),
            ("{addr: ':5001', prometheus: {enabled: true, path: /a/b}}", Debug(":5001", "/a/b")),
        ],
    )
    def test_debug(self, text: str, meant: Debug | None) -> None:
        assert read(f"{BASE}  debug: {text}\n").http.debug == meant

    def test_refused(self) -> None:
        assert refused(f"{BASE}  debug: {{addr: '5001'}}\n").startswith("config.yml:5: http.debug.addr: '5001' is not")
        text = "{addr: ':1', prometheus: {enabled: true, path: metrics}}"
        assert refused(f"{BASE}  debug: {text}\n").startswith("config.yml:5: http.debug.prometheus.path: 'metrics' is")


class TestCollection:
    def test_defaults(self) -> None:
        assert read(BASE).collection == Collection(DAY, "keep", None, None, ())

    def test_all(self) -> None:
        config = read(
            f"{BASE}gc:\n  grace: 1s\n  untagged: delete\n  interval: 24h\n  trash: 72h\n  retention:\n"
            "    - {repositories: 'team/**', keepnewest: 10, keeptags: [v*], deleteunused: 720h, deleteolder: 2160h}\n"
        )
        rule = Retention(("team/**",), 10, ("v*",), 30 * DAY, 90 * DAY)
        assert config.collection == Collection(1.0, "delete", DAY, 3 * DAY, (rule,))
        assert config.unbuilt == ()


ERRORS = """
6 http.tls.minimumtls: 'tls1.0' is not supported: use tls1.2 or tls1.3
  tls:
    minimumtls: tls1.0
6 http.tls.clientauth: 'x' is not supported: use request-client-cert,
  tls:
    clientauth: x
5 http.tls.key: missing: http.tls.certificate needs it
  tls:
    certificate: /c
6 http.tls.key: set without http.tls.certificate: the daemon would speak plain HTTP
  tls:
    key: /k
6 http.tls.clientcas: set without http.tls.certificate:
  tls:
    clientcas: [/a]
6 http.tls.letsencrypt: cannot stand beside http.tls.certificate
  tls:
    letsencrypt: {cachefile: /x}
    certificate: /c
6 http.tls.letsencrypt: not supported yet
  tls:
    letsencrypt: {cachefile: /x}
7 http.tls.ciphersuites: unknown TLS cipher suite 'TLS_AES_128_GCM_SHA255': did you mean TLS_AES_128_GCM_SHA256?
  tls:
    certificate: /c
    ciphersuites: [TLS_AES_128_GCM_SHA255]
    key: /k
5 http.net: 'udp' is not supported: use tcp or unix
  net: udp
5 http.host: needs a whole URL such as https://registry.example.com
  host: registry.example.com
5 http.host: needs a whole URL
  host: https://registry.example.com:99999
5 http.relativeurls: 'maybe' is neither true nor false
  relativeurls: maybe
5 http.draintimeout: '30x' is not a duration: write for example 90s
  draintimeout: 30x
5 http.draintimeout: '-3s' is negative
  draintimeout: -3s
6 http.headers.X-A: needs a list: write ['b']
  headers:
    X-A: b
5 http.headers: 'X A' cannot be the name of an HTTP header
  headers: {X A: [b]}
7 http.headers.X-A.1: 'b\\nc' cannot stand in an HTTP header
  headers:
    X-A: [a,
     "b\\nc"]
6 http.limits.upload: '4M' is not a size: write for example 4194304, 4MiB, 200GB
  limits:
    upload: 4M
6 http.limits.idletimeout: '0' is not longer than no time
  limits:
    idletimeout: 0
5 http.tls: needs a mapping of keys to values, not a single value
  tls: yes
6 http.tls.clientcas: needs a list: write ['/a']
  tls:
    clientcas: /a
5 http.tls.certificate: a path cannot hold a zero byte
  tls: {certificate: "\\0"}
5 http.prefix: needs a text, not a list
  prefix: [x]
6 log.level: 'verbose' is not supported: use error, warn, info or debug
log:
  level: verbose
6 log.formatter: 'xml' is not supported: use text, json or logstash
log:
  formatter: xml
7 log.hooks.0.levels: needs a list: write ['panic']
log:
  hooks:
    - levels: panic
5 log: needs a mapping of keys to values, not a list
log: [x]
6 tags.maxtags: -1 is negative: use at least 1
tags:
  maxtags: -1
6 tags.maxtags: '1.5' is not a whole number
tags:
  maxtags: 1.5
7 validation.manifests.urls: needs a mapping
validation:
  manifests:
    urls: [x]
8 validation.manifests.urls.allow.1: the pattern '(' is none: missing ): (
validation:
  manifests:
    urls:
      allow: [a, '(']
6 validation.manifests.indexes.platforms: 'some' is not supported: use all, none or list
validation:
  manifests: {indexes: {platforms: some}}
6 auth.htpasswd.realm: missing: auth.htpasswd needs it
auth:
  htpasswd: {path: /p}
6 auth.htpasswd.path: missing
auth:
  htpasswd: {realm: r}
6 auth.silly.service: missing
auth:
  silly: {realm: r}
6 auth.token.issuer: missing
auth:
  token: {realm: r, service: s, jwks: /j}
6 auth.token.rootcertbundle: missing, and jwks too
auth:
  token: {realm: r, service: s, issuer: i}
6 auth.token.signingalgorithms: 'none' is none of EdDSA
auth:
  token: {jwks: /j, signingalgorithms: [none]}
7 auth.token: must provide exactly one type. Provided: [silly token]
auth:
  silly:
  token:
6 auth.ldap: no such type: use htpasswd, token, silly or none
auth:
  ldap: {}
5 auth.ldap: no such type
auth: ldap
6 notifications.endpoints.0.timeout: '1' is not a duration
notifications:
  endpoints: [{timeout: '1'}]
6 redis.db: 'x' is not a whole number
redis:
  db: x
6 health.storagedriver.enabled: '1' is neither true nor false
health:
  storagedriver: {enabled: 1}
6 health.tcp: needs a list, not a mapping
health:
  tcp: {addr: x}
6 middleware.storage: needs a list
middleware:
  storage: cloudfront
6 compatibility.schema1.enabled: 'x' is neither
compatibility:
  schema1: {enabled: x}
6 reporting.newrelic.verbose: 'x' is neither
reporting:
  newrelic: {verbose: x}
6 policy.repository.classes: needs a list
policy:
  repository: {classes: image}
6 proxy.ttl: '1w' is not a duration
proxy:
  ttl: 1w
6 proxy.remoteurl.0: needs a whole URL
proxy:
  remoteurl: [registry-1.docker.io]
7 proxy.remoteurl: cannot stand beside proxy.upstreams
proxy:
  upstreams: {b: {remoteurl: 'https://b'}}
  remoteurl: https://a
7 proxy.upstreams.b.remoteurl: missing
proxy:
  upstreams:
    b:
6 proxy.upstreams.b.maxrequests: 0 is too few
proxy:
  upstreams: {b: {remoteurl: 'https://b', maxrequests: 0}}
7 proxy.default: 'dokcer.io' is none of proxy.upstreams: did you mean docker.io?
proxy:
  upstreams: {docker.io: {remoteurl: 'https://b'}}
  default: dokcer.io
7 proxy.private: means something only beside proxy.default
proxy:
  upstreams: {docker.io: {remoteurl: 'https://b'}}
  private: [a]
6 proxy.exec.command: missing
proxy:
  exec: {lifetime: 1h}
  remoteurl: https://b
6 gc.grace: '-1h' is negative
gc:
  grace: -1h
6 gc.untagged: 'drop' is not supported: use keep or delete
gc:
  untagged: drop
7 gc.retention.1.deleteolder: '0' is not longer
gc:
  retention: [{},
    {deleteolder: 0}]
6 gc.retention.0.keepnewest: -1 is negative
gc:
  retention: [{keepnewest: -1}]
6 gc.retention.0.repositories: missing
gc:
  retention: [{keepnewest: 1}]
"""
"""Texts that come after ``BASE``, each below the line that it is refused with."""
CASES = re.findall(r"^([0-9] .*)\n((?:[^0-9].*\n)+)", ERRORS, re.MULTILINE)


@pytest.mark.parametrize(("problem", "text"), CASES)
def test_error_names_key_and_line(problem: str, text: str) -> None:
    assert refused(BASE + text).startswith(f"config.yml:{problem.replace(' ', ': ', 1)}")


def test_all_cases_are_found() -> None:
    assert len(CASES) == len(re.findall("^[0-9] ", ERRORS, re.MULTILINE)) > 50


def test_error_of_a_storage_section_names_its_line() -> None:
    text = "version: 0.1\nstorage:\n  filesystem:\n    maxthreads: many\n"
    assert refused(text) == "config.yml:4: storage.filesystem.maxthreads: 'many' is not a whole number"
    text = "version: 0.1\nstorage:\n  filesystem:\n  maintenance:\n    uploadpurging:\n      interval: 0\n"
    assert refused(text).startswith("config.yml:6: storage.maintenance.uploadpurging.interval: '0' is not longer")
    text = "version: 0.1\nstorage:\n  filesystem:\n  delete: true\n"
    assert refused(text).startswith("config.yml:4: storage.delete: needs a mapping")
    text = "version: 0.1\nstorage:\n  filesystem:\n  cache:\n    blobdescriptor: disk\n"
    assert refused(text) == "config.yml:5: storage.cache.blobdescriptor: 'disk' is not supported: use inmemory or redis"


class TestYaml:
    """What the text itself can do wrong."""

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (f"{BASE}a: b: c\n", "config.yml:5: not valid YAML: mapping values are not allowed here"),
            (f"{BASE}log:\n\tlevel: x\n", "config.yml:6: not valid YAML: "),
            (f"{BASE}log: [a,\n", "config.yml:6: not valid YAML: "),
            (f"{BASE}log: *nothing\n", "config.yml:5: not valid YAML: found undefined alias"),
            (f"{BASE}log: !thing x\n", "config.yml:5: the tag '!thing' has no meaning here"),
            (f"{BASE}log: !!python/name:os.system x\n", "config.yml:5: the tag '!!python/name:os.system' has no "),
            (f"{BASE}? [a]\n: b\n", "config.yml:5: a key must be a single word"),
            (f"{BASE}<<: x\n", "config.yml:5: only mappings can be merged"),
            (f"{BASE}http: {{}}\n", "config.yml:5: the key 'http' is written twice: first at config.yml:3"),
            (f'{BASE}x: "\\UFFFFFFFF"\n', "config.yml:1: not valid YAML: "),
            (f"{BASE}x: \x07\n", "config.yml:5: not valid YAML: special characters are not allowed"),
        ],
    )
    def test_error_names_the_line(self, text: str, problem: str) -> None:
        assert refused(text).startswith(problem)

    def test_not_utf8(self) -> None:
        assert refused(BASE.encode() + b"# caf\xe9\n") == "config.yml:5: not UTF-8 text"

    def test_too_large(self) -> None:
        assert "larger than the 1048576 bytes" in refused(BASE + "#" * (1 << 20))

    def test_too_deep(self) -> None:
        assert refused("a: " + "[" * 100_000).endswith("nested deeper than 64 levels")
        assert refused("a: &a [*a]\n").endswith("nested deeper than 64 levels")

    def test_alias_bomb(self) -> None:
        levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
        assert "more than 10000 values" in refused("\n".join(["l0: &l0 x", *levels]))

    def test_bounds(self) -> None:
        """What lies just within them is fine."""
        assert read(BASE + "#" * ((1 << 20) - len(BASE))).http.address == ":5000"
        assert read(f"{BASE}x: {'[' * 63}{']' * 63}\n").http.address == ":5000"
        assert "nested deeper" in refused(f"{BASE}x: {'[' * 64}{']' * 64}\n")

    def test_anchors_and_merges(self) -> None:
        config = read(
            f"{BASE}x-a: &a {{level: debug, formatter: json}}\nlog: {{level: error, <<: *a}}\n"
            "redis: {<<: [{addr: a}, {addr: b, db: 3}]}\n"
        )
        assert (config.log.level, config.log.formatter) == ("error", "json")

    def test_only_the_first_document_counts(self) -> None:
        text = f"{BASE}---\nhttp: {{addr: ':1'}}\n"
        assert read(text).http.address == ":5000"
        assert remarks(text) == ["config.yml: what follows its second '---' is not read"]


class TestUnknownKeys:
    def test_named_with_line_and_suggestion(self) -> None:
        assert remarks(f"{BASE}  adr: x\nhtpp: {{}}\nHTTP: {{}}\nxyzzy: 1\n") == [
            "config.yml:5: http.adr: unknown key, ignored (did you mean http.addr?)",
            "config.yml:6: htpp: unknown key, ignored (did you mean http?)",
            "config.yml:7: HTTP: unknown key, ignored (did you mean http?)",
            "config.yml:8: xyzzy: unknown key, ignored",
        ]

    def test_wrong_indentation(self) -> None:
        assert remarks(f"{BASE}rootdirectori: /x\nmaxtags: 3\n") == [
            "config.yml:5: rootdirectori: unknown key, ignored",
            "config.yml:6: maxtags: unknown key, ignored (did you mean tags.maxtags?)",
        ]

    def test_in_lists_and_unbuilt_sections(self) -> None:
        lines = remarks(f"{BASE}notifications:\n  endpoints:\n    - nmae: x\n")
        assert lines == [
            "config.yml:7: notifications.endpoints.0.nmae: unknown key, ignored (did you mean "
            "notifications.endpoints.0.name?)"
        ]

    def test_there_are_not_endlessly_many(self) -> None:
        assert len(remarks(BASE + "".join(f"x{n}: 1\n" for n in range(300)))) == 101


class TestEnvironment:
    """The rules of Distribution's parser."""

    def test_shorter_names_go_first(self) -> None:
        environ = {
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/specific",
            "REGISTRY_STORAGE": "{filesystem: {rootdirectory: /whole, maxthreads: 50}, delete: {enabled: true}}",
        }
        storage = read(BASE, environ).storage
        assert (storage.rootdirectory, storage.threads, storage.delete) == ("/specific", 50, True)

    def test_whole_section_replaces(self) -> None:
        text = BASE.replace("/data}", "/data}, delete: {enabled: true}")
        assert read(text).storage.delete
        assert not read(text, {"REGISTRY_STORAGE": "{filesystem: {rootdirectory: /x}}"}).storage.delete
        assert read(text, {"REGISTRY_STORAGE": "inmemory"}).storage.driver == "inmemory"

    def test_empty_value_unsets(self) -> None:
        text = f"{BASE}  host: https://r.example\nauth: {{silly: {{realm: r, service: s}}}}\n"
        config = read(text, {"REGISTRY_HTTP_HOST": "", "REGISTRY_AUTH": ""})
        assert (config.http.host, config.auth) == (None, None)

    def test_names_are_upper_case(self) -> None:
        config = read(BASE, {"REGISTRY_http_addr": ":1", "registry_HTTP_ADDR": ":2", "REGISTRYHTTP_ADDR": ":3"})
        assert config.http.address == ":5000"
        assert len(config.warnings) == 1 and config.warnings[0].startswith("REGISTRY_http_addr: unrecognized")

    def test_lists_by_index(self) -> None:
        text = f"{BASE}  tls: {{certificate: /c, key: /k, clientcas: [/a, /b]}}\n"
        tls = read(text, {"REGISTRY_HTTP_TLS_CLIENTCAS_1": "/x", "REGISTRY_HTTP_TLS_CLIENTCAS_2": "/y"}).http.tls
        assert tls is not None and tls.client_cas == ("/a", "/x", "/y")

    def test_lists_grow_from_nothing_beyond_ten(self) -> None:
        environ = {f"REGISTRY_PROXY_PRIVATE_{n}": f"p{n}" for n in range(12)}
        environ["REGISTRY_PROXY_UPSTREAMS"] = "{docker.io: {remoteurl: https://r.example}}"
        environ["REGISTRY_PROXY_DEFAULT"] = "docker.io"
        proxy = read(BASE, environ).proxy
        assert proxy is not None and proxy.private == tuple(f"p{n}" for n in range(12))

    def test_index_beyond_the_next(self) -> None:
        line = refused(BASE, {"REGISTRY_HTTP_TLS_CLIENTCAS_1": "/x"})
        assert line == "REGISTRY_HTTP_TLS_CLIENTCAS_1: undefined index 1: the next one is 0"

    @pytest.mark.parametrize("index", ["A", "-1", "", "1.5", "\u0663", "9999999999"])
    def test_index_is_a_number(self, index: str) -> None:
        assert "a list is indexed by a number" in refused(BASE, {f"REGISTRY_HTTP_TLS_CLIENTCAS_{index}": "/x"})

    def test_list_of_sections(self) -> None:
        environ = {
            "REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMLIST_0_OS": "linux",
            "REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMLIST_0_ARCHITECTURE": "arm64",
        }
        assert read(BASE, environ).validation.platform_list == (Platform("linux", "arm64"),)

    def test_new_keys_of_maps_are_lower_case(self) -> None:
        config = read(
            f"{BASE}log: {{fields: {{Service: a}}}}\n",
            {"REGISTRY_LOG_FIELDS_ENV": "x", "REGISTRY_LOG_FIELDS_SERVICE": "b"},
        )
        assert config.log.fields == {"Service": "b", "env": "x"}

    def test_headers_are_overridden_whatever_their_case(self) -> None:
        config = read(
            f"{BASE}  headers: {{X-Foo: [a]}}\n",
            {"REGISTRY_HTTP_HEADERS_X-FOO": "[b]", "REGISTRY_HTTP_HEADERS_X-BAR_0": "c"},
        )
        assert config.http.headers == {"X-Foo": ("b",), "x-bar": ("c",)}

    def test_below_a_section_that_the_file_has(self) -> None:
        """Distribution ignores this variable: it cannot set keys of a map that came from the file."""
        text = BASE.replace("/data}", "/data}, maintenance: {uploadpurging: {enabled: true, age: 1h}}")
        name = "REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING"
        assert read(text, {f"{name}_ENABLED": "false"}).storage.purging is None
        assert read(text, {f"{name}_AGE": "2h"}).storage.purging == Purging(7200.0, DAY, False)

    @pytest.mark.parametrize(
        "name",
        [
            "REGISTRY_PORT",
            "REGISTRY_SERVICE_HOST",
            "REGISTRY_SERVICE_PORT_HTTP",
            "REGISTRY_PORT_5000_TCP",
            "REGISTRY_PORT_5000_TCP_ADDR",
            "REGISTRY_HTTP_SERVICE_HOST",
        ],
    )
    def test_service_links_only_warn(self, name: str) -> None:
        config = read(BASE, {name: "tcp://10.0.0.1:5000"})
        assert len(config.warnings) == 1
        assert config.warnings[0].startswith(
            f"{name}: unrecognized environment variable, ignored (it looks like a service"
        )

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("REGISTRY_NOTIFICATIONS_EVENTS_INCLUDEREFERENCES", "REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES"),
            ("REGISTRY_HTTP_ADRR", "REGISTRY_HTTP_ADDR"),
            ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIR", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"),
        ],
    )
    def test_mistyped_names_only_warn(self, wrong: str, right: str) -> None:
        assert remarks(BASE, {wrong: "x"}) == [
            f"{wrong}: unrecognized environment variable, ignored (did you mean {right}?)"
        ]

    @pytest.mark.parametrize(
        "name",
        [
            "REGISTRY_HEALTH_FILE_0_FILE",
            "REGISTRY_LOG_HOOKS_0_OPTIONS",
            "REGISTRY_",
            "REGISTRY_HTTP_",
            "REGISTRY_HTTP_ADDR_X",
            "REGISTRY_HTTP_HOST_X",
            "REGISTRY_LOG_LEVEL_0",
            "REGISTRY_STORAGE_FILESYSTEM_MAX_THREADS",
        ],
    )
    def test_names_that_lead_nowhere(self, name: str) -> None:
        config = read(BASE, {name: "x"})
        assert len(config.warnings) == 1 and config.warnings[0].startswith(f"{name}: unrecognized")
        assert config.unbuilt == ()

    def test_field_names(self) -> None:
        config = read(BASE, {
            "REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES": "true",
            "REGISTRY_HEALTH_FILECHECKERS_0_FILE": "/f",
            "REGISTRY_HEALTH_HTTPCHECKERS_0_URI": "http://h/",
            "REGISTRY_HEALTH_TCPCHECKERS_0_ADDR": "h:1",
            "REGISTRY_LOG_HOOKS_0_MAILOPTIONS_SMTP_ADDR": "m:25",
            "REGISTRY_COMPATIBILITY_SCHEMA1_TRUSTKEY": "/k",
            "REGISTRY_REDIS_ADDRS_0": "h:6379",
        })  # fmt: skip
        assert (config.warnings, config.unbuilt) == ((), ("health", "log.hooks", "redis"))

    def test_version_is_the_files_alone(self) -> None:
        assert remarks(BASE, {"REGISTRY_VERSION": "2.8.3"}) == [
            "REGISTRY_VERSION: ignored: only the file tells its version"
        ]

    def test_error_names_the_variable(self) -> None:
        assert refused(BASE, {"REGISTRY_LOG_LEVEL": "bad"}) == (
            "REGISTRY_LOG_LEVEL: log.level: 'bad' is not supported: use error, warn, info or debug"
        )
        assert refused(BASE, {"REGISTRY_LOG": "{level: bad}"}).startswith("REGISTRY_LOG: log.level: 'bad'")
        assert refused(BASE, {"REGISTRY_HTTP_ADDR": "[x"}).startswith("REGISTRY_HTTP_ADDR: not valid YAML: ")
        assert refused(BASE, {"REGISTRY_HTTP_TLS": "x"}).startswith("REGISTRY_HTTP_TLS: http.tls: needs a mapping")

    def test_below_a_single_value_of_the_file(self) -> None:
        line = refused(f"{BASE}log: x\n", {"REGISTRY_LOG_LEVEL": "info"})
        assert line == "config.yml:5: needs a mapping of keys to values, for REGISTRY_LOG_LEVEL to set one"

    def test_every_key_has_its_variable(self) -> None:
        """All but those of lists and maps of the operator's choice, whose names need more than keys."""
        for name in variables():
            assert not any("unrecognized" in line for line in warnings_of({name: ""})), name


def warnings_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    try:
        return read(BASE, environ).warnings
    except ConfigError:
        return ()


EXAMPLE = """\
version: 0.1
log: {fields: {service: registry}}
storage:
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: /var/lib/registry}
  tag: {concurrencylimit: 8}
http:
  addr: :5000
  headers: {X-Content-Type-Options: [nosniff]}
auth:
  htpasswd: {realm: basic-realm, path: /etc/registry}
health:
  storagedriver: {enabled: true, interval: 10s, threshold: 3}
"""
DEVELOPMENT = """\
version: 0.1
log:
  level: debug
  fields: {service: registry, environment: development}
storage:
  delete: {enabled: true}
  cache: {blobdescriptor: inmemory}
  filesystem: {rootdirectory: /var/lib/registry}
  maintenance: {uploadpurging: {enabled: false}}
  tag: {concurrencylimit: 8}
http:
  addr: :5000
  debug:
    addr: :5001
    prometheus: {enabled: true, path: /metrics}
  headers: {X-Content-Type-Options: [nosniff]}
health:
  storagedriver: {enabled: true, interval: 10s, threshold: 3}
"""
CACHE = """\
version: 0.1
log: {level: debug}
storage:
  cache: {blobdescriptor: redis}
  filesystem: {rootdirectory: /var/lib/registry-cache}
  maintenance: {uploadpurging: {enabled: false}}
http:
  addr: :5000
  secret: asecretforlocaldevelopment
  debug:
    addr: localhost:5001
redis:
  addr: localhost:6379
  pool: {maxidle: 16, maxactive: 64, idletimeout: 300s}
  dialtimeout: 10ms
notifications:
  events: {includereferences: true}
  endpoints:
    - {name: local, url: "http://localhost:5003/callback", headers: {Authorization: [Bearer x]}, disabled: true,
       timeout: 1s, threshold: 10, backoff: 1s}
proxy:
  remoteurl: https://registry-1.docker.io
  username: username
  password: password
  ttl: 168h
"""


class TestDistributionsFiles:
    """Of the shape of the three that it ships."""

    def test_example(self) -> None:
        config = read(EXAMPLE)
        assert config.auth == Htpasswd("basic-realm", "/etc/registry")
        assert (config.warnings, config.unbuilt) == ((), ("auth.htpasswd", "health"))

    def test_development(self) -> None:
        config = read(DEVELOPMENT)
        assert (config.log.level, config.log.fields["environment"]) == ("debug", "development")
        assert (config.storage.delete, config.storage.purging) == (True, None)
        assert (config.warnings, config.unbuilt) == ((), ("health",))

    def test_cache(self) -> None:
        config = read(CACHE)
        assert config.storage.rootdirectory == "/var/lib/registry-cache"
        assert config.proxy is not None and config.proxy.remote is not None
        assert config.proxy.remote.urls == ("https://registry-1.docker.io",)
        assert (config.warnings, config.unbuilt) == (
            (),
            ("storage.cache.blobdescriptor: redis", "redis"),
        )


class TestUnbuilt:
    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("log: {hooks: [{type: mail, levels: [panic]}]}", "log.hooks"),
            ("log: {reportcaller: true}", "log.reportcaller"),
            ("auth: {htpasswd: {realm: r, path: /p}}", "auth.htpasswd"),
            ("auth: {token: {realm: r, issuer: i, service: s, jwks: /j}}", "auth.token"),
            ("middleware: {storage: [{name: cloudfront, options: {a: b}}]}", "middleware"),
            ("reporting: {bugsnag: {apikey: x}}", "reporting"),
            ("notifications: {endpoints: [{name: a, disabled: true}, {name: b, url: http://b}]}", "notifications"),
            ("redis: {addrs: ['h:1']}", "redis"),
            ("health: {file: [{file: /x}]}", "health"),
            ("compatibility: {schema1: {enabled: true}}", "compatibility"),
            ("policy: {repository: {classes: [image]}}", "policy"),
        ],
    )
    def test_named(self, text: str, named: str) -> None:
        assert read(f"{BASE}{text}\n").unbuilt == (named,)

    @pytest.mark.parametrize("text", ["h2c: {enabled: true}"])
    def test_named_below_http(self, text: str) -> None:
        assert read(f"{BASE}  {text}\n").unbuilt == (f"http.{text.partition(':')[0]}",)

    @pytest.mark.parametrize(
        "text",
        [
            "log: {hooks: [{type: mail, disabled: true}], reportcaller: false}",
            "auth: none",
            "middleware: {storage: [{name: cloudfront, disabled: true}], registry: []}",
            "reporting: {bugsnag: {endpoint: x}}",
            "notifications: {events: {includereferences: true}, endpoints: [{name: a, disabled: true}]}",
            "redis: {db: 3}",
            "health: {storagedriver: {enabled: false, interval: 10s}, file: []}",
            "proxy: {ttl: 3h}",
            "compatibility: {schema1: {signingkeyfile: /k, enabled: false}}",
            "validation: {enabled: true}",
            "gc: {untagged: keep, interval: 0, grace: 2h}",
        ],
    )
    def test_turned_off_is_not_named(self, text: str) -> None:
        config = read(f"{BASE}{text}\n")
        assert (config.unbuilt, config.warnings) == ((), ())

    def test_harmless_is_not_named(self) -> None:
        config = read(
            "version: 0.1\nstorage:\n  filesystem:\n  redirect: {disable: true}\n  tag: {concurrencylimit: 8}\n"
            "  cache: {layerinfo: inmemory, blobdescriptorsize: 3}\nhttp:\n  addr: h:1\n  secret: s\n"
            "  http2: {disabled: true}\n  h2c: {enabled: false}\n  debug: {prometheus: {enabled: true}}\n"
        )
        assert (config.unbuilt, config.warnings) == ((), ())

    def test_table_names_keys_that_exist(self) -> None:
        assert set(BUILT) <= set(dotted_keys())


NAMES = sorted({part for key in dotted_keys() for part in key.split(".")} | {"x", "", "<<", "docker.io", "X-A"})
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["0.1", ":5000", "inmemory", "1h", "4MiB", "tls1.2", "https://r.example", "yes", "(", "a*", "\0"]),
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
PARTS = sorted({part for name in variables() for part in name.split("_")[1:]} | {"0", "1", "X", ""})
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def judge(text: str | bytes, environ: Mapping[str, str]) -> None:
    """Nothing but a Config or a ConfigError of one printable line."""
    try:
        config = read(text, environ)
    except ConfigError as error:
        assert str(error).isprintable() and str(error)
    else:
        assert all(line.isprintable() for line in (*config.warnings, *config.unbuilt))
        assert attrs.evolve(config) == config


class TestAnyText:
    @FUZZ
    @given(st.text() | st.text(alphabet="[]{}:,-&*!|>'\"%@`#? \n\t\\<a0", max_size=60))
    def test_text(self, text: str) -> None:
        judge(text, {})
        judge(BASE + text, {})

    @FUZZ
    @given(st.binary())
    def test_bytes(self, content: bytes) -> None:
        judge(content, {})
        judge(BASE.encode() + content, {})

    @FUZZ
    @given(st.dictionaries(st.sampled_from(list(ROOT.keys)), TREES, max_size=4))
    def test_trees(self, tree: dict[str, object]) -> None:
        judge(yaml.dump({"version": 0.1, "storage": "inmemory", "http": {"addr": ":1"}, **tree}), {})

    @FUZZ
    @given(st.data())
    def test_one_key_at_a_time(self, data: st.DataObject) -> None:
        tree = data.draw(TREES)
        for name in reversed(data.draw(st.sampled_from(list(dotted_keys()))).split(".")):
            tree = {name: tree}
        assert isinstance(tree, dict)
        judge(yaml.dump({"version": 0.1, "storage": "inmemory", "http": {"addr": ":1"}, **tree}), {})

    @FUZZ
    @given(
        st.dictionaries(
            st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(lambda parts: "_".join(["REGISTRY", *parts]))
            | st.sampled_from(list(variables())),
            st.text(max_size=12) | TREES.map(lambda tree: yaml.dump(tree)) | st.just("\udcff"),
            max_size=5,
        )
    )
    def test_environment(self, environ: dict[str, str]) -> None:
        judge(BASE, environ)

    @FUZZ
    @given(st.text(alphabet="REGISTY_HTP0A\n\udcff=.-"), st.text())
    def test_any_variable(self, name: str, value: str) -> None:
        judge(BASE, {f"REGISTRY_{name}": value})

    def test_nothing_takes_long(self) -> None:
        start = time.process_time()
        judge("{" * 300_000, {})
        judge(BASE + "".join(f"x{n}: {n}\n" for n in range(9_000)), {})
        judge(BASE + "x: '" + "a" * 300_000 + "'\n", {})
        judge(BASE + "a" * 300_000 + ": b\n", {})
        judge(f"{BASE}gc: {{grace: {'1' * 900_000}}}\n", {})
        assert time.process_time() - start < 20


ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "[a-c]", r"\.", r"\d", r"\W", "[[:alpha:]]", "c", r"\x61", r"\b", "^", "$"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | inner.map(lambda part: f"(?:{part})*")
        | inner.map(lambda part: f"({part})+?")
        | inner.map(lambda part: f"(?i:{part})?")
        | inner.map(lambda part: f"(?:{part}){{1,2}}")
    ),
    max_leaves=8,
)


class TestPatterns:
    """Go's regular expressions, in linear time."""

    def test_as_go_reads_them(self) -> None:
        assert Pattern(r"^https?://([^/]+\.)*example\.com/").search("https://a.b.example.com/x")
        assert not Pattern(r"a\z").search("a\n")
        with pytest.raises(Invalid):
            Pattern("(?=a)")

    @FUZZ
    @given(st.text() | st.text(alphabet=r"()[]{}*+?|\^$.:-0123,Qabdpsx"), st.text(max_size=20))
    def test_any_text(self, pattern: str, text: str) -> None:
        try:
            compiled = Pattern(pattern)
        except Invalid:
            return
        assert compiled.search(text) in (True, False)

    def test_hostile_text_takes_no_longer(self) -> None:
        """With Python's re the example of Distribution's documentation would take longer than the universe has."""
        pattern = Pattern(r"^https?://([^/]+\.)*example\.com/")
        start = time.process_time()
        assert not pattern.search("https://" + "a." * 50_000 + "x/")
        assert time.process_time() - start < 10

    def test_equal_by_text(self) -> None:
        assert Pattern("a+") == Pattern("a+") != Pattern("a*")


class TestShipped:
    """The example files and the documentation."""

    @pytest.mark.parametrize("path", sorted((PROJECT / "conf").glob("config*.yml")), ids=lambda path: path.name)
    def test_examples_ask_for_nothing_unknown(self, path: Path) -> None:
        config = load(str(path), {})
        assert config.warnings == ()

    def test_production_example(self) -> None:
        config = load(str(PROJECT / "conf" / "config.yml"), {})
        assert (config.storage.rootdirectory, config.http.address, config.unbuilt) == ("/var/lib/registry", ":5000", ())

    def test_tls_example(self) -> None:
        config = load(str(PROJECT / "conf" / "config-tls.yml"), {})
        assert config.http.tls is not None and config.unbuilt == ()

    def test_every_key_is_documented(self) -> None:
        text = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
        words = {word for code in re.findall("`([^`\n]+)`", text) for word in re.findall("[a-z0-9_]+", code)}
        assert [key for key in dotted_keys() if key.rpartition(".")[2] not in words] == []
