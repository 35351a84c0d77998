import pytest

from ftbench.class_names import class_indices

CLASSES = ("tench, Tinca tinca", "great white shark, white shark", "cock")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tench", 0),
        ("Tinca_tinca", 0),
        ("tench, Tinca tinca", 0),
        ("WHITE SHARK", 1),
        ("great_white_shark", 1),
        ("cock", 2),
        ("shark", None),
        ("", None),
        ("n01440764", None),
    ],
)
def test_a_name_means_a_class_by_any_of_its_names(name, index):
    assert class_indices([name], CLASSES) == {name: index}


def test_imagenets_folders_are_known_by_their_ids():
    pytest.importorskip("timm")
    classes = tuple(f"class {index}" for index in range(1000))
    found = class_indices(["n01440764", "n15075141", "n99999999", "class 5"], classes)
    assert list(found.values()) == [0, 999, None, 5]
