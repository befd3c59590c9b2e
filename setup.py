"Packaging. All settings are in settings.ini; edit there, not here."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
config = ConfigParser(delimiters=["="])
config.read(here/"settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

keys = "version description keywords author".split()
expected = "lib_name lib_path git_url doc_host doc_baseurl license".split()
expected += "status min_python audience language".split()
missing = [k for k in keys + expected if k not in cfg]
if missing: raise SystemExit(f"settings.ini lacks: {' '.join(missing)}")

licenses = {"apache2": "Apache-2.0 AND CC-BY-SA-4.0 AND CC-BY-4.0"}   # the code, the weights
statuses = ["0 - ", "1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta",
            "5 - Production/Stable", "6 - Mature", "7 - Inactive"]
py_versions = [f"3.{minor}" for minor in range(15)]   # 3.0 to 3.14
py_versions = py_versions[py_versions.index(cfg["min_python"]):]
lib = cfg["lib_path"]


def reqs(name): return cfg.get(name, "").split()


setup(
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
    extras_require={name: reqs(f"{name}_requirements") for name in ("medical", "bm3d", "onnx", "dev")},
    entry_points={"console_scripts": reqs("console_scripts"), "nbdev": [f"{lib}={lib}._modidx:d"]},
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    zip_safe=False,
    **{k: cfg[k] for k in keys},
)
