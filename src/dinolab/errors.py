"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """Something the user can mend: the message names the file or option and the way out.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
