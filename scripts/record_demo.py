"""Run the demo from nothing and keep its figures as a record: python -m scripts.record_demo."""

import json
import shutil

from benchmarks.record import RESULTS, write
from report import demo

if __name__ == "__main__":
    shutil.rmtree(demo.ROOT / demo.OUT, ignore_errors=True)
    demo.main()
    results = json.loads((demo.ROOT / demo.OUT / "results.json").read_text())
    what = (
        "make demo, minutes after installation: AUC with 95 % intervals (DeLong) on synthetic test images whose truth "
        "the training never sees; image_ and meta_ members see only that input; covered is the share of the way from "
        "0.5 to the best possible AUC, which the true logit has"
    )
    write(RESULTS / "demo.json", {"what": what, **results})
