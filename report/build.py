"""Build Report.pdf: figures and numbers from files of results, the text from report.typ.

    pip install -r report/requirements.txt
    python -m report.build                                  from the committed results, a minute
    python -m report.build --demo                           the panels of demo cells drawn anew too
    python -m report.build --data_path DIR_OR_ZIP           every experiment on your data: hours
    python -m report.build --data_path DIR_OR_ZIP --quick   your runs, benchmarks as committed

With --data_path results and Report.pdf go to results/report/, and the panels that show cells are of
your data; without it they show the demo set and generated cells. What was stopped goes on with the
same command. report.typ reads figures/ and numbers.json, which this program writes.
built_from.json keeps the fingerprints of all that they were made from.
"""

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import rollNumber_05 as malaria
from extras.flags import Parser

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TEXT = ("report.typ", "references.bib")


def build(results, weights, panels, out, of_own_data=False, has_own_benchmarks=False):
    """Draw the figures, write numbers.json and compile the PDF.

    results, weights, panels: folders, as figures.draw_figures takes them; out: the PDF.
    of_own_data: the results are not the committed ones; has_own_benchmarks: nor are those of
    benchmarks/. All but what the committed report reads goes beside `out`.
    """
    import typst

    from report.figures import draw_figures
    from report.numbers import read_numbers

    committed = HERE / "results"
    benchmarks = results if has_own_benchmarks else committed
    conditional = ROOT / "saved_models" / "conditional.pt"
    if has_own_benchmarks:
        conditional = weights / "conditional.pt"
    is_committed = not of_own_data and out.resolve() == ROOT / "Report.pdf"
    source = HERE if is_committed else out.resolve().parent / "report_source"
    draw_figures(results, weights, panels, benchmarks, conditional, source / "figures")
    numbers = read_numbers(results, weights, benchmarks)
    numbers["figures"] = sorted(path.name for path in (source / "figures").iterdir())
    numbers["of_own_data"] = of_own_data
    numbers["borrowed_benchmarks"] = of_own_data and not has_own_benchmarks
    (source / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
    if not is_committed:
        for name in TEXT:
            shutil.copy(HERE / name, source / name)
    typst.compile(str(source / "report.typ"), output=str(out))
    if is_committed:
        found = json.dumps(fingerprints(results, weights, panels), indent=1)
        (HERE / "built_from.json").write_text(found + "\n")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def fingerprints(results, weights, panels):
    """{file: SHA-1} of the report and of everything that it is made from."""
    files = [ROOT / "Report.pdf", *HERE.glob("*.py"), *weights.glob("*.pt")]
    files += [HERE / name for name in TEXT]
    files += panels.glob("*.png")
    files += [path for path in results.rglob("*") if path.is_file()]
    found = {}
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        found[name] = hashlib.sha1(path.read_bytes()).hexdigest()
    return found


def make_parser():
    """The parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--data_path", help="folder or zip; default: build from the committed results"
    )
    parser.add_argument(
        "--demo", action="store_true", help="first train on the demo set and draw its panels anew"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="with --data_path: no benchmarks, their committed results stand",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="default: Report.pdf, with --data_path results/report/Report.pdf",
    )
    return parser


def run(arguments):
    """Do what a command line says."""
    flags = make_parser().parse_args(arguments)
    if flags.quick and not flags.data_path:
        raise malaria.UsageError("--quick goes with --data_path")
    if flags.demo and flags.data_path:
        raise malaria.UsageError("--demo goes without --data_path")
    if not importlib.util.find_spec("typst"):
        raise malaria.UsageError(
            "the package typst is not installed; pip install -r report/requirements.txt"
        )
    from report import experiments

    if flags.data_path:
        results = ROOT / "results" / "report"
        experiments.run_experiments(flags.data_path, results, flags.quick)
        build(
            results,
            results / "weights",
            results / "panels",
            flags.out or results / "Report.pdf",
            of_own_data=True,
            has_own_benchmarks=not flags.quick,
        )
        return
    results = HERE / "results"
    panels = HERE / "panels"
    if flags.demo:
        experiments.draw_demo(panels)
    build(results, ROOT / "saved_models", panels, flags.out or ROOT / "Report.pdf")


if __name__ == "__main__":
    sys.exit(malaria.main(run, sys.argv[1:]))
