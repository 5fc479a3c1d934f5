"""The errors a user meets. The message is the whole story: what is wrong, where, and the way out."""


class TokenmillError(Exception):
    """Something failed that was worth trying; the command exits with 1."""

    exit_code = 1


class Refused(TokenmillError):
    """The request itself cannot be carried out as asked; nothing was written; the command exits with 2."""

    exit_code = 2
