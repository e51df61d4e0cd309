"""A labelling option is declared once: adding one is a field of LabelOptions and a flag."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from unspoken.wire.label_options import LabelOptions

ROOT = Path(__file__).parents[1]
PATH_OF_OPTIONS = ("cli", "unspoken/client", "unspoken/runs", "unspoken/wire", "worker")
"""The code through which an option passes from the command line to its use."""
DECLARED = {"unspoken/wire/label_options.py", "cli/main.py"}
FLAGS = "cli/label_options.py"
"""The flags whose names differ from their fields."""
USERS = {
    "box_threshold": {"worker/dispatch/planning.py"},
    "false_discovery_rate": {
        "unspoken/runs/store.py",
        "worker/dispatch/choose_thresholds.py",
        "worker/dispatch/dispatcher.py",
        "worker/label/pipeline.py",
        FLAGS,
    },
    "single_template_margin": {"worker/label/merging.py"},
    "templates": {"worker/dispatch/planning.py", "worker/label/pipeline.py", FLAGS},
    "crop_check": {
        "unspoken/runs/dataset/card.py",
        "worker/dispatch/planning.py",
        "worker/label/pipeline.py",
        "worker/process/tasks.py",
    },
    "num_decoys": {"worker/label/pipeline.py", FLAGS},
    "chunk_size": {"unspoken/runs/plan.py"},
    "filters": {"worker/dispatch/planning.py", "worker/label/pipeline.py", FLAGS},
}
"""Option -> files that use its value."""
OTHER_MEANINGS = {
    "box_threshold": {
        "DetectRequest",
        "DetectReply",
        # parameters of the detector and of a count
        "cli/demo/demo.py",
        "unspoken/client/port_clients.py",
        "unspoken/runs/dataset/manifest.py",
        "unspoken/wire/detections.py",
        "unspoken/wire/segment.py",
        "worker/label/pipeline.py",
    },
    "false_discovery_rate": {
        "ChosenThresholds",
        "SourceThreshold",
        "unspoken/runs/dataset/card.py",
        "unspoken/runs/dataset/false_discovery.py",
    },
    "templates": {
        "ProposeRequest",
        "Annotation",
        "unspoken/client/port_clients.py",
        "unspoken/runs/dataset/rows.py",
        "unspoken/runs/dataset/shards.py",
        "unspoken/runs/exports/hugging_face.py",
        "unspoken/runs/exports/report.py",
        "unspoken/runs/exports/webdataset.py",
        "unspoken/wire/proposals.py",
        "worker/label/merging.py",
    },
    "num_decoys": {"ScoreTally", "unspoken/runs/dataset/false_discovery.py"},
    "filters": {
        "Row",
        "Verdict",
        "unspoken/runs/dataset/rows.py",
        "unspoken/runs/dataset/shards.py",
        "worker/label/filters.py",
    },
}
"""Option -> classes and files that use its name for something else."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in PATH_OF_OPTIONS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def name_of(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.arg(arg=name) | ast.keyword(arg=name):
            return name
        case ast.Constant(value=str(name)):
            return name
    return None


def test_each_option_is_a_field_of_one_class():
    declared = defaultdict(set)
    for _, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        declared[field.target.id].add(node.name)
    for option in LabelOptions.model_fields:
        assert declared[option] - OTHER_MEANINGS.get(option, set()) == {"LabelOptions"}, option


def test_an_options_name_occurs_only_where_it_is_declared_and_where_it_is_used():
    found = defaultdict(set)
    for path, module in modules():
        for node in ast.walk(module):
            found[name_of(node)].add(path)
    for option in LabelOptions.model_fields:
        expected = DECLARED | USERS[option]
        assert found[option] - OTHER_MEANINGS.get(option, set()) <= expected, option
        assert expected <= found[option], option
