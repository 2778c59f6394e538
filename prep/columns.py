"""What tables of ISIC and of others call a column and a site: the only place where spellings are listed.

Headers are compared in lower case, with _ for blanks, dots and hyphens; of several, the first one listed is read.
"""

KEY = {"image_name": ["image_name", "image", "isic_id", "image_id", "img_id", "filename", "file_name"]}
"""Our names of columns -> the headers they have in the tables; likewise PATIENT, LESION, PERSON, LABEL and FOLD."""
PATIENT = {"patient_id": ["patient_id", "patient", "patientid"]}
LESION = {"lesion_id": ["lesion_id", "lesion", "lesionid"]}
PERSON = {
    "sex": ["sex"],
    "age_approx": ["age_approx", "age"],
    "site": ["anatom_site_general_challenge", "anatom_site_general", "site"],
}
LABEL = {"diagnosis": ["diagnosis"], "target": ["target"]}
FOLD = {"fold": ["fold", "kfold"]}

PERSON_OUTSIDE = {
    **PERSON,
    "sex": ["sex", "gender"],
    "site": [*PERSON["site"], "localization", "region", "anatom_site"],
}
"""PERSON, and what outside sets call it."""
LINKS = {
    "patient": [
        *PATIENT["patient_id"],
        "group",
        "group_id",
        "patient_group",
        "case_id",
        "case",
        "subject_id",
        "subject",
    ],
    "lesion": [*LESION["lesion_id"], "lesion_group", "mole_id"],
}
"""What outside sets call that which images of one patient, or of one lesion, have in common: all of them are read."""
DIAGNOSES = ["diagnosis", "dx", "diagnostic", "diagnosis_full", "iddx_full"]
DIAGNOSES += [f"{name}_{level}" for level in (5, 4, 3, 2, 1) for name in ("diagnosis", "iddx")] + ["benign_malignant"]
"""Columns of words that tell a melanoma from the rest (prep/diagnosis.py), the most telling first."""
CANCER = "iddx_full"
"""The column of ISIC 2024, whose target is 1 for every skin cancer and not for melanoma alone."""
RENAMABLE = {"fold": ["tfrecord", "tfrecords", "split", "group_fold"]}
"""Headers that may mean one of our columns, which only the user can know."""

_PLACES = {
    "head/neck": "head neck head_neck_face face scalp ear nose lip forehead",
    "upper extremity": "upper_extremity arm forearm hand",
    "lower extremity": "lower_extremity leg thigh foot",
    "torso": "trunk chest back abdomen",
    "palms/soles": "acral palms_soles",
    "oral/genital": "genital oral_genital",
}
SITE_WORDS = {f"{side} torso": "torso" for side in ("anterior", "posterior", "lateral")}
"""What ISIC 2019 calls a site -> one of prep.tables.SITES."""
PLACES = {word: site for site, words in _PLACES.items() for word in words.split()}
"""The same for HAM10000, PAD-UFES-20 and MILK10k."""

EXTRA_TABLES = ["metadata.csv", "train-metadata.csv", "MILK10k_Training_Metadata.csv"]
EXTRA_TABLES += ["HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab", "extra.csv"]
"""An outside set's table where --extra names its folder: isic-cli and PAD-UFES-20, ISIC 2024, MILK10k, HAM10000."""
TRUTH_OF = ("Metadata", "GroundTruth")
"""MILK10k has its classes in a table beside: the name of its metadata with the second word for the first."""


def spelled(header: str) -> str:
    """A header as it is compared."""
    return header.strip().lower().replace(" ", "_").replace("-", "_").replace(".", "_")
