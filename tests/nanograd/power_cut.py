"""A model of what a disk holds after a power cut: bytes only if they were synced, names when their folder was synced.

Recorded are fsync, rename and the deletion of folders, as the program calls them. It errs on the cruel side: a file
whose bytes were not synced is empty, however long ago they were written.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass
class State:
    """Relative path → content of each file that is on the disk; `after` says what had just been done."""

    files: dict[str, bytes]
    after: str

    def lay_out(self, folder):
        folder.mkdir()
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class PowerCut:
    """Inside the block every sync, rename and deletion below `root` is noted; `states` then says what each leaves."""

    def __init__(self, root):
        self.root, self.events = root, []
        self.first = {path.relative_to(root).as_posix(): path.read_bytes() for path in files_below(root)}

    def __enter__(self):
        self._real = {"fsync": os.fsync, "rename": os.rename, "replace": os.replace, "rmtree": shutil.rmtree}
        os.fsync, os.rename, os.replace = self._fsync, self._moved("rename"), self._moved("replace")
        shutil.rmtree = self._rmtree
        return self

    def __exit__(self, *_):
        os.fsync, os.rename, os.replace = (self._real[name] for name in ("fsync", "rename", "replace"))
        shutil.rmtree = self._real["rmtree"]

    def _fsync(self, descriptor):
        self._real["fsync"](descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        content = path.read_bytes() if path.is_file() else None
        self.events.append(("sync", self._name(path), content))

    def _moved(self, which):
        def move(source, target, **settings):
            self._real[which](source, target, **settings)
            self.events.append(("move", self._name(source), self._name(target)))

        return move

    def _rmtree(self, path, **settings):
        self._real["rmtree"](path, **settings)
        self.events.append(("delete", self._name(path), None))

    def _name(self, path):
        return Path(path).relative_to(self.root).as_posix()

    def states(self, *, names_first):
        """The disk after each event. names_first: it writes down names at once, though it was not asked to."""
        synced, names, waiting, states = dict(self.first), {name: name for name in self.first}, [], []
        for kind, name, detail in self.events:
            if kind == "sync" and detail is not None:
                synced[name] = detail
                names[name] = name
            elif kind == "sync":
                waiting = [move for move in waiting if not self._apply(move, names, parent=name)]
            else:
                waiting.append((kind, name, detail))
                for path in [path for path in names if path == name or path.startswith(f"{name}/")]:
                    if kind == "move":
                        synced[detail + path[len(name) :]] = synced.get(path, b"")
                if names_first:
                    waiting = [move for move in waiting if not self._apply(move, names)]
            states.append(State({path: synced.get(path, b"") for path in names}, f"{kind} {name}"))
        return states

    @staticmethod
    def _apply(move, names, parent=None):
        """True if the move reaches the disk now."""
        kind, source, target = move
        if parent is not None and str(Path(source).parent) != parent:
            return False
        below = [path for path in names if path == source or path.startswith(f"{source}/")]
        for path in below:
            del names[path]
            if kind == "move":
                moved = target + path[len(source) :]
                names[moved] = moved
        return True


def files_below(root):
    return [path for path in root.rglob("*") if path.is_file()]
