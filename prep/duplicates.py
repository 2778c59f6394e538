"""Which rows must share a fold: one patient, one lesion, one picture twice."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_names(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Name the connected component of each row (str, aligned with `table`).

    Rows are joined by patient, by lesion and by the official duplicate `pairs` (image_name_1, image_name_2); a
    component takes the first, in sorting order, of its patients' and lesions' names, or of its keys.
    """
    own = table["patient"].fillna(table["lesion"]).fillna(table["key"])
    names, node = np.unique(own.to_numpy(dtype=str), return_inverse=True)
    by_key = pd.Series(node, index=table["key"])
    known = pairs["image_name_1"].isin(by_key.index) & pairs["image_name_2"].isin(by_key.index)
    left = by_key.reindex(pairs["image_name_1"][known]).to_numpy(dtype=np.int64)
    right = by_key.reindex(pairs["image_name_2"][known]).to_numpy(dtype=np.int64)
    links = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    # `names` is sorted, so the first node of a component bears its smallest name.
    _, first = np.unique(component, return_index=True)
    return pd.Series(names[first[component[node]]], index=table.index, dtype="str")
