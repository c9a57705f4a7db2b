"""Rows of a HuggingFace dataset, streamed (the extra `data`)."""

import datetime
import importlib
import os
from collections.abc import Iterator
from typing import Any

from driftlm.core.errors import DriftError

FIELDS = ("text", "id", "date")
OPTIONS = ("split", "config", *FIELDS)


def open_dataset(source: str) -> Iterator[dict[str, Any]]:
    """Open `NAME?split=train&config=NAME&text=COLUMN&id=COLUMN&date=COLUMN` now and give its rows lazily, as records.

    NAME is a dataset on the hub, or a local folder or file of any format `datasets` reads. The columns named come back
    as `text`, `id` and `date` (each the default for itself); a date or time of day is written in ISO 8601. Raises
    `DriftError` where the package, the dataset, the split or a column is missing.

    >>> open_dataset("squad?splt=train")
    Traceback (most recent call last):
    driftlm.core.errors.DriftError: dataset:squad?splt=train: unknown option `splt`; use split, config, text, id, date
    """
    path, _, query = source.partition("?")
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    where = f"dataset:{source}"
    if not path:
        raise DriftError(f"{where}: no dataset is named; write dataset:NAME or dataset:FOLDER")
    for option, value in options.items():
        if option not in OPTIONS:
            raise DriftError(f"{where}: unknown option `{option}`; use {', '.join(OPTIONS)}")
        if not value:
            raise DriftError(f"{where}: `{option}` has no value; write {option}=VALUE")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DriftError(f'{where}: the package datasets is missing; run pip install "driftlm[data]"') from error
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would report to the hub also what is read from disk
    folder, files = path, None
    if os.path.isfile(path):  # read through its folder, where `datasets` tells the format from the suffix
        folder, files = os.path.split(os.path.abspath(path))
    split = options.get("split", "train")
    problems = (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError)
    try:
        rows = datasets.load_dataset(folder, options.get("config"), data_files=files, split=split, streaming=True)
    except problems as error:
        raise DriftError(
            f"{where}: the dataset cannot be opened ({_line(error)}); check the name, split={split} and, for one on "
            "the hub, the network"
        ) from error
    columns = {field: options.get(field, field) for field in FIELDS}
    known = rows.column_names  # None where only reading tells
    if known is not None:
        for field, column in columns.items():
            if column not in known and (field == "text" or field in options):
                raise DriftError(
                    f"{where}: no column `{column}` (columns: {', '.join(known)}); name one with {field}=COLUMN"
                )
        rows = rows.select_columns([column for column in dict.fromkeys(columns.values()) if column in known])
    return _records(rows, columns, where, problems)


def _records(
    rows: Any, columns: dict[str, str], where: str, problems: tuple[type[Exception], ...]
) -> Iterator[dict[str, Any]]:
    number, reader = 0, iter(rows)
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except problems as error:
            raise DriftError(
                f"{where}, row {number}: the dataset cannot be read on ({_line(error)}); check its files"
            ) from error
        yield {field: _plain(row[column]) for field, column in columns.items() if column in row}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and value.tzinfo is None:
        value = value.date()  # JSON readers make a moment of "1993-02-03"
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
