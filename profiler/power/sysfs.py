"""Reading small text files of the kernel, and what to tell the user about those that refuse."""

import errno
import os


def read_text(path):
    """The text of a file without blanks at the ends. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4096).decode("ascii", "replace").strip()


def read_number(path):
    """The number in a file, or None: the file is absent, unreadable or holds something else."""
    try:
        return float(read_text(path))
    except (OSError, ValueError):
        return None


def entries(folder):
    """Paths in a folder, sorted; none if there is no such folder."""
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except OSError:
        return []


def refusals(paths):
    """[(path, OSError or ValueError)] of the files that do not yield a number."""
    refused = []
    for path in paths:
        try:
            float(read_text(path))
        except (OSError, ValueError) as err:
            refused.append((path, err))
    return refused


def why(refused):
    """One line for the refusals of one rail, with every file named."""
    return ", ".join("{} ({})".format(path, _short(err)) for path, err in refused)


def is_denied(refused):
    return any(getattr(err, "errno", None) in (errno.EACCES, errno.EPERM) for _, err in refused)


def _short(err):
    if isinstance(err, OSError):
        return os.strerror(err.errno) if err.errno else str(err)
    return "not a number"
