"""Archives as torch.save makes them, or as a stranger would, without torch."""

import io
import pickle
import zipfile

import numpy as np

from attn_viewer.storage.tensors import Storage, Tensor


def write_archive(path, *, shape=(1, 1, 2, 2), offset=0, kind="f4", order="<", compression=zipfile.ZIP_STORED):
    """Write what torch.save would make of one layer of four weights, or what a stranger would put in its place."""
    tensor = Tensor(Storage(kind, "0"), offset, shape, (4, 4, 2, 1))
    content = {"attention_scores": [tensor], "tokens_list": ["a", "b"]}
    data = np.array([1, 0, 0.25, 0.75], f"{order}f4").tobytes()
    write_content(path, content, {"0": data}, order=order, compression=compression)


def write_content(path, content, storages, *, order="<", compression=zipfile.ZIP_STORED):
    """Write plain types and `Tensor`, and the bytes of their storages by key."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", dump_tensors(content))
        archive.writestr("a/byteorder", {"<": "little", ">": "big"}[order])
        for key, data in storages.items():
            archive.writestr(f"a/data/{key}", data)


def dump_tensors(content):
    """Pickle plain types and `Tensor` as torch.save does; a storage's kind that torch lacks stays as it is."""
    file = io.BytesIO()
    pickler = pickle._Pickler(file, 2)  # the one of pure Python can be taught to write names of torch
    names = {"f4": "torch FloatStorage", "f2": "torch HalfStorage"}

    def save_tensor(self, tensor):
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
        kind, key = tensor.storage
        self.write(b"(")
        self.save("storage")
        known = isinstance(kind, str) and kind in names
        self.write(b"c" + names[kind].replace(" ", "\n").encode() + b"\n") if known else self.save(kind)
        for word in (key, "cpu", 4):
            self.save(word)
        self.write(b"tQ")
        for word in tensor[1:]:
            self.save(word)
        self.write(b"tR")

    pickler.dispatch = pickle._Pickler.dispatch | {Tensor: save_tensor}
    pickler.dump(content)
    return file.getvalue()
