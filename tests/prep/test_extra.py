"""Outside sets as their publishers write them: which columns are read, what their words mean, who shares a group."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_isic2020, write_jpeg

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.build import build
from prep.columns import LINKS
from prep.diagnosis import melanoma_of_words
from prep.duplicates import group_names
from prep.extra import joined, read_extra

ISIC_CLI = """isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,diagnosis_3,\
image_type,lesion_id,patient_id,sex
ISIC_0000001,A,CC-0,45,anterior torso,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ,\
dermoscopic,IL_1,IP_1,male
ISIC_0000002,A,CC-0,45,head/neck,Benign,Benign melanocytic proliferations,Nevus,dermoscopic,IL_2,IP_1,male
ISIC_0000003,A,CC-0,,,Malignant,Malignant epidermal proliferations,"Squamous cell carcinoma, NOS",dermoscopic,,IP_2,
"""
HAM10000 = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_0000118,ISIC_0000001,mel,histo,80.0,male,scalp
HAM_0000118,ISIC_0000002,bkl,histo,80.0,male,scalp
HAM_0002730,ISIC_0000003,nv,follow_up,,unknown,acral
"""
PAD_UFES_20 = """patient_id,lesion_id,smoke,age,gender,region,diagnostic,itch,img_id,biopsed
PAT_1,881,False,55,FEMALE,NECK,MEL,False,PAT_1_881_939.png,True
PAT_1,882,False,55,FEMALE,FOREARM,ACK,False,PAT_1_882_940.png,True
PAT_2,883,,31,,LIP,NEV,False,PAT_2_883_941.png,False
"""
ISIC_2024 = """isic_id,target,patient_id,age_approx,sex,anatom_site_general,lesion_id,iddx_full,iddx_1,mel_thick_mm
ISIC_0000001,1,IP_1,60,male,posterior torso,IL_1,Malignant::Malignant melanocytic proliferations (Melanoma)::Melanoma\
 Invasive,Malignant,0.4
ISIC_0000002,1,IP_1,60,male,lower extremity,IL_2,Malignant::Malignant epidermal proliferations::Basal cell carcinoma,\
Malignant,
ISIC_0000003,0,IP_2,35,female,,,Indeterminate,Indeterminate,
"""
MILK10K = """lesion_id,image_type,isic_id,attribution,age_approx,sex,skin_tone_class,site,MONET_hair
IL_1,clinical: close-up,ISIC_0000001,M,65,male,3,head_neck_face,0.1
IL_1,dermoscopic,ISIC_0000002,M,65,male,3,head_neck_face,0.1
IL_2,dermoscopic,ISIC_0000003,M,40,female,2,trunk,0.1
"""
MILK10K_TRUTH = """lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC
IL_2,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
IL_1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0
"""


def table(folder: Path, name: str, text: str, split: str = "train") -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return read_extra(folder / name, split)


@pytest.mark.parametrize(
    ("name", "text", "targets", "sites", "sexes"),
    [
        ("metadata.csv", ISIC_CLI, [1, 0, 0], ["torso", "head/neck", None], ["male", "male", None]),
        ("HAM10000_metadata", HAM10000, [1, 0, 0], ["head/neck", "head/neck", "palms/soles"], ["male", "male", None]),
        (
            "metadata.csv",
            PAD_UFES_20,
            [1, 0, 0],
            ["head/neck", "upper extremity", "head/neck"],
            ["female", "female", None],
        ),
        ("train-metadata.csv", ISIC_2024, [1, 0, 0], ["torso", "lower extremity", None], ["male", "male", "female"]),
        (
            "MILK10k_Training_Metadata.csv",
            MILK10K,
            [1, 1, 0],
            ["head/neck", "head/neck", "torso"],
            ["male", "male", "female"],
        ),
    ],
)
def test_the_layouts_of_known_sets_are_read(
    name: str, text: str, targets: list[int], sites: list[str], sexes: list[str], tmp_path: Path
) -> None:
    (tmp_path / "MILK10k_Training_GroundTruth.csv").write_text(MILK10K_TRUTH)
    found = table(tmp_path, name, text)
    assert found["target"].tolist() == targets
    assert found["site"].astype(object).where(found["site"].notna(), None).tolist() == sites
    assert found["sex"].astype(object).where(found["sex"].notna(), None).tolist() == sexes
    assert found["age"].notna().sum() >= 2
    groups = group_names(found, np.empty((0, 2), np.int64))
    assert (groups[0], groups.nunique()) == (groups[1], 2)
    named = read_extra(tmp_path, "train")  # the folder instead of its table
    pd.testing.assert_frame_equal(named, found)


def test_the_pictures_of_a_set_may_lie_in_folders_below_its_table(tmp_path: Path) -> None:
    found = table(tmp_path, "metadata.csv", PAD_UFES_20)
    assert found["key"].tolist() == ["PAT_1_881_939", "PAT_1_882_940", "PAT_2_883_941"]
    assert found["file"].isna().all()
    (tmp_path / "PAT_1_881_939.png").touch()
    assert read_extra(tmp_path, "train")["file"].notna().tolist() == [True, False, False]


@pytest.mark.parametrize("header", sorted({*LINKS["patient"], *LINKS["lesion"], "Patient ID", "LESION-ID"}))
def test_every_spelling_of_a_link_joins_groups(header: str, tmp_path: Path) -> None:
    found = table(tmp_path, "extra.csv", f"isic_id,target,{header}\na,1,7\nb,0,7\nc,0,8\nd,0,\n")
    groups = group_names(found, np.empty((0, 2), np.int64)).tolist()
    assert groups == ["extra_7", "extra_7", "extra_8", "d"]


def test_rows_that_any_link_joins_share_a_group(tmp_path: Path) -> None:
    lines = ["a,1,P1,L1,", "b,0,P2,L1,", "c,0,P2,,", "d,0,,,G1", "e,0,P3,,G1", "f,0,P4,L4,G4", "g,0,,,"]
    found = table(tmp_path, "extra.csv", "\n".join(["isic_id,target,patient_id,lesion_id,group", *lines]) + "\n")
    groups = group_names(found, np.empty((0, 2), np.int64))
    assert [sorted(found["key"][groups == name]) for name in groups.unique()] == [
        ["a", "b", "c"],
        ["d", "e"],
        ["f"],
        ["g"],
    ]


def test_one_column_alone_keeps_its_ids() -> None:
    ids = pd.DataFrame({"patient_id": pd.Series(["b", None, "a"], dtype="str")})
    assert joined(ids).equals(ids["patient_id"])


def test_ids_of_the_archive_meet_the_downloads_only_where_they_train(tmp_path: Path) -> None:
    text = "isic_id,target,patient_id\na,1,IP_0000001\nb,0,mine\n"
    assert table(tmp_path, "extra.csv", text)["patient"].tolist() == ["IP_0000001", "extra_mine"]
    assert read_extra(tmp_path, "extra")["patient"].tolist() == ["extra_IP_0000001", "extra_mine"]


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (["melanoma"], 1),
        (["MEL"], 1),
        (["Melanoma, NOS"], 1),
        (["Malignant", "Melanoma metastasis"], 1),
        (["lentigo maligna"], 1),
        (["nevus"], 0),
        (["Benign", "some word of the archive"], 0),
        (["solar lentigo"], 0),
        (["basal cell carcinoma"], 0),
        (["malignant"], None),
        (["Malignant", ""], None),
        (["no melanoma"], None),
        (["melanoma?"], None),
        (["nevus versus melanoma"], None),
        (["nevus", "melanoma"], None),
        (["non-melanoma skin cancer"], None),
        (["Indeterminate"], None),
        (["MM"], None),
        ([""], None),
    ],
)
def test_words_say_melanoma_or_not_or_leave_it_open(words: list[str], verdict: int | None) -> None:
    row = pd.DataFrame([words], dtype="str").mask(lambda cells: cells == "")
    (found,) = melanoma_of_words(row)
    assert (None if np.isnan(found) else found) == verdict


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("isic_id,diagnosis\na,melanoma\nb,malignant\n", "line 3, column diagnosis: 'malignant', wanted a diagnosis"),
        ("isic_id,diagnosis\na,melanoma\nb,\n", "line 3, column diagnosis: nothing, wanted a diagnosis that says"),
        ("isic_id,sex\na,male\n", "lacks the column target"),
        ("isic_id,target\na,-1\n", "line 2, column target: '-1', wanted 0 or 1"),
        ("isic_id,target\n", "has no rows below its header"),
        ("isic_id,target,Target\na,1,0\n", "has 2 columns named target and Target"),
        ("isic_id,target,iddx_full\na,0,Melanoma\n", "wanted no melanoma where target is 0"),
        ('isic_id,target,sex\na,1,"male\nb,0,female\nc,0,"\n', "close its quotation mark"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        table(tmp_path, "extra.csv", text)
    assert said in str(raised.value)


def test_what_was_read_and_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "a", "train-metadata.csv", ISIC_2024)
    said = capsys.readouterr().err
    assert "image from isic_id, patient from patient_id, lesion from lesion_id" in said
    assert "target counts all cancers: 1 of its 2 are melanoma by" in said
    table(tmp_path / "b", "extra.csv", "image,target,diagnosis\na,0,nevus\nb,0,melanoma\n")
    said = capsys.readouterr().err
    assert "no column of a patient, lesion or group" in said
    assert "none of its 2 rows is a melanoma" in said
    assert "1 diagnoses differ, first b (melanoma)" in said


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2020 download, and an outside set of six patients with four images each."""
    root = tmp_path_factory.mktemp("clinic")
    write_isic2020(root / "2020", 40, 4)
    lines = ["isic_id,target,patient_id,lesion_id"]
    for number in range(24):
        lines.append(f"ISIC_9{number:06d},{int(number % 8 < 4)},IP_9{number // 4:05d},IL_{number // 2}")
        write_jpeg(root / "images" / f"ISIC_9{number:06d}.jpg", 50_000 + number)
    (root / "extra.csv").write_text("\n".join(lines) + "\n")
    (root / "bare.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines) + "\n")
    return root


def built(clinic: Path, out: Path, extra: str) -> tuple[str, pd.DataFrame]:
    config = PrepConfig(isic2020=str(clinic / "2020"), extra=str(clinic / extra), extra_role="train", out=str(out))
    said = build(PrepConfig(**{**vars(config), "size": 32, "folds": 3, "workers": 1}))
    rows = pd.read_parquet(out / "samples.parquet")
    return said, rows[rows["source"] == 0]


def test_patients_of_an_outside_set_stay_in_one_fold_and_the_audit_counts_them(clinic: Path, tmp_path: Path) -> None:
    said, rows = built(clinic, tmp_path / "set", "extra.csv")
    assert rows.groupby("patient")["fold"].nunique().tolist() == [1] * 6
    assert rows["fold"].nunique() == 3
    assert "audit: no known patient, lesion or duplicate spans two folds" in said
    assert "outside set: the patient of 24 (column patient) and the lesion of 24 (column lesion) of 24" in said


def test_an_outside_set_without_patients_is_said_to_leak(clinic: Path, tmp_path: Path) -> None:
    said, _ = built(clinic, tmp_path / "set", "bare.csv")
    assert "outside set: the patient of 0 (column patient) and the lesion of 0 (column lesion) of 24" in said
    assert "WARNING: no column of a patient, lesion or group was recognised in the outside set" in said


def test_an_outside_set_to_be_judged_says_what_it_shares_with_the_training(clinic: Path, tmp_path: Path) -> None:
    write_jpeg(tmp_path / "x.jpg", 70_000)
    (tmp_path / "extra.csv").write_text("isic_id,target,patient_id\nx,1,IP_0000001\n")
    config = PrepConfig(isic2020=str(clinic / "2020"), extra=str(tmp_path), out=str(tmp_path / "set"), size=32, folds=3)
    assert "1 are of a patient or lesion of it" in build(PrepConfig(**{**vars(config), "workers": 1}))


def test_no_melanoma_among_the_training_rows_is_refused(clinic: Path, tmp_path: Path) -> None:
    text = (clinic / "2020" / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace("malignant,1", "benign,0"))
    with pytest.raises(UserError, match="none of the 40 training rows is a melanoma"):
        build(PrepConfig(isic2020=str(tmp_path), out=str(tmp_path / "set")))
