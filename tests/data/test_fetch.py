"""Mirror, cache and download, against a server on this machine."""

import gzip
import hashlib
import http.server
import io
import threading
import urllib.request
import zipfile

import pytest

from elbowroom.data.fetch import RemoteFile, report_progress

CONTENT = b"letters and digits\n" * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def zipped(name):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", b"other")
        file.writestr(name, CONTENT)
    return archive.getvalue()


SERVED = {
    "/good.bin": CONTENT,
    "/good.gz": gzip.compress(CONTENT),
    "/broken.gz": gzip.compress(CONTENT)[:-20],
    "/wrong.bin": CONTENT[:-1],
    "/set.zip": zipped("good.data"),
    "/notzip.zip": CONTENT,
}


@pytest.fixture(scope="module")
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = SERVED.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.requests = requests
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd
        httpd.shutdown()


@pytest.fixture
def url(server, tmp_path, monkeypatch):
    """Address of the server; the cache is empty and there is no mirror."""
    monkeypatch.setenv("ELBOWROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ELBOWROOM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.requests.clear()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("name", ["good.bin", "good.gz"])
def test_download_then_cache(url, server, tmp_path, name, capfd):
    file = RemoteFile(f"set/{name}", SHA256, f"{url}/{name}")
    assert file.read() == CONTENT
    assert file.read() == CONTENT
    assert server.requests == [f"/{name}"]
    kept = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")]
    assert kept == [f"cache/set/{name}"]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_member_of_a_zip(url, tmp_path):
    assert RemoteFile("set/good.data", SHA256, f"{url}/set.zip").read() == CONTENT
    assert (tmp_path / "cache/set/good.data").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "served", "message"),
    [
        ("wrong.bin", "wrong.bin", SHA256),
        ("broken.gz", "broken.gz", "not a complete gzip file"),
        ("good.data", "notzip.zip", "not a zip archive"),
        ("absent.data", "set.zip", "not a zip archive with the file absent.data"),
    ],
)
def test_bad_download_is_refused_and_not_kept(url, tmp_path, path, served, message):
    with pytest.raises(ValueError, match=message):
        RemoteFile(path, SHA256, f"{url}/{served}").read()
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_mirror_comes_first(url, server, tmp_path, monkeypatch):
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror/set").mkdir(parents=True)
    (tmp_path / "mirror/set/good.bin").write_bytes(CONTENT)
    assert RemoteFile("set/good.bin", SHA256, f"{url}/good.bin").read() == CONTENT
    assert server.requests == []


def test_wrong_checksum_names_file_and_both_sums(url, tmp_path, monkeypatch):
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path))
    (tmp_path / "good.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"good\.bin is not the expected file") as error:
        RemoteFile("good.bin", SHA256).read()
    assert SHA256 in str(error.value)
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)


def test_missing_file_says_what_to_put_where(url, tmp_path, monkeypatch):
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "mirror"))
    with pytest.raises(FileNotFoundError) as error:
        RemoteFile("set/absent.gz", SHA256, f"{url}/absent.gz", "a set").read()
    for part in ("set/absent.gz (a set)", "404", f"Download {url}/absent.gz"):
        assert part in str(error.value)
    assert str(tmp_path / "mirror/set/absent.gz") in str(error.value)
    assert str(tmp_path / "cache/set/absent.gz") in str(error.value)


def test_offline(url):
    with pytest.raises(FileNotFoundError, match="download failed"):
        RemoteFile("good.bin", SHA256, "http://127.0.0.1:1/good.bin").read()


def test_no_official_source(url):
    with pytest.raises(FileNotFoundError, match=r"no official source.* Put the file at"):
        RemoteFile("good.bin", SHA256).read()


def test_progress_goes_to_the_callback(url):
    calls = []
    with report_progress(lambda *step: calls.append(step)):
        RemoteFile("good.bin", SHA256, f"{url}/good.bin").read()
    assert {name for name, _, _ in calls} == {"good.bin"}
    assert {total for _, _, total in calls} == {len(CONTENT)}
    received = [done for _, done, _ in calls]
    assert received == sorted(received)
    assert len(received) > 2
    assert received[-1] == len(CONTENT)


def test_a_published_checksum(url, server, tmp_path, monkeypatch):
    md5 = hashlib.md5(gzip.compress(CONTENT, mtime=0), usedforsecurity=False).hexdigest()
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path / "mirror"))
    (tmp_path / "mirror/set").mkdir(parents=True)
    (tmp_path / "mirror/set/good.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    assert RemoteFile("set/good.gz", None, f"{url}/good.gz", md5=md5).read() == CONTENT
    with pytest.raises(ValueError, match=r"good.gz is not the published file: its MD5 is"):
        RemoteFile("set/good.gz", None, f"{url}/good.gz", md5="0" * 32).read()
    with pytest.raises(ValueError, match=r"good.bin is not the published file"):
        RemoteFile("set/good.bin", None, f"{url}/good.bin", md5="0" * 32).read()
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_an_archive_is_fetched_once_for_all_members(url, server, tmp_path):
    archive = urllib.request.urlopen(f"{url}/set.zip").read()
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    server.requests.clear()
    for name in ("good.data", "good.gz"):
        file = RemoteFile(f"set/{name}", None, f"{url}/set.zip", md5=md5)
        if name == "good.gz":
            with pytest.raises(ValueError, match="not a zip archive with the file"):
                file.read()
        else:
            assert file.read() == CONTENT
    assert server.requests == ["/set.zip"]
    assert (tmp_path / "cache/set/set.zip").read_bytes() == archive
    with pytest.raises(ValueError, match="not the published file"):
        RemoteFile("other/good.data", None, f"{url}/set.zip", md5="0" * 32).read()
