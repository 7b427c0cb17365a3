"""What docs/security.md says of files from strangers: nothing in them is run, and nothing leads out of their folder."""

import ast
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from made_data import coco_data, write_coco
from safetensors.torch import save_file

import softgate_pose
from softgate_pose import MPII, create_model, save_pretrained
from softgate_pose.data.images import open_image
from softgate_pose.data.people import People
from softgate_pose.data.sources import read_people
from softgate_pose.evaluation.files import read_predictions
from softgate_pose.export import load_onnx
from softgate_pose.folder.boxes import read_boxes
from softgate_pose.folder.results import Results
from softgate_pose.training.checkpoint import TrainingState
from softgate_pose.weights.files import find_checkpoint, read_tensors

SOURCES = sorted(Path(softgate_pose.__file__).parent.rglob("*.py"))

MODULES = {"_pickle", "cloudpickle", "code", "codeop", "dill", "importlib", "joblib", "marshal", "pickle", "pty",
           "runpy", "shelve", "subprocess", "yaml"}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "np.load", "numpy.load", "os.popen", "os.system", "torch.jit.load",
         "torch.load", "torch.hub.load", "torch.export.load", "torch.package.PackageImporter"}  # fmt: skip

REVIEWED = {
    "__init__.py": ["importlib.import_module"],  # of the package's own modules, by a fixed table
    # SciPy in a process of its own, with a fixed command; what it answers is an array or an error
    "data/matlab.py": ["subprocess", "np.load", "allow_pickle=False", "allow_pickle=False"],
}


def running_code(source):
    """Where a module imports or calls what can run the code that data hold."""
    places = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = whole if (node.module or "").split(".")[0] in MODULES else [name for name in whole if name in CALLS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            names = [name] if name in CALLS or name.startswith(("os.exec", "os.spawn")) else []
        elif isinstance(node, ast.keyword):
            names = (
                [f"{node.arg}={ast.unparse(node.value)}"]
                if node.arg in ("allow_pickle", "trust_remote_code", "weights_only", "shell")
                else []
            )
        else:
            names = []
        places += names
    return places


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(SOURCES[0].parent).as_posix())
def test_no_module_can_run_what_data_hold(file):
    name = file.relative_to(SOURCES[0].parent).as_posix()
    assert running_code(file.read_text(encoding="utf-8")) == REVIEWED.get(name, [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "def f():\n    import yaml",
        "from torch import load", "torch.load(x)", "torch.load(x, weights_only=True)", "np.load(x)",
        "f(allow_pickle=False)", "eval('1')", "exec(x)", "from numpy import load", "os.system(x)", "os.execv(x, y)",
        "import importlib.util", "h(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_could_run_code_is_seen(source):
    assert running_code(source)


def test_what_cannot_is_not():
    assert running_code("model.eval()\nre.compile(x)\nimport torch, json\nself.load(x)") == []


class Touch:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def pickles(trap, place):
    """The same trap in each of the forms that weights have been published in."""
    yield pickle.dumps(Touch(trap), protocol=0)
    yield pickle.dumps(Touch(trap))
    torch.save({"stem.0.weight": Touch(trap)}, place / "zip.pt")
    yield (place / "zip.pt").read_bytes()
    torch.save({"stem.0.weight": Touch(trap)}, place / "old.pt", _use_new_zipfile_serialization=False)
    yield (place / "old.pt").read_bytes()


@pytest.fixture
def entries(tmp_path, request):
    """Every way in for a file: the file's place, and what reads it."""
    hub = request.config.hub
    hub.repos.clear()
    (tmp_path / "lsp").mkdir()
    (tmp_path / "mpii" / "annot").mkdir(parents=True)
    coco = write_coco(tmp_path / "coco", coco_data())
    (tmp_path / "model").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "config").mkdir()
    tensors = {"x": torch.zeros(1)}
    save_file(tensors, tmp_path / "config" / "model.safetensors")
    zeros = torch.zeros(1, 4)
    people = People(MPII, (Path("a.jpg"),), torch.zeros(1, 16, 2), torch.ones(1, 16) > 0, zeros, zeros, ())
    model = torch.nn.Linear(1, 1)

    def from_hub(name):
        def read(file):
            weights = {"model.safetensors": b"", "config.json": b"{}"}
            hub.commit(f"evil/{name.partition('.')[0]}", {**weights, "setup.py": b"x", name: file.read_bytes()})
            return create_model(f"hf-hub:evil/{name.partition('.')[0]}")

        return file_in("hub.bin"), read

    def file_in(name):
        return tmp_path / name

    suffixes = ("", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".onnx", ".npy")
    entries = {
        f"checkpoint{suffix}": (file_in(f"w{suffix}"), lambda file: create_model("sgpose_0m5_1s", checkpoint=file))
        for suffix in suffixes
    }
    return entries | {
        "find_checkpoint": (file_in("find.pt"), find_checkpoint),
        "read_tensors": (file_in("read.pt"), read_tensors),
        "local-dir": (file_in("model/model.safetensors"), lambda file: create_model(f"local-dir:{file.parent}")),
        "config": (file_in("config/config.json"), lambda file: create_model(f"local-dir:{file.parent}")),
        "hub weights": from_hub("model.safetensors"),
        "hub config": from_hub("config.json"),
        "training state": (
            file_in("run/last.safetensors"),
            lambda file: TrainingState(file.parent, model, None, torch.optim.SGD(model.parameters()), {}).load(),
        ),
        "joints.mat": (file_in("lsp/joints.mat"), lambda file: read_people(f"lsp:{file.parent}:train")),
        "release": (
            file_in("mpii/mpii_human_pose_v1_u12_1.mat"),
            lambda file: read_people(f"mpii-mat:{file.parent}:train"),
        ),
        "mpii.json": (file_in("mpii/annot/valid.json"), lambda file: read_people(f"mpii:{tmp_path / 'mpii'}:valid")),
        "coco.json": (file_in("coco/annotations/person_keypoints_train.json"), lambda file: read_people(coco)),
        "predictions.mat": (file_in("pred.mat"), lambda file: read_predictions(file, people)),
        "predictions.json": (file_in("pred.json"), lambda file: read_predictions(file, people)),
        "boxes.json": (file_in("boxes.json"), read_boxes),
        "boxes.csv": (file_in("boxes.csv"), read_boxes),
        "part file": (file_in("p.json.part"), lambda file: Results(file.with_suffix(""), {})),
        "image": (file_in("photo.jpg"), open_image),
        "onnx": (file_in("model.onnx"), load_onnx),
    }


def test_a_pickle_is_run_by_no_way_in(entries, tmp_path):
    trap = tmp_path / "trapped"
    for content in pickles(trap, tmp_path):
        for name, (file, read) in entries.items():
            file.write_bytes(content)
            with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
                read(file)
            assert str(caught.value), name
            assert not trap.exists(), f"{name} runs what {file.name} holds"
            file.unlink()
    torch.load(tmp_path / "old.pt", weights_only=False)
    assert trap.exists()  # so the trap works


def test_of_an_archive_nothing_is_unpacked(entries, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../trapped", "x")
    before = set(tmp_path.rglob("*"))
    for file, read in entries.values():
        file.write_bytes((tmp_path / "evil.zip").read_bytes())
        with pytest.raises((ValueError, OSError, RuntimeError)):
            read(file)
        file.unlink()
    assert set(tmp_path.rglob("*")) <= before
    assert not (tmp_path.parent.parent / "trapped").exists()


def test_a_config_that_names_code_is_refused(tiny_model, tmp_path):
    folder = save_pretrained(tiny_model, tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ValueError, match="auto_map"):
        create_model(f"local-dir:{folder}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("more", [{}, {"pretrained": False}])
def test_a_config_cannot_ask_for_more_than_its_weights_bear_out(tiny_model, tmp_path, monkeypatch, more):
    folder = save_pretrained(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    large = {"width": 4096, "input_size": [1024, 1024]}  # gigabytes of weights
    (folder / "config.json").write_text(json.dumps({**config, **large}))
    monkeypatch.setattr("softgate_pose.factory.build", lambda config: pytest.fail("built"))
    with pytest.raises(RuntimeError, match="does not fit tiny"):
        create_model(f"local-dir:{folder}", **more)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_weights_of_another_kind_are_refused(tiny_model, tmp_path, dtype):
    folder = save_pretrained(tiny_model, tmp_path / "model")
    tensors = read_tensors(folder / "model.safetensors")
    tensors["heads.0.bias"] = torch.zeros_like(tensors["heads.0.bias"]).to(dtype)
    try:
        save_file(tensors, folder / "model.safetensors")
    except KeyError:
        pytest.skip(f"this safetensors cannot write {dtype}")
    with pytest.raises(RuntimeError, match=rf"heads\.0\.bias .*{dtype}.* torch\.float32"):
        create_model(f"local-dir:{folder}")


def test_links_are_followed_to_files_that_the_user_put_there(tmp_path, photo):
    """A data set is often a folder of links; who can place a link can place a photo."""
    photo.save(tmp_path / "elsewhere.jpg")
    source = write_coco(tmp_path / "data", coco_data())
    (tmp_path / "data" / "train" / "a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (image,) = read_people(source).images
    assert open_image(image).size == photo.size


def test_names_in_boxes_and_predictions_open_no_file(tmp_path, monkeypatch):
    names = {"../../etc/passwd": [[0, 0, 1, 1]], "/etc/passwd": [[0, 0, 1, 1]]}
    (tmp_path / "boxes.json").write_text(json.dumps(names))
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: opened.append(self) or original(self, *args, **more))
    assert set(read_boxes(tmp_path / "boxes.json")) == set(names)
    assert all(path == tmp_path / "boxes.json" for path in opened)
