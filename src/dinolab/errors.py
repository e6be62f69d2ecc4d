"""The exceptions for mistakes a user can mend, and for processes that are gone."""


class UserError(Exception):
    """Something the user can mend: the message names the file or option and the way out.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """


class LostContact(UserError):
    """Another process of the run is gone. Threads may still wait for it: the process had better not wait for them."""
