"""Pulling weights against a real server that misbehaves: never a bad file under the final name."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import attrs
import pytest

import asem_registry
from asem_core.errors import BadInput, NoSpace
from asem_registry import fetch
from asem_registry.bundle import bundle, keep
from asem_registry.cache import NotCached, WrongSum, check, folder_of, obtain, receipt_of, remove
from asem_registry.fetch import Refused


@pytest.fixture
def served(server, weights_bytes, make_card, sum_of):
    """A card whose weights the server has."""
    server.files["/w.safetensors"] = weights_bytes
    return make_card(urls=(server.url("/w.safetensors"),), sha256=sum_of(weights_bytes), size_bytes=len(weights_bytes))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(fetch, "PIECE_BYTES", 1000)


def test_weights_of_a_model_are_those_here_and_those_elsewhere(settings):
    """The shipped ones are here; those that would be fetched are named, and nothing is."""
    here, elsewhere = asem_registry.of_model("mitochondria", settings)
    assert "mitochondria-phantom" in here
    assert "mitochondria-cf-5nm" in elsewhere
    assert not {"membrane-phantom", "er-cf-5nm"} & {*here, *elsewhere}


def test_pulls_once_then_works_without_a_network(served, server, settings, weights_bytes):
    """The second pull asks the server nothing, and neither does one offline."""
    path = obtain(served, settings, progress=False)
    assert path.read_bytes() == weights_bytes
    count = len(server.requests)
    assert obtain(served, attrs.evolve(settings, offline=True)) == path
    assert len(server.requests) == count


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("fault", ["503", "429", "reset", "cut 300"])
def test_faults_that_may_pass_are_tried_again(served, server, settings, weights_bytes, fault):
    """A busy server, a reset connection or a cut answer costs one more request, not the download."""
    server.faults.extend(["", fault, fault])
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes
    ranges = server.gets("/w.safetensors")
    assert ranges.count("bytes=1000-1999") == 3
    assert ranges.count("bytes=0-999") == 1


@pytest.mark.usefixtures("small_pieces")
def test_a_cut_download_is_resumed(served, server, settings, weights_bytes):
    """After the server went away, the next pull asks only for the bytes that are missing."""
    server.faults.extend([""] * 5 + ["503"] * settings.attempts)
    with pytest.raises(NotCached, match=r"the server answered 503 \(tried 5 times\)"):
        obtain(served, settings, progress=False)
    assert not (folder_of(served, settings) / "weights.safetensors").exists()
    before = len(server.gets("/w.safetensors"))
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes
    assert server.gets("/w.safetensors")[before] == "bytes=5000-5999"


@pytest.mark.usefixtures("small_pieces")
def test_a_file_that_changed_meanwhile_is_not_glued_together(served, server, settings, weights_bytes, make_card):
    """A beginning of the old file is thrown away when the server has a new one."""
    server.files["/w.safetensors"] = b"x" * len(weights_bytes)
    server.faults.extend([""] * 3 + ["404"])
    with pytest.raises(NotCached):
        obtain(served, settings, progress=False)
    assert (folder_of(served, settings) / "source.part").stat().st_size == 3000
    server.files["/w.safetensors"] = weights_bytes
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes


def test_a_server_without_ranges_serves_too(served, server, settings, weights_bytes, small_pieces):
    """Ranges save time; without them the file still arrives whole."""
    server.ranges = False
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes


def test_a_length_that_nobody_states(served, server, settings, weights_bytes):
    """The file arrives whole from a server that states no length, with a card that states no size."""
    server.lengths = False
    card = attrs.evolve(served, size_bytes=None)
    assert obtain(card, settings, progress=False).read_bytes() == weights_bytes


def test_a_download_without_an_end_is_bounded(served, server, settings, weights_bytes, monkeypatch):
    """Where neither card nor server says how long a file is, it ends at a limit, and nothing of it stays on the disk."""
    monkeypatch.setattr(fetch, "LARGEST_UNSIZED", len(weights_bytes) - 1)
    server.lengths = False
    card = attrs.evolve(served, size_bytes=None)
    with pytest.raises(
        NotCached, match=r"states no length and sent more than .*a card that states the size allows more"
    ):
        obtain(card, settings, progress=False)
    assert (folder_of(card, settings) / "source.part").stat().st_size == 0
    card = attrs.evolve(served, size_bytes=len(weights_bytes))
    assert obtain(card, settings, progress=False).read_bytes() == weights_bytes


def test_mirrors_are_tried_in_order(served, server, settings, weights_bytes):
    """A dead mirror, one without the file, one with a damaged copy: the fourth is good."""
    server.files["/damaged.safetensors"] = weights_bytes[:-1] + b"!"
    dead = "http://127.0.0.1:9/w.safetensors"
    urls = (dead, server.url("/gone.safetensors"), server.url("/damaged.safetensors"), *served.urls)
    card = attrs.evolve(served, urls=urls)
    assert obtain(card, settings, progress=False).read_bytes() == weights_bytes
    assert receipt_of(card, settings).url == served.urls[0]
    asked = [path for method, path, _ in server.requests if method == "GET"]
    assert asked.index("/damaged.safetensors") < asked.index("/w.safetensors")


def test_no_mirror_works(served, settings, server):
    """The message lists each address with its cause, and the commands that bring the file here."""
    card = attrs.evolve(served, urls=("http://127.0.0.1:9/w.safetensors", server.url("/gone.safetensors")))
    with pytest.raises(NotCached) as caught:
        obtain(card, settings, progress=False)
    text = str(caught.value)
    assert "127.0.0.1:9/w.safetensors: the server cannot be reached: is this computer online?" in text
    assert "gone.safetensors: there is no such file (404)" in text
    assert "asem models pull small-1nm@1" in text
    assert "asem models unbundle" in text


def test_wrong_sum(served, settings, sum_of, weights_bytes):
    """Expected and got sums, what was deleted, likely causes; nothing is left."""
    card = attrs.evolve(served, sha256="0" * 64)
    with pytest.raises(WrongSum) as caught:
        obtain(card, settings, progress=False)
    text = str(caught.value)
    assert f"expected sha256 {'0' * 64}" in text
    assert f"got      sha256 {sum_of(weights_bytes)}" in text
    assert "The download was deleted. Likely causes: a proxy or login page" in text
    assert {p.name for p in folder_of(card, settings).iterdir()} <= {"lock"}


def test_wrong_size(served, settings, weights_bytes):
    """A file of another size is not even fetched."""
    card = attrs.evolve(served, size_bytes=5)
    with pytest.raises(NotCached, match=f"wrong size: expected 5 bytes, .* the server has {len(weights_bytes)}"):
        obtain(card, settings, progress=False)


def test_offline(served, settings, server):
    """ASEM_OFFLINE: what is not cached is named with the command that fetches it, and no server is asked."""
    with pytest.raises(NotCached, match=r"ASEM_OFFLINE is set\n.*`asem models pull small-1nm@1` fetches it"):
        obtain(served, attrs.evolve(settings, offline=True))
    assert server.requests == []


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:-1] + b"!", lambda b: b""])
def test_a_damaged_cached_file_is_fetched_again(served, settings, weights_bytes, damage, caplog):
    """Truncated, altered or emptied: noticed on load, removed, replaced, and said."""
    path = obtain(served, settings, progress=False)
    path.write_bytes(damage(weights_bytes))
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes
    assert "is damaged or outdated; fetching it again" in caplog.text


def test_a_damaged_cached_file_is_not_used_offline(served, settings, weights_bytes):
    """Without a network there is an error, never the damaged file."""
    obtain(served, settings, progress=False).write_bytes(weights_bytes[:-1])
    with pytest.raises(NotCached):
        obtain(served, attrs.evolve(settings, offline=True))


def test_a_cached_file_is_checked_by_its_card_not_by_its_receipt(served, settings, weights_bytes, sum_of, make_card):
    """Whoever changes weights in the cache can change the receipt beside them; the card's sum still tells, also offline."""
    path = obtain(served, settings, progress=False)
    forged = weights_bytes[:-4] + b"evil"
    path.write_bytes(forged)
    receipt = path.with_name("receipt.json")
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "weights_sha256": sum_of(forged)}))
    assert check(served, settings).startswith("damaged")
    path.write_bytes(forged)
    with pytest.raises(NotCached):
        obtain(served, attrs.evolve(settings, offline=True))
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes


def test_a_card_with_another_sum_makes_the_cached_file_stale(
    served, settings, server, weights_bytes, sum_of, make_card
):
    """A corrected card does not get the file of the old one."""
    obtain(served, settings, progress=False)
    with pytest.raises(WrongSum):
        obtain(attrs.evolve(served, sha256="1" * 64), settings, progress=False)
    assert not (folder_of(served, settings) / "weights.safetensors").exists()


def test_trust_on_first_use(served, settings, server, weights_bytes, caplog):
    """Without a published sum the first one is recorded, said, and held against every later download."""
    card = attrs.evolve(served, sha256=None)
    path = obtain(card, settings, progress=False)
    assert "its authors publish no checksum, so the first download was trusted" in caplog.text
    path.unlink()
    remove(card, settings)
    server.files["/w.safetensors"] = weights_bytes[:-4] + b"evil"
    with pytest.raises(
        WrongSum, match=r"differs from the one that was first downloaded.*\n?.*remove small-1nm@1 --forget"
    ):
        obtain(card, settings, progress=False)
    assert not path.exists()
    remove(card, settings, forget=True)
    assert obtain(card, settings, progress=False).read_bytes() == server.files["/w.safetensors"]


def test_an_archive_or_a_web_page_is_refused(served, settings, server):
    """What is not weights never gets the final name, even when its sum is the first download is trusted."""
    server.files["/w.safetensors"] = b"<html>please log in</html>"
    card = attrs.evolve(served, sha256=None, size_bytes=None)
    with pytest.raises(BadInput, match=r"small-1nm@1 from .* is refused and deleted: it is truncated or is not"):
        obtain(card, settings, progress=False)
    assert not (folder_of(card, settings) / "weights.safetensors").exists()
    assert not (folder_of(card, settings) / "receipt.json").exists()


def test_weights_of_another_architecture_are_refused(served, settings):
    """A card that names the wrong network is found out at the first pull."""
    card = attrs.evolve(served, options={"features": 3, "factors": [[2, 2, 2]]})
    with pytest.raises(BadInput, match="of another architecture"):
        obtain(card, settings, progress=False)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/w.safetensors"])
def test_a_redirect_that_leaves_http_is_refused(served, settings, server, target):
    """A server may not send us to local files or other protocols."""
    server.redirects["/w.safetensors"] = target
    with pytest.raises(Refused, match=r"redirects to .*refused"):
        obtain(served, settings, progress=False)


def test_hugging_face_addresses(settings):
    """hf://owner/repository/file is the file on the main branch."""
    _, path = fetch._filesystem("hf://mylab/asem/weights/mito.safetensors", settings)
    assert path == "https://huggingface.co/mylab/asem/resolve/main/weights/mito.safetensors"


def test_a_redirect_within_http_is_followed(served, settings, server, weights_bytes):
    """As the hosts of large files do."""
    server.files["/elsewhere"] = weights_bytes
    server.redirects["/w.safetensors"] = server.url("/elsewhere")
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes


@pytest.fixture
def trusted(tls_server, settings):
    """The environment of a process that trusts the server's certificate, by the usual SSL_CERT_FILE."""
    own = {
        "ASEM_CACHE": str(settings.cache),
        "ASEM_HOME": str(settings.home),
        "ASEM_CONFIG": str(settings.home / "none"),
    }
    return {**os.environ, **own, "SSL_CERT_FILE": str(tls_server.certificate)}


def _pull_by_command(environ):
    command = [sys.executable, "-m", "asem_core", "models", "pull", "small-1nm", "-q"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_https(served, tls_server, settings, weights_bytes, add_card, trusted):
    """Weights come over https from a server whose certificate is trusted, and from no other."""
    tls_server.files["/w.safetensors"] = weights_bytes
    add_card(attrs.evolve(served, urls=(tls_server.url("/w.safetensors"),)))
    strange = _pull_by_command({k: v for k, v in trusted.items() if k != "SSL_CERT_FILE"})
    assert strange.returncode == 1
    assert "certificate verify failed" in strange.stderr
    assert "SSL_CERT_FILE" in strange.stderr
    assert tls_server.requests == []
    done = _pull_by_command(trusted)
    assert done.returncode == 0, done.stderr
    assert (folder_of(served, settings) / "weights.safetensors").read_bytes() == weights_bytes


def test_a_redirect_from_https_to_http_is_refused(served, server, tls_server, settings, add_card, trusted):
    """What was promised to come encrypted is not fetched in the clear, even where the sum would be right."""
    tls_server.redirects["/w.safetensors"] = server.url("/w.safetensors")
    add_card(attrs.evolve(served, urls=(tls_server.url("/w.safetensors"),)))
    done = _pull_by_command(trusted)
    assert done.returncode == 1
    assert f"redirects to {server.url('/w.safetensors')}: refused" in done.stderr
    assert "never from https to http" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.requests == []
    assert not (folder_of(served, settings) / "weights.safetensors").exists()


_PULL = """
import sys
from pathlib import Path
from asem_registry import fetch
import asem_registry
from asem_registry.settings import Settings
fetch.PIECE_BYTES = 1000
settings = Settings(cache=Path(sys.argv[1]), home=Path(sys.argv[2]), first_wait_s=0.01)
print(asem_registry.pull("small-1nm", settings, progress=False))
"""


def _pull_process(settings):
    command = [sys.executable, "-c", _PULL, str(settings.cache), str(settings.home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_in_the_middle(served, settings, server, weights_bytes, add_card):
    """SIGKILL leaves no file under the final name; the next pull goes on where it stopped."""
    add_card(served)
    server.faults.extend([""] * 4 + ["wait 30"])
    process = _pull_process(settings)
    deadline = time.monotonic() + 60
    while len(server.gets("/w.safetensors")) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = folder_of(served, settings)
    assert not (folder / "weights.safetensors").exists()
    assert asem_registry.pull("small-1nm", settings, progress=False).read_bytes() == weights_bytes
    assert (folder / "weights.safetensors").exists()
    assert server.gets("/w.safetensors")[5] != "bytes=0-999"
    assert sorted(p.name for p in folder.iterdir()) == ["lock", "receipt.json", "weights.safetensors"]


def test_several_processes_pull_one_file(served, settings, server, weights_bytes, add_card):
    """One fetches, the others wait; all end with the same good file."""
    add_card(served)
    server.faults.append("wait 3")
    processes = [_pull_process(settings) for _ in range(3)]
    results = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], results
    assert len({out for out, _ in results}) == 1
    assert server.gets("/w.safetensors").count("bytes=0-999") == 1
    assert any("waiting for another process" in err for _, err in results)


def _pull_in_little_room(settings, limit):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        asem_registry.pull("small-1nm", settings, progress=False)
    except NoSpace as error:
        print(error, flush=True)
        os._exit(7)


def test_the_disk_is_full(served, settings, add_card, capfd):
    """A write that fails for want of room says where, what was deleted, and what to do; nothing is left."""
    add_card(served)
    process = multiprocessing.get_context("spawn").Process(target=_pull_in_little_room, args=(settings, 2000))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    said = capfd.readouterr().out
    assert f"No space in {folder_of(served, settings)}" in said
    assert (
        f"{served.size_bytes:,} bytes are needed; the part downloaded was deleted. Free some space, then run the same command again. Or set ASEM_CACHE"
        in said
    )
    assert [p.name for p in folder_of(served, settings).iterdir()] == ["lock"]


def test_only_the_cache_is_told_to_move(served, settings, tmp_path, monkeypatch):
    """A full disk under a lab's own models or a bundle does not become another by ASEM_CACHE."""
    weights = obtain(served, settings, progress=False)
    kept = attrs.evolve(served, file="own.safetensors", urls=())
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: used._replace(free=100))
    for write in (
        lambda: keep(kept, weights, tmp_path / "home"),
        lambda: bundle([served], tmp_path / "b.zip", settings),
    ):
        with pytest.raises(NoSpace, match=r"bytes are needed and 100 are free\. Free some space") as told:
            write()
        assert "ASEM_CACHE" not in str(told.value)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own with room for 256 kB, which takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_disk_fills_up_meanwhile(served, server, settings, add_card, small_disk, weights_bytes):
    """Another program takes the room that there was: it is said what is needed; no part is left, and room is enough."""
    add_card(served)
    settings = attrs.evolve(settings, cache=small_disk / "cache")
    server.faults.extend(["", "", "wait 4"])
    process = _pull_process(settings)
    deadline = time.monotonic() + 60
    while len(server.gets("/w.safetensors")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    hog = small_disk / "hog"
    with pytest.raises(OSError, match="No space left"), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"No space in {folder_of(served, settings)}: No space left on device" in said
    assert (
        f"{len(weights_bytes):,} bytes are needed; the part downloaded was deleted. Free some space, then run the same command again. Or set ASEM_CACHE"
        in said
    )
    assert [p.name for p in folder_of(served, settings).iterdir()] == ["lock"]
    hog.unlink()
    assert obtain(served, settings, progress=False).read_bytes() == weights_bytes


def test_a_real_disk_is_too_small(served, server, settings, small_disk, weights_bytes):
    """What will not fit is not begun: both figures are said."""
    settings = attrs.evolve(settings, cache=small_disk / "cache")
    (small_disk / "others").write_bytes(bytes(248 << 10))
    with pytest.raises(
        NoSpace, match=rf"{len(weights_bytes):,} more bytes are needed and [0-9,]+ are free\. Free some"
    ):
        obtain(served, settings, progress=False)
    assert server.gets("/w.safetensors") == []
    assert [p.name for p in folder_of(served, settings).iterdir()] == ["lock"]


def test_the_disk_would_be_full(tmp_path):
    """A download larger than the free room is not begun."""
    with pytest.raises(NoSpace, match=r"more bytes are needed and .* are free"):
        fetch.check_room(tmp_path, 1 << 60)
