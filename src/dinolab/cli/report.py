"""dinolab report."""

from dataclasses import dataclass
from pathlib import Path

from dinolab.cli.grammar import Positional, Verb
from dinolab.errors import UserError, say
from dinolab.fields import option


@dataclass
class Report:
    out: str = option("", "HTML file to write (empty: report.html in RUN; with two runs, report_with_OTHER.html)")
    photos: bool = option(True, "include images of the data; without them the page can be passed on")
    remote: bool = option(
        False, "read images from remote storage (s3://, ftp://, ...), where the run has its images there"
    )


def run_report(run: str, other: str | None, own: Report) -> int:
    from dinolab.report import report

    out = Path(own.out) if own.out else None
    if out and out.suffix.lower() != ".html":
        raise UserError(f"out={out}: must end in .html")
    runs = [Path(folder) for folder in (run, other) if folder]
    say(report(runs, out, photos=own.photos, remote=own.remote))
    return 0


REPORT = Verb(
    "one page about a run, or about two runs side by side",
    run_report,
    about="Write one self-contained HTML page: data, configuration, curves, evaluations beside published figures, confusions, pictures, "
    "speed, environment, commands. Parts for which the run has no files are left out.",
    positionals=(
        Positional("RUN", "a run's folder"),
        Positional("OTHER", "folder of a second run, shown beside the first", required=False),
    ),
    options=(Report,),
    examples=("report runs/photos", "report runs/photos runs/other photos=false"),
)
