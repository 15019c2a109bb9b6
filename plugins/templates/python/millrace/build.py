"""python3 millrace/build.py MODULE KIND OUTPUT: makes a component of a Python module with componentize-py."""

import subprocess
import sys
import tempfile
from pathlib import Path

module, kind, output = sys.argv[1:]
wit = Path(__file__).parent / "wit"
Path(output).parent.mkdir(parents=True, exist_ok=True)
# what the component exports is looked for in the module that is named, so the author's one is imported by another
with tempfile.TemporaryDirectory() as folder:
    entry = f"import {module}\nfrom millrace.plugin import published\n{kind.capitalize()} = published[0]\n"
    (Path(folder) / "millrace_entry.py").write_text(entry)
    command = ["componentize-py", "-d", wit / "types", "-d", wit / kind, "-w", f"millrace:{kind}/{kind}-plugin"]
    command += ["componentize", "millrace_entry", "-p", folder, "-p", ".", "-o", output]
    sys.exit(subprocess.run(command).returncode)
