"""Downloads, from a server on this machine: checked, unpacked whole, done once, and clear when they fail."""

import hashlib
import io
import os
import socket
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fsrobust.data import DATASETS, fetch, load_dataset
from fsrobust.data.catalog import Archive
from fsrobust.data.download import cache_folder
from fsrobust.types import InputError

LAYOUT = DATASETS["cifar10"].layouts[0]
FILE = "cifar-10-binary.tar.gz"


def official_archive(*, name: str = LAYOUT.folder) -> bytes:
    """Return a tar.gz in the official layout with one record a batch, whose label is its number."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for label, file in enumerate(LAYOUT.test + LAYOUT.train):
            info = tarfile.TarInfo(f"{name}/{file}")
            info.size = 3073
            tar.addfile(info, io.BytesIO(bytes([label]) + bytes(3072)))
    return buffer.getvalue()


@dataclass
class Site:
    """What the server answers, and how often it was asked."""

    url: str
    content: bytes
    status: int = 200
    cut: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture(name="site")
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """Serve an archive on this machine, as CIFAR-10's official one, with an empty cache."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            self.send_response(site.status)
            self.send_header("Content-Length", str(len(site.content)))
            self.end_headers()
            self.wfile.write(site.content[: len(site.content) - site.cut])

        def log_message(self, *_: object) -> None:
            pass

    content = official_archive()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = Site(f"http://127.0.0.1:{server.server_port}/{FILE}", content)
        archive = Archive(site.url, hashlib.md5(content, usedforsecurity=False).hexdigest(), FILE)
        monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], archives=(archive,)))
        monkeypatch.setenv("FSROBUST_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("FSROBUST_DATA", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield site
        server.shutdown()


def test_fetch_unpacks_the_official_layout_once(site: Site, tmp_path: Path) -> None:
    """The folder can be loaded from, and the second call asks nobody."""
    folder = fetch("cifar10", quiet=True)
    assert folder == tmp_path / "cache" / "cifar10"
    assert load_dataset("cifar10", "train", root=folder).labels.tolist() == [1, 2, 3, 4, 5]
    assert fetch("cifar10", quiet=True) == folder
    assert site.asked == [f"/{FILE}"]


def test_loading_downloads_what_is_nowhere_else(site: Site) -> None:
    """Without a root, an environment or a cache, the archive is fetched, once for both splits."""
    assert load_dataset("cifar10", "test").labels.tolist() == [0]
    assert load_dataset("cifar10", "train").labels.tolist() == [1, 2, 3, 4, 5]
    assert len(site.asked) == 1


def test_a_damaged_cache_is_mended_without_the_network(site: Site) -> None:
    """A lost batch comes back from the archive; a damaged archive is downloaded again."""
    folder = fetch("cifar10", quiet=True)
    (folder / LAYOUT.folder / "data_batch_3.bin").unlink()
    fetch("cifar10", quiet=True)
    assert len(site.asked) == 1
    (folder / LAYOUT.folder / "data_batch_3.bin").unlink()
    (cache_folder() / FILE).write_bytes(site.content[:-9])
    fetch("cifar10", quiet=True)
    assert len(site.asked) == 2
    assert load_dataset("cifar10", "train", root=folder).labels.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("torn", ["emptied", "cut short", "unmarked"])
def test_what_a_power_cut_tore_is_unpacked_anew(site: Site, torn: str) -> None:
    """All files are there by name, but empty, short, or never said to be on disk: they come from the archive again."""
    folder = fetch("cifar10", quiet=True)
    for file in (folder / LAYOUT.folder).iterdir():
        file.write_bytes({"emptied": b"", "cut short": bytes(3000), "unmarked": bytes(3073)}[torn])
    if torn == "unmarked":
        (folder / ".whole").unlink()
    assert load_dataset("cifar10", "train").labels.tolist() == [1, 2, 3, 4, 5]
    assert len(site.asked) == 1
    assert fetch("cifar10", quiet=True) == folder


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file a descriptor is of")
def test_the_mark_comes_after_all_is_on_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive, files and folders are flushed; until all are, the cache is not said to be whole."""
    flushed: list[tuple[str, bool]] = []
    plain = os.fsync

    def spy(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        flushed.append((name, (cache_folder() / "cifar10" / ".whole").exists()))
        plain(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", spy)
        folder = fetch("cifar10", quiet=True)
    before = {name for name, marked in flushed if not marked}
    files = [folder / LAYOUT.folder / file for file in LAYOUT.train + LAYOUT.test]
    assert before >= {str(path) for path in (cache_folder() / FILE, *files, folder / LAYOUT.folder, folder)}
    assert site.asked


def test_files_put_there_by_hand_are_used(site: Site) -> None:
    """Copied into the cache without their archive, as to a machine without a network, they count; empty ones do not."""
    folder = fetch("cifar10", quiet=True)
    (folder / ".whole").unlink()
    (cache_folder() / FILE).unlink()
    assert load_dataset("cifar10", "test").labels.tolist() == [0]
    assert len(site.asked) == 1
    (folder / ".whole").unlink()
    (folder / LAYOUT.folder / "test_batch.bin").write_bytes(b"")
    assert load_dataset("cifar10", "test").labels.tolist() == [0]
    assert len(site.asked) == 2


def test_a_cache_that_is_only_read_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an older version filled, whoever may not write there: its files count unless they are empty."""
    folder = fetch("cifar10", quiet=True)
    (folder / ".whole").unlink()
    opened = Path.open

    def refuse(file: Path, mode: str = "r", *more: object, **options: object) -> object:
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, mode, *more, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert load_dataset("cifar10", "test").labels.tolist() == [0]
    os.truncate(folder / LAYOUT.folder / "test_batch.bin", 0)
    with pytest.raises(InputError, match="Permission denied; let FSROBUST_CACHE"):
        fetch("cifar10", quiet=True)
    assert len(site.asked) == 1


def test_at_the_same_time_it_is_downloaded_once(site: Site) -> None:
    """Four callers at once: one downloads, the others wait for it and find the folder whole."""
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: fetch("cifar10", quiet=True), range(4)))
    assert len(folders) == len(site.asked) == 1


def kept_in_cache() -> list[str]:
    """Return what lies in the cache, locks apart."""
    return [path.name for path in cache_folder().iterdir() if path.suffix != ".lock"]


def test_a_wrong_checksum_is_refused_and_not_kept(site: Site) -> None:
    """Another file under the right name is neither unpacked nor kept."""
    site.content = official_archive(name="another")
    with pytest.raises(InputError, match=r"to have md5 \w{32}, but got other bytes.*--data-root"):
        fetch("cifar10", quiet=True)
    assert kept_in_cache() == []


@pytest.mark.parametrize("trouble", ["missing", "cut"])
def test_a_failing_download_says_the_other_way(site: Site, trouble: str) -> None:
    """An error status and a torn connection: one sentence with the way round the network."""
    if trouble == "missing":
        site.status = 404
    else:
        site.cut = 100
    expected = "got status 404" if trouble == "missing" else r"got \w+Error"
    with pytest.raises(InputError, match=rf"{FILE}, but {expected}; .*--data-root or FSROBUST_DATA$"):
        load_dataset("cifar10", "test")
    assert kept_in_cache() == []


def test_no_network_says_the_other_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at the address: the same sentence."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        archive = Archive(f"http://127.0.0.1:{unused.getsockname()[1]}/{FILE}", "0" * 32, FILE)
        monkeypatch.setitem(DATASETS, "cifar10", replace(DATASETS["cifar10"], archives=(archive,)))
        with pytest.raises(InputError, match=r"got ConnectionError; .*FSROBUST_DATA$"):
            fetch("cifar10", quiet=True)
    assert site.asked == []


def test_a_cache_that_cannot_be_written_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cache below a file is refused before anything is downloaded."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("FSROBUST_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="let FSROBUST_CACHE name another folder"):
        fetch("cifar10", quiet=True)
    assert site.asked == []


def test_what_needs_no_download_says_so() -> None:
    """The bundled digits have no archive, and an unknown name no row."""
    with pytest.raises(InputError, match="digits needs no download"):
        fetch("digits")
    with pytest.raises(InputError, match=r"did you mean cifar10\?"):
        fetch("cifar-10")


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_goes_to_stderr_or_nowhere(
    site: Site, capfd: pytest.CaptureFixture[str], *, quiet: bool
) -> None:
    """Standard output stays free for JSON; the bar ends full; quiet means quiet."""
    fetch("cifar10", quiet=quiet)
    out, err = capfd.readouterr()
    assert len(site.asked) == 1
    assert out == ""
    assert (err == "") == quiet
    if not quiet:
        size = f"{len(site.content)}/{len(site.content)} bytes"
        assert "Downloading CIFAR-10" in err
        assert size in err


def test_the_cache_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without FSROBUST_CACHE it is the system's place for caches, under our name."""
    monkeypatch.delenv("FSROBUST_CACHE", raising=False)
    assert cache_folder().name == "fsrobust"
