"""data/sources/cifar10.py and download.py: the official archive, served by a local https server."""

import hashlib
import io
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from data import dataset
from data.cache import ensure, read_array, read_meta
from data.config import DataConfig
from data.download import Archive, fetch
from data.errors import DataError
from data.sources.cifar10 import CLASSES, TEST_FILES, TRAIN_FILES, Cifar10


def records(count: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    pixels[:, 0] = np.arange(count) % 10
    return pixels


def archive_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


FILES = {name: records(20, seed).tobytes() for seed, name in enumerate((*TRAIN_FILES, *TEST_FILES))}
CONTENT = archive_of({"batches.meta.txt": b"airplane\n", **FILES})


@dataclass
class Site:
    """A small web site; its fields select the fault that it simulates."""

    content: bytes = CONTENT
    breaks_after: int | None = None
    """Number of bytes after which every response is cut off."""

    supports_ranges: bool = True
    redirects_to: str | None = None
    status: int | None = None
    port: int = 0
    requested_ranges: list[str] = field(default_factory=list)
    """The Range header of each request, or an empty string."""

    def archive(self) -> Archive:
        return Archive(f"https://127.0.0.1:{self.port}/c.tar.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("the openssl program, which makes the certificate of the test server, is not installed")
    path = tmp_path_factory.mktemp("https") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    path.write_text(Path(f"{path}.key").read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=f"{certificate}.crt")


@pytest.fixture
def site(certificate: Path) -> Iterator[Site]:
    site = Site()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = self.headers["Range"] or ""
            site.requested_ranges.append(requested)
            if site.redirects_to or site.status:
                self.send_response(site.status or 302)
                self.send_header("Location", site.redirects_to or "")
                self.end_headers()
                return
            start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested and site.supports_ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(site.content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            self.end_headers()
            self.wfile.write(site.content[start:][: site.breaks_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_images_of_the_archive_become_arrays(site: Site, context: ssl.SSLContext, tmp_path: Path) -> None:
    folder = ensure(Cifar10(site.archive(), side=32, cache=tmp_path, context=context), tmp_path, print)

    assert read_meta(folder).classes == CLASSES
    train, test = read_array(folder, "train"), read_array(folder, "test")
    assert (train.shape, test.shape) == ((100, 32, 32, 3), (20, 32, 32, 3))
    record = records(20, seed=1)[3]  # row 23 is the fourth image of the second file
    assert np.array_equal(train[23], record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert read_array(folder, "train_labels")[23] == record[0]
    assert np.array_equal(test[0], records(20, seed=5)[0][1:].reshape(3, 32, 32).transpose(1, 2, 0))


def test_images_can_be_resized(site: Site, context: ssl.SSLContext, tmp_path: Path) -> None:
    folder = ensure(Cifar10(site.archive(), side=16, cache=tmp_path, context=context), tmp_path, print)

    assert read_array(folder, "train").shape == (100, 16, 16, 3)


def test_a_prepared_set_needs_no_network(site: Site, context: ssl.SSLContext, tmp_path: Path) -> None:
    source = Cifar10(site.archive(), side=32, cache=tmp_path, context=context)
    ensure(source, tmp_path, print)
    shutil.rmtree(tmp_path / "downloads")

    ensure(source, tmp_path, print)

    assert site.requested_ranges == [""]


def test_a_broken_download_resumes_where_it_broke(site: Site, context: ssl.SSLContext, tmp_path: Path) -> None:
    site.breaks_after = len(CONTENT) // 3

    path = fetch(site.archive(), tmp_path, print, context=context)

    third = site.breaks_after
    assert path.read_bytes() == CONTENT
    assert site.requested_ranges[:3] == ["", f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_partial_download_of_an_earlier_process_is_resumed(
    site: Site, context: ssl.SSLContext, tmp_path: Path
) -> None:
    (tmp_path / "c.tar.gz.part").write_bytes(CONTENT[:1000])

    path = fetch(site.archive(), tmp_path, print, context=context)

    assert path.read_bytes() == CONTENT
    assert site.requested_ranges == ["bytes=1000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["c.tar.gz"]


def test_a_download_starts_again_if_the_server_has_no_ranges(
    site: Site, context: ssl.SSLContext, tmp_path: Path
) -> None:
    (tmp_path / "c.tar.gz.part").write_bytes(b"x" * 1000)
    site.supports_ranges = False

    assert fetch(site.archive(), tmp_path, print, context=context).read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_archive_is_discarded(
    site: Site, context: ssl.SSLContext, tmp_path: Path
) -> None:
    (tmp_path / "c.tar.gz.part").write_bytes(b"x" * (len(CONTENT) + 1))

    assert fetch(site.archive(), tmp_path, print, context=context).read_bytes() == CONTENT


@pytest.mark.parametrize("longer", [0, 1000], ids=["other-bytes", "more-bytes-than-announced"])
def test_a_file_of_another_checksum_is_deleted_and_refused(
    site: Site, context: ssl.SSLContext, tmp_path: Path, longer: int
) -> None:
    site.content = b"y" * (len(CONTENT) + longer)

    with pytest.raises(DataError, match=r"has the SHA-256 .*, but must have .*put the right file at .*c\.tar\.gz"):
        fetch(site.archive(), tmp_path, print, context=context)

    assert list(tmp_path.iterdir()) == []


def test_a_changed_download_is_not_read_but_fetched_again(site: Site, context: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "c.tar.gz").write_bytes(CONTENT[:-1] + b"x")

    assert fetch(site.archive(), tmp_path, print, context=context).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/c.tar.gz", "ftp://127.0.0.1/c", "file:///etc/passwd"])
def test_only_https_is_followed(site: Site, context: ssl.SSLContext, tmp_path: Path, url: str) -> None:
    site.redirects_to = url

    with pytest.raises(DataError, match=r"only https is used, but .* leads to|not allowed"):
        fetch(site.archive(), tmp_path, print, context=context)
    with pytest.raises(DataError, match="only https is used, but the address is"):
        fetch(replace(site.archive(), url=url), tmp_path, print, context=context)


def test_a_server_with_an_untrusted_certificate_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be downloaded .*CERTIFICATE_VERIFY_FAILED"):
        fetch(site.archive(), tmp_path, print)

    assert site.requested_ranges == []


def test_a_failing_server_is_tried_three_times_and_the_error_names_a_remedy(
    site: Site, context: ssl.SSLContext, tmp_path: Path
) -> None:
    site.status = 503

    with pytest.raises(DataError, match=r"cannot be downloaded .*503.*run again, or put the file at .*c\.tar\.gz$"):
        fetch(site.archive(), tmp_path, print, context=context)

    assert len(site.requested_ranges) == 3


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({"test_batch.bin": b"x" * 3072}, "3072 bytes, which is not a multiple of 3073", id="odd-size"),
        pytest.param({"test_batch.bin": b""}, "has 0 bytes", id="empty"),
        pytest.param({"test_batch.bin": bytes([10]) * 3073}, "an image of class 10", id="unknown-class"),
        pytest.param({"test_batch.bin": None}, "holds no test_batch.bin; is it the binary version", id="missing"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path: Path, files: dict[str, bytes | None], words: str) -> None:
    content = archive_of({name: data for name, data in {**FILES, **files}.items() if data is not None})
    archive = Archive("https://127.0.0.1/c.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "c.tar.gz").write_bytes(content)

    with pytest.raises(DataError, match=words):
        Cifar10(archive, side=32, cache=tmp_path).open(print)


def test_an_archive_downloaded_ahead_is_decoded_later_without_a_network(tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    archive = Archive(url="https://localhost:1/small.tar.gz", size=len(CONTENT), sha256=digest)
    config, lines = DataConfig(source="cifar10", validation=20), list[str]()
    with pytest.raises(DataError, match="cannot be downloaded"):
        dataset.fetch(config, tmp_path, lines.append, archive=archive)
    (tmp_path / "downloads" / "small.tar.gz").write_bytes(CONTENT)

    dataset.fetch(config, tmp_path, lines.append, archive=archive)

    assert not (tmp_path / "sets").exists()
    dataset.prepare(config, tmp_path, lines.append, archive=archive)
    shutil.rmtree(tmp_path / "downloads")
    dataset.fetch(config, tmp_path, lines.append, archive=archive)  # the archive is not needed any more
