"""Errors that a user can mend: one line that names the file and the fix."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake in a configuration, a data set or a method folder.

    The command line prints it as one line and exits with status 2; no traceback is shown.

    Parameters
    ----------
    problem : what is wrong, in one clause.
    where : the file (or folder) it is wrong in.
    fix : what to do about it.
    """

    def __init__(self, problem: str, *, where: str | Path | None = None, fix: str | None = None) -> None:
        problem = " ".join(problem.split())  # it may quote a damaged file, with whatever ends lines there
        self.problem, self.where, self.fix = problem, where, fix
        text = f"{where}: {problem}" if where is not None else problem
        super().__init__(f"{text}. Fix: {fix}" if fix else text)
