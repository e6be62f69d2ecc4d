"""Options of `dinolab explore`."""

from dataclasses import dataclass

from dinolab.features.options import FeatureOptions
from dinolab.fields import option
from dinolab.options import EXPLORER_PORT, Columns


@dataclass
class ExploreOptions(Columns, FeatureOptions):
    """What is looked at, and where the page is."""

    data: str = option(
        "", "name the images to look at, such as data=photos: a folder, a CSV, shards or a curated set", required=True
    )
    detail: int = option(
        0, "short side in pixels of an image whose patches are shown (0: about 28 patches, at most 480 pixels)", 0, 4096
    )
    host: str = option("127.0.0.1", "address that the page is served at; the usual one is this machine's own")
    port: int = option(
        EXPLORER_PORT, "port of the page; where it is taken, the next free one is used (0: any free one)", 0, 65535
    )
    open: bool = option(True, "open the page in the browser")
    export: str = option("", "folder to write a page to that needs no server; nothing is served then")
    sample: int = option(500, "with export=: images of that page, at most", 1, 100_000)
    megabytes: float = option(50, "with export=: size of that page, at most", 1, 10_000)
