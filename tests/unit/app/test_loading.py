"""Classes are found, mistakes are messages, and an edited app is imported anew."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from beamfold.app import loading, modules
from beamfold.app.loading import load_class, modules_of
from beamfold.model.errors import AppError


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has its own sys.path, imported modules and memory of what was loaded."""
    kept, path = dict(sys.modules), list(sys.path)
    # Other tests of this process may have loaded apps, whose modules have the same names.
    sys.path[:] = [folder for folder in path if folder not in {str(f) for f in loading._fronted}]
    for name in ("worker", "reducer"):
        sys.modules.pop(name, None)
    monkeypatch.setattr(modules, "_loaded", {})
    monkeypatch.setattr(loading, "_fronted", set())
    yield
    sys.path[:] = path
    for name in sys.modules.keys() - kept.keys():
        del sys.modules[name]
    sys.modules.update(kept)


@dataclass
class Folder:
    """A folder of Python files; each writing is a second after the last, and all are long past."""

    path: Path
    second: list[int] = field(default_factory=lambda: [1_700_000_000])

    def write(self, **files: str) -> None:
        for name, text in files.items():
            self.put(name.replace("__", "/") + ".py", text)

    def put(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.second[0] += 1
        os.utime(file, (self.second[0], self.second[0]))


@pytest.fixture
def app(tmp_path: Path) -> Folder:
    (tmp_path / "app").mkdir()
    return Folder(tmp_path / "app")


@pytest.fixture
def other(tmp_path: Path) -> Folder:
    (tmp_path / "other").mkdir()
    return Folder(tmp_path / "other")


WORKER = "class Worker:\n    who = {!r}\n"


def test_a_class_is_found_by_module_by_package_and_by_file(app: Folder) -> None:
    app.write(worker=WORKER.format("plain"), src__worker=WORKER.format("namespace"))
    app.put("pkg/__init__.py", WORKER.format("package"))
    app.put("pkg/deep/__init__.py", "")
    app.put("pkg/deep/worker.py", "from .. import Worker as Base\nclass Worker(Base):\n    pass\n")
    who = {
        "worker:Worker": "plain",
        "worker.py:Worker": "plain",
        "./worker.py:Worker": "plain",
        "src.worker:Worker": "namespace",
        "src/worker.py:Worker": "namespace",
        "pkg:Worker": "package",
        "pkg/__init__.py:Worker": "package",
        "pkg.deep.worker:Worker": "package",
        "pkg/deep/worker.py:Worker": "package",
        f"{app.path}/worker.py:Worker": "plain",
    }
    for path, expected in who.items():
        assert load_class(path, app.path).who == expected, path
    assert load_class("pkg/deep/worker.py:Worker", str(app.path)).__module__ == "pkg.deep.worker"


def test_what_is_installed_is_found_too(app: Folder) -> None:
    assert load_class("pluggy:PluginManager", app.path).__name__ == "PluginManager"
    assert str(app.path) not in sys.path


def test_the_apps_modules_find_one_another_also_later(app: Folder) -> None:
    app.write(
        worker="from payload import Point\nclass Worker:\n    def late(self):\n        import helper\n"
        "        return helper.N, Point\n",
        payload="class Point: pass\n",
        helper="N = 7\n",
    )
    number, point = load_class("worker:Worker", app.path)().late()
    assert (number, point.__module__) == (7, "payload")


def test_a_worker_and_a_reducer_share_their_modules(app: Folder) -> None:
    app.write(
        src__worker="from src.payload import Point\nclass Worker:\n    point = Point\n",
        src__reducer="from src.payload import Point\nclass Reducer:\n    point = Point\n",
        src__payload="class Point: pass\n",
    )
    worker, reducer = load_class("src.worker:Worker", app.path), load_class("src.reducer:Reducer", app.path)
    assert worker.point is reducer.point
    assert load_class("src.worker:Worker", app.path) is worker


def test_nothing_is_written_into_the_apps_folder(app: Folder) -> None:
    app.write(worker=WORKER.format("x"))
    load_class("worker:Worker", app.path)
    assert [f.name for f in app.path.iterdir()] == ["worker.py"]
    assert sys.dont_write_bytecode is bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["worker", "worker.py", "", ":", ":Worker", "worker:", "worker:a.b", "worker:Worker()"]
)
def test_a_path_that_names_no_class(app: Folder, path: str) -> None:
    with pytest.raises(AppError, match="does not name a class; write 'module:Class' or"):
        load_class(path, app.path)


@pytest.mark.parametrize("path", ["my-worker:W", "..worker:W", "a b:W", "wor\\ker:W"])
def test_a_path_that_names_no_module(app: Folder, path: str) -> None:
    with pytest.raises(AppError, match="is not a module's name"):
        load_class(path, app.path)


def test_a_missing_module_says_what_was_searched_and_what_is_there(app: Folder) -> None:
    app.write(worker=WORKER.format("x"), reducer="")
    with pytest.raises(AppError) as caught:
        load_class("wroker:Worker", app.path)
    for part in ("no module 'wroker'", str(app.path), sys.prefix, "reducer.py, worker.py"):
        assert part in str(caught.value)
    with pytest.raises(AppError, match=r"no module 'worker\.sub'"):
        load_class("worker.sub:Worker", app.path)
    with pytest.raises(AppError, match=r"no module 'nowhere\.worker'"):
        load_class("nowhere.worker:Worker", app.path)
    with pytest.raises(AppError, match=r"there is no file .*/wroker\.py; .* has reducer\.py, worker\.py"):
        load_class("wroker.py:Worker", app.path)
    with pytest.raises(AppError, match="nor a folder"):
        load_class("gone/worker.py:Worker", app.path)


def test_a_file_that_cannot_be_a_module(app: Folder) -> None:
    app.put("my-worker.py", WORKER.format("x"))
    app.put("worker.txt", "")
    for path in ("my-worker.py:Worker", "./worker.txt:Worker"):
        with pytest.raises(AppError, match="cannot be imported; give it letters"):
            load_class(path, app.path)


def test_a_missing_class_says_which_there_are(app: Folder) -> None:
    app.write(worker="from pathlib import Path\nclass FluoWorker: pass\nclass Extra: pass\nmake = len\n")
    with pytest.raises(AppError) as caught:
        load_class("worker:FlouWorker", app.path)
    text = str(caught.value)
    assert "has no class 'FlouWorker', it has Extra, FluoWorker; did you mean worker:FluoWorker?" in text
    with pytest.raises(AppError, match="make is builtin_function_or_method, not a class"):
        load_class("worker:make", app.path)


@pytest.mark.parametrize(
    ("source", "line", "error"),
    [
        ("import math\nx = math.sqrt(-1)\n", "x = math.sqrt(-1)", "ValueError"),
        ("class Worker:\n    def broken(:\n", "def broken(:", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "sys.exit(3)", "SystemExit"),
        ("from payload import Missing\n", "from payload import Missing", "ImportError"),
    ],
)
def test_a_module_that_fails_shows_the_users_lines(app: Folder, source: str, line: str, error: str) -> None:
    app.write(worker=source, payload="")
    with pytest.raises(AppError) as caught:
        load_class("worker:Worker", app.path)
    text = str(caught.value)
    assert "'worker:Worker' fails while it is imported" in text
    for part in (line, error, str(app.path / "worker.py")):
        assert part in text
    assert "importlib" not in text
    assert "loading.py" not in text


def test_a_missing_dependency_is_told_from_a_missing_module(app: Folder) -> None:
    app.write(worker="import payload\n", payload="import nonesuch_library\n")
    with pytest.raises(AppError, match="imports 'nonesuch_library', which is not there; install it in"):
        load_class("worker:Worker", app.path)


def test_a_name_that_belongs_to_somebody_else(app: Folder) -> None:
    app.write(queue=WORKER.format("x"), beamfold=WORKER.format("x"), pluggy=WORKER.format("x"))
    for module in ("queue", "beamfold"):
        with pytest.raises(AppError, match=f"the name '{module}' belongs to Python or Beamfold; rename"):
            load_class(f"{module}:Worker", app.path)
    with pytest.raises(AppError, match=r"the name 'pluggy' already belongs to .*rename it"):
        load_class("pluggy:Worker", app.path)


# -- editing -------------------------------------------------------------------------------------------------


def test_an_unchanged_app_is_not_imported_again(app: Folder) -> None:
    app.write(worker=WORKER.format("x"))
    assert load_class("worker:Worker", app.path) is load_class("worker.py:Worker", app.path)


def test_an_edited_app_is_imported_anew(app: Folder) -> None:
    app.write(worker=WORKER.format("one"))
    assert load_class("worker:Worker", app.path).who == "one"
    app.write(worker=WORKER.format("two"))
    assert load_class("worker:Worker", app.path).who == "two"


def test_an_edit_that_keeps_size_and_second_is_seen(app: Folder) -> None:
    app.write(worker=WORKER.format("one"))
    load_class("worker:Worker", app.path)
    file = app.path / "worker.py"
    before = file.stat().st_mtime_ns
    file.write_text(WORKER.format("two"))
    os.utime(file, ns=(before + 1000, before + 1000))
    assert load_class("worker:Worker", app.path).who == "two"


def test_an_edited_helper_reaches_every_module_that_uses_it(app: Folder) -> None:
    app.write(
        worker="import middle\nclass Worker:\n    n = middle.N\n",
        middle="from constants import N\n",
        constants="N = 1\n",
    )
    assert load_class("worker:Worker", app.path).n == 1
    app.write(constants="N = 2\n")
    assert load_class("worker:Worker", app.path).n == 2


def test_a_helper_imported_by_a_hook_is_watched_too(app: Folder) -> None:
    app.write(
        worker="class Worker:\n    def late(self):\n        import helper\n        return helper.N\n",
        helper="N = 1\n",
    )
    first = load_class("worker:Worker", app.path)
    assert first().late() == 1
    assert load_class("worker:Worker", app.path) is first
    app.write(helper="N = 2\n")
    assert load_class("worker:Worker", app.path)().late() == 2


def test_a_file_written_while_it_is_loaded_is_loaded_again(app: Folder) -> None:
    app.write(worker="import pathlib\npathlib.Path(__file__).touch()\nclass Worker: pass\n")
    first = load_class("worker:Worker", app.path)
    app.write(worker="class Worker:\n    who = 'two'\n")
    assert load_class("worker:Worker", app.path).who == "two"
    assert not hasattr(first, "who")


def test_a_mended_app_loads(app: Folder) -> None:
    app.write(worker="import payload\nraise RuntimeError\n", payload="N = 1\n")
    with pytest.raises(AppError):
        load_class("worker:Worker", app.path)
    assert "payload" not in sys.modules
    app.write(worker="import payload\nclass Worker:\n    n = payload.N\n", payload="N = 2\n")
    assert load_class("worker:Worker", app.path).n == 2


def test_an_installed_app_is_watched_as_well(app: Folder, other: Folder) -> None:
    other.put("site-packages/lab/__init__.py", "")
    other.put("site-packages/lab/worker.py", WORKER.format("one"))
    sys.path.append(str(other.path / "site-packages"))
    assert load_class("lab.worker:Worker", app.path).who == "one"
    other.put("site-packages/lab/worker.py", WORKER.format("two"))
    found = load_class("lab.worker:Worker", app.path)
    assert found.who == "two"
    assert modules_of(found) == ["lab.worker", "lab"]


# -- several apps in one process -----------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["", "src__"])
def test_two_apps_may_use_the_same_names(app: Folder, other: Folder, package: str) -> None:
    module = f"{package}worker".replace("__", ".")
    payload = f"{package}payload".replace("__", ".")
    for folder, n in ((app, 1), (other, 2)):
        folder.write(
            **{
                f"{package}worker": f"from {payload} import N\nclass Worker:\n    n = N\n",
                f"{package}payload": f"N = {n}\n",
            }
        )
    assert [load_class(f"{module}:Worker", f.path).n for f in (app, other, app, other)] == [1, 2, 1, 2]


def test_another_apps_module_is_not_taken_for_ones_own(app: Folder, other: Folder) -> None:
    app.write(worker=WORKER.format("app"))
    other.write(reducer="class Reducer: pass\n")
    load_class("worker:Worker", app.path)
    load_class("reducer:Reducer", other.path)
    with pytest.raises(AppError, match="no module 'worker'"):
        load_class("worker:Worker", other.path)
    assert load_class("worker:Worker", app.path).who == "app"
    assert sys.path[0] == str(app.path)


def test_an_app_below_another_ones_folder(app: Folder) -> None:
    app.write(worker=WORKER.format("above"), sub__worker=WORKER.format("below"))
    below = app.path / "sub"
    for _ in range(2):
        assert load_class("worker:Worker", app.path).who == "above"
        assert load_class("worker:Worker", below).who == "below"


def test_a_module_of_that_name_imported_by_hand_makes_way(app: Folder, other: Folder) -> None:
    other.write(worker=WORKER.format("by hand"))
    sys.path.append(str(other.path))
    import worker  # type: ignore[import-not-found]

    assert worker.Worker.who == "by hand"
    app.write(worker=WORKER.format("app"))
    assert load_class("worker:Worker", app.path).who == "app"


def test_a_class_that_a_test_imported_itself_is_the_same_class(app: Folder) -> None:
    app.write(worker=WORKER.format("x"))
    sys.path.append(str(app.path))
    import worker

    assert load_class("worker:Worker", app.path) is worker.Worker


# -- modules_of ----------------------------------------------------------------------------------------------


def test_modules_of_are_the_classs_own_and_those_of_its_folder(app: Folder) -> None:
    app.write(
        worker="import json, numpy\nfrom payload import P\nimport lib.maths\nclass Worker: pass\n",
        payload="class P: pass\n",
        lib__maths="",
        unused="",
    )
    app.put("env/lib/python3/site-packages/thing.py", "")
    sys.path.append(str(app.path / "env/lib/python3/site-packages"))
    __import__("thing")
    assert modules_of(load_class("worker:Worker", app.path)) == ["worker", "lib.maths", "payload"]


def test_modules_of_a_class_that_was_not_loaded_by_us() -> None:
    names = modules_of(Folder)
    assert names[0] == __name__
    assert not any(n.startswith("beamfold") for n in names)
    made = types.new_class("Made")
    made.__module__ = "not_imported"
    with pytest.raises(AppError, match="'not_imported' of Made is not imported"):
        modules_of(made)


def test_other_threads_may_import_meanwhile(app: Folder) -> None:
    """The thread that serves people imports what it needs when it is asked for it first."""

    class Imported(str):
        def startswith(self, *_: object) -> bool:  # type: ignore[override]
            sys.modules[f"imported_{len(sys.modules)}"] = types.ModuleType("imported")
            return False

    app.write(worker="class Worker:\n    pass\n")
    sys.modules[Imported("just_now")] = types.ModuleType("just_now")
    assert load_class("worker.py:Worker", app.path).__name__ == "Worker"
