"""The one exception a user is meant to read, text from outside made fit to be read, exit codes."""

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130
"""Exit codes of every command."""


class UserError(Exception):
    """Input that cannot be used.

    Its text is one line that names the value, the place and the way out, with nothing in it that a
    terminal would obey (`shown`). The command line prints it to stderr and exits with 2; in Python
    it is raised as it is.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def shown(text: str) -> str:
    r"""Text as it can be printed on one line: names and files may hold what a terminal obeys.

    Control characters, line ends, marks that turn the direction of writing, lone surrogates and
    whatever else is not printable become Python's escapes (`\x1b`, `\n`, `\u202e`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException, limit: int = 240) -> str:
    """An exception's text on one line, at most about `limit` characters of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " …"
    return text.rstrip(".;: ")
