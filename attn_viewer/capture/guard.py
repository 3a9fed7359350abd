"""Leaving a model exactly as it was found, whoever interrupts a pass and whoever else runs the model meanwhile."""

import contextlib
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface

from ..errors import CaptureError

_HOOK_TABLES = ("_forward_hooks", "_forward_pre_hooks")
_MARKS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
_IMPLEMENTATION = "_attn_implementation_internal"
# Functions that compute the weights that SDPA computes: those of transformers, whichever library or kernel they call.
_FUSED = ("transformers.integrations.flash_attention", "transformers.integrations.flex_attention")


class Loan:
    """Changes that are undone, the last first, when a block ends.

    An interrupt may fall between any two instructions, also while changes are undone; what is left is undone when
    nobody holds the loan any more, which is as soon as the interrupt has been dealt with. So an undoing is noted before
    the change is made, and each can be done twice. Nothing that it refers to may refer to the loan.
    """

    _undoings: "list[Callable[[], object]]" = []  # noqa: RUF012 - of one that an interrupt kept from being made

    def __init__(self) -> None:
        self._undoings = []
        self._thread = threading.get_ident()
        self._hooked: list[torch.nn.Module] = []

    def __enter__(self) -> "Loan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            # What an interrupt left half done in torch is done when its frames go: a watch comes back then.
            traceback.clear_frames(trace)
            for frame, _ in traceback.walk_tb(trace):
                _ = frame.f_locals  # made anew: until Python 3.12 a copy lives on where a debugger looks on
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is anything to undo."""
        return bool(self._undoings)

    def close(self) -> None:
        """Undo what has not been undone."""
        while self._undoings:
            self._undoings[-1]()
            self._undoings.pop()

    __del__ = close

    def pass_on(self) -> "Loan":
        """Return a loan of all that this one holds, which then holds nothing."""
        other = Loan()
        other._undoings, self._undoings = self._undoings, []
        return other

    def note(self, undoing: Callable[[], object]) -> None:
        """Note how to undo a change that is about to be made."""
        self._undoings.append(undoing)

    def add_hook(self, register: Callable[..., object], function: Callable[..., object], **options: bool) -> None:
        """Put a forward hook on a module that acts in this thread alone: other threads run the same modules.

        `register` is ``register_forward_hook`` or ``register_forward_pre_hook`` of the module, and takes the options.
        """
        module = register.__self__  # type: ignore[attr-defined]
        if not self._hooked:
            self.note(partial(_remove_hooks, self._hooked))
        if not self._hooked or self._hooked[-1] is not module:
            self._hooked.append(module)
        register(_Hook(function, self._hooked), **options)

    def enter_mode(self, mode: "Watch") -> None:
        """Have a watch see all torch functions of this thread."""
        self.note(mode.take_off)
        mode.put_on()

    def stop_gradients(self) -> None:
        """Compute without gradients in this thread."""
        self.note(partial(_set_gradients, torch.is_grad_enabled(), self._thread))
        torch.set_grad_enabled(False)


class _Hook:
    """A hook that acts in the thread that made it; its owner is known by a list of modules."""

    __slots__ = ("function", "owner", "thread")

    def __init__(self, function: Callable[..., object], owner: list[torch.nn.Module]) -> None:
        self.function, self.owner, self.thread = function, owner, threading.get_ident()

    def __call__(self, *args: object) -> object:
        # Another thread may find the hook before torch has marked how it is to be called.
        return self.function(*args) if threading.get_ident() == self.thread else None


def _remove_hooks(owner: list[torch.nn.Module]) -> None:
    """Remove the hooks of an owner, and no others: users and other threads may have added some meanwhile."""
    for module in owner:
        for table in _HOOK_TABLES:
            # A handle would not do: an interrupt can fall between putting the hook there and returning one.
            for key, hook in list(getattr(module, table).items()):
                if isinstance(hook, _Hook) and hook.owner is owner:
                    for mark in (*_MARKS, table):
                        getattr(module, mark).pop(key, None)


def has_hooks(module: torch.nn.Module) -> bool:
    """Tell whether anybody has put a forward hook on a module itself."""
    return any(getattr(module, table) for table in _HOOK_TABLES)


def _set_gradients(is_enabled: bool, thread: int) -> None:
    if threading.get_ident() == thread:
        torch.set_grad_enabled(is_enabled)


class Watch(TorchFunctionMode):
    """Sees all torch functions that its thread calls.

    `handlers` take, for functions that matter, their arguments in the place of those; all others run as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._probe = torch.empty(0)
        self.handlers: dict[Callable[..., Any], Callable[..., Any]] = {torch.Tensor.is_neg: self._see_probe}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `func`, or what handles it."""
        return self.handlers.get(func, func)(*args, **kwargs or {})

    def _see_probe(self, tensor: torch.Tensor) -> bool:
        vars(tensor).get("seen_by", []).append(self)
        return tensor.is_neg()

    def _list_watches(self) -> "list[Watch]":
        """Return the watches that see what this thread calls, the first first, however an interrupt left them."""
        watches: list[Watch] = []
        vars(self._probe)["seen_by"] = watches
        self._probe.is_neg()
        del vars(self._probe)["seen_by"]
        return watches

    def put_on(self, *hooked: object) -> None:
        """Begin to watch, also as a hook; nothing happens where it watches already."""
        if self not in self._list_watches():
            self.__enter__()  # type: ignore[no-untyped-call] # torch has no hints there

    def take_off(self, *hooked: object) -> None:
        """Stop watching, also as a hook; nothing happens where it does not, or in another thread."""
        if threading.get_ident() == self._thread and self in (watches := self._list_watches()):
            above = watches[: watches.index(self)]  # one, where an interrupt has put the two of a pass round
            for watch in (*above, self):
                watch.__exit__(None, None, None)  # type: ignore[no-untyped-call] # nor there
            for watch in reversed(above):
                watch.__enter__()  # type: ignore[no-untyped-call]


class PatientLock:
    """A lock that an interrupt may leave locked: nobody holds it for as much as a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire(timeout=1)

    def __exit__(self, *error: object) -> None:
        if self._lock.locked():
            self._lock.release()


class Switch:
    """A setting of the whole process that several passes want changed: the first changes it, the last puts it back.

    `change` makes the change and returns how to undo it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change
        self._users: set[object] = set()
        self._undo: Callable[[], object] | None = None
        self._lock = PatientLock()

    def turn(self, loan: Loan) -> None:
        """Have it changed as long as a loan is open."""
        user = object()
        loan.note(partial(self._set, user, self._users.discard))
        self._set(user, self._users.add)

    def _set(self, user: object, note: Callable[[object], object]) -> None:
        with self._lock:
            note(user)
            if self._users and self._undo is None:
                self._undo = self._change()
            elif not self._users and self._undo is not None:
                self._undo()
                self._undo = None


_EAGER_STANCE = Switch(lambda: partial(torch.compiler.set_stance("force_eager").__exit__, None, None, None))
# Modules that are on loan, by id: who has them.
_HOLDERS: "dict[int, weakref.ref[Loan]]" = {}
_RECLAIM, _VIEWING = PatientLock(), PatientLock()


@contextlib.contextmanager
def borrow_model(model: torch.nn.Module, *, keeps_attention: bool = False) -> Iterator[Loan]:
    """Have a model for one pass: in eval mode, without gradients, on attention that can be seen, and put back after.

    Training flags, forward hooks and attention implementations are put back one by one, whatever happens in the block
    and wherever it is interrupted; what others added meanwhile stays. Further changes can be put on the loan. A
    `CaptureError` says that another capture is running on this model or on a part of it.
    """
    with Loan() as loan:
        modules = list(model.modules())
        _claim(loan, modules)
        loan.stop_gradients()
        training = [module for module in modules if module.training]
        loan.note(partial(_set_training, training, True))
        _set_training(training, False)
        if not keeps_attention:
            use_visible_attention(model, loan)
        yield loan


def _claim(loan: Loan, modules: list[torch.nn.Module]) -> None:
    mine = weakref.ref(loan)
    loan.note(partial(_let_go, modules, mine))
    for module in modules:
        while (holder := _HOLDERS.setdefault(id(module), mine)) is not mine:
            if holder() is not None:
                raise CaptureError(
                    "this model is being captured already; wait for that capture to end, or load the model twice"
                )
            with _RECLAIM:  # from one that an interrupt ended
                if _HOLDERS.get(id(module)) is holder:
                    del _HOLDERS[id(module)]


def _let_go(modules: list[torch.nn.Module], holder: "weakref.ref[Loan]") -> None:
    for module in modules:
        if _HOLDERS.get(id(module)) is holder:
            _HOLDERS.pop(id(module), None)


def _set_training(modules: list[torch.nn.Module], is_training: bool) -> None:
    # Not `eval()`: modules may do more than they are asked for there (merge adapters).
    for module in modules:
        module.training = is_training


def use_visible_attention(model: torch.nn.Module, loan: Loan) -> None:
    """Have this thread compute flash and flex attention of a model as SDPA, or eager where it has none, on a loan.

    Both compute the same weights. Other threads go on with what the model has. A function that somebody registered
    under any name is theirs, and runs as it is. What `torch.compile` made of the model is left aside meanwhile:
    compiled code shows nobody its calls, and tracing it anew takes longer than the pass.
    """
    fallback = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
    for config in find_configs(model.modules()):
        if _is_fused(getattr(config, _IMPLEMENTATION)):
            if not _is_of_transformers(fallback):
                raise CaptureError(
                    f"{type(model).__name__} runs {getattr(config, _IMPLEMENTATION)!r}, which shows no weights, and "
                    f"{fallback!r}, in whose place it could run, is a function that was registered here; call "
                    "model.set_attn_implementation with the name of a function that calls "
                    "torch.nn.functional.scaled_dot_product_attention"
                )
            view_implementation(config, lambda _: fallback, loan)
    _EAGER_STANCE.turn(loan)


def _is_fused(name: str | None) -> bool:
    """Tell whether an implementation is transformers' own flash or flex attention, under whichever name."""
    if name is not None and name not in AttentionInterface():
        name = name.removeprefix("paged|")
    return _find_source(AttentionInterface, name) in _FUSED and _is_of_transformers(name)


def _is_of_transformers(name: str | None) -> bool:
    """Tell whether nobody has put functions of their own behind the name of an implementation."""
    sources = (_find_source(interface, name) for interface in (AttentionInterface, AttentionMaskInterface))
    return all(source is None or source.startswith("transformers.") for source in sources)


def _find_source(interface: Any, name: str | None) -> str | None:
    """Return the module of the function behind a name, None where there is no function."""
    function = interface().get(name)
    while isinstance(function, partial):  # a kernel is bound to transformers' function
        function = function.func
    return None if function is None else getattr(function, "__module__", "")


def view_implementation(config: Any, view: Callable[[Any], Any], loan: Loan) -> None:
    """Have this thread read another attention implementation in a config, for which other threads see no change.

    `view` takes what is there and returns what is read. The config's class is replaced by one that has the attribute's
    name as a property.
    """
    key = threading.get_ident(), object()
    loan.note(partial(_end_view, config, key))
    with _VIEWING:
        if not hasattr(type(config), "attn_viewer_views"):
            object.__setattr__(config, "__class__", _make_view(type(config)))
        type(config).attn_viewer_views[key] = view


def _make_view(kind: type) -> type:
    views: dict[tuple[int, object], Callable[[Any], Any]] = {}

    def get(config: Any) -> Any:
        own = object.__getattribute__(config, "__dict__")  # configs look long at what `vars` asks them for
        if _IMPLEMENTATION not in own:  # transformers 4 makes another of the class, and asks before it is set
            raise AttributeError(_IMPLEMENTATION)
        thread, name = threading.get_ident(), own[_IMPLEMENTATION]
        for (owner, _), view in list(views.items()):
            name = view(name) if owner == thread else name
        return name

    def reduce(config: Any, protocol: Any) -> Any:
        """Copy and pickle it as what it is to everybody else."""
        made = object.__reduce_ex__(config, protocol)
        return (object.__new__, (kind,), *made[2:])

    names = {
        _IMPLEMENTATION: property(get, lambda config, value: vars(config).__setitem__(_IMPLEMENTATION, value)),
        "attn_viewer_views": views,
        "__reduce_ex__": reduce,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind)(kind.__name__, (kind,), names)


def _end_view(config: Any, key: tuple[int, object]) -> None:
    with _VIEWING:
        kind = type(config)
        views = getattr(kind, "attn_viewer_views", None)
        if views is not None:
            views.pop(key, None)
            if not views:
                object.__setattr__(config, "__class__", kind.__base__)


def list_implementations(model: torch.nn.Module) -> list[str | None]:
    """Return the names of the attention implementations that parts of a model run."""
    return [getattr(config, _IMPLEMENTATION) for config in find_configs(model.modules())]


def find_configs(modules: Iterable[torch.nn.Module]) -> list[Any]:
    """Return the distinct configs that say which attention runs; sub-models may share one or have their own."""
    configs = {}
    for module in modules:
        config = getattr(module, "config", None)
        if hasattr(config, _IMPLEMENTATION):
            configs[id(config)] = config
    return list(configs.values())
