"""A user's own functions by name: where they are found, and mistakes in them answered in one line."""

import os
import py_compile
import sys
import traceback

import pytest

from cil_func.config import names, siblings
from cil_func.errors import ConfigError, DataError, OwnCodeError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the working directory; modules that a test imports are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(siblings, "_CLAIMED", {})
    monkeypatch.setattr(siblings, "_INSERTED", [])
    monkeypatch.setattr(siblings, "_EARLIER", set())
    before = set(sys.modules)

    def file(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield file
    for name in set(sys.modules) - before:
        if name.startswith(("cil_func_user_", "zz_")):
            del sys.modules[name]


def refused(name):
    """The ConfigError that looking for a name must raise: one printable line."""
    with pytest.raises(ConfigError) as failure:
        names.find(name, key="method.name")
    assert str(failure.value).startswith("method.name: ") and str(failure.value).isprintable()
    return failure.value


def test_which_names_are_a_users_own():
    assert names.is_own("my_methods:make") and names.is_own("path/file.py:make")
    assert not names.is_own("wa") and not names.is_own("timm:resnet18")


def test_a_module_in_the_working_directory_one_in_a_package_and_a_file_by_its_path(write):
    write("zz_methods.py", "def make(): return 'module'")
    write("zz_package/__init__.py", "")
    write("zz_package/inner.py", "class Makers:\n    def make(): return 'package'")
    path = write("elsewhere/own file.py", "def make(): return 'file'")
    expected = {"zz_methods:make": "module", "zz_package.inner:Makers.make": "package", f"{path}:make": "file"}
    for name, said in (expected | {"elsewhere/own file.py:make": "file"}).items():
        assert names.find(name, key="method.name")() == said


def test_a_path_of_windows_has_a_colon_of_its_own(write):
    """On this system it is one odd file name; the colon that counts is the last one."""
    write(r"C:\x\y.py", "def make(): return 'found'")
    assert names.find(r"C:\x\y.py:make", key="method.name")() == "found"
    for name in (r"C:\x\y.py", "C:/x/y.py", "own.py", "own.py:", ":make", "own.py:make()", "a b:make", "a:b:make"):
        assert 'write "package.module:function" or "path/file.py:function"' in str(refused(name))


def test_files_of_one_name_are_two_modules_and_each_runs_once(write):
    code = "import zz_ran\nzz_ran.times += 1\ndef make(): return __file__"
    for folder in "ab":
        write(f"{folder}/zz_ran.py", "times = 0")
    one, other = write("a/own.py", code), write("b/own.py", code)
    found = [names.find(f"{path}:make", key="method.name") for path in (one, other, one)]
    assert [make() for make in found] == [str(one), str(other), str(one)] and found[0] is found[2]
    assert sys.modules["zz_ran"].times == 2  # each file once; what they import is the same in both folders


LATE, EARLY = "def make():\n    import zz_same\n    return zz_same.number", "import zz_same\nmake = zz_same.get"
SAME = "number = {0}\ndef get(): return number"


@pytest.mark.parametrize(("one", "other"), [(LATE, EARLY), (EARLY, LATE)])
def test_two_files_that_need_two_modules_of_one_name_are_refused(one, other, write, tmp_path):
    """Python has one module of a name, and an import in a function is run when another file's have long been."""
    for folder, code in zip("ab", (one, other), strict=True):
        write(f"{folder}/zz_same.py", SAME.format(folder == "b"))
        write(f"{folder}/own.py", code)
        write(f"{folder}/more.py", EARLY)
    make = names.find("a/own.py:make", key="method.name")
    assert names.find("a/more.py:make", key="method.name")() == 0  # of the same folder
    a, b = tmp_path / "a", tmp_path / "b"
    said = f"method.name: b/own.py imports zz_same from {b}, and a/own.py imports another zz_same from {a}"
    for _ in range(2):
        assert str(refused("b/own.py:make")) == f"{said}; rename one of the two"
    assert make() == 0
    write("b/zz_same.py", SAME.format(False))
    assert names.find("b/own.py:make", key="method.name")() == 0  # the same, so one of them does for both


@pytest.mark.parametrize("code", [LATE, EARLY])
def test_a_file_imports_the_module_beside_it_whatever_lies_beside_others(code, write):
    """Also where an earlier file's folder comes first in sys.path."""
    for number, folder in enumerate("ab"):
        write(f"{folder}/zz_same.py", SAME.format(number))
        write(f"{folder}/own.py", code if number else "def make(): ...")
        names.find(f"{folder}/own.py:make", key="method.name")
    assert names.find("b/own.py:make", key="method.name")() == 1


@pytest.mark.parametrize(("code", "stays"), [(LATE, False), (EARLY, True)])
def test_a_module_that_is_gone_has_its_name_until_the_process_ends_if_it_was_imported(code, stays, write):
    """As in a notebook, where a person has renamed it."""
    for number, folder in enumerate("ab"):
        write(f"{folder}/zz_same.py", SAME.format(number))
        write(f"{folder}/own.py", code)
    names.find("a/own.py:make", key="method.name")
    (tmp := write("a/zz_same.py", "")).unlink()
    if stays:
        assert f"and a/own.py imports another zz_same from {tmp.parent}; rename" in str(refused("b/own.py:make"))
    else:
        assert names.find("b/own.py:make", key="method.name")() == 1
        assert siblings._CLAIMED["zz_same"] == (str(tmp.parents[1] / "b"), "b/own.py")


def test_a_module_that_the_process_has_imported_before_is_not_taken_for_the_one_beside(write, tmp_path, monkeypatch):
    write("elsewhere/zz_same.py", SAME.format(0))
    write("b/zz_same.py", SAME.format(1))
    write("b/own.py", LATE)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    __import__("zz_same")
    said = f"and this process imports another zz_same from {tmp_path / 'elsewhere'}; rename one of the two"
    assert said in str(refused("b/own.py:make"))


def test_what_imported_modules_import_is_looked_at_too(write):
    """In packages, by relative imports, and in functions; but not in a package's modules that nobody imports."""
    for number, folder in enumerate("ab"):
        write(f"{folder}/own.py", "def make():\n    from zz_pack.zz_in import deep\n    return deep()")
        write(f"{folder}/zz_pack/__init__.py", "")
        write(f"{folder}/zz_pack/zz_in.py", "from .zz_deeper import deep")
        write(f"{folder}/zz_pack/zz_deeper.py", f"def deep():\n    {LATE.partition(':')[2].strip()}")
        write(f"{folder}/zz_pack/zz_unused.py", "import zz_free")
        for name in ("zz_same", "zz_free"):
            write(f"{folder}/{name}.py", SAME.format(number))
    assert names.find("a/own.py:make", key="method.name")() == 0
    assert "b/own.py imports zz_same from " in str(refused("b/own.py:make"))
    write("b/free.py", EARLY.replace("same", "free"))
    assert names.find("b/free.py:make", key="method.name")() == 1


def test_a_folder_without_init_is_a_package_of_its_own_folder_alone(write, tmp_path):
    for number, folder in enumerate("ab"):
        write(f"{folder}/zz_space/zz_in.py", f"number = {number}")
    write("a/own.py", "def make(): ...")
    write("b/own.py", "def make():\n    from zz_space.zz_in import number\n    return number")
    names.find("a/own.py:make", key="method.name")
    make = names.find("b/own.py:make", key="method.name")
    import zz_space

    sys.path.append(str(tmp_path))  # Python looks for its parts again
    assert make() == 1 and [*zz_space.__path__] == [str(tmp_path / "b/zz_space")]


def test_a_regular_module_comes_before_a_folder_without_init(write, tmp_path, monkeypatch):
    """As in Python: a clone beside the file, of a package that is found by sys.path, is not that package."""
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # Python ignores what is no string
    write("elsewhere/zz_lib/__init__.py", "number = 7")
    write("a/zz_lib/setup.py", "")
    write("a/own.py", "def make():\n    import zz_lib\n    return zz_lib.number")
    assert names.find("a/own.py:make", key="method.name")() == 7 and "zz_lib" not in siblings._CLAIMED


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_without_init_may_have_parts_elsewhere(before, write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    write("elsewhere/zz_parts/zz_there.py", "number = 2")
    write("a/zz_parts/zz_here.py", "number = 3")
    code = "from zz_parts import zz_here, zz_there\n    return zz_here.number, zz_there.number"
    write("a/own.py", f"def make():\n    {code}")
    if before:
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "a")])  # its part is the second one
        __import__("zz_parts")
    assert names.find("a/own.py:make", key="method.name")() == (3, 2)


def test_modules_without_source_are_told_apart_too(write, tmp_path):
    for number, folder in enumerate("ab"):
        source = write(f"{folder}/zz_same.py", SAME.format(number))
        py_compile.compile(str(source), cfile=str(tmp_path / folder / "zz_same.pyc"))
        source.unlink()
        write(f"{folder}/own.py", LATE)
    assert names.find("a/own.py:make", key="method.name")() == 0
    assert "a/own.py imports another zz_same from" in str(refused("b/own.py:make"))
    names.forget()
    assert names.find("b/own.py:make", key="method.name")() == 1
    assert str(tmp_path / "a") not in sys.path and str(tmp_path / "b") in sys.path


def test_parts_of_a_package_without_source_are_told_apart_too(write, tmp_path):
    for number, folder in enumerate("ab"):
        write(f"{folder}/zz_pack/__init__.py", "")
        source = write(f"{folder}/zz_pack/zz_in.py", SAME.format(number))
        py_compile.compile(str(source), cfile=str(tmp_path / folder / "zz_pack/zz_in.pyc"))
        source.unlink()
        write(f"{folder}/own.py", "def make():\n    from zz_pack.zz_in import number\n    return number")
    assert names.find("a/own.py:make", key="method.name")() == 0
    assert "a/own.py imports another zz_pack from" in str(refused("b/own.py:make"))
    assert str(tmp_path / "b") not in sys.path  # a refused file leaves nothing behind


def test_what_is_found_by_a_folder_that_an_own_file_puts_into_sys_path_is_forgotten_too(write, tmp_path):
    """But not what was found there before."""
    sys.path.insert(0, str(tmp_path / "a/lib"))
    write("a/lib/zz_before.py", "")
    before = __import__("zz_before")
    sys.path.pop(0)
    code = "import sys\nsys.path.insert(0, {0!r})\nimport zz_before, zz_found, zz_near\nmake = zz_found.get"
    for number, folder in enumerate("ab"):
        lib = tmp_path / folder / "lib"
        write(f"{folder}/lib/zz_found.py", SAME.format(number))
        write(f"{folder}/zz_near.py", "")
        write(f"{folder}/own.py", code.format(str(lib)))
        assert names.find(f"{folder}/own.py:make", key="method.name")() == number
        names.forget()
        assert str(lib) not in sys.path and "zz_found" not in sys.modules and sys.modules["zz_before"] is before


def test_a_dotted_module_that_is_imported_anew_has_its_new_digest(write):
    for text in ("def make(): return 1", "def make(): return 22"):
        path = write("zz_dotted.py", text)
        os.utime(path, (0, len(text)))  # not the time of the byte code that Python kept
        names.find("zz_dotted:make", key="method.name")
        names.forget()
        assert names.IMPORTED["zz_dotted"] == (str(path), names.digest(str(path)))


def test_a_file_is_read_for_its_imports_without_a_warning(write, recwarn):
    write("own.py", "PATTERN = '\\d'\n")
    assert [*siblings.imported("own.py")] == [] and not recwarn.list


def test_a_module_by_its_dotted_name_is_not_another_files_module(write, tmp_path):
    write("a/zz_same.py", SAME.format(0))
    write("a/own.py", EARLY)
    write("zz_same.py", SAME.format(1))
    write("zz_late.py", LATE)
    assert names.find("a/own.py:make", key="method.name")() == 0
    for name in ("zz_same", "zz_late"):
        said = f"{name} imports zz_same from {tmp_path}, and a/own.py imports another zz_same from {tmp_path / 'a'}"
        assert said in str(refused(f"{name}:make"))


def test_a_folder_that_an_own_file_puts_first_stays_there(write, tmp_path):
    path = str(tmp_path / "library")
    write("library/zz_found.py", "number = 5")
    code = f"import sys\nsys.path.insert(0, {path!r})\ndef make():\n    from zz_found import number\n    return number"
    write("own.py", code)
    assert names.find("own.py:make", key="method.name")() == 5 and sys.path[0] == path


def test_a_copy_of_this_repository_beside_a_file_is_not_imported(write):
    import cil_func

    write("cil_func/__init__.py", "raise RuntimeError('another copy')")
    write("own.py", "import cil_func\ndef make(): return cil_func")
    assert names.find("own.py:make", key="method.name")() is cil_func
    assert "cil_func" not in siblings._CLAIMED


def test_a_file_imports_what_lies_beside_it_and_hides_nothing(write):
    write("deep/zz_beside.py", "number = 3")
    write("deep/json.py", "raise RuntimeError('a module of the user in place of a known one')")
    write("deep/own.py", "import json, zz_beside\ndef make(): return json.dumps(zz_beside.number)")
    assert names.find("deep/own.py:make", key="method.name")() == "3"


def test_dataclasses_and_postponed_annotations_work_in_a_file(write):
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    write("own.py", imports + "@dataclass\nclass Make:\n    x: int = 1")
    assert names.bind("own.py:Make", {"x": 3}, key="method.name", built_in={})().x == 3


def test_a_path_is_made_absolute_by_the_first_folder_that_holds_it(write, tmp_path):
    write("configs/own.py", "")
    write("own.py", "")
    here, there = tmp_path, tmp_path / "configs"
    assert names.located("own.py:make", [there, here]) == f"{there / 'own.py'}:make"
    assert names.located("own.py:make", [here, there]) == f"{here / 'own.py'}:make"
    assert names.located("../own.py:make", [there, here]) == f"{here / 'own.py'}:make"
    assert names.located(f"{here / 'own.py'}:make", [there]) == f"{here / 'own.py'}:make"
    for name in ("nowhere.py:make", "module:make", "wa", "timm:resnet18"):
        assert names.located(name, [there, here]) == name


def test_the_home_folder_may_be_written_short(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write("own.py", "def make(): return 1")
    assert names.located("~/own.py:make", ["/nowhere"]) == f"{tmp_path / 'own.py'}:make"
    assert names.find("~/own.py:make", key="method.name")() == 1


CASES = [
    (None, "zz_methodes:make", "no module zz_methodes; a file is named by its path"),
    (None, "zz_nowhere.py:make", "no file zz_nowhere.py; looked for in "),
    ("", "zz_ow:make", "no module zz_ow; did you mean zz_own?"),
    ("def makes(): pass", "zz_own.py:make", "zz_own.py has no make; did you mean makes?"),
    ("def one(): pass\ndef _two(): pass", "zz_own.py:zzzzz", "zz_own.py has no zzzzz; its functions: one"),
    ("make = 3", "zz_own.py:make", "zz_own.py has make, which is no function; its functions: none"),
    ("import zz_not_there", "zz_own.py:make",
     "zz_own.py can't be imported; line 1: ModuleNotFoundError: No module named 'zz_not_there'"),
    ("import zz_not_there", "zz_own:make", "zz_own can't be imported; "),
    ("\n1 / 0", "zz_own.py:make", "zz_own.py can't be imported; line 2: ZeroDivisionError: division by zero"),
    ("\nimport json\njson.loads('{')", "zz_own.py:make", "zz_own.py can't be imported; line 3: JSONDecodeError: "),
    ("raise ValueError('two\\nlines')", "zz_own.py:make", "line 1: ValueError: two"),
    ("raise ValueError", "zz_own.py:make", "zz_own.py can't be imported; line 1: ValueError"),
    ("import sys\nsys.exit(3)", "zz_own.py:make", "zz_own.py can't be imported; line 2: SystemExit: 3"),
    ("\n\ndef make(:", "zz_own.py:make", "zz_own.py can't be imported; line 3: SyntaxError: "),
    ("\0", "zz_own.py:make", "zz_own.py can't be imported; "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "says"), CASES)
def test_a_mistake_is_one_line_that_names_the_module(text, name, says, write):
    if text is not None:
        write("zz_own.py", text)
    assert says in str(refused(name))
    assert ("can't" in says) <= (not any(each.startswith("cil_func_user_zz_own") for each in sys.modules))


def test_a_mistake_in_a_module_that_the_file_imports_is_named_with_its_file(write):
    path = write("zz_helper.py", "\n\ndef broken(:")
    write("zz_own.py", "import zz_helper")
    assert f"zz_own.py can't be imported; {path}, line 3: SyntaxError" in str(refused("zz_own.py:make"))


def test_what_the_users_code_raised_is_the_cause_with_its_traceback(write):
    write("own.py", "def fail():\n    raise KeyError('x')\nfail()")
    error = refused("own.py:make")
    cause = error.__cause__
    assert isinstance(error, OwnCodeError) and isinstance(cause, KeyError) and error.exit_status == 2
    assert "in fail" in "".join(traceback.format_exception(cause))


def test_a_file_that_failed_can_be_mended_and_read_again(write):
    write("own.py", "1 / 0")
    refused("own.py:make")
    path = write("own.py", "def make(): return 1  # longer than before")
    os.utime(path, (0, 0))  # not the time of the byte code that Python kept
    assert names.find("own.py:make", key="method.name")() == 1


# --- bind


def built(options, *, strength: float = 1.0):
    return options, strength


def test_a_built_in_function_is_given_its_options_and_the_callers_values():
    make = names.bind("built", {"strength": 5}, key="method.name", built_in={"built": built}, given=("options",))
    assert make(options="o") == ("o", 5.0)
    with pytest.raises(ConfigError, match=r"^method\.options\.strenght: unknown option; did you mean method"):
        names.bind("built", {"strenght": 5}, key="method.name", built_in={"built": built}, given=("options",))
    with pytest.raises(ConfigError, match=r'^optim\.bias\.options\.x: unknown option; "built" takes strength'):
        names.bind("built", {"x": 5}, key="optim.bias.name", built_in={"built": built}, given=("options",))
    with pytest.raises(ConfigError, match=r"^optim\.options\.strength: unknown option; optim\.strength sets it"):
        names.bind("built", {"strength": 5}, key="optim.name", built_in={"built": built}, given=("options", "strength"))


def test_a_function_is_given_only_the_values_that_it_has_a_parameter_for(write):
    write("own.py", "def plain(*, tau): return tau\ndef more(decay, **rest): return decay, rest")
    given = ("momentum", "decay")
    make = names.bind("own.py:plain", {"tau": 3}, key="optim.name", built_in={}, given=given)
    assert make(momentum=0.9, decay=0.1) == 3
    make = names.bind("own.py:more", {"tau": 3}, key="optim.name", built_in={}, given=given)
    assert make(momentum=0.9, decay=0.1) == (0.1, {"tau": 3})


def test_what_a_users_function_raises_is_one_line_and_an_error_of_this_package_stays(write):
    write("own.py", "import cil_func.errors as e\ndef make(): return [][1]\ndef refuse(): raise e.DataError('no')")
    make = names.bind("own.py:make", {}, key="method.name", built_in={})
    with pytest.raises(OwnCodeError) as failure:
        make()
    said = "method.name: own.py:make failed; line 2: IndexError: list index out of range"
    assert str(failure.value) == said and isinstance(failure.value.__cause__, IndexError)
    with pytest.raises(DataError, match="no"):
        names.bind("own.py:refuse", {}, key="method.name", built_in={})()


def test_a_bug_of_a_built_in_function_is_no_mistake_of_the_user():
    with pytest.raises(ZeroDivisionError):
        names.bind("x", {}, key="method.name", built_in={"x": lambda: 1 / 0})()


def test_a_function_that_takes_all_keywords_is_given_the_callers_values(write):
    """A wrapper without functools.wraps is one."""
    write("own.py", "def make(**keywords): return sorted(keywords)")
    made = names.bind("own.py:make", {"tau": 1}, key="method.name", built_in={}, given=("options",))
    assert made(options=3) == ["options", "tau"]
    made = names.bind("own.py:make", {"tau": 1}, key="optim.name", built_in={}, given=("momentum",))
    assert made(momentum=3) == ["tau"]


def test_a_parameter_of_another_name_is_told_what_it_is_given(write):
    write("own.py", "def make(opts): return opts")
    with pytest.raises(ConfigError, match=r"method\.options\.opts: missing; .* beside options, which it is given"):
        names.bind("own.py:make", {}, key="method.name", built_in={}, given=("options",))


def test_another_module_of_the_name_is_named_with_its_file(write):
    write("code.py", "def make(options): ...")
    assert "code.py) has no make" in str(refused("code:make"))
