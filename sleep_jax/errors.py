"""The exception that means the input, not the program, is wrong."""


class UserError(Exception):
    """Bad input: a setting, flag or file that the user has to change.

    The message is one line that names the setting, its value and what is allowed. Binaries catch
    it at the top, print that line without a traceback and exit with code 2.
    """
