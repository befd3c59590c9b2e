"""Check the notebooks as pages, process them for the site as nbdev does, and render it if Quarto is there.

`--render` makes a missing Quarto an error. Only ignored files are written: nbs/nbdev.yml, _proc, _docs."""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from mend import API, anchor_of, mend
from pack import pack

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/"nbs"
NB_KB, CELL_KB = 600, 200            # the most that is committed as outputs of one notebook, of one cell
KINDS = "fig|tbl|eq|sec|lst|thm"     # what Quarto can refer to
PICTURES = {"image/png", "image/svg+xml"}
WIDE_PX = 1200      # nine inches at twice the resolution; paper around pictures is cut off
SMALLER = {"fig-patches", "fig-demo"}   # of slow cells and commands: 900 pixels


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


def markdown_of(cells):
    "All prose of a page."
    return "\n\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")


def without_code(prose):
    "Prose without fenced and inline code."
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", prose, flags=re.M | re.S)


def title_problems(cells):
    "nbdev drops whatever else stands in the title's cell."
    title = next(c["source"] for c in cells if c["cell_type"] == "markdown")
    lines = [line for line in title.splitlines() if line.strip() and not re.match(r"# |> ", line)]
    if lines: yield f"the title's cell holds more than the title and its > line: {lines[0][:60]}"


def reference_problems(prose, code, keys):
    "References and citations that lead nowhere."
    directives = "\n".join(c["source"] for c in code)
    captions = "\n".join(re.findall(r"^#\|\s*(?:fig|tbl)-cap:\s*(.*)$", directives, flags=re.M))
    anchors = set(re.findall(rf"^#\|\s*label:\s*((?:{KINDS})-[\w-]+)", directives, flags=re.M))
    anchors |= set(re.findall(rf"\{{[^}}\n]*#((?:{KINDS})-[\w-]+)", prose))
    for ref in sorted(set(re.findall(r"(?<![\w.])@([A-Za-z][\w:.-]*\w)", prose + "\n" + captions))):
        ours = re.match(rf"({KINDS})-", ref)
        if ours and ref not in anchors: yield f"@{ref} refers to nothing on this page"
        if not ours and ref not in keys: yield f"@{ref} is not in references.bib"


def anchors_of(path):
    "The anchors of a notebook's page: headings, labels, and the names that it exports."
    cells = list(cells_of(path))
    code = "\n".join(c["source"] for c in cells if c["cell_type"] == "code")
    heads = re.findall(r"^#+ (.*)$", markdown_of(cells), flags=re.M)
    names = re.findall(r"^(?:def|class) (\w+)", code, flags=re.M)
    labels = set(re.findall(r"label:\s*(\S+)", code))
    return {anchor_of(h) for h in heads} | {n.lower() for n in names} | labels


def link_problems(prose, page):
    "Links to files, and to headings in them, that are not there."
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', prose)
    for target in targets:
        if re.match(r"[a-z]+:", target): continue
        name, _, anchor = target.partition("#")
        file = page.parent/name if name else page
        if not file.exists(): yield f"a link leads to {target}, which is not there"
        elif anchor and file.suffix == ".ipynb" and anchor not in anchors_of(file):
            yield f"a link leads to {target}, but that page has no such anchor"


def fence_problems(prose):
    "Fenced blocks (:::) that close nothing, or are not closed."
    depth = 0
    for fence in re.findall(r"^[ \t]*:{3,}[ \t]*(\S?)", prose, flags=re.M):
        depth += 1 if fence else -1
        if depth < 0: yield "a ::: closes nothing"
        depth = max(depth, 0)
    if depth: yield f"{depth} ::: not closed"


def png_width(stored):
    "The width in pixels of a picture as notebooks store it."
    head = base64.b64decode("".join(stored)[:64])
    return int.from_bytes(head[16:20], "big")


def figure_problems(cell):
    "What a figure lacks."
    label = re.search(r"^#\|\s*label:\s*(fig-\S+)", cell["source"], flags=re.M)
    if not label: return
    for need in ("fig-cap", "fig-alt"):
        if not re.search(rf"^#\|\s*{need}:\s*\S", cell["source"], flags=re.M):
            yield f"{label[1]} has no {need}"
    shown = [o["data"] for o in cell["outputs"] if PICTURES & o.get("data", {}).keys()]
    if not shown: yield f"{label[1]} has no stored picture"
    for data in shown:
        if "image/png" in data and label[1] not in SMALLER and \
                (px := png_width(data["image/png"])) < WIDE_PX:
            yield f"{label[1]} is {px} pixels wide, want at least {WIDE_PX}"


def output_problems(code):
    "Errors and sizes of what is stored."
    sizes = {c["id"]: len(json.dumps(c["outputs"]))/1024 for c in code}
    for c in code:
        if any(o["output_type"] == "error" for o in c["outputs"]):
            yield f"cell {c['id']} has an error as output"
    for name, kb in sizes.items():
        if kb > CELL_KB: yield f"outputs of cell {name}: {kb:.0f} KB, limit {CELL_KB}"
    if sum(sizes.values()) > NB_KB: yield f"outputs: {sum(sizes.values()):.0f} KB, limit {NB_KB}"


def page_problems(path, keys):
    "What Quarto would warn about, or a reader would miss, on one page."
    cells = list(cells_of(path))
    code = [c for c in cells if c["cell_type"] == "code"]
    prose = without_code(markdown_of(cells))
    yield from title_problems(cells)
    yield from reference_problems(prose, code, keys)
    yield from link_problems(prose, path)
    yield from fence_problems(prose)
    for c in code: yield from figure_problems(c)
    yield from output_problems(code)


def problems():
    "One line for each thing to repair."
    bib = (NBS/"references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@(?!comment)\w+\{\s*([^,\s]+)", bib, flags=re.M))
    config = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    listed = sidebar(config["website"]["sidebar"]["contents"])
    there = sorted(p.name for p in NBS.glob("*.ipynb"))
    if (NBS/"_quarto.yml").resolve() != ROOT/"_quarto.yml":
        yield "nbs/_quarto.yml is not a link to _quarto.yml"
    for p in sorted(set(listed) - set(there) - {API}):
        yield f"_quarto.yml: the sidebar names {p}, which does not exist"
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
    pack(cache/"explorers"/"small.bin")
    mend(cache)
    return cache


def dead_links(cache):
    "Links of the processed pages to anchors that are not there, and to the site's own address."
    anchors = {re.sub(r"^\d+_", "", p.stem): anchors_of(p) for p in NBS.glob("*.ipynb")}
    for path in sorted(cache.glob("*.ipynb")):
        prose = without_code(markdown_of(cells_of(path)))
        for page, anchor in re.findall(r"\]\((\w+)\.html#([\w.-]+)\)", prose):
            if anchor not in anchors.get(page, ()): yield f"{path.name}: a dead link to {page}.html#{anchor}"
        for address in re.findall(r"\]\((https://[\w.-]+\.github\.io/[^)\s]*)", prose):
            yield f"{path.name}: a link to the site by its full address: {address}"


def words(text):
    "What a reader reads of Markdown: its words, without links and marks."
    text = re.sub(r"\]\([^)]*\)|^#+ .*$", " ", text, flags=re.M)
    return " ".join(re.findall(r"\w+", text))


def lost_paragraphs(cache):
    "Paragraphs of the notebooks that the processed pages do not have."
    for path in sorted(NBS.glob("*.ipynb")):
        page = words(markdown_of(cells_of(cache/path.name)))
        for paragraph in re.split(r"\n\s*\n", markdown_of(cells_of(path))):
            if re.match(r"\s*(#|>)", paragraph): continue       # titles become the page's header
            if words(paragraph) not in page: yield f"{path.name}: lost on the site: {paragraph[:70]!r}"


def render(cache):
    "The site in _docs."
    subprocess.run(["quarto", "render", "--no-cache"], cwd=cache, check=True)
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(cache/"_docs", ROOT/"_docs")
    (ROOT/"_docs"/"notebooks").mkdir()                 # what the download buttons lead to
    for path in NBS.glob("*.ipynb"): shutil.copy(path, ROOT/"_docs"/"notebooks")


def complain(found):
    "Print what was found; returns the exit code."
    for problem in found: print(f"docs: {problem}", file=sys.stderr)
    return int(bool(found))


def why(error):
    "What made nbdev's processing of a page fail: the last line of the cell's traceback."
    lines = re.findall(r"^\w[\w.]*(?:Error|Exception|Interrupt)\b.*$", str(error.__cause__ or ""), flags=re.M)
    return f"{error} {lines[0] if lines else ''}"


def main(must_render=False):
    "Everything; returns the exit code."
    if complain(list(problems())): return 1
    try:
        cache = process()
    except Exception as e:          # a cell that nbdev runs again (exports, imports) failed
        return complain([why(e)])
    if complain([*lost_paragraphs(cache), *dead_links(cache)]): return 1
    pages = len(list(cache.glob("*.ipynb")))
    if shutil.which("quarto"):
        render(cache)
        print(f"docs: {pages} pages rendered to _docs")
        return 0
    print(f"docs: {pages} pages processed to _proc; quarto is not on PATH, nothing rendered")
    return complain(["quarto is not on PATH"]) if must_render else 0


if __name__ == "__main__":      # the processing starts worker processes that import this file
    if sys.argv[1:] not in ([], ["--render"]): sys.exit("usage: docs.py [--render]")
    os.chdir(ROOT)
    sys.exit(main(must_render=bool(sys.argv[1:])))
