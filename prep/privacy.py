"""Numbers in place of the ids of patients and lesions, so that a shard set and what is made from it name nobody."""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def without_ids(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with their patients, lesions and groups numbered within each column: P0001, L0001, G0001 ...

    Equal ids get equal numbers, and numbers sort as the ids do, so all that depends on groups alone stays as it was. A
    number says nothing but its place in that order.
    """
    return rows.assign(**{name: _numbered(rows[name], name[0].upper()) for name in ("patient", "lesion", "group")})


def _numbered(ids: pd.Series, letter: str) -> pd.Series:
    place, names = pd.factorize(ids, sort=True)
    digits = pc.utf8_lpad(pc.cast(pa.array(place + 1, mask=place < 0), pa.string()), len(str(len(names))), "0")
    return pd.Series(pc.binary_join_element_wise(letter, digits, ""), index=ids.index, dtype="str")
