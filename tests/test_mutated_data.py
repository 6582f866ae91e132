"""Annotations that are damaged anywhere: read as far as they go, counted, or refused in a line.

The long forms, two thousand mutants a format: python -m pytest -q -m attack
"""

import contextlib
import functools
import json
import random
import re
import shutil
import signal

import attacks
import layouts
import pytest

import rollNumber_05 as malaria

FIELDS = [("ring", "trophozoite"), ("schizont",), ("gametocyte", "ring"), ("ring", "ring")]
SIZE = (layouts.WIDTH, layouts.HEIGHT)
ENDINGS = (".xml", ".json", ".jsonl", ".csv", ".txt", ".yaml")
LIMIT = 20  # seconds for one mutant
ODD_TEXTS = [
    b"", b"\x00", b"\xff\xfe", b"\xf0\x9f\xa6\xa0", b"nan", b"-inf", b"1e999", b"-1", b"9" * 5000,
    b"null", b"true", b"[]", b"{}", b'"', b"<", b">", b"&a;", b"]]>", b"\n", b"\r", b",", b"\t",
    b"[" * 3000, b"<a>" * 3000, b"../../etc/passwd", b"%s%n", b"0x10", b"1_0", b"\xe2\x80\xae",
    b"*a", b"&a [*a]", b"!!python/object/apply:os.system ['x']", b"NULL", b"=1+1", b"\\ud800",
]  # fmt: skip
TOKENS = re.compile(rb"[A-Za-z_]+|-?[0-9.]+|\s+|.", re.DOTALL)


def write_jsonl(root, names_of_fields):
    """Write Hugging Face's metadata.jsonl and its images."""
    lines = []
    for number, names in enumerate(names_of_fields):
        cells = layouts.smear(root / f"{number}.png", *names, shift=number)
        classes, boxes = zip(*cells, strict=True)
        objects = {"bbox": boxes, "categories": classes}
        lines.append(json.dumps({"file_name": f"{number}.png", "objects": objects}))
    layouts.write(root / "metadata.jsonl", "\n".join(lines))


def write_annotated(root, names_of_fields, annotate):
    """Write images, each with an annotation file beside it."""
    for number, names in enumerate(names_of_fields):
        cells = layouts.smear(root / f"{number}.png", *names, shift=number)
        annotate(root / f"{number}", f"{number}.png", cells, SIZE)


def write_yolo(root, names_of_fields):
    """Write YOLO's text files, their images and data.yaml."""
    write_annotated(root, names_of_fields, layouts.annotate_in_yolo)
    layouts.write(root / "data.yaml", f"names: [{', '.join(layouts.STAGES)}]\n")


FORMATS = {
    "VOC": functools.partial(write_annotated, annotate=layouts.annotate_in_voc),
    "IML": layouts.write_iml,
    "COCO": functools.partial(write_annotated, annotate=layouts.annotate_in_coco),
    "YOLO": write_yolo,
    "CSV": functools.partial(write_annotated, annotate=layouts.annotate_in_csv),
    "JSONL": write_jsonl,
    "LabelMe": functools.partial(write_annotated, annotate=layouts.annotate_in_labelme),
}


def mutated(content, draws):
    """Bytes with one to three changes, each to a byte, a token or a stretch."""
    for _ in range(draws.randint(1, 3)):
        content = draws.choice(MUTATIONS)(content, draws)
    return content


def flip_a_byte(content, draws):
    """One byte is another."""
    if not content:
        return content
    place = draws.randrange(len(content))
    return content[:place] + bytes([draws.randrange(256)]) + content[place + 1 :]


def cut_off(content, draws):
    """The end is missing."""
    return content[: draws.randrange(len(content) + 1)]


def leave_out(content, draws):
    """A stretch is missing."""
    start = draws.randrange(len(content) + 1)
    return content[:start] + content[start + draws.randrange(200) :]


def double(content, draws):
    """A stretch is there twice."""
    start = draws.randrange(len(content) + 1)
    end = start + draws.randrange(200)
    return content[:end] + content[start:]


def replace_a_token(content, draws):
    """A word, a number or a sign is something odd."""
    tokens = TOKENS.findall(content)
    if tokens:
        tokens[draws.randrange(len(tokens))] = draws.choice(ODD_TEXTS)
    return b"".join(tokens)


def swap_tokens(content, draws):
    """Two words, numbers or signs have changed places."""
    tokens = TOKENS.findall(content)
    if tokens:
        first = draws.randrange(len(tokens))
        second = draws.randrange(len(tokens))
        tokens[first], tokens[second] = tokens[second], tokens[first]
    return b"".join(tokens)


def recode(content, draws):
    """The file is in another encoding."""
    text = content.decode("utf-8", "replace")
    return text.encode(draws.choice(["utf-16", "utf-32-be", "utf-8-sig", "cp500"]), "replace")


MUTATIONS = [
    flip_a_byte,
    cut_off,
    leave_out,
    double,
    replace_a_token,
    replace_a_token,
    replace_a_token,
    swap_tokens,
    recode,
]


@contextlib.contextmanager
def time_limit():
    """Inside the block a mutant that takes too long raises TimeoutError."""

    def stop(*arguments):
        raise TimeoutError(f"more than {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_mutant(root, config):
    """Read a data set; returns whether it was taken up. Raises what is no UsageError."""
    try:
        with time_limit():
            malaria.load_data(config)
    except malaria.UsageError as error:
        assert str(error)
        return False
    finally:
        shutil.rmtree(config.results_dir, ignore_errors=True)
    return True


def check_mutants(tmp_path, name, seed, count):
    """Mutants of one format are read, or refused as a user's error."""
    root = tmp_path / "data"
    FORMATS[name](root, FIELDS)
    config = malaria.Config(
        data_path=str(root), results_dir=str(tmp_path / "results"), image_size=28
    )
    assert read_mutant(root, config)
    files = sorted(path for path in root.rglob("*") if path.suffix in ENDINGS)
    contents = {path: path.read_bytes() for path in files}
    draws = random.Random(seed)
    for number in range(count):
        path = draws.choice(files)
        mutant = mutated(contents[path], draws)
        path.write_bytes(mutant)
        try:
            read_mutant(root, config)
        except Exception as error:
            raise AssertionError(f"mutant {number} of {path.name}: {mutant[:3000]!r}") from error
        path.write_bytes(contents[path])


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm")
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_annotations(tmp_path, name):
    """Never a traceback."""
    check_mutants(tmp_path, name, seed=0, count=20)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(1, 1 + int(4 * attacks.SCALE)))
@pytest.mark.parametrize("name", FORMATS)
def test_many_mutated_annotations(tmp_path, name, seed):
    """Two thousand a format."""
    check_mutants(tmp_path, name, seed, count=500)
