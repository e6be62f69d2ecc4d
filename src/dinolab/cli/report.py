"""dinolab report."""

import argparse
from pathlib import Path
from typing import Any

from dinolab.errors import UserError


def add(verbs: Any) -> None:
    report = verbs.add_parser(
        "report",
        help="one page of all that a run's folder holds, or of two runs side by side",
        description="Write one self-contained HTML page: data, configuration, curves, evaluations beside published figures, "
        "confusions, pictures of what was learned, speed, environment, commands. What a run lacks is left out.",
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or two")
    report.add_argument(
        "--out", type=Path, metavar="FILE.html", help="default report.html in RUN, or report_with_B.html in the first"
    )
    report.add_argument(
        "--no-photos", action="store_true", help="show no image of the data: a page that can be handed on"
    )
    report.set_defaults(verb=run_report)


def run_report(args: argparse.Namespace) -> int:
    from dinolab.report import report

    if args.out and args.out.suffix.lower() != ".html":
        raise UserError(f"--out {args.out}: must end in .html")
    print(report(args.runs, args.out, photos=not args.no_photos))
    return 0
