"""A method, an evaluation and a kind of source, each in one file outside of the package."""


def insert() -> None:
    """Add each of them to its dictionary: the one line that each needs."""
    from dinolab.data.sources.kinds import KINDS
    from dinolab.evals import EVALS
    from dinolab.methods import METHODS
    from tests.toy import evaluation, method, source

    METHODS["toy"] = method.TOY
    EVALS["toy"] = evaluation.TOY
    KINDS["toy"] = source.TOY
