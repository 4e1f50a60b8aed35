"""The two ways in which a command fails; both messages name the file or key, the value and the remedy."""


class InputError(Exception):
    """Wrong use or wrong input: the command line ends with exit code 2."""


class WorkError(Exception):
    """The work itself failed, say by a NaN in a loss: the command line ends with exit code 1."""
