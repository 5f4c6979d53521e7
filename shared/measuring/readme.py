"""Fill the generated blocks of the READMEs and every MEASURED.md, so that no measured number is typed by hand.

A block is ``<!-- generated:KIND -->`` … ``<!-- /generated -->``. Kinds in a project's README: ``headline``, ``benchmark``
or ``benchmark:GROUP``, ``numbers``, ``demo:TABLE``, ``figure:KEY``, ``drills``; in the root README: ``projects``,
``mutants``, ``topics``; in CONTRIBUTING.md: ``mutation_scores``, ``grading_times``. MEASURED.md holds all tables and numbers
of a project; a project asks for it by an empty file.
``python -m shared.measuring.readme`` fills all of them; ``--check`` only says which are out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared.practice.questions import load_drills
from shared.projects import ROOT, Project, load_project, load_projects, load_study_list, read_toml

HEADLINES = ROOT / "shared" / "tour" / "equations.toml"  # by project: group, case and peer of one row
BLOCK = re.compile(r"(<!-- generated:(?P<kind>[^>]+?) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def fill_readme(path: Path, *, write: bool = True) -> bool:
    """Regenerate every block of one README; return whether it was up to date."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = BLOCK.sub(lambda match: f"{match[1]}{_block(path.parent, match['kind'])}\n{match[3]}", before)
    return _replace(path, before, after, write)


def fill_measured(path: Path, *, write: bool = True) -> bool:
    """Regenerate the MEASURED.md of a project that has one; return whether it was up to date."""
    if not path.exists():
        return True
    folder = path.parent
    demo = read_demo(folder)
    parts = [
        f"# {folder.name}: measured",
        "Generated from `results/` by `python -m shared.measuring.readme`; do not edit it. Measure on your machine: "
        f"`nox -s bench -- {folder.name}`.",
        benchmark_tables(_read_results(folder)),
        *(_demo_table(table) for table in demo["tables"].values()),
        _numbers(demo) if demo["numbers"] else "",
    ]
    after = "\n\n".join(part for part in parts if part) + "\n"
    return _replace(path, path.read_text(encoding="utf-8"), after, write)


def _replace(path: Path, before: str, after: str, write: bool) -> bool:
    if write and after != before:
        path.write_text(after, encoding="utf-8")
    return after == before


def _block(folder: Path, kind: str) -> str:
    name, _, key = kind.partition(":")
    if folder == ROOT:
        whole = (_projects, _topics, _mutants, _mutation_scores, _grading_times)
        return {made.__name__.lstrip("_"): made for made in whole}[name](load_projects())
    if name == "benchmark":
        return benchmark_tables(_read_results(folder), key)
    if name == "headline":
        return _headline(folder)
    if name == "drills":
        return "\n".join(
            f"- **{drill.question}** {drill.answer} (`{drill.evidence}`)" for drill in load_drills(folder)
        )
    demo = read_demo(folder)
    if key and key not in demo.get(f"{'table' if name == 'demo' else name}s", {}):
        raise ValueError(
            f"{folder.name}/README.md: generated:{kind} is not in results/demo.json (or no such kind)"
        )
    if name == "numbers":
        return _numbers(demo)
    if name == "figure":
        figure = demo["figures"][key]
        return f"![{figure['alt']}](results/{key}.svg)\n\n*{figure['caption']}*"
    if name == "demo":
        return _demo_table(demo["tables"][key])
    raise ValueError(f"{folder.name}/README.md: unknown block generated:{kind}")


def read_demo(folder: Path, where: str = "results") -> dict[str, Any]:
    """Return what a project's demo measured: committed (``results``) or just now (``build``)."""
    path = folder / where / "demo.json"
    empty: dict[str, Any] = {"numbers": {}, "tables": {}, "figures": {}}
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def _read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in load_project(folder).results]


def _numbers(demo: dict[str, Any]) -> str:
    rows = [[number["label"], number["text"]] for number in demo["numbers"].values()]
    return _table(["measured by `python demo.py`", ""], rows)


def _demo_table(table: dict[str, Any]) -> str:
    caption = f"\n\n*{table['caption']}*" if table["caption"] else ""
    return _table(table["columns"], table["rows"]) + caption


def _headline(folder: Path) -> str:
    """Return one sentence for each device on which the project's headline was measured."""
    group, case, peer = read_toml(HEADLINES)[folder.name]["headline"]
    sentences = [
        f"**{group}, {case}: `{peer}` takes {row['ratios'][peer]['median']:.2f} times as long as "
        f"`{row.get('name', 'ours')}`** ({result['provenance']['device']})."
        for result in _read_results(folder)
        for row in result["rows"]
        if (row["group"], row["case"]) == (group, case) and peer in row.get("ratios", {})
    ]
    return "\n".join(sentences) or f"*Not measured yet: `nox -s bench -- {folder.name}`.*"


def benchmark_tables(results: Iterable[dict[str, Any]], only_group: str = "") -> str:
    """Return Markdown tables for benchmark results: per device, one table per group of rows."""
    parts = []
    for result in results:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in result["rows"]:
            groups.setdefault(row["group"], []).append(row)
        for group, rows in groups.items():
            if only_group in ("", group):
                parts.append(f"**{group}**\n\n" + (_plain(rows) if "columns" in rows[0] else _timings(rows)))
        where = result["provenance"]
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        threads = f"{where['threads']} thread{'s' if where['threads'] > 1 else ''}"
        parts.append(
            f"*{where['device']}, {threads}, Python {where['python']}, {versions}; {where['date']}, commit {where['commit']}.*"
        )
    return "\n\n".join(parts)


def _timings(rows: list[dict[str, Any]]) -> str:
    """Return the table of one group: our time, and how many times as long each peer takes."""
    (ours,) = {row.get("name", "ours") for row in rows}
    peers = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    header = ["case", f"{ours}, ms", *(f"{peer} / {ours}" for peer in peers), "noise"]
    lines = []
    for row in rows:
        cells = []
        for peer in peers:
            ratio, target = row["ratios"].get(peer), row["targets"].get(peer)
            text = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else ""
            if ratio and target is not None:
                text += f", {'≥' if ratio['median'] >= target else '**below**'} {target:.3g}"
            cells.append(text)
        case = f"{row['case']} ({row['note']})" if row["note"] else row["case"]
        lines.append([case, f"{row['milliseconds']['ours']:.3g}", *cells, f"±{row['noise']:.0%}"])
    return _table(header, lines)


def _plain(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row["columns"]))
    return _table(
        ["case", *columns], [[row["case"], *(row["columns"].get(c, "") for c in columns)] for row in rows]
    )


def _projects(projects: list[Project]) -> str:
    columns = ["project", "deliverable", "units", "mistakes"]
    rows = [
        [
            f"[{p.name}](projects/{p.name}/README.md)",
            p.description,
            f"{len(p.core_units)}+{len(p.units) - len(p.core_units)}",
            f"{_count_mistakes(p)}",
        ]
        for p in projects
    ]
    return _table(columns, rows)


def _mutants(projects: list[Project]) -> str:
    """Return one sentence on all cores: what shared/measuring/mutation_scores.py measured."""
    rows = _read_measured("mutation_scores").get("rows", [])
    killed, judged, equivalent = (
        sum(row[name] for row in rows) for name in ("killed", "judged", "equivalent")
    )
    return (
        f"The tests of the cores notice {killed} of {judged} small changes that a mutation tester made "
        f"({equivalent} more make no difference), and all of {sum(map(_count_mistakes, projects)):,} known mistakes."
    )


def _mutation_scores(projects: list[Project]) -> str:
    """Return the table of CONTRIBUTING.md: what shared/measuring/mutation_scores.py measured."""
    result = _read_measured("mutation_scores")
    if not result:
        return ""
    rows = [
        [row["project"], f"{row['killed']} of {row['judged']}", f"{row['equivalent']}"]
        for row in result["rows"]
    ]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in result["rows"]))
    return (
        _table(["changes of the core", "noticed", "make no difference"], rows)
        + f"\n\n*At most {result['sample']} of each core, drawn at random; {result['provenance']['date']}, commit {commits}.*"
    )


def _read_measured(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"{name}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _grading_times(projects: list[Project]) -> str:
    """Return the table of CONTRIBUTING.md: what shared/measuring/grading_times.py measured."""
    result = _read_measured("grading_times")
    if not result:
        return ""
    rows = []
    for row in result["rows"]:
        verdict = "≤" if row["median"] <= row["target"] else "**above**"
        cell = f"{row['median']:.1f} ({row['low']:.1f}–{row['high']:.1f}), {verdict} {row['target']:.0f}"
        rows.append([row["project"], cell])
    where = result["provenance"]
    return (
        _table(["project", "seconds to the verdict, median of the runs (least–most)"], rows)
        + f"\n\n*{where['device']}, 1 thread, Python {where['python']}; {where['date']}, commit {where['commit']}.*"
    )


def _count_mistakes(project: Project) -> int:
    return len(read_toml(project.folder / "tests" / "mistakes.toml"))


def _topics(projects: list[Project]) -> str:
    """Return the study list, one row for each group; a topic leads to the project that shows it, or asks about it."""
    groups: dict[str, list[str]] = {}
    for topic, group in load_study_list().topics.items():
        asked = (p.name for p in projects for drill in load_drills(p.folder) if drill.topic == topic)
        found = next((p.name for p in projects if topic in p.topics), None) or next(asked, None)
        said = f"[{topic}](projects/{found}/README.md)" if found else f"{topic} (planned)"
        groups.setdefault(group, []).append(said)
    return _table(["", "topics"], [[group, "<br>".join(topics)] for group, topics in groups.items()])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def main(arguments: list[str]) -> int:
    """Fill or check what is generated; return the number of files that are out of date when checking."""
    write = "--check" not in arguments
    stale = []
    for folder in [ROOT, *(project.folder for project in load_projects())]:
        for fill, path in (
            (fill_readme, folder / "README.md"),
            (fill_readme, folder / "CONTRIBUTING.md"),
            (fill_measured, folder / "MEASURED.md"),
        ):
            try:
                if fill(path, write=write):
                    continue
                print(f"{path.relative_to(ROOT)}: {'filled' if write else 'out of date'}")
            except ValueError as error:  # not measured yet: that is no reason to leave the others out of date
                print(error)
            stale.append(path)
    return 0 if write else len(stale)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
