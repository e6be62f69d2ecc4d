"""The report of a run, or of two side by side: one HTML page that needs nothing else."""

import logging
from collections.abc import Sequence
from pathlib import Path

from dinolab.errors import UserError
from dinolab.report.facts import read_run

log = logging.getLogger(__name__)


def report(runs: Sequence[Path], out: Path | None = None, photos: bool = True) -> Path:
    """Write the page of one run's folder, or of two side by side; returns the file.

    What a run lacks is left out, with a line that says which command would make it.

    Args:
        out: an .html file; by default report.html in the run's folder, or report_with_B.html in the first of two.
        photos: show images of the data; without them the page may go to people who must not see these.

    Raises:
        UserError: no run, more than two, a folder that is none, or `out` is a file that is no report.
    """
    from dinolab.files import write_whole
    from dinolab.report.page import confirm, render

    if not 1 <= len(runs) <= 2:
        raise UserError(f"a report is of one run or of two, not of {len(runs)}")
    read = [read_run(Path(folder)) for folder in runs]
    file = out or Path(runs[0]) / ("report.html" if len(runs) == 1 else f"report_with_{read[1].name}.html")
    confirm(file)
    html = render(read, photos, file.parent)
    for run in read:
        for problem in run.problems:
            log.warning("%s: %s", run.folder, problem)
    write_whole(file, html.encode(errors="backslashreplace"))
    return file
