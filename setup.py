"Packaging. All settings are in settings.ini; edit there, not here."
import json
import zipfile
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).resolve().parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

keys = "version description keywords author".split()
expected = "lib_name lib_path git_url doc_host doc_baseurl license".split()
expected += "status min_python audience language".split()
missing = [k for k in keys + expected if k not in cfg]
if missing: raise SystemExit(f"settings.ini lacks: {' '.join(missing)}")

licenses = {"apache2": "Apache-2.0 AND CC-BY-4.0"}   # the code, the weights
statuses = ["0 - ", "1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta",
            "5 - Production/Stable", "6 - Mature", "7 - Inactive"]
py_versions = [f"3.{minor}" for minor in range(15)]   # 3.0 to 3.14
py_versions = py_versions[py_versions.index(cfg["min_python"]):]
lib = cfg["lib_path"]


def reqs(name): return cfg.get(name, "").split()


SHOWN = ".csv", ".png", ".svg", ".webp"


def lesson_files():
    "Notebooks without outputs, tables and pictures, as `ctdiff_edu.lab.lesson_files` gives them."
    for path in sorted((here/"nbs").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
        yield path, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
    beside = [p for name in ("results", "images") for p in (here/"nbs"/name).rglob("*") if p.suffix in SHOWN]
    for path in sorted(beside):
        if not path.name.startswith("readme-"): yield path, path.read_bytes()


class BuildWithLessons(build_py):
    "Modules, and the lessons beside them in one file; an editable installation has the notebooks themselves."
    LARGEST = 2_000_000   # bytes

    @property
    def lessons(self): return Path(self.build_lib)/lib/"lessons.zip"

    def run(self):
        super().run()
        if self.editable_mode: return
        self.lessons.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.lessons, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
            for path, data in lesson_files():      # without times: the same lessons are the same file
                name = zipfile.ZipInfo(path.relative_to(here/"nbs").as_posix())
                z.writestr(name, data, zipfile.ZIP_DEFLATED)
        size = self.lessons.stat().st_size
        if size > self.LARGEST:
            raise SystemExit(f"lessons.zip: got {size} bytes, want at most {self.LARGEST}")

    def get_outputs(self, include_bytecode=True):
        made = [] if self.editable_mode else [str(self.lessons)]
        return super().get_outputs(include_bytecode) + made


setup(
    cmdclass={"build_py": BuildWithLessons},
    name=cfg["lib_name"],
    license_expression=licenses[cfg["license"]],
    classifiers=[
        f"Development Status :: {statuses[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience'].title()}",
        f"Natural Language :: {cfg['language'].title()}",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        *[f"Programming Language :: Python :: {v}" for v in py_versions],
    ],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["weights/*.safetensors", "weights/*.md", "ct/*.csv"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=reqs("requirements"),
    extras_require={name: reqs(f"{name}_requirements")
                    for name in ("lab", "medical", "bm3d", "onnx", "dev")},
    entry_points={"console_scripts": reqs("console_scripts"), "nbdev": [f"{lib}={lib}._modidx:d"]},
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    zip_safe=False,
    **{k: cfg[k] for k in keys},
)
