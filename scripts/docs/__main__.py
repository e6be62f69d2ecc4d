"""Builds the docs site: `python -m scripts.docs` in the repository. Any warning or broken link is an error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.docs.check import misread, problems
from scripts.docs.reference import write_pages
from scripts.docs.stage import stage

ROOT = Path(__file__).parents[2]
STAGED, SITE, REFERENCE = ROOT / "build" / "docs", ROOT / "site", ROOT / "build" / "docs" / "reference"
ALSO = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def main() -> int:
    os.environ["COLUMNS"] = "100"  # of help texts
    stage(ROOT, STAGED, ALSO)
    write_pages(REFERENCE)
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(zensical, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        return done.returncode
    # what strict lets pass: warnings about docstrings
    found = [line for line in done.stdout.splitlines() if line.startswith("griffe:")] + problems(SITE)
    pages = sorted(STAGED.rglob("*.md"))
    for page in pages:
        if page.parent != REFERENCE:
            found += misread(page, built(page))
    print(*found, sep="\n", file=sys.stderr)
    print(f"{SITE}: {len(pages)} pages, {len(found)} problems")
    return 1 if found else 0


def built(page: Path) -> Path:
    """The file that the builder makes of a page."""
    name = "index.html" if page.name == "README.md" else f"{page.stem}.html"
    return SITE / page.relative_to(STAGED).parent / name


if __name__ == "__main__":
    sys.exit(main())
