"""Run the demo from nothing and keep its figures as a record.

python -m benchmarks.demo
"""

import json
import shutil

from benchmarks.environment import RESULTS, environment, write_record
from report.demo import OUT, ROOT, main


def record() -> None:
    """Make demo/ anew and write benchmarks/results/demo.json."""
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    main()
    results = json.loads((ROOT / OUT / "results.json").read_text())
    what = "make demo: AUC on the synthetic test images, DeLong 95 % intervals, minutes after installation"
    write_record(RESULTS / "demo.json", {"what": what, **environment(), **results})


if __name__ == "__main__":
    record()
