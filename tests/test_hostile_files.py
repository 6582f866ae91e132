"""Images and archives that would take all memory or the whole disk, or are there only in part."""

import contextlib
import io
import os
import random
import struct
import tarfile
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import attacks
import cv2
import numpy as np
import pytest
from PIL import Image
from test_mutated_data import mutated

from extras import archives, images

ROWS = 60
COLUMNS = 80


def picture():
    """An image uint8 (60, 80, 3) with much in it."""
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def encoded(kind, **settings):
    """The bytes of the picture in a format of Pillow."""
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, kind, **settings)
    return file.getvalue()


def png_chunk(name, content):
    """A chunk of a PNG."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


# Images


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    """It says how many they are, and which flag allows more."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    content = images.PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(images.ImageError, match=r"30000 x 30000 pixels.*--max_pixels 100000000"):
        images.read_pixels(tmp_path / "huge.png", 3)


def test_the_limit_of_pixels_can_be_changed(tmp_path):
    """In both directions."""
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    assert images.read_pixels(tmp_path / "a.png", 3, max_pixels=ROWS * COLUMNS).shape[0] == ROWS
    with pytest.raises(images.ImageError, match="--max_pixels 4799"):
        images.read_pixels(tmp_path / "a.png", 3, max_pixels=ROWS * COLUMNS - 1)


def test_the_limit_of_pixels_holds_for_what_pillow_does_not_know(tmp_path):
    """TIFFs of several channels of floats."""
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((ROWS, COLUMNS, 3), np.float32))
    assert images.read_pixels(tmp_path / "a.tif", 3).shape == (ROWS, COLUMNS, 3)
    with pytest.raises(images.ImageError, match="80 x 60 pixels"):
        images.read_pixels(tmp_path / "a.tif", 3, max_pixels=100)


def test_large_images_give_no_warning(tmp_path, monkeypatch):
    """Pillow's limit is lower, and not a user's."""
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Image.MAX_IMAGE_PIXELS is None
        images.read_pixels(tmp_path / "a.png", 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    """Nor is a folder read."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="not an image file"):
        images.read_pixels(tmp_path / "a.png", 3)
    with pytest.raises(images.ImageError, match="not an image file"):
        images.read_pixels(tmp_path, 3)


def test_a_format_that_runs_a_program_is_not_read(tmp_path):
    """Pillow would give an EPS to Ghostscript."""
    (tmp_path / "a.png").write_bytes(encoded("EPS"))
    with pytest.raises(Exception, match="not a TIFF file"):
        images.read_pixels(tmp_path / "a.png", 3)


def cut(content):
    """The first half of bytes."""
    return content[: len(content) // 2]


def cut_with_an_end(content):
    """The first half of bytes, and the marker that ends a JPEG."""
    return cut(content) + b"\xff\xd9"


def lose_a_quarter(content):
    """Bytes with zeros in the third quarter, as a download leaves them."""
    middle = len(content) // 2
    end = middle + len(content) // 4
    return content[:middle] + bytes(end - middle) + content[end:]


def lose_the_end(content):
    """Bytes but for the last ten."""
    return content[:-10]


@pytest.mark.parametrize("damage", [cut, cut_with_an_end, lose_a_quarter, lose_the_end])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive JPEG"])
def test_what_is_there_only_in_part_is_damaged(tmp_path, kind, damage):
    """Also where the decoder makes up the rest."""
    if kind == "progressive JPEG":
        content = encoded("JPEG", quality=95, progressive=True)
    else:
        content = encoded(kind)
    (tmp_path / "a.png").write_bytes(content)
    images.read_pixels(tmp_path / "a.png", 3)
    (tmp_path / "a.png").write_bytes(damage(content))
    with pytest.raises((images.ImageError, OSError, SyntaxError)):
        images.read_pixels(tmp_path / "a.png", 3)


def test_a_jpeg_with_something_behind_it_is_whole(tmp_path):
    """Some cameras put a second image there."""
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG") + b"behind" * 100)
    assert images.read_pixels(tmp_path / "a.jpg", 3).shape == (ROWS, COLUMNS, 3)


def deep_png(*more):
    """The bytes of a PNG of 16 bits a colour, with more chunks behind its header."""
    _, content = cv2.imencode(".png", picture()[:, :, ::-1].astype(np.uint16) * 257)
    content = content.tobytes()
    end_of_header = len(images.PNG_SIGNATURE) + 25
    return content[:end_of_header] + b"".join(more) + content[end_of_header:]


def noisy_files():
    """{library: bytes of an image file about which it would print something}."""
    lzw = encoded("TIFF", compression="tiff_lzw")
    deflated = encoded("TIFF", compression="tiff_adobe_deflate")
    odd_chunks = (png_chunk(b"iCCP", b"x\0\0"), png_chunk(b"tEXt", b""))
    return {
        "libtiff": lose_a_quarter(lzw),
        "libtiff, cut": cut(deflated),
        "libpng": deep_png(*odd_chunks),
        "libpng, cut": cut(deep_png()),
        "libjpeg": cut_with_an_end(encoded("JPEG")),
        "none": b"nothing",
    }


@pytest.mark.parametrize("name", noisy_files())
def test_the_libraries_print_nothing(tmp_path, capfd, name):
    """What is wrong is said once, by the caller."""
    (tmp_path / "a.png").write_bytes(noisy_files()[name])
    with contextlib.suppress(Exception):  # of many kinds
        images.read_pixels(tmp_path / "a.png", 3)
    assert capfd.readouterr().err == ""


def test_deep_pixels_do_not_depend_on_remarks(tmp_path):
    """Of a PNG, which are left out."""
    (tmp_path / "a.png").write_bytes(deep_png(png_chunk(b"tEXt", b"Comment\0text")))
    assert np.array_equal(images.read_pixels(tmp_path / "a.png", 3, depth=16), picture())


def test_a_budget_of_pixels_is_kept():
    """By sixteen threads, each with a third of it; at least two are at work together."""
    budget = images.PixelBudget(90)
    held = []
    highest = 0

    def hold():
        nonlocal highest
        with budget.holding(30):
            held.append(30)
            highest = max(highest, sum(held))
            time.sleep(0.005)
            held.pop()

    threads = [threading.Thread(target=hold) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 60 <= highest <= 90


def test_an_image_above_the_budget_is_held_alone():
    """It does not wait for ever."""
    budget = images.PixelBudget(90)
    with budget.holding(1000):
        assert budget.free == 0
    assert budget.free == 90


@pytest.mark.attack
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "deep"])
def test_memory_of_a_large_image(tmp_path, mode):
    """At most 25 bytes a pixel, for one of 99 million."""
    resource = pytest.importorskip("resource")
    size = (11_000, 9_000)
    path = tmp_path / "large.png"
    if mode == "deep":
        cv2.imwrite(str(path), np.full((*size, 3), 4000, np.uint16))
    else:
        Image.new(mode, size).save(path, compress_level=1)
    outcome = attacks.attempt([path], tmp_path, work=measure_memory, seconds=300)
    assert outcome.code == 0, outcome.errors
    assert int(outcome.output) < 25 * size[0] * size[1]
    del resource


def measure_memory(arguments):
    """Print how many bytes reading an image takes at most, in this process."""
    before = highest_memory()
    images.read_pixels(arguments[0], 3)
    print(highest_memory() - before)


def highest_memory():
    """The most memory that this process has had, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


FORMATS = {
    "PNG": {},
    "JPEG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "WEBP": {},
    "GIF": {},
}


def read_mutants(arguments):
    """Read mutants of an image of each format: pixels, or an exception, but no crash.

    arguments: a seed and a number of mutants, as text. At most 8 GiB of addresses are there.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    seed, count = map(int, arguments)
    draws = random.Random(seed)
    for kind, settings in FORMATS.items():
        content = encoded(kind, **settings)
        for _ in range(count):
            Path("mutant.png").write_bytes(mutated(content, draws))
            with contextlib.suppress(Exception):
                images.read_pixels("mutant.png", 3)
    print("done")


def check_mutants(folder, seed, count):
    """All mutants are read or refused, and nothing is printed."""
    outcome = attacks.attempt([seed, count], folder, work=read_mutants, seconds=300)
    assert outcome.output == "done\n", outcome
    assert outcome.errors == ""


def test_mutated_images(tmp_path):
    """A hundred and twenty."""
    check_mutants(tmp_path, seed=0, count=20)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(1, 1 + int(4 * attacks.SCALE)))
def test_many_mutated_images(tmp_path, seed):
    """Two thousand a format."""
    check_mutants(tmp_path, seed, count=500)


# Archives


def zip_of(path, files, method=zipfile.ZIP_DEFLATED):
    """Write a zip of {name: bytes}."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(path, target, **settings):
    """{name: bytes} of what an archive is unpacked to."""
    target.mkdir()
    archives.unpack_all([path], target, **settings)
    found = {}
    for file in sorted(target.rglob("*")):
        if file.is_file() and file.name != archives.MANIFEST:
            found[file.relative_to(target).as_posix()] = file.read_bytes()
    return found


def test_an_archive_is_measured_before_it_is_unpacked(tmp_path):
    """Two megabytes of nothing are a few kilobytes in a zip."""
    path = zip_of(tmp_path / "a.zip", {"a.png": bytes(2_000_000), "b.png": b""})
    with pytest.raises(archives.ArchiveError, match="larger than --max_unpacked_gb 0.001"):
        unpacked(path, tmp_path / "out", max_unpacked_gb=0.001)
    assert list((tmp_path / "out").iterdir()) == []


def test_zips_in_a_zip_are_measured_together(tmp_path):
    """Each is below the limit."""
    inner = zip_of(tmp_path / "inner.zip", {"a.png": bytes(700_000)}).read_bytes()
    path = zip_of(tmp_path / "a.zip", {f"{n}.zip": inner for n in range(3)})
    with pytest.raises(archives.ArchiveError, match="--max_unpacked_gb"):
        unpacked(path, tmp_path / "out", max_unpacked_gb=0.002)
    assert len(unpacked(path, tmp_path / "enough", max_unpacked_gb=0.003)) == 3


def test_zips_in_zips_come_to_an_end(tmp_path):
    """Some hold themselves."""
    content = b""
    for _ in range(archives.MAX_DEPTH + 1):
        content = zip_of(tmp_path / "a.zip", {"a.zip": content}).read_bytes()
    with pytest.raises(archives.ArchiveError, match="zips in zips"):
        unpacked(tmp_path / "a.zip", tmp_path / "out")


def test_a_tar_is_measured_while_it_is_unpacked(tmp_path):
    """Also what is passed over."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("film.avi")
        entry.size = 2_000_000
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    with pytest.raises(archives.ArchiveError, match="--max_unpacked_gb"):
        unpacked(tmp_path / "a.tar.gz", tmp_path / "out", max_unpacked_gb=0.001)


def test_a_zip_of_too_many_files_is_refused(tmp_path, monkeypatch):
    """Each of them would be a file of its own."""
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    path = zip_of(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(11)})
    with pytest.raises(archives.ArchiveError, match="more than 10 files"):
        unpacked(path, tmp_path / "out")


def test_a_lie_about_sizes_ends_at_the_size_stated(tmp_path):
    """The member says that it has 10 bytes, and has a million."""
    path = zip_of(tmp_path / "a.zip", {"a.png": bytes(1_000_000)})
    content = path.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 10))
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        unpacked(path, tmp_path / "out")
    assert (tmp_path / "out/a.png").stat().st_size <= 10


def test_only_what_is_used_is_unpacked(tmp_path):
    """Of an image that is not read only the name is."""
    files = {"a.png": b"1", "film.avi": b"2", ".hidden.png": b"3", "__MACOSX/a.png": b"4"}
    path = zip_of(tmp_path / "a.zip", files | {"b.czi": bytes(2_000_000), "c.XML": b"6"})
    found = unpacked(path, tmp_path / "out", max_unpacked_gb=0.001)
    assert found == {"a.png": b"1", "b.czi": b"", "c.XML": b"6"}


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("Größe.png", "utf-8"), ("Größe.png", "cp437"), ("Пациент 1.png", "cp866")],
)
def test_names_in_another_encoding(tmp_path, name, encoding):
    """Of a zip that does not say which: from macOS, and from Windows, Western and Russian."""
    place_holder = "x" * len(name.encode(encoding))
    path = zip_of(tmp_path / "a.zip", {place_holder: b"1"})
    content = path.read_bytes().replace(place_holder.encode(), name.encode(encoding))
    path.write_bytes(content)
    assert unpacked(path, tmp_path / "out") == {name: b"1"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aux.png", "_aux.png"),
        ("COM1", "_COM1"),
        ("auxiliary.png", "auxiliary.png"),
        ("a?b*.png", "a_b_.png"),
        ("trailing. ", "trailing"),
    ],
)
def test_names_that_windows_does_not_have(name, expected):
    """They are devices there, or refused."""
    assert archives.name_for_windows(name) == expected


def test_a_locked_zip_is_named_as_that(tmp_path):
    """By the flag of its members."""
    path = zip_of(tmp_path / "a.zip", {"a.png": b"1"}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= archives.IS_LOCKED
    path.write_bytes(content)
    with pytest.raises(archives.ArchiveError, match="locked with a password"):
        unpacked(path, tmp_path / "out")


def test_an_unbounded_compression_is_refused(tmp_path):
    """One read of bzip2 can be gigabytes."""
    path = zip_of(tmp_path / "a.zip", {"a.png": b"1"}, zipfile.ZIP_BZIP2)
    with pytest.raises(archives.ArchiveError, match="compressed in a way that is not read"):
        unpacked(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("start", "words"),
    [(b"Rar!\x1a\x07\x01\0", "RAR"), (b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"note", "neither")],
)
def test_other_files_get_words_that_fit(tmp_path, start, words):
    """With the mend."""
    (tmp_path / "a.rar").write_bytes(start + bytes(100))
    with pytest.raises(archives.ArchiveError, match=f"{words}.* give"):
        unpacked(tmp_path / "a.rar", tmp_path / "out")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices")
def test_a_device_is_no_archive(tmp_path):
    """It would be read for ever."""
    with pytest.raises(archives.ArchiveError, match="device"):
        unpacked(Path("/dev/zero"), tmp_path / "out")


def add_to_tar(archive, name, kind=tarfile.REGTYPE, content=b""):
    """Add a member to an open tar."""
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.linkname = "/etc/passwd"
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_read(tmp_path, mode):
    """But for links, devices and what leads elsewhere."""
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        add_to_tar(archive, "in/a.png", content=b"1")
        add_to_tar(archive, "../b.png", content=b"2")
        add_to_tar(archive, "/c.png", content=b"3")
        add_to_tar(archive, "d.png", tarfile.SYMTYPE)
        add_to_tar(archive, "e.png", tarfile.LNKTYPE)
        add_to_tar(archive, "f.png", tarfile.CHRTYPE)
    assert unpacked(tmp_path / "a.tar", tmp_path / "out") == {"in/a.png": b"1"}


def test_what_was_unpacked_is_known_to_be_whole(tmp_path):
    """Until a part of it is gone, or cut off."""
    path = zip_of(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})
    unpacked(path, tmp_path / "out")
    assert archives.is_whole(tmp_path / "out")
    (tmp_path / "out/a.png").write_bytes(b"")
    assert not archives.is_whole(tmp_path / "out")
    (tmp_path / "out/a.png").unlink()
    assert not archives.is_whole(tmp_path / "out")
    assert not archives.is_whole(tmp_path / "nothing")


def test_a_disk_without_the_place_is_named_before(tmp_path, monkeypatch):
    """With how much it takes."""

    class Usage:
        free = 100

    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: Usage)
    path = zip_of(tmp_path / "a.zip", {"a.png": bytes(2_000_000_000 // 1000)})
    with pytest.raises(archives.ArchiveError, match="make place, or give --results_dir"):
        unpacked(path, tmp_path / "out")


# Where a PNG says how it lies


def png_lying(place):
    """The bytes of a PNG whose EXIF says 6; place: where that is, before or behind the pixels."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    picture = Image.new("RGB", (4, 2))
    file = io.BytesIO()
    if place == "before":
        picture.save(file, "PNG", exif=exif)
        return file.getvalue()
    picture.save(file, "PNG")
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    end_chunk = 12  # bytes
    content = file.getvalue()
    return content[:-end_chunk] + chunk + content[-end_chunk:]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_that_says_how_it_lies(tmp_path, place):
    """Wherever it does."""
    path = tmp_path / "a.png"
    path.write_bytes(png_lying(place))
    assert images.has_orientation(path)


def test_a_png_without_exif_is_not_decoded_for_it(tmp_path, monkeypatch):
    """That would take as long as reading it."""
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", None)
    with images.open_image(tmp_path / "a.png") as image:
        assert images.orientation(image, tmp_path / "a.png") == 1
