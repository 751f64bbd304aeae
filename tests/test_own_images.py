"""Image files that are broken or strange, and what is kept of those that were read."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from own import loaded, picture
from PIL import Image

from tlmtl.data import scan as scanning
from tlmtl.data.decode import decode
from tlmtl.data.scan import scan
from tlmtl.errors import ConfigError


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that are opened from now on."""
    names = []
    really = scanning.opened
    monkeypatch.setattr(scanning, "opened", lambda path: names.append(Path(path).name) or really(path))
    return names


@pytest.fixture
def paths(tmp_path):
    return [str(picture(tmp_path / "d" / f"{i}.png", i)) for i in range(6)]


def facts_of(found):
    return [getattr(found, name).tolist() for name in scanning.FIELDS]


# What is kept


def test_a_second_reading_opens_nothing(tmp_path, paths, opened):
    first = scan(paths, tmp_path / "cache")
    assert sorted(opened) == [f"{i}.png" for i in range(6)] and first.width.tolist() == [48] * 6
    opened.clear()
    again = scan(paths, tmp_path / "cache")
    assert opened == [] and facts_of(again) == facts_of(first) == facts_of(scan(paths))


def test_other_files_and_another_order(tmp_path, paths, opened):
    scan(paths[:4], tmp_path / "cache")
    opened.clear()
    found = scan(paths[::-1], tmp_path / "cache")
    assert sorted(opened) == ["4.png", "5.png"] and facts_of(found) == facts_of(scan(paths[::-1]))


def test_a_file_that_was_exchanged_is_read_again(tmp_path, paths, opened):
    path = tmp_path / "d" / "2.png"
    other = picture(tmp_path / "other.png", 77).read_bytes()
    size = max(path.stat().st_size, len(other)) + 1
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # what follows a picture's end is not read
    first, before = scan(paths, tmp_path / "cache"), path.stat()
    path.write_bytes(other.ljust(size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    opened.clear()
    found = scan(paths, tmp_path / "cache")
    assert opened == ["2.png"] and found.hash[2] != first.hash[2]
    assert np.delete(found.hash, 2).tolist() == np.delete(first.hash, 2).tolist()


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"PAR1garbagePAR1", None], ids=["empty", "text", "marked", "half"]
)
def test_a_broken_cache_is_read_anew(tmp_path, paths, opened, content):
    first = scan(paths, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "scans").iterdir()
    kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2] if content is None else content)
    opened.clear()
    assert facts_of(scan(paths, tmp_path / "cache")) == facts_of(first) and len(opened) == 6
    opened.clear()
    assert facts_of(scan(paths, tmp_path / "cache")) == facts_of(first) and opened == []


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, paths):
    (tmp_path / "cache").write_text("a file, where a folder should be")
    assert facts_of(scan(paths, tmp_path / "cache")) == facts_of(scan(paths))
    assert loaded_twice(tmp_path) == (10, 10)


def loaded_twice(tmp_path):
    for i in range(10):
        picture(tmp_path / "two" / "ab"[i % 2] / f"{i}.png", i)
    return tuple(len(loaded("folder", cache=tmp_path / "cache", root=str(tmp_path / "two")).examples) for _ in range(2))


def test_bad_files_are_looked_at_again(tmp_path, paths, opened):
    whole = (tmp_path / "d" / "3.png").read_bytes()
    (tmp_path / "d" / "3.png").write_bytes(whole[:100])
    found = scan(paths, tmp_path / "cache")
    assert found.error[3] and not any(np.delete(found.error, 3))
    opened.clear()
    assert scan(paths, tmp_path / "cache").error[3] == found.error[3] and opened == ["3.png"]
    (tmp_path / "d" / "3.png").write_bytes(whole)
    assert not any(scan(paths, tmp_path / "cache").error)


# Bad pictures


def png(width, height):
    """The head of a PNG file that says it is so large, and nothing more."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(OSError) as error:
        decode(path)
    return str(error.value)


def test_files_that_are_no_images(tmp_path):
    path = tmp_path / "x.png"
    assert refusal(path, b"") == "an empty file"
    assert refusal(path, b"GIF89a") != "an empty file"
    assert refusal(path, b"text") == "no image of a known format"
    assert refusal(path, png(40_000, 40_000)).startswith(
        "refused as too large: Image size (1600000000 pixels) exceeds limit"
    )
    assert refusal(path, picture(tmp_path / "whole.png", 1).read_bytes()[:400]) == "image file is truncated"
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert refusal(tmp_path / "x.eps", postscript) == "no image of a known format"
    with pytest.raises(OSError, match=r"^No such file or directory$"):
        decode(tmp_path / "gone.png")
    with pytest.raises(OSError, match=r"^Is a directory$"):
        decode(tmp_path)


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(OSError, match=r"32-bit floating point, whose range is not known: save it with 8 or 16 bits"):
        decode(tmp_path / "x.tif")


def test_bad_pictures_of_a_folder_are_named_together(tmp_path):
    for i in range(20):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    (tmp_path / "a" / "bomb.png").write_bytes(png(40_000, 40_000))
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "b" / "float.tif")
    with pytest.raises(ConfigError) as error:
        loaded("folder", root=str(tmp_path))
    assert "found 3 of 23 files that cannot be read" in str(error.value)
    for words in (
        "a/bomb.png: refused as too large",
        "a/empty.png: an empty file",
        "b/float.tif: 32-bit floating point",
    ):
        assert words in str(error.value)
    data = loaded("folder", root=str(tmp_path), on_bad_image="skip")
    assert len(data.examples) == 20 and data.examples.skipped == 3


# Folders


def test_a_link_back_to_the_folder_ends(tmp_path):
    for i in range(12):
        picture(tmp_path / "d" / "ab"[i % 2] / f"{i}.png", i)
    (tmp_path / "d" / "a" / "back").symlink_to(tmp_path / "d", target_is_directory=True)
    data = loaded("folder", root=str(tmp_path / "d"))
    assert len(data.examples) == 12
    assert data.examples.notes == [
        f"Passed over: 1 folder(s) inside the folders of classes, such as {tmp_path}/d/a/back."
    ]
    (tmp_path / "d" / "b" / "5.png").unlink()
    (tmp_path / "d" / "b" / "5.png").symlink_to("5.png")  # a link to itself is no file
    assert len(loaded("folder", root=str(tmp_path / "d")).examples) == 11


def test_folders_of_folders_are_told(tmp_path):
    for i in range(12):
        picture(tmp_path / "d" / "ab"[i % 2] / "inner" / f"{i}.png", i)
    with pytest.raises(
        ConfigError, match=r"Expected images at .*/d/<class>/\* or .*/d/\{train,val,test\}/<class>/\*, found none"
    ):
        loaded("folder", root=str(tmp_path / "d"))
