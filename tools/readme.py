"""Write what is made from stored notebooks (nothing is run); `--check` only compares.

README.md and its pictures from nbs/index.ipynb, CONTRIBUTING.md from nbs/33_contributing.ipynb, and pictures
that a page shows before the cell that draws them."""
import base64
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
SOURCE, README, PICTURES = ROOT/"nbs"/"index.ipynb", ROOT/"README.md", "nbs/images"
TEXTS = {README: SOURCE, ROOT/"CONTRIBUTING.md": ROOT/"nbs"/"33_contributing.ipynb"}
SHOWN_EARLY = {"museum.png": ("30_museum.ipynb", "fig-wall")}   # picture -> notebook, label of the cell
DROPPED = {"hide", "default_exp", "export", "exports", "exporti"}    # cells that readers do not see
SHOWN = ["image/png", "image/jpeg", "text/markdown", "text/plain"]   # what is kept of an output, best first


def directives(source):
    "The `#| key: value` lines of a cell as a dict, and the cell without them."
    lines = source.splitlines()
    found = [re.match(r"\s*#\|\s*([\w-]+)\s*:?\s*(.*)", line) for line in lines]
    rest = "\n".join(line for line, m in zip(lines, found) if not m).strip("\n")
    return {m[1]: m[2].strip().strip("\"'") for m in found if m}, rest


def shown_outputs(cell, d):
    "The outputs a README can show, pictures named after the figure's label."
    kept = [shown for out in cell.outputs if (shown := shown_output(out, d))]
    pictures = [out for out in kept if any(mime.startswith("image") for mime in out.get("data", {}))]
    for n, out in enumerate(pictures, 1):
        mime = next(iter(out.data))
        out.metadata["filename"] = f"readme-{d.get('label', cell.id)}{f'-{n}' if n > 1 else ''}.{mime[6:]}"
    return kept


def shown_output(out, d):
    "One output as the README shows it; None if it does not."
    if out.output_type == "stream":
        if out.name != "stdout": return None
        return markdown_output(out.text) if d.get("output") == "asis" else out
    if out.output_type == "error" or any("widget-view" in mime for mime in out.data): return None
    mime = next((m for m in SHOWN if m in out.data), None)
    return mime and nbformat.v4.new_output("display_data", {mime: out.data[mime]})


def markdown_output(text):
    "Printed text that is Markdown."
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


def local_links(text):
    "Links of the notebook's folder, seen from README.md."
    def fix(m): return f"{m[1]}nbs/{m[2]}" if (SOURCE.parent/m[2].split("#")[0]).is_file() else m[0]
    text = re.sub(r"(\]\()([^)\s#:][^)\s:]*)(?=\))", fix, text)
    return re.sub(r'((?:src|srcset)=")([^":#]+)(?=")', fix, text)


def without_folded(text):
    "Prose without fences."
    return "\n".join(line for line in text.splitlines() if not line.startswith(":::"))


def prepared_code(cell):
    "What the README shows of a code cell, and the alternative texts of its pictures; None if nothing."
    d, cell.source = directives(cell.source)
    if DROPPED & d.keys() or d.get("include") == "false": return None
    cell.outputs = [] if d.get("output") == "false" else shown_outputs(cell, d)
    if d.get("echo") == "false": cell.metadata["transient"] = {"remove_source": True}
    if not cell.source.strip() and not cell.outputs: return None
    return cell, [d.get("fig-alt", "")]*sum("filename" in o.get("metadata", {}) for o in cell.outputs)


def before_checks(cells):
    "The cells before the folded section of checks."
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^## Checks$", cell.source, flags=re.M): return
        yield cell


def prepare(nb):
    "Leave in the notebook what the README shows."
    cells, alts = [], []
    for cell in before_checks(nb.cells):
        if cell.cell_type == "markdown":
            cell.source = local_links(without_folded(cell.source))
            cells.append(cell)
        elif cell.cell_type == "code" and (shown := prepared_code(cell)):
            cells.append(shown[0])
            alts += shown[1]
    nb.cells = cells
    nb.metadata["language_info"] = {"name": "python"}
    return nb, alts


def tidy(text):
    "One blank line between blocks, none at the ends; fenced code is left as it is."
    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    parts = [p if p.startswith("```") else re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", p) for p in parts]
    return re.sub(r"\n{3,}(?=```)", "\n\n", "".join(parts)).strip() + "\n"


def early_pictures():
    "Pictures that a page shows before they are drawn, as {path: bytes}: stored outputs."
    for name, (notebook, label) in SHOWN_EARLY.items():
        for cell in nbformat.read(SOURCE.parent/notebook, as_version=4).cells:
            if directives(cell.source)[0].get("label") != label: continue
            data = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
            yield f"{PICTURES}/{name}", base64.b64decode(data)


def build(source):
    "The Markdown of a notebook, and its pictures as {path: bytes}."
    nb, alts = prepare(nbformat.read(source, as_version=4))
    config = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    exporter = MarkdownExporter(config=config)
    body, res = exporter.from_notebook_node(nb, resources={"output_files_dir": PICTURES})
    alts = iter(alts)
    def with_alt(m): return f"![{next(alts)}]({m[1]})"
    body = re.sub(rf"!\[(?:png|jpeg)\]\(({PICTURES}/[^)]+)\)", with_alt, body)
    return tidy(body), res["outputs"]


def differences(want, stale):
    "Names of the files that are not what they should be."
    differ = [p for p, data in want.items() if not p.exists() or p.read_bytes() != data]
    return sorted(str(p.relative_to(ROOT)) for p in [*differ, *stale])


def write(want, stale):
    "Write what should be there, remove what should not."
    for p in stale: p.unlink()
    for p, data in want.items():
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(data)


def main(check=False):
    "Write, or with `check` compare; returns the exit code."
    want = {ROOT/p: data for p, data in early_pictures()}
    for path, source in TEXTS.items():
        text, pictures = build(source)
        want |= {path: text.encode(), **{ROOT/p: data for p, data in pictures.items()}}
    stale = set((ROOT/PICTURES).glob("readme-*")) - set(want)
    if not check:
        write(want, stale)
        print(f"written: {', '.join(str(p.relative_to(ROOT)) for p in want)}")
        return 0
    differ = differences(want, stale)
    if differ:
        print(f"readme: not as in nbs: {', '.join(differ)}; run tools/readme.py", file=sys.stderr)
    return int(bool(differ))


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]): sys.exit("usage: readme.py [--check]")
    sys.exit(main(check=bool(sys.argv[1:])))
