"""The store of rows: what is fetched is what would be made, made once, whatever happens to processes, files and disks."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlmtl.store import kept, making
from tlmtl.store.held import Rows
from tlmtl.store.rows import Store

EVERYTHING = 2**40


@pytest.fixture(autouse=True)
def told(monkeypatch, caplog):
    monkeypatch.setattr(making, "_told", set())
    monkeypatch.setattr(making, "RESERVE", 0)
    monkeypatch.setattr(logging.getLogger("tlmtl"), "propagate", True)
    caplog.set_level(logging.INFO, logger="tlmtl")


def row(hashes: np.ndarray, shape: tuple[int, ...] = (3,), dtype: str = "f4") -> np.ndarray:
    """What the hashes stand for, (n, *shape): different for each."""
    steps = np.arange(np.prod(shape)).reshape(shape)
    return ((hashes.reshape(-1, *[1] * len(shape)) % 251) + steps).astype(dtype)


class Maker:
    """Makes rows in pieces, and counts how often each hash was made."""

    def __init__(self, piece: int = 4, shape: tuple[int, ...] = (3,), dtype: str = "f4") -> None:
        self.piece, self.shape, self.dtype = piece, shape, dtype
        self.made: list[int] = []

    def of(self, hashes):
        def make(positions):
            for at in range(0, len(positions), self.piece):
                chosen = hashes[positions[at : at + self.piece]]
                self.made += chosen.tolist()
                yield row(chosen, self.shape, self.dtype)

        return make


def everything(rows: Rows) -> np.ndarray:
    return rows[torch.arange(len(rows))].numpy()


def blocks(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*/*/*.json") if path.name != "about.json")


def fetched(store: Store, hashes, maker: Maker | None = None, in_memory: int = 0):
    maker = maker or Maker()
    hashes = np.asarray(hashes, np.int64)
    found = store.fetch(hashes, maker.of(hashes), in_memory, "rows")
    assert np.array_equal(everything(found.rows), row(hashes, maker.shape, maker.dtype))
    return found


# ---------------------------------------------------------------------------------------------------- what is fetched


HASH = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    known=st.lists(HASH, min_size=1, max_size=40, unique=True),
    data=st.data(),
    piece=st.integers(1, 9),
    dtype=st.sampled_from(["f4", "u1", "f2", "i8"]),
    shape=st.sampled_from([(), (1,), (5,), (2, 3, 2)]),
)
def test_what_is_fetched_is_what_would_be_made(known, data, piece, dtype, shape):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "BLOCK", data.draw(st.sampled_from([1, 40, 10**9])))
        maker = Maker(piece, shape, dtype)
        seen: set[int] = set()
        for _ in range(3):
            hashes = np.array(data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=60)), np.int64)
            store = Store(Path(folder), "features", {"model": "m"}, None)
            found = fetched(store, hashes, maker, data.draw(st.sampled_from([0, 100, EVERYTHING])))
            assert found.rows.shape == shape and len(found.rows) == len(hashes)
            assert found.made == len(set(hashes.tolist()) - seen)
            seen |= set(hashes.tolist())
            at = torch.randint(len(hashes), (7,))
            assert np.array_equal(found.rows[at].numpy(), row(hashes[at.numpy()], shape, dtype))
        assert sorted(maker.made) == sorted(seen)  # each once


def test_up_to_a_size_the_rows_are_one_tensor_and_beyond_they_are_read_from_files(tmp_path):
    hashes = np.arange(100)
    for name, in_memory, there in (("a", 100 * 12, True), ("b", 100 * 12 - 1, False)):
        for _ in range(2):
            found = fetched(Store(tmp_path, "features", {"of": name}, None), hashes, in_memory=in_memory)
            assert (found.rows.tensor is not None) is there
            assert found.rows[torch.tensor([5])].dtype == torch.float32


def test_another_way_of_making_rows_is_another_store(tmp_path):
    fetched(Store(tmp_path, "features", {"layer": "a"}, None), range(5))
    assert fetched(Store(tmp_path, "features", {"layer": "b"}, None), range(5)).made == 5
    assert fetched(Store(tmp_path, "images", {"layer": "b"}, None), range(5)).made == 5
    assert fetched(Store(tmp_path, "features", {"layer": "b"}, None), range(5)).made == 0
    abouts = [json.loads(path.read_text())["about"] for path in tmp_path.glob("features/*/about.json")]
    assert sorted(abouts, key=str) == [{"layer": "a"}, {"layer": "b"}]


def test_the_seconds_are_those_that_making_took_whoever_made_them(tmp_path):
    hashes = np.arange(10)

    def slow(positions):
        for part in np.array_split(positions, 5):
            time.sleep(0.02)
            yield row(hashes[part])

    first = Store(tmp_path, "features", {}, None).fetch(hashes, slow, 0)
    again = Store(tmp_path, "features", {}, None).fetch(hashes, slow, 0)
    half = Store(tmp_path, "features", {}, None).fetch(hashes[:5], slow, 0)
    assert (first.made, again.made) == (10, 0)
    assert 0.1 <= first.seconds < 2 and again.seconds == pytest.approx(first.seconds, abs=2e-3)
    assert half.seconds == pytest.approx(first.seconds / 2, abs=2e-3)


def test_without_a_folder_or_room_for_any_nothing_is_kept(tmp_path):
    for store in (Store(None, "features", {}, None), Store(tmp_path, "features", {}, 0)):
        for in_memory in (0, EVERYTHING):
            assert fetched(store, [3, 1, 3, 2], in_memory=in_memory).made == 3
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_form_than_those_kept_are_all_made_again(tmp_path, caplog):
    store = Store(tmp_path, "features", {}, None)
    fetched(store, range(10))
    assert fetched(store, range(12), Maker(shape=(4,))).made == 12
    assert fetched(store, range(12), Maker(shape=(4,))).made == 0
    assert "another form" in caplog.text


@pytest.mark.parametrize(("count", "words"), [(3, "made, found 3"), (5, "made, found more"), (0, "made, found 0")])
def test_a_maker_that_gives_too_few_or_too_many_rows_is_told(tmp_path, count, words):
    with pytest.raises(ValueError, match=f"expected 4 rows to be {words}"):
        Store(tmp_path, "f", {}, None).fetch(np.arange(4), lambda at: iter(row(np.arange(count))[:, None]), 0)
    with pytest.raises(ValueError, match="found none"):
        Store(tmp_path, "f", {}, None).fetch(np.arange(0), lambda at: iter([]), 0)


def test_what_was_made_before_an_error_is_kept(tmp_path):
    hashes = np.arange(10)

    def breaks(positions):
        yield row(hashes[positions[:6]])
        raise KeyboardInterrupt

    for in_memory in (0, EVERYTHING):
        store = Store(tmp_path, "features", {"in_memory": in_memory}, None)
        with pytest.raises(KeyboardInterrupt):
            store.fetch(hashes, breaks, in_memory)
        assert fetched(store, hashes, in_memory=in_memory).made == 4


def test_reading_waits_for_nobody(tmp_path):
    store = Store(tmp_path, "features", {}, None)
    fetched(store, range(5))
    with FileLock(store.folder.with_name(f"{store.key}.lock")):
        assert fetched(Store(tmp_path, "features", {}, None), range(5)).made == 0


# ---------------------------------------------------------------------------------------------- processes that end or meet

CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from tlmtl.commands import show_log
from tlmtl.store import making
from tlmtl.store.rows import Store
root, log, pause, block = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
show_log()
making.BLOCK = block
hashes = np.arange(40)
def make(positions):
    for part in np.array_split(positions, 10):
        time.sleep(pause)
        with log.open("a") as file:
            print(*part, file=file, flush=True)
        yield (hashes[part][:, None] + np.arange(3)).astype("f4")
found = Store(root, "features", {}, None).fetch(hashes, make, int(sys.argv[5]), "features of a model")
import torch
print(found.made, float(found.rows[torch.arange(40)].sum()))
"""


def child(root: Path, log: Path, pause: float, block: int = 10**9, in_memory: int = 0) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(root), str(log), str(pause), str(block), str(in_memory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(log: Path, lines: int) -> None:
    for _ in range(600):
        if log.is_file() and len(log.read_text().splitlines()) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError("the child does not get there")


@pytest.mark.parametrize("in_memory", [0, EVERYTHING])
def test_two_processes_that_ask_at_once_make_a_row_once(tmp_path, in_memory):
    log = tmp_path / "made.txt"
    first = child(tmp_path / "cache", log, 0.3, in_memory=in_memory)
    until(log, 1)
    second = child(tmp_path / "cache", log, 0.3, in_memory=in_memory)
    said = [one.communicate(timeout=120) for one in (first, second)]
    total = float(row(np.arange(40)).sum())
    assert [out.split() for out, _ in said] == [["40", str(total)], ["0", str(total)]]
    assert sorted(map(int, log.read_text().split())) == list(range(40))
    waits = "features of a model: another process makes the same; waiting for it."
    assert said[1][1].count(waits) == 1 and waits not in said[0][1]


def test_a_killed_process_leaves_whole_blocks_and_what_it_left_half_done_is_removed(tmp_path):
    log, cache = tmp_path / "made.txt", tmp_path / "cache"
    killed = child(cache, log, 0.1, block=2 * 4 * 12)  # two pieces are a block
    until(log, 6)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    whole = len(blocks(cache))
    assert 1 <= whole <= 3
    store = Store(cache, "features", {}, None)
    (store.folder / ".18eb7517121d9e9f-1.npy").write_bytes(b"half a block")
    (store.folder / "18eb7517121d9e9f-1.npy").write_bytes(b"a block without a record")
    assert fetched(store, range(40)).made == 40 - 8 * whole
    names = {path.name for path in store.folder.iterdir()}
    records = {path.stem for path in blocks(cache)}
    assert names == {"about.json"} | {f"{name}{end}" for name in records for end in (".json", ".npy", ".hashes.npy")}


def test_rows_stay_readable_when_their_block_is_removed(tmp_path):
    found = fetched(Store(tmp_path, "features", {}, None), range(50))
    for record in blocks(tmp_path):
        assert kept.drop(record)
    assert not list(tmp_path.rglob("*.npy"))
    assert np.array_equal(everything(found.rows), row(np.arange(50)))


# ------------------------------------------------------------------------------------------------------------ broken files


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def pickled(path: Path) -> None:
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(path.parent / "executed"),))

    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (50,)})
        pickle.dump(Boom(), file)


FAULTS = {
    "a flipped bit": (".npy", flip),
    "a flipped bit in the hashes": (".hashes.npy", flip),
    "a flipped bit in the record": (".json", flip),
    "rows that are cut off": (".npy", lambda path: os.truncate(path, path.stat().st_size - 6)),
    "hashes that are cut off": (".hashes.npy", lambda path: os.truncate(path, 200)),
    "empty rows": (".npy", lambda path: os.truncate(path, 0)),
    "empty record": (".json", lambda path: os.truncate(path, 0)),
    "rows that are gone": (".npy", Path.unlink),
    "hashes that are gone": (".hashes.npy", Path.unlink),
    "a record that is a list": (".json", lambda path: path.write_text("[]")),
    "a record of nonsense": (".json", lambda path: path.write_text('{"rows": -1, "shape": [], "dtype": "O"}')),
    "a record that says something else": (".json", lambda path: path.write_text(path.read_text().replace("25", "26"))),
    "pickled hashes": (".hashes.npy", pickled),
    "pickled rows": (".npy", pickled),
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("in_memory", [0, EVERYTHING])
def test_a_broken_block_is_told_removed_and_made_again(tmp_path, monkeypatch, caplog, fault, in_memory):
    monkeypatch.setattr(making, "BLOCK", 25 * 12)
    store = Store(tmp_path, "features", {}, None)
    fetched(store, range(50), Maker(25))
    first, second = blocks(tmp_path)
    suffix, act = FAULTS[fault]
    act(first.with_suffix(suffix))
    assert fetched(store, range(50), in_memory=in_memory).made == 25
    assert not first.exists() and second.exists() and not (store.folder / "executed").exists()
    assert "broken and made again" in caplog.text
    assert fetched(store, range(50)).made == 0


def test_the_block_of_another_store_is_not_taken(tmp_path, caplog):
    store, other = Store(tmp_path, "features", {"of": 1}, None), Store(tmp_path, "features", {"of": 2}, None)
    fetched(store, range(5))
    fetched(other, range(6), Maker())
    for path in list(other.folder.iterdir()):
        if path.name != "about.json":
            path.rename(store.folder / path.name)
    assert fetched(store, range(6)).made == 1
    assert "not a block of this store" in caplog.text


def test_what_this_process_may_not_read_is_left_alone(tmp_path, monkeypatch, caplog):
    store = Store(tmp_path, "features", {}, None)
    fetched(store, range(5))
    monkeypatch.setattr("tlmtl.store.blocks.read", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert fetched(store, range(5)).made == 5
    monkeypatch.undo()
    assert fetched(store, range(5)).made == 0 and len(blocks(tmp_path)) == 2
    assert "cannot be read" in caplog.text


# -------------------------------------------------------------------------------------------------- disks that take nothing


@pytest.mark.parametrize("in_memory", [0, EVERYTHING])
def test_a_cache_that_cannot_be_written_costs_time_alone_and_is_told_once(tmp_path, caplog, in_memory):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert (
            fetched(Store(tmp_path / "file" / "cache", "features", {}, None), range(30), in_memory=in_memory).made == 30
        )
    assert caplog.text.count("The cache cannot be written") == 1


@pytest.mark.parametrize("in_memory", [0, EVERYTHING])
@pytest.mark.parametrize("also_elsewhere", [False, True])
def test_a_disk_that_fills_up_ends_no_run(tmp_path, monkeypatch, caplog, in_memory, also_elsewhere):
    """Half of the third piece is written, then nothing more: in the cache, or anywhere."""
    written = []
    real = making.Writer

    class Filling(real):
        def add(self, hashes, rows):
            if len(written) >= 2 and (also_elsewhere or self.temporary.parent == store.folder):
                self.file.write(rows.tobytes()[:7])
                raise OSError(28, "No space left on device")
            written.append(self.temporary.parent)
            super().add(hashes, rows)

    monkeypatch.setattr(making, "Writer", Filling)
    store = Store(tmp_path, "features", {}, None)
    assert fetched(store, range(40), in_memory=in_memory).made == 40
    assert caplog.text.count("No space left on device") == 1
    assert not list(tmp_path.rglob("*.npy"))
    monkeypatch.setattr(making, "Writer", real)
    assert fetched(store, range(40)).made == 40


def test_a_file_may_not_grow_in_a_real_process(tmp_path):
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); sys.argv.pop(0)\n" + CHILD
    for in_memory in ("0", str(EVERYTHING)):
        args = ["-c", str(tmp_path / "cache"), str(tmp_path / "made.txt"), "0", "100000", in_memory]
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120)
        assert done.stdout.split() == ["40", str(float(row(np.arange(40)).sum()))], done.stderr
        assert done.stderr.count("Going on without it") == 1 and "Traceback" not in done.stderr


def test_the_last_of_a_disk_is_left_to_the_runs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(making, "RESERVE", 2**60)
    for in_memory in (0, EVERYTHING):
        assert fetched(Store(tmp_path, "features", {}, None), range(30), in_memory=in_memory).made == 30
    assert blocks(tmp_path) == [] and "No space left" in caplog.text


# ------------------------------------------------------------------------------------------------------------------ limits


def kb(number: int) -> np.ndarray:
    """Hashes of so many rows of 1 KB; see `big`."""
    return np.arange(number)


def big() -> Maker:
    return Maker(64, (256,))


def test_the_least_recently_used_go_first(tmp_path):
    for name in "abc":
        fetched(Store(tmp_path, "features" if name == "a" else "images", {"of": name}, 1), kb(400), big(), EVERYTHING)
        for record in blocks(tmp_path):
            os.utime(record, (record.stat().st_atime, record.stat().st_mtime - 100))
        if name == "b":
            fetched(Store(tmp_path, "features", {"of": "a"}, 1), kb(400), big())  # used again
    left = {store.about["about"]["of"] for store in kept.stores(tmp_path) if store.blocks}
    assert left == {"a", "c"}
    assert sum(store.size for store in kept.stores(tmp_path)) <= 2**20


def test_what_this_process_reads_from_stays_whatever_the_limit_is(tmp_path):
    held = fetched(Store(tmp_path, "features", {"of": "a"}, 1), kb(600), big())
    fetched(Store(tmp_path, "features", {"of": "b"}, 1), kb(600), big(), EVERYTHING)
    assert [bool(store.blocks) for store in kept.stores(tmp_path)] == [True, True]
    assert np.array_equal(everything(held.rows), row(kb(600), (256,)))
    del held
    fetched(Store(tmp_path, "features", {"of": "c"}, 1), kb(300), big(), EVERYTHING)
    assert sum(store.size for store in kept.stores(tmp_path)) <= 2**20


@pytest.mark.parametrize("in_memory", [0, EVERYTHING])
def test_rows_that_are_more_than_the_limit_are_not_kept(tmp_path, caplog, in_memory):
    fetched(Store(tmp_path, "features", {"of": "small"}, 1), kb(300), big(), in_memory)
    assert fetched(Store(tmp_path, "features", {"of": "large"}, 1), kb(1100), big(), in_memory).made == 1100
    assert len(blocks(tmp_path)) == 1
    assert "more than may be kept (output.cache_mb=1)" in caplog.text


def test_a_store_of_another_version_is_left_alone_and_forgotten_in_its_turn(tmp_path):
    old = tmp_path / "features" / ("0" * 20)
    old.mkdir(parents=True)
    (old / "about.json").write_text(json.dumps({"tlmtl": "0.0.1", "format": 0, "kind": "features", "about": {}}))
    (old / "old.json").write_text("another format")
    (old / "rows.bin").write_bytes(bytes(300 * 1024))
    for path in old.iterdir():
        os.utime(path, (1, 1))
    fetched(Store(tmp_path, "features", {"of": "a"}, 1), kb(500), big())
    assert (old / "old.json").read_text() == "another format"
    lock = FileLock(old.with_name(f"{old.name}.lock"))
    with lock:  # its own program is at work in it
        fetched(Store(tmp_path, "features", {"of": "b"}, 1), kb(400), big(), EVERYTHING)
        assert old.is_dir()
    fetched(Store(tmp_path, "features", {"of": "c"}, 1), kb(400), big(), EVERYTHING)
    assert not old.exists()


def test_what_is_not_a_store_is_never_removed_and_links_are_not_followed(tmp_path):
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    fetched(Store(elsewhere, "features", {"of": "x"}, None), kb(900), big())
    (cache / "features").mkdir(parents=True)
    (cache / "features" / ("a" * 20)).symlink_to(
        next(path for path in (elsewhere / "features").iterdir() if path.is_dir())
    )
    (cache / "linked").symlink_to(elsewhere / "features")
    (cache / "features" / "mine").mkdir()
    (cache / "features" / "mine" / "thesis.json").write_text("{}" * 10**6)
    fetched(Store(cache, "features", {"of": "a"}, 1), kb(700), big(), EVERYTHING)
    fetched(Store(cache, "features", {"of": "b"}, 1), kb(700), big(), EVERYTHING)
    assert len(blocks(elsewhere)) == 1 and (cache / "features" / "mine" / "thesis.json").exists()
    assert sum(store.size for store in kept.stores(cache)) <= 2**20


# ------------------------------------------------------------------------------------------------------------------ memory

MEMORY = """
import gc, sys
from pathlib import Path
import numpy as np, torch
from tlmtl.store.rows import Store

def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

def make(positions):
    for part in np.array_split(positions, len(positions) // 256):
        yield np.broadcast_to(part[:, None], (len(part), width)).astype("f4")

def fetch(number, of, in_memory):
    return Store(Path(sys.argv[1]), "features", {"of": of}, None).fetch(np.arange(number), make, in_memory)

count, width = int(sys.argv[2]), int(sys.argv[3])
fetch(512, "nothing", 0).rows[torch.arange(512)]  # threads, allocators
for of, in_memory in (("memory", 2**40), ("files", 0)):
    for _ in range(2):  # made, then read
        gc.collect()
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        found = fetch(count, of, in_memory)
        for batch in torch.randperm(count).split(256):
            assert torch.equal(found.rows[batch][:, 1], batch.float())
        print(found.made, status("VmHWM") - before)
        del found
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as Linux tells it")
@pytest.mark.parametrize(
    ("count", "share", "files"),
    [(30_000, 1.3, 150 * 2**20), pytest.param(50_000, 1.2, 300 * 10**6, marks=pytest.mark.slow)],
)
def test_memory_is_that_of_the_rows_or_does_not_grow_with_them(tmp_path, count, share, files):
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(count), "1280"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (made, peaks), size = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True), count * 5120
    assert made == (count, 0, count, 0)
    assert all(size * 0.9 < peak <= size * share for peak in peaks[:2]), peaks
    assert all(peak <= files for peak in peaks[2:]), peaks
    print([round(peak / size, 3) for peak in peaks[:2]], [round(peak / 2**20) for peak in peaks[2:]])
