"""The readers there are, and which of them understands a data set of a study."""

from __future__ import annotations

from functools import cache

from pydantic import ValidationError

from mlip.catalogue import find_modules
from mlip.data.records import Reader, ReaderOptions
from mlip.errors import UserError
from mlip.study import Study, describe


@cache
def readers() -> dict[str, Reader]:
    """Every module of ``mlip/data/readers`` that sets ``READER``, by file name."""
    return {name: module.READER for name, module in find_modules("mlip.data.readers", "READER").items()}


def resolve(study: Study, name: str) -> tuple[Reader, ReaderOptions]:
    """The reader of a data set, configured with its validated options, and these.

    Raises
    ------
    UserError : the data set, the reader or an option is unknown.
    """
    if name not in study.datasets:
        raise UserError(
            f"does not define the data set {name!r}", where=study.study, fix=f"one of {sorted(study.datasets)}"
        )
    config = study.datasets[name]
    if config.reader not in readers():
        raise UserError(
            f"datasets.{name}.reader: there is no reader {config.reader!r}",
            where=study.study,
            fix=f"one of {sorted(readers())}",
        )
    reader = readers()[config.reader]
    try:
        options = reader.Options.model_validate(config.options)
    except ValidationError as error:
        keys = ", ".join(reader.Options.model_fields) or "none"
        raise UserError(
            f"datasets.{name}.options: {describe(error)}", where=study.study, fix=f"its options are: {keys}"
        ) from None
    return reader.configured(options), options


def namespace_of(study: Study, name: str) -> str:
    """What a data set's identifiers are hashed with: its reader's name. Of films of one's own their folder too, since two
    hospitals may number their patients alike; two data sets of one folder share their patients, which the audit must see.
    """
    config = study.datasets[name]
    return f"{config.reader}:{config.root.resolve()}" if readers()[config.reader].own else config.reader
