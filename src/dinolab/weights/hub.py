"""Models of the Hugging Face Hub where it cannot be reached: what is cached is opened, and anything else fails at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from dinolab.errors import UserError
from dinolab.weights.tensors import NOT_OPENED, not_opened

PATIENCE = 5.0  # seconds; the Hub's own library tries again for more than a minute


@contextmanager
def from_hub(name: str, downloads: bool) -> Iterator[None]:
    """Turns the errors of a library that opens a model into UserErrors. The library works offline where there is no network.

    Args:
        name: of the model, for messages.
        downloads: whether files may have to be downloaded.
    """
    from huggingface_hub import constants

    cut_off = downloads and not constants.HF_HUB_OFFLINE and not answers(constants.ENDPOINT)
    try:
        constants.HF_HUB_OFFLINE |= cut_off
        yield
    except NOT_OPENED as error:
        if not cut_off:
            raise not_opened(name, error) from error
        raise UserError(
            f"{name}: {constants.ENDPOINT} cannot be reached, and the model's files are not in the cache; try again with a network, "
            "or copy the cache (HF_HOME) of a machine that has them"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE &= not cut_off


def answers(address: str) -> bool:
    """Whether the Hub gives any answer, through a proxy if one is set."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=PATIENCE)
    except Exception:  # the kinds depend on the library's version
        return False
    return True
