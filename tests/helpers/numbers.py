"""Numbers of results, which may be null, where a test knows that they are not."""


def known(number: float | None) -> float:
    """The number."""
    assert number is not None
    return number
