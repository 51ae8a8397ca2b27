"""Write a JSON Schema (2020-12) of each document to docs/schemas: everything that ``--json`` prints, and what bundles,
folders and the inventory hold.

They are made of the types, by pydantic, which knows dataclasses as they are. Run it after a type changes; a test holds
what is checked in to what this makes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from edgesdk.bundle.bundle import Bundle, Verification
from edgesdk.bundle.documents import DeploymentReport, Folder, Manifest, Preparation
from edgesdk.cli import documents
from edgesdk.core.facts import Facts
from edgesdk.core.plan import Plan
from edgesdk.core.report import Prediction, Report
from edgesdk.core.rollout import Rollout
from edgesdk.core.schema import Schema
from edgesdk.core.serialize import BYTES
from edgesdk.devices.estimate import Estimate, Estimates
from edgesdk.devices.inventory import Device
from edgesdk.price.profile import Profile, StoredPrices
from edgesdk.workflows.benchmark import Benchmark
from edgesdk.workflows.diff import Diff
from edgesdk.workflows.export import Exported
from edgesdk.workflows.front import Front
from edgesdk.workflows.gate import Gate
from edgesdk.workflows.stages import Stages

DOCUMENTS = (
    Plan, Manifest, DeploymentReport, Folder, Report, Prediction, Stages, Exported, Benchmark, Gate, Front, Diff,
    Verification, Estimate, Estimates, Facts, StoredPrices, documents.Deployed, documents.Prepared, documents.Targets,
    documents.Doctor, documents.Inventory, documents.AgentFile, documents.Installed, documents.RolledBack,
    documents.Failure, documents.PoolFacts, Rollout,
)  # fmt: skip
FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
BASE = "https://json-schema.org/draft/2020-12/schema"

# What those types name and import for type checkers alone, so that printing an error imports next to nothing.
NAMED = {
    "Bundle": Bundle, "DeploymentReport": DeploymentReport, "Device": Device, "Facts": Facts, "Manifest": Manifest,
    "Preparation": Preparation, "Profile": Profile,
}  # fmt: skip


class Generator(GenerateJsonSchema):
    """Without defaults: what is written has every field."""

    ignored_warning_kinds: ClassVar = {"non-serializable-default"}


def name(kind: type) -> Schema:
    """The schema that documents of ``kind`` say."""
    (default,) = [field.default for field in dataclasses.fields(kind) if field.name == "schema"]
    assert isinstance(default, Schema)
    return default


def schema(kind: type) -> dict[str, Any]:
    """The JSON Schema of documents of ``kind``."""
    for type_, value in NAMED.items():
        documents.__dict__.setdefault(type_, value)
    made = TypeAdapter(kind).json_schema(mode="serialization", schema_generator=Generator)
    for part in (made, *made.get("$defs", {}).values()):
        _as_written(part)
    own = name(kind)
    return {"$schema": BASE, "$id": f"{own.kind}-{own.version}.json", **made}


def _as_written(part: dict[str, Any]) -> None:
    """``part`` as ``serialize.to_json`` writes objects of its type: each field is there, bytes are whole."""
    properties = part.get("properties")
    if properties is None:
        return
    if "schema" in properties:  # it is what a document begins with
        part["properties"] = properties = {"schema": properties.pop("schema"), **properties}
        (kind,) = [kind for kind in DOCUMENTS if kind.__name__ == part["title"]]
        properties["schema"]["const"] = str(name(kind))
    for key, value in properties.items():
        value.pop("default", None)
        if key.endswith(BYTES):
            for each in (value, *value.get("anyOf", ())):
                if each.get("type") == "number":
                    each["type"] = "integer"
    part["required"] = list(properties)
    part["description"] = " ".join(part.get("description", "").split())


def files() -> dict[str, str]:
    """What is to be in ``FOLDER``, by the name of the file."""
    every = [schema(kind) for kind in DOCUMENTS]
    return {document["$id"]: json.dumps(document, indent=2) + "\n" for document in every}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    wanted = files()
    for path in FOLDER.glob("*.json"):
        if path.name not in wanted:
            path.unlink()
    for each, content in wanted.items():
        (FOLDER / each).write_text(content, "utf-8")
    print(f"{len(wanted)} schemas in {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
