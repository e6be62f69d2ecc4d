"""The report of a run, or of two side by side: one HTML page that needs no other file and no network."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from dinolab.data.addresses import local_only
from dinolab.errors import UserError, mask
from dinolab.files import write_whole
from dinolab.rundir import RunFolder

log = logging.getLogger(__name__)


def report(runs: Sequence[Path], out: Path | None = None, photos: bool = True, remote: bool = False) -> Path:
    """Write the page of a run's folder, or of two runs side by side.

    What a run lacks is left out, with a line that names the command which would make it.

    Args:
        runs: one or two folders of runs.
        out: an .html file; by default report.html in the run's folder, or report_with_B.html in the first of two.
        photos: show images of the data; without them the page can be given to people who must not see these.
        remote: also read images from remote storage, such as s3:// and ftp://, where the run has its images there. A run from a
            stranger could make this machine call any server.

    Returns:
        The file.

    Raises:
        UserError: no run or more than two, a folder that is not a run's, or `out` is a file that is no report.
    """
    from dinolab.report.page import confirm, render  # torch and matplotlib are imported only when a page is made
    from dinolab.report.run import read_run

    if not 1 <= len(runs) <= 2:
        raise UserError(f"a report shows one run or two, not {len(runs)}")
    read = [read_run(Path(folder)) for folder in runs]
    first = Path(runs[0])
    file = out or (RunFolder(first).report if len(runs) == 1 else first / f"report_with_{read[1].name}.html")
    confirm(file)
    with nullcontext() if remote else local_only("remote=true reads it"):
        html = mask(render(read, photos, file.parent))
    for run in read:
        for problem in run.problems:
            log.warning("%s: %s", run.path, problem)
    write_whole(file, html.encode(errors="backslashreplace"))
    return file
