"""The one exception a user is meant to read."""


class UserError(Exception):
    """Input that cannot be used.

    Its text is one line that names the value, the place and the way out. The command line prints
    it to stderr and exits with 2; in Python it is raised as it is.
    """
