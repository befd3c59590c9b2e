"""Check the notebooks as pages, process them for the site as nbdev does, and render it if Quarto is installed.

`--render` makes a missing Quarto an error. Only ignored files are written: nbs/nbdev.yml, _proc, _docs."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/"nbs"
NB_KB, CELL_KB = 200, 50            # the most that is committed as outputs of one notebook, of one cell

def cells_of(path):
    "The cells of a notebook, each source as one string."
    for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        c["source"] = "".join(c["source"])
        yield c

def sidebar(node):
    "Every page that the sidebar names, in order."
    if isinstance(node, str): return [node]
    if isinstance(node, list): return [p for n in node for p in sidebar(n)]
    return ([node["href"]] if "href" in node else []) + sidebar(node.get("contents", []))

def page_problems(path, keys):
    "What Quarto would warn about or a reader would miss on one page."
    cells = list(cells_of(path))
    code = [c for c in cells if c["cell_type"] == "code"]
    prose = "\n\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", prose, flags=re.M | re.S)
    captions = "\n".join(re.findall(r"^#\|\s*fig-cap:\s*(.*)$", "\n".join(c["source"] for c in code), flags=re.M))
    anchors = set(re.findall(r"^#\|\s*label:\s*((?:fig|tbl|lst)-[\w-]+)", "\n".join(c["source"] for c in code), flags=re.M))
    anchors |= set(re.findall(r"\{[^}\n]*#((?:fig|tbl|eq|sec|lst|thm)-[\w-]+)", prose))
    for ref in sorted(set(re.findall(r"(?<![\w.])@([A-Za-z][\w:.-]*\w)", prose + "\n" + captions))):
        if re.match(r"(fig|tbl|eq|sec|lst|thm)-", ref):
            if ref not in anchors: yield f"@{ref} refers to nothing on this page"
        elif ref not in keys: yield f"@{ref} is not in references.bib"
    depth = 0
    for line in prose.splitlines():
        if m := re.match(r"\s*:{3,}\s*(\S?)", line): depth += 1 if m[1] else -1
        if depth < 0: yield "a ::: closes nothing"; depth = 0
    if depth: yield f"{depth} ::: not closed"
    for c in code:
        if label := re.search(r"^#\|\s*label:\s*(fig-\S+)", c["source"], flags=re.M):
            for need in ("fig-cap", "fig-alt"):
                if not re.search(rf"^#\|\s*{need}:\s*\S", c["source"], flags=re.M): yield f"{label[1]} has no {need}"
            if not any("image/png" in o.get("data", {}) for o in c["outputs"]): yield f"{label[1]} has no stored picture"
        if any(o["output_type"] == "error" for o in c["outputs"]): yield f"cell {c['id']} has an error as output"
        if (kb := len(json.dumps(c["outputs"]))/1024) > CELL_KB: yield f"outputs of cell {c['id']}: {kb:.0f} KB, limit {CELL_KB}"
    if (kb := sum(len(json.dumps(c["outputs"])) for c in code)/1024) > NB_KB: yield f"outputs: {kb:.0f} KB, limit {NB_KB}"

def problems():
    "One line for each thing to repair."
    keys = set(re.findall(r"^@(?!comment)\w+\{\s*([^,\s]+)", (NBS/"references.bib").read_text(encoding="utf-8"), flags=re.M))
    config = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    listed = sidebar(config["website"]["sidebar"]["contents"])
    there = sorted(p.name for p in NBS.glob("*.ipynb"))
    if (NBS/"_quarto.yml").resolve() != ROOT/"_quarto.yml": yield "nbs/_quarto.yml is not a link to _quarto.yml"
    for p in listed:
        if p not in there: yield f"_quarto.yml: the sidebar names {p}, which does not exist"
    for p in there:
        if p not in listed: yield f"_quarto.yml: {p} is not in the sidebar"
        for problem in page_problems(NBS/p, keys): yield f"{p}: {problem}"

def process():
    "nbdev's processing of all notebooks into _proc: what Quarto gets to read."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    cache = proc_nbs(force=True, n_workers=2)
    missing = [p.name for p in NBS.glob("*.ipynb") if not (cache/p.name).exists()]
    if missing: raise SystemExit(f"docs: not processed: {' '.join(missing)}")
    return cache

def render(cache):
    "The site in _docs."
    subprocess.run(["quarto", "render", "--no-cache"], cwd=cache, check=True)
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(cache/"_docs", ROOT/"_docs")

def main(must_render=False):
    "Everything; returns the exit code."
    found = list(problems())
    for p in found: print(f"docs: {p}", file=sys.stderr)
    if found: return 1
    try: cache = process()
    except Exception as e:          # a cell that nbdev runs again (exports, imports) failed: say which, and why
        why = re.findall(r"^\w[\w.]*(?:Error|Exception|Interrupt)\b.*$", str(e.__cause__ or ""), flags=re.M)
        print(f"docs: {e}\n{why[0] if why else ''}", file=sys.stderr)
        return 1
    pages = len(list(cache.glob("*.ipynb")))
    if shutil.which("quarto"): render(cache); print(f"docs: {pages} pages rendered to _docs")
    elif must_render: print("docs: quarto is not on PATH", file=sys.stderr); return 1
    else: print(f"docs: {pages} pages processed to _proc; quarto is not on PATH, nothing rendered")
    return 0

if __name__ == "__main__":      # the processing starts worker processes that import this file
    if sys.argv[1:] not in ([], ["--render"]): sys.exit("usage: docs.py [--render]")
    os.chdir(ROOT)
    sys.exit(main(must_render=bool(sys.argv[1:])))
