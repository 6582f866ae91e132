"""Tables as text."""


def text_table(rows):
    """Rows of values as aligned text."""
    texts = [list(map(str, row)) for row in rows]
    widths = [len(max(column, key=len)) for column in zip(*texts, strict=True)]
    lines = []
    for row in texts:
        padded = map(str.ljust, row, widths)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def splits_table(data):
    """What a data set has: layout, what is not used, notes, and images and cells of each split."""
    rows = []
    for split, count in data.counts().items():
        numbers = list(count["cells"].values())
        rows.append([split, count["images"], sum(numbers), *numbers])
    _, *columns = zip(*rows, strict=True)
    rows.append(["total", *map(sum, columns)])
    head = ["split", "images", data.label_kind.counted, *data.classes]
    index = data.index
    found = [f"{name} {count}" for name, count in sorted(index.found.items())]
    lines = [f"layout: {index.layout}, skipped: {index.skipped}"]
    lines += [f"{file}: {reason}" for file, reason in index.problems[:3]]
    lines.append(f"classes found: {', '.join(found)}; used: {', '.join(data.classes)}")
    lines += [f"note: {note}" for note in index.notes]
    lines.append(text_table([head, *rows]))
    return "\n".join(lines)
