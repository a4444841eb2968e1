"""TLS to the upstream and on both ports, with certificates made for the test by the `openssl` command."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import warnings

import pytest
from e2e.stack import Process, Proxy, free_address, get, stopping, wait_until
from e2e.test_failures import assert_our_error
from e2e.wire import Client, answer, ask, post, upstream

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes the certificates, is missing"
)
CHAT = post("/chat/completions", b'{"model":"deepseek-flash"}')


class Authority:
    """A CA of the test's, and what it signs."""

    def __init__(self, folder):
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._ca_key = folder / "ca.key"
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._ca_key, "-out", self.ca, "-subj", "/CN=a test's authority"
        )

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def certificate(self, name, *, names="IP:127.0.0.1", days="2"):
        """A certificate and its key, signed by this authority."""
        made, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        signing = ("-CA", self.ca, "-CAkey", self._ca_key, "-days", days, "-addext", f"subjectAltName={names}")
        self._openssl("req", "-x509", *_NEW_KEY, "-keyout", key, "-out", made, "-subj", f"/CN={name}", *signing)
        return made, key

    def self_signed(self, name):
        """One that nobody vouches for."""
        made, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            key,
            "-out",
            made,
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        )
        return made, key


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


async def answering(_heard, writer):
    writer.write(answer(b"{}"))


def server_side(certificate, key, *, newest=None):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    if newest is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


class TlsUpstream:
    """An upstream that speaks TLS, on a thread of its own: accepts, answers, counts the requests it got to see."""

    def __init__(self, context):
        self._context = context
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                with connection, self._context.wrap_socket(connection, server_side=True) as wrapped:
                    wrapped.settimeout(5)
                    if wrapped.recv(65536):
                        self.requests += 1
                        wrapped.sendall(answer(b'{"over":"tls"}', b"Connection: close"))
            except OSError:
                continue


def through(tmp_path, server, *, ca_file="", named=False):
    """One exchange with a TLS upstream: what the client saw."""
    ca = f'ca_file = "{ca_file}"\n' if ca_file else ""
    toml = f"[upstream]\n{ca}"
    url = f"https://{server.address}"
    if named:
        toml = f'[[upstreams]]\nname = "own"\nurl = "{url}"\nmodels = ["deepseek-flash"]\n{ca}'
        url = "http://127.0.0.1:1"
    proxy = Proxy(tmp_path, url, toml=toml)
    with stopping(proxy):
        proxy.wait_ready()
        return asyncio.run(ask(proxy.api, CHAT))


@pytest.mark.parametrize("named", [False, True], ids=["the upstream", "a named upstream"])
def test_an_upstream_of_an_own_authority_is_trusted_where_it_is_named(tmp_path, authority, named):
    """`ca_file`, for `[upstream]` and for each of `[[upstreams]]`."""
    with TlsUpstream(server_side(*authority.certificate("good"))) as server:
        seen = through(tmp_path, server, ca_file=authority.ca, named=named)

    assert (seen.status, seen.body, server.requests) == (200, b'{"over":"tls"}', 1)


@pytest.mark.parametrize("case", ["self-signed", "unknown authority", "another name", "expired"])
def test_an_upstream_that_cannot_prove_itself_is_a_502(tmp_path, authority, case):
    """The client is told that it is the certificate, and where to look; the upstream sees no request and no key."""
    made = {
        "self-signed": lambda: authority.self_signed("self"),
        "unknown authority": lambda: authority.certificate("good"),
        "another name": lambda: authority.certificate("other", names="DNS:api.deepseek.com"),
        "expired": lambda: authority.certificate("old", days="-1"),
    }
    try:
        context = server_side(*made[case]())
    except subprocess.CalledProcessError:
        pytest.skip("this openssl makes no expired certificates")
    with TlsUpstream(context) as server:
        seen = through(tmp_path, server, ca_file="" if case in ("self-signed", "unknown authority") else authority.ca)

    assert_our_error(seen, 502, "upstream_unreachable")
    assert b"certificate" in seen.body
    assert b"ca_file" in seen.body
    assert server.requests == 0


def test_an_upstream_that_speaks_only_tls_1_1_is_a_502(tmp_path, authority):
    """1.2 is the oldest."""
    context = server_side(*authority.certificate("good"), newest=ssl.TLSVersion.TLSv1_1)
    with TlsUpstream(context) as server:
        seen = through(tmp_path, server, ca_file=authority.ca)

    assert_our_error(seen, 502, "upstream_unreachable")
    assert server.requests == 0


@pytest.fixture(scope="module")
def listening(tmp_path_factory, authority):
    """A proxy with a certificate on both ports, and the address its upstream is to be played at."""
    certificate, key = authority.certificate("proxy")
    both = f'tls_certificate_file = "{certificate}"\ntls_key_file = "{key}"\n'
    address = free_address()
    folder = tmp_path_factory.mktemp("listening")
    proxy = Proxy(folder, f"http://{address}", toml=f"[gateway]\n{both}[console]\n{both}")
    with stopping(proxy):
        context = ssl.create_default_context(cafile=authority.ca)
        wait_until(lambda: "console  https://" in proxy.output, what=proxy.output)
        wait_until(lambda: status_over(context, proxy.console, "/readyz") == 200, what="ready")
        yield proxy, address, context


def status_over(context, address, path):
    """The status of a GET over TLS; 0 where there is no connection."""
    host, port = address.split(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            wrapped.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            return int(wrapped.recv(4096).split()[1])
    except OSError as error:
        if isinstance(error, ssl.SSLError):
            raise
        return 0


def test_clients_may_come_over_tls(listening):
    """Bodies and streams pass as over plain HTTP, the console too."""
    proxy, address, context = listening

    async def run():
        async with upstream(answering, address) as state:
            host, port = proxy.api.split(":")
            client = Client(proxy.api)
            client._reader, client._writer = await asyncio.open_connection(host, int(port), ssl=context)
            await client.send(CHAT)
            seen = await client.head()
            await client.body()
            await client.close()
            return state.heard, seen

    heard, seen = asyncio.run(run())

    assert (seen.status, seen.body, len(heard)) == (200, b"{}", 1)
    assert status_over(context, proxy.console, "/metrics") == 200


@pytest.mark.parametrize("port", ["api", "console"])
def test_clients_with_tls_1_1_are_refused(listening, port, authority):
    """On both ports."""
    proxy, _, _ = listening
    old = ssl.create_default_context(cafile=authority.ca)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError):
        status_over(old, getattr(proxy, port), "/")


def test_plain_http_on_a_port_with_tls_is_no_answer(listening):
    """Nothing is ever sent in the clear."""
    proxy, _, _ = listening

    assert get(f"http://{proxy.api}/models")[0] == 0
    assert get(f"http://{proxy.console}/metrics")[0] == 0


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('[gateway]\ntls_certificate_file = "nowhere.pem"\n', "one needs the other"),
        (
            '[console]\ntls_certificate_file = "no.pem"\ntls_key_file = "no.key"\n',
            "[console] tls_certificate_file no.pem",
        ),
        ('[upstream]\nca_file = "nowhere.pem"\n', "upstream default: ca_file nowhere.pem"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, toml, expected):
    """At the start, before anything runs."""
    (tmp_path / "meter.toml").write_text(toml)
    process = Process(
        ["serve", "--config", str(tmp_path / "meter.toml"), "--data-dir", str(tmp_path / "d")], tmp_path / "log"
    )

    assert process.child.wait(30) == 2
    assert expected in process.output
    assert "Traceback" not in process.output
