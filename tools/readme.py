"Write README.md and its pictures from nbs/index.ipynb as it is stored (nothing is run). `--check` only compares."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
SOURCE, README, PICTURES = ROOT/"nbs"/"index.ipynb", ROOT/"README.md", "nbs/images"
DROPPED = {"hide", "default_exp", "export", "exports", "exporti"}          # cells that readers do not see
SHOWN = ["image/png", "image/jpeg", "text/markdown", "text/plain"]         # what is kept of an output, best first

def directives(source):
    "The `#| key: value` lines of a cell as a dict, and the cell without them."
    lines = source.splitlines()
    found = [re.match(r"\s*#\|\s*([\w-]+)\s*:?\s*(.*)", line) for line in lines]
    rest = "\n".join(line for line, m in zip(lines, found) if not m).strip("\n")
    return {m[1]: m[2].strip().strip("\"'") for m in found if m}, rest

def shown_outputs(cell, d):
    "The outputs a README can show, pictures named after the figure's label."
    kept = []
    for out in cell.outputs:
        if out.output_type == "stream" and out.name == "stdout":
            if d.get("output") == "asis": out = nbformat.v4.new_output("display_data", {"text/markdown": out.text})
            kept.append(out)
        elif out.output_type in ("display_data", "execute_result") and not any("widget-view" in m for m in out.data):
            mime = next((m for m in SHOWN if m in out.data), None)
            if mime is None: continue
            out = nbformat.v4.new_output("display_data", {mime: out.data[mime]})
            if mime.startswith("image"):
                n = sum("image" in str(list(o.get("data", {}))) for o in kept)
                out.metadata["filename"] = f"readme-{d.get('label', cell.id)}{f'-{n + 1}' if n else ''}.{mime[6:]}"
            kept.append(out)
    return kept

def local_links(text):
    "Links of the notebook's folder, seen from README.md."
    def fix(m): return f"{m[1]}nbs/{m[2]}" if (SOURCE.parent/m[2].split("#")[0]).is_file() else m[0]
    return re.sub(r"(\]\()([^)\s#:][^)\s:]*)(?=\))", fix, text)

def prepare(nb):
    "Leave in the notebook what the README shows."
    cells, alts = [], []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = local_links("\n".join(l for l in cell.source.splitlines() if not l.startswith(":::")))
            if cell.source.strip(): cells.append(cell)
        elif cell.cell_type == "code":
            d, cell.source = directives(cell.source)
            if DROPPED & d.keys() or d.get("include") == "false": continue
            cell.outputs = [] if d.get("output") == "false" else shown_outputs(cell, d)
            alts += [d.get("fig-alt", "")]*sum("filename" in o.get("metadata", {}) for o in cell.outputs)
            if d.get("echo") == "false": cell.metadata["transient"] = {"remove_source": True}
            if cell.source.strip() or cell.outputs: cells.append(cell)
    nb.cells = cells
    nb.metadata["language_info"] = {"name": "python"}
    return nb, alts

def tidy(text):
    "One blank line between blocks, none at the ends; fenced code is left as it is."
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    parts = [p if p.startswith("```") else re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", p) for p in parts]
    return re.sub(r"\n{3,}(?=```)", "\n\n", "".join(parts)).strip() + "\n"

def build():
    "README.md's text, and its pictures as {path: bytes}."
    nb, alts = prepare(nbformat.read(SOURCE, as_version=4))
    config = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    body, res = MarkdownExporter(config=config).from_notebook_node(nb, resources={"output_files_dir": PICTURES})
    alts = iter(alts)
    body = re.sub(rf"!\[(?:png|jpeg)\]\(({PICTURES}/[^)]+)\)", lambda m: f"![{next(alts)}]({m[1]})", body)
    return tidy(body), res["outputs"]

def main(check=False):
    "Write, or with `check` compare; returns the exit code."
    if not SOURCE.exists(): print(f"readme: {SOURCE.relative_to(ROOT)} is missing", file=sys.stderr); return 1
    text, pictures = build()
    want = {README: text.encode(), **{ROOT/p: data for p, data in pictures.items()}}
    stale = set((ROOT/PICTURES).glob("readme-*")) - set(want)
    if check:
        differ = sorted(str(p.relative_to(ROOT)) for p, b in want.items() if not p.exists() or p.read_bytes() != b)
        differ += sorted(f"{p.relative_to(ROOT)} (not used)" for p in stale)
        if differ: print(f"readme: not in sync with nbs/index.ipynb: {', '.join(differ)}; run tools/readme.py", file=sys.stderr)
        return int(bool(differ))
    for p in stale: p.unlink()
    for p, data in want.items(): p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(data)
    print(f"README.md: {len(text.splitlines())} lines, {len(pictures)} pictures")
    return 0

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]): sys.exit("usage: readme.py [--check]")
    sys.exit(main(check=bool(sys.argv[1:])))
