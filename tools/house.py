"""Print the import graph of the rooms and the measures of their code; fail on a circle or on packed code.

A notebook may import only from those that stand before it; methods know no experiments and no pictures."""
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {"study", "results", "comparisons", "evidence", "grain"}
SHELLS = {"report", "cli"}                     # rooms that may use everything
FRONT = ("ct_commands", "cli")                 # the doors: they come after all rooms, whatever their number
WIDE, TALL, MEDIAN = 3.6, 9.0, 250             # % of lines over 100, % of cells over ten lines, characters


def code_cells(path):
    "The sources of a notebook's code cells."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return [s for s in sources if s.strip()]


def rooms():
    "Notebooks that are modules, in reading order: module name -> path."
    found = {}
    for path in sorted((ROOT/"nbs").glob("[0-9]*.ipynb")):
        name = re.search(r"^#\|\s*default_exp (\w+)", "\n".join(code_cells(path)), flags=re.M)
        if name: found[name[1]] = path
    return found


def imports_of(path):
    "The rooms that the exported cells of a notebook import from."
    exported = [s for s in code_cells(path) if re.search(r"^#\|\s*exports?\b", s, flags=re.M)]
    source = "\n".join(exported)
    names = set(re.findall(r"^\s*from ctdiff_edu\.(\w+) import", source, flags=re.M))
    for line in re.findall(r"^\s*from ctdiff_edu import (.*)$", source, flags=re.M):
        names |= set(re.findall(r"\w+", line))
    return names


def lines_of(source):
    "The lines of a cell that are code."
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]


def measures(cells):
    "Share of lines over 100 columns and of cells over ten lines (%), and the median cell (characters)."
    lines = [line for c in cells for line in lines_of(c)]
    wide = 100*sum(len(line) > 100 for line in lines)/len(lines)
    tall = 100*sum(len(lines_of(c)) > 10 for c in cells)/len(cells)
    return wide, tall, statistics.median(map(len, cells))


def shown(name, cells, imports=()):
    "A line of the table."
    wide, tall, median = measures(cells)
    return f"{name:15}{len(cells):5}{wide:8.1f}{tall:8.0f}{median:8.0f}  {' '.join(imports)}"


def order_problems(graph):
    "Imports that go up the house."
    order = [name for name in graph if name not in FRONT] + [name for name in FRONT if name in graph]
    for name, used in graph.items():
        below = order[:order.index(name)]
        for other in sorted(used & set(order) - set(below)):
            yield f"{name} imports {other}, which does not stand before it"
        if name in SHELLS: continue
        forbidden = {"show"} if name in EXPERIMENTS else EXPERIMENTS | {"show"}
        for other in sorted(used & forbidden): yield f"{name} imports {other}"


def measure_problems(cells):
    "Which of the limits the code of all notebooks together does not keep."
    names = "% of lines over 100", "% of cells over ten lines", "median cell"
    for got, limit, what in zip(measures(cells), (WIDE, TALL, MEDIAN), names):
        if got > limit: yield f"{what}: got {got:.1f}, want at most {limit}"


def main():
    "Print everything; returns the exit code."
    found = rooms()
    graph = {name: imports_of(path) for name, path in found.items()}
    print(f"{'room':15}{'cells':>5}{'% >100':>8}{'% >10':>8}{'median':>8}  imports")
    for name, path in found.items():
        print(shown(name, code_cells(path), sorted(graph[name] & set(graph))))
    cells = [c for path in sorted((ROOT/"nbs").glob("*.ipynb")) for c in code_cells(path)]
    print(shown("all", cells))
    problems = [*order_problems(graph), *measure_problems(cells)]
    for problem in problems: print(f"house: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
