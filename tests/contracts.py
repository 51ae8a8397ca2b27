"""Documents are what their schemas in docs/schemas say: nothing missing, nothing besides, no infinity and no NaN."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


def loaded(text: str) -> Any:
    """The document in ``text``, once it was held to the schema that it says it has."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(text, parse_constant=refuse)
    check(document)
    return document


def check(document: Any) -> None:
    """Raise unless ``document`` is what its schema says, and no field is there that the schema does not have."""
    _, _, named = document["schema"].partition(".")
    _validator(named.replace("/", "-")).validate(document)


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
    return Draft202012Validator(schema)
