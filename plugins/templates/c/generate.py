"""python3 plugins/templates/c/generate.py: the C side of wit/, made by wit-bindgen (see millrace/README.md)."""

import shutil
import subprocess
import tempfile
from pathlib import Path

here = Path(__file__).resolve().parent
wit = here.parents[2] / "wit"
NAME = "aggregation_plugin"
TEXT = """\
// The interface that the module carries, as a custom section: the bytes of {name}_component_type.o, which
// `wit-bindgen c` {version} has made of wit/, as text. See README.md.
__asm__(
  ".section \\".custom_section.{section}\\",\\"\\",@\\n"
{data}
);

// {name}.c calls it, so that this file is linked in
void __component_type_object_force_link_{name}(void) {{}}
"""


def number(data, at):
    """LEB128 → the number, and where it ends"""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def component_type(module):
    """The custom section of that name: its whole name and its bytes."""
    at = 8
    while at < len(module):
        kind = module[at]
        size, at = number(module, at + 1)
        end = at + size
        if kind == 0:
            length, at = number(module, at)
            name = module[at : at + length].decode()
            if name.startswith("component-type"):
                return name, module[at + length : end]
        at = end
    raise SystemExit("wit-bindgen made no component-type section")


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    shutil.copytree(wit / "aggregation", folder / "wit")
    shutil.copytree(wit / "types", folder / "wit" / "deps" / "types")
    world = "millrace:aggregation/aggregation-plugin"
    subprocess.run(["wit-bindgen", "c", "--world", world, "--out-dir", folder, folder / "wit"], check=True)
    version = subprocess.run(["wit-bindgen", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    for suffix in (".h", ".c"):
        shutil.copy(folder / (NAME + suffix), here / "millrace")
    section, data = component_type((folder / f"{NAME}_component_type.o").read_bytes())
    lines = [f'  ".byte {",".join(map(str, data[at : at + 24]))}\\n"' for at in range(0, len(data), 24)]
    text = TEXT.format(name=NAME, version=version, section=section, data="\n".join(lines))
    (here / "millrace" / "component_type.c").write_text(text)
