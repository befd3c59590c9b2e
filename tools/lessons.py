"""Write what all lessons share: the gallery of nbs/index.ipynb with its thumbnails, and a cell for Colab.

`--check` only compares. Thumbnails are cut from stored figures; the numbers are those of the file names."""
import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/"nbs"
INDEX, THUMBS = NBS/"index.ipynb", NBS/"images"/"lessons"
BEGIN, END = "::: {.gallery}", ":::"
WORDS, LINE, FIGURE = 220, 2.5/60, 10/60         # words a minute; minutes for a line of code, for a figure
THUMB = 320, 200                                 # pixels
PICTURES = {                                     # the figure that stands for a lesson, if not the first
    "data": "fig-phantoms", "scores": "fig-bootstrap", "baselines": "fig-filters", "quality": "fig-transfer",
    "sde": "fig-paths", "schedule": "fig-schedules", "loss": "fig-fft-loss", "training": "fig-levels",
    "sampling": "fig-reverse", "solvers": "fig-order", "network": "fig-features", "results": "fig-ablation",
    "tomography": "fig-sinograms", "comparisons": "fig-calls-real", "classical": "fig-em"}
HIDDEN = r"^#\|\s*(hide|export|exporti|default_exp|echo: false)(\s|$)"
COLAB = '''#| hide
if "google.colab" in str(get_ipython()):    # Colab: fetch the lessons, install the package, stand beside them
    url = "{url}"
    get_ipython().system(f"git clone -q --depth 1 {{url}} && pip install -q './{repo}[dev]'")
    get_ipython().run_line_magic("cd", "-q {repo}/nbs")'''


def settings():
    "settings.ini as a dict."
    lines = re.findall(r"^(\w+) = (.*)$", (ROOT/"settings.ini").read_text(encoding="utf-8"), flags=re.M)
    found = dict(lines)
    for name in ("doc_host", "doc_baseurl", "git_url"): found[name] %= found
    return found


def load(path):
    "A notebook as nbformat stores it."
    return json.loads(path.read_text(encoding="utf-8"))


def dump(nb):
    "The text of a notebook file."
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


def text_of(cell):
    "The source of a cell as one string."
    return "".join(cell["source"])


def pages(node):
    "The pages that the sidebar names and that are there, in order."
    if isinstance(node, str): return [NBS/node] if (NBS/node).exists() else []
    if isinstance(node, list): return [p for n in node for p in pages(n)]
    return pages(node.get("contents", []))


def in_order():
    "All pages of the sidebar."
    config = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    return pages(config["website"]["sidebar"]["contents"])


def numbers(paths):
    "Numbers of the lessons: the file's; with a letter where several share one, none for tools."
    stems = [p.stem for p in paths]
    found = {}
    for stem in stems:
        n = re.match(r"([01]\d)_", stem)
        if not n or n[1] == "00": continue
        same = [s for s in stems if s.startswith(n[0])]
        found[stem] = str(int(n[1])) + ("abcdefgh"[same.index(stem)] if len(same) > 1 else "")
    return found


def heading(cells):
    "Title and subtitle."
    title = next(text_of(c) for c in cells if c["cell_type"] == "markdown")
    return re.search(r"^# (.*)", title, flags=re.M)[1], re.search(r"^> (.*)", title, flags=re.M)[1]


def main_text(cells):
    "The cells before the exercises and the checks: what is read from the beginning to the end."
    for c in cells:
        ends = re.search(r"^## (Exercises?|Checks)\b", text_of(c), flags=re.M)
        if ends and c["cell_type"] == "markdown": return
        yield c


def shown_lines(source):
    "The lines of a code cell that the site shows."
    if re.search(HIDDEN, source, flags=re.M): return []
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]


def minutes(cells):
    "How long it takes to read a lesson, exercises apart."
    total = 0.0
    for c in main_text(cells):
        source = text_of(c)
        if c["cell_type"] == "markdown":
            total += len(re.findall(r"\w+", re.sub(r"\$[^$]*\$|\([^)\s]*\)", " x ", source)))/WORDS
            continue
        total += LINE*len(shown_lines(source)) + FIGURE*("label: fig-" in source)
    return max(1, round(total))


def figures(cells):
    "The stored pictures of a notebook by the label of their figure."
    found = {}
    for c in cells:
        label = re.search(r"^#\|\s*label:\s*(fig-\S+)", text_of(c), flags=re.M)
        shown = [o["data"]["image/png"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
        if label and shown: found[label[1]] = base64.b64decode("".join(shown[0]))
    return found


def picture_of(path, cells):
    "The figure that stands for a lesson, PNG; None if it has none."
    found = figures(cells)
    name = path.stem[3:]
    if name in PICTURES and PICTURES[name] not in found:
        raise SystemExit(f"lessons: {path.name} has no stored picture {PICTURES[name]}")
    return found[PICTURES[name]] if name in PICTURES else next(iter(found.values()), None)


def thumbnail(png):
    "A small picture of a figure, filled to its edges, WebP."
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(paper, image).convert("RGB")
    width = min(image.width, round(image.height*THUMB[0]/THUMB[1]))
    image = image.crop((0, 0, width, min(image.height, round(width*THUMB[1]/THUMB[0]))))
    image.thumbnail(THUMB, Image.Resampling.LANCZOS)
    card = Image.new("RGB", THUMB, "white")
    card.paste(image, ((THUMB[0] - image.width)//2, (THUMB[1] - image.height)//2))
    out = io.BytesIO()
    card.save(out, "WEBP", quality=80, method=6)
    return out.getvalue()


def gallery(paths):
    "The table of lessons as Markdown, and for each lesson the figure that its thumbnail is cut from."
    lines, sources = ["| | lesson | you learn | minutes |", "|---|---|---|---|"], {}
    for path in paths:
        cells = load(path)["cells"]
        number = numbers(paths).get(path.stem)
        if number is None: continue
        title, subtitle = heading(cells)
        name, png = path.stem[3:], picture_of(path, cells)
        picture = f'<img src="images/lessons/{name}.webp" width="160" alt="">' if png else ""
        if png: sources[name] = png
        link = f"[{number} {title}]({path.name})"
        lines.append(f"| {picture} | {link} | {subtitle.rstrip('.')} | {minutes(cells)} |")
    return "\n".join(lines), sources


def with_gallery(nb, table):
    "The index with its gallery replaced."
    for c in nb["cells"]:
        if c["cell_type"] == "markdown" and text_of(c).startswith(BEGIN):
            c["source"] = f"{BEGIN}\n{table}\n\n{END}".splitlines(keepends=True)
            return nb
    raise SystemExit(f"lessons: no cell of index.ipynb begins with {BEGIN}")


def with_colab(nb, name):
    "A notebook with the cell for Colab after its title."
    s = settings()
    source = COLAB.format(url=s["git_url"], repo=s["repo"]).splitlines(keepends=True)
    old = [c for c in nb["cells"] if "google.colab" in text_of(c)]
    if old:
        old[0]["source"] = source
        return nb
    title = next(i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "markdown")
    key = hashlib.sha256(f"colab {name}".encode()).hexdigest()[:8]
    cell = dict(cell_type="code", execution_count=None, id=key, metadata={}, outputs=[], source=source)
    nb["cells"].insert(title + 1, cell)
    return nb


def wanted(paths):
    "All files as they should be: path -> bytes; and the figures behind the thumbnails."
    table, sources = gallery(paths)
    notebooks = {p: dump(with_colab(load(p), p.stem)) for p in paths}
    notebooks[INDEX] = dump(with_gallery(load(INDEX), table))
    cut = {name: hashlib.sha256(png).hexdigest() for name, png in sources.items()}
    return {p: text.encode() for p, text in notebooks.items()}, sources, cut


def complain(stale):
    "Name the files that are not as they should be; returns the exit code."
    for p in stale: print(f"lessons: stale: {p.relative_to(ROOT)}; run tools/lessons.py", file=sys.stderr)
    return int(bool(stale))


def main(check=False):
    "Write, or with `check` compare; returns the exit code."
    files, sources, cut = wanted(in_order())
    record = THUMBS/"sources.json"
    files[record] = (json.dumps(cut, indent=1) + "\n").encode()
    stale = [p for p, data in files.items() if not p.exists() or p.read_bytes() != data]
    stale += [THUMBS/f"{name}.webp" for name in sources if not (THUMBS/f"{name}.webp").exists()]
    unknown = [p for p in THUMBS.glob("*.webp") if p.stem not in sources]
    if check:
        return complain([*stale, *unknown])
    before = json.loads(record.read_text()) if record.exists() else {}
    THUMBS.mkdir(parents=True, exist_ok=True)
    for p in unknown: p.unlink()
    for name, png in sources.items():
        thumb = THUMBS/f"{name}.webp"
        if before.get(name) != cut[name] or not thumb.exists(): thumb.write_bytes(thumbnail(png))
    for p in stale:
        if p in files: p.write_bytes(files[p])
    print(f"lessons: {len(cut)} pictures, {len(stale)} files written")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]): sys.exit("usage: lessons.py [--check]")
    sys.exit(main(check=bool(sys.argv[1:])))
