"""Run the demo from nothing and keep its figures as a record: python -m scripts.record_demo."""

import json
import shutil

from benchmarks.record import RESULTS, environment, write
from report import demo

if __name__ == "__main__":
    shutil.rmtree(demo.ROOT / demo.OUT, ignore_errors=True)
    demo.main()
    results = json.loads((demo.ROOT / demo.OUT / "results.json").read_text())
    what = "make demo: AUC on the synthetic test images, DeLong 95 % intervals, minutes after installation"
    write(RESULTS / "demo.json", {"what": what, **environment(), **results})
