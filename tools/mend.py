"""What nbdev leaves to be mended in a processed page, before Quarto reads it.

A function whose source stands in the lesson is shown once, not as a signature and again as source. Signatures
of the others are those of the source, links to names are relative and lead somewhere, titles carry the
lesson's number, and every page links to its notebook and to Colab."""
import ast
import base64
import io
import json
import re

import yaml
from lessons import ROOT, in_order, load, numbers, settings, text_of
from PIL import Image

API = "api.ipynb"                                 # made here, of the library's own source
FRONT = re.compile(r"\A---\n(.*?)\n---\n", flags=re.S)
SHELLS = ("cli", "shell", "report", "lab")     # their names are words, too: no page links there by chance


def set_text(cell, text):
    "Replace the source of a cell."
    cell["source"] = text.splitlines(keepends=True)


def shown_name(cell):
    "The name that a cell of nbdev's documents; None if it is no such cell."
    found = re.search(r"^show_doc\((.*?)[,)]", text_of(cell), flags=re.M)
    return found and found[1].strip()


def definition(module, name):
    "The syntax tree of a function, class or method in a module of the library, and the module's lines."
    path = ROOT/"ctdiff_edu"/f"{module}.py"
    if not path.exists(): return None, []
    source = path.read_text(encoding="utf-8")
    node = ast.parse(source)
    for part in name.split("."):
        inside = [n for n in node.body if getattr(n, "name", None) == part]
        if not inside: return None, []
        node = inside[-1]
    return node, source.splitlines()


def signature(module, name):
    "The lines of a definition before its docstring, as they were written; empty if it is not there."
    node, lines = definition(module, name)
    return "\n".join(lines[node.lineno - 1:node.body[0].lineno - 1]) if node else ""


def source_link(module, name):
    "A link to the line where something is defined."
    node, _ = definition(module, name)
    s = settings()
    line = f"#L{node.lineno}" if node else ""
    where = f"{s['git_url']}/blob/{s['branch']}/{s['lib_path']}/{module}.py{line}"
    return f'[source]({where}){{target="_blank" style="float:right; font-size:smaller"}}'


def anchor_of(heading):
    "The anchor that Quarto gives a heading."
    words = re.sub(r"[^\w\s.-]", "", re.sub(r"[`*]", "", heading)).lower()
    return re.sub(r"^[\d\s._-]+", "", re.sub(r"\s+", "-", words.strip()))


def api_cell(name, module, open_source):
    "What stands in the page for a documented name."
    link = source_link(module, name)
    if open_source: return f"[]{{#{name.lower()}}}{link}"
    code = signature(module, name)
    return f"### {name}\n\n{link}\n\n```python\n{code}\n```" if code else None


def docstring(module, name):
    "The first line of the docstring, in italics."
    node, _ = definition(module, name)
    text = ast.get_docstring(node) if node else None
    return f"\n\n*{text.splitlines()[0]}*" if text else ""


def mend_api(cells, module):
    "Each documented name once: an anchor where its source follows, a signature where it does not."
    for cell, follower in zip(cells, [*cells[1:], None]):
        name = shown_name(cell)
        if not name: continue
        is_open = follower is not None and "Exported source" in text_of(follower)
        text = api_cell(name, module, is_open)
        if text is None: continue
        if not is_open: text += docstring(module, name)
        cell.clear()
        cell.update(cell_type="markdown", metadata={}, source=text.splitlines(keepends=True))


def named_anchors(folder):
    "The anchors of documented names on each page: page -> set."
    found = {}
    for path in folder.glob("*.ipynb"):
        cells = load(path)["cells"]
        anchors = set(re.findall(r"\[\]\{#([\w.-]+)\}", "\n".join(map(text_of, cells))))
        prose = "\n\n".join(text_of(c) for c in cells if c["cell_type"] == "markdown")
        heads = re.findall(r"^#+ (.*)", prose, flags=re.M)
        found[re.sub(r"^\d+_", "", path.stem)] = anchors | {anchor_of(h) for h in heads}
    return found


def mend_links(text, module, anchors):
    "nbdev's links to names: relative, to an anchor that is there, on the page where the reader expects it."
    s = settings()
    base = re.escape(s["doc_host"] + s["doc_baseurl"])
    def fix(m):
        words, page, anchor = m.groups()
        if anchor in anchors.get(module, ()): return f"[{words}](#{anchor})"
        if page in SHELLS or anchor not in anchors.get(page, ()):
            pages = [p for p in anchors if anchor in anchors[p] and p not in SHELLS]
            page = pages[0] if len(pages) == 1 else None
        return f"[{words}]({page}.html#{anchor})" if page else words
    return re.sub(rf"\[(`[^`\]]+`)\]\({base}/([\w]+)\.html#([\w.-]+)\)", fix, text)


def buttons(name):
    "A line of links to a notebook: to run it, to keep it."
    s = settings()
    colab = f"https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/{s['branch']}/nbs/{name}"
    text = f'''<p class="buttons"><a href="{colab}">Open in Colab</a>
<a href="notebooks/{name}" download>Download the notebook</a></p>'''
    return dict(cell_type="markdown", metadata={}, id="b0770115", source=text.splitlines(keepends=True))


def mend_front(cells, name, number, has_notebook):
    "Title with its number; buttons below it."
    cell = next(c for c in cells if FRONT.match(text_of(c)))
    about = yaml.safe_load(FRONT.match(text_of(cell))[1])
    if number: about["title"] = f"{number} · {about['title']}"
    if has_notebook: cells.insert(cells.index(cell) + 1, buttons(name))
    set_text(cell, f"---\n{yaml.safe_dump(about, allow_unicode=True)}---\n")


def is_chart(cell):
    "Whether the stored picture of a cell is drawn on white paper: curves, not images."
    for out in cell.get("outputs", []):
        png = out.get("data", {}).get("image/png")
        if not png: continue
        picture = Image.open(io.BytesIO(base64.b64decode("".join(png)))).convert("RGBA").reduce(4)
        pixels = picture.getdata()
        return sum(min(p) >= 248 for p in pixels) > 0.45*len(pixels)
    return False


def mend_charts(cells):
    "Mark the cells whose picture the dark theme may turn."
    for cell in cells:
        if cell["cell_type"] != "code" or not is_chart(cell): continue
        set_text(cell, f"#| classes: chart\n{text_of(cell)}")


def public_names(module):
    "The names that a module of the library offers, in the order of its source."
    path = ROOT/"ctdiff_edu"/f"{module}.py"
    if not path.exists(): return []
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"]


def api_entry(module, name, anchors):
    "One name: a link to where it is explained, its docstring, its signature."
    where = f"{module}.html#{name.lower()}" if name.lower() in anchors.get(module, ()) else f"{module}.html"
    return f"**[`{name}`]({where})**{docstring(module, name)}\n\n```python\n{signature(module, name)}\n```"


def api_page(lessons, anchors):
    "All names of the library on one page, as a processed notebook."
    front = {"title": "All names", "description": "What the library offers, room by room, with signatures"}
    parts = [f"---\n{yaml.safe_dump(front)}---\n"]
    for path in lessons:
        module = re.sub(r"^\d+_", "", path.stem)
        names = public_names(module)
        if names: parts.append(f"## {module}\n\n" + "\n\n".join(api_entry(module, n, anchors) for n in names))
    kinds = ["raw"] + ["markdown"]*(len(parts) - 1)
    cells = [dict(cell_type=kind, metadata={}, id=f"api{i:05d}", source=text.splitlines(keepends=True))
             for i, (kind, text) in enumerate(zip(kinds, parts))]
    kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    return dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)


def mend(folder):
    "All processed pages in `folder`, and the page of all names."
    lessons = in_order()
    number, known = numbers(lessons), {p.name for p in lessons}
    books = {path: load(path) for path in sorted(folder.glob("*.ipynb"))}
    for path, nb in books.items():
        mend_api(nb["cells"], re.sub(r"^\d+_", "", path.stem))
        mend_charts(nb["cells"])
        mend_front(nb["cells"], path.name, number.get(path.stem), path.name in known)
        path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    anchors = named_anchors(folder)
    for path, nb in books.items():
        for cell in nb["cells"]:
            if cell["cell_type"] != "markdown": continue
            set_text(cell, mend_links(text_of(cell), re.sub(r"^\d+_", "", path.stem), anchors))
        path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    (folder/API).write_text(json.dumps(api_page(lessons, anchors), ensure_ascii=False), encoding="utf-8")
