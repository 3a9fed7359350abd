"""How options are declared: groups of values with default, type, limits and help, and what is made from them.

From the declarations come the checks, the words of the command line (`commands.arguments`), and signature, checks and
parameter section of functions under `takes_options`. What is declared stands in `options` and with the commands.

`needs` names another option without which one would do nothing (``"reduction=pooled"``: with that value; of several,
one is enough); `apart` names options beside which it has no meaning. Both are refused, and neither counts in a class
that does not have the option named. A class may change defaults: ``class Mine(LookOptions, norm="power")``.
"""

import dataclasses
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from .errors import ArgumentError, OptionError
from .hints import bind_call, check_argument, check_names, check_value, describe_hint, read_hint

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: bool) -> Callable[[type], type]:
        """Leave the class as it is: what is said here is for type checkers."""
        return lambda kind: kind


_R = TypeVar("_R")


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is said of an option beside its name, type and default."""

    help: str
    words: tuple[str, ...] | None = None  # on the command line; None is the option's name, () is not offered
    metavar: str | None = None
    alone: str | None = None  # what the word means on a command line with nothing after it; None is an error
    once: bool = False  # given twice on a command line it is refused; the last of any other is taken
    parse: Callable[[str], Any] | None = None  # reads the word that follows on a command line
    read: Callable[[Any], Any] | None = None  # brings what came into its final form
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    needs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    module: str = ""  # where it is declared, and its hint is read

    def check(self, name: str, value: object, hint: Any) -> None:
        """Check a value against hint and limits."""
        check_value(name, value, hint, at_least=self.at_least, at_most=self.at_most, above=self.above)


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    words: str | tuple[str, ...] | None = None,
    needs: str | tuple[str, ...] = (),
    apart: str | tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Declare an option; `more` are fields of `Declaration`. Without default it must be given."""
    names = None if words is None else _listed(words)
    declaration = Declaration(help=help, words=names, needs=_listed(needs), apart=_listed(apart), **more)
    return dataclasses.field(default=default, metadata={"option": declaration})


class _ClassDoc:
    """The docstring of a class of options, with their list, which is written when somebody reads it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: object, owner: "type[Options]") -> str:
        return "\n".join([inspect.cleandoc(self.text), "", "Parameters", "----------", *owner.document(), ""])


class _ClassSignature:
    """The signature of a class of options, made when somebody asks."""

    def __get__(self, instance: object, owner: "type[Options]") -> inspect.Signature:
        return inspect.Signature([_make_parameter(*one) for one in owner._fields.items()])


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """Base of all groups of options: values that are checked when they are made and never change.

    Each class is a dataclass, of which no code is generated: there are many, and most are parts of others. Raises
    `ArgumentError` for a value of the wrong type or out of its limits, one that is missing and a name that is none.
    """

    group_name: ClassVar[str] = ""
    _fields: ClassVar[dict[str, dataclasses.Field[Any]]] = {}
    __signature__: ClassVar[_ClassSignature] = _ClassSignature()

    def __init_subclass__(cls, **defaults: Any) -> None:
        """Collect declarations, change defaults and document the class."""
        super().__init_subclass__()
        own = inspect.get_annotations(cls)
        cls.__annotations__ = own
        inherited: dict[str, dataclasses.Field[Any]] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("_fields", {})
        for name, default in defaults.items():
            field = inherited[name]
            own[name] = field.type
            setattr(cls, name, dataclasses.field(default=default, metadata=field.metadata))
        fields: dict[str, dataclasses.Field[Any]] = {}
        for name, hint in own.items():
            declared = cls.__dict__.get(name)
            if isinstance(declared, dataclasses.Field):
                said = get_declaration(declared)
                said = said if said.module else dataclasses.replace(said, module=cls.__module__)
                declared.type, declared.metadata = hint, types.MappingProxyType({"option": said})
                fields[name] = declared
        cls._fields = inherited | fields
        cls.group_name = (cls.__doc__ or cls.__name__).partition("\n")[0].rstrip(".")
        dataclass(init=False, repr=False, eq=False)(cls)
        cls.__doc__ = _ClassDoc(cls.__doc__ or cls.__name__)  # type: ignore[assignment]

    def __init__(self, *args: object, **given: Any) -> None:
        kind = type(self).__name__
        check_names(kind, given, self._fields)
        if args:
            raise ArgumentError(f"{kind} takes options by name, as in {kind}({next(iter(self._fields))}=…)")
        values = {name: field.default for name, field in self._fields.items()} | given
        if missing := [name for name, value in values.items() if value is dataclasses.MISSING]:
            raise ArgumentError(f"{kind} needs {' and '.join(missing)}")
        self.__dict__.update(values)
        self.__post_init__()

    def __setattr__(self, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(
            f"options never change; make others with dataclasses.replace(…, {name}=…)"
        )

    def __delattr__(self, name: str) -> None:
        setattr(self, name, None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and type(other) is type(self) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changes().items())})"

    def __post_init__(self) -> None:
        """Check all values, so that a wrong one is found before any work is done."""
        for name, field in self._fields.items():
            declared, value = get_declaration(field), getattr(self, name)
            if declared.read is not None and value is not None:
                value = declared.read(value)
                value = field.default if value == field.default else value  # a default that was read is no choice
                self.__dict__[name] = value
            if value is not field.default:
                declared.check(name, value, read_type(field))

    @classmethod
    def collect(cls, given: Mapping[str, Any], options: "Options | None" = None, caller: str | None = None) -> "Self":
        """Make options from values by name over stored ones, and refuse what would do nothing.

        Of stored `options`, those that are not a default count as given. Errors name the `caller`.
        """
        stored = {} if options is None else options.as_dict()
        chosen = {} if options is None else options.changes()
        check_names(caller or cls.__name__, [*given, *chosen], cls._fields)
        values = cls(**{name: value for name, value in stored.items() if name in cls._fields} | dict(given))
        values.check_use({*given, *chosen})
        return values

    def check_use(self, given: Collection[str]) -> None:
        """Raise `OptionError` for the first option that was given and does nothing beside the others."""
        for name in self._fields:
            declared = get_declaration(self._fields[name])
            if not self._is_asked(name, given):
                continue
            for other in declared.apart:
                asked, has_value, _ = other.partition("=")
                if (
                    asked in self._fields
                    and self._is_asked(asked, given)
                    and (not has_value or self._is_met(other, given))
                ):
                    raise OptionError(f"{name} has no use beside {other}; leave one of them out")
            needs = [need for need in declared.needs if need.partition("=")[0] in self._fields]
            if needs and not any(self._is_met(need, given) for need in needs):
                raise OptionError(f"{name} has no use without {' or '.join(needs)}")

    def _is_asked(self, name: str, given: Collection[str]) -> bool:
        """Tell whether an option asks for something: None and a False that is the default do not."""
        value, default = getattr(self, name), self._fields[name].default
        return name in given and value is not None and not (value is False and default is False)

    def _is_met(self, need: str, given: Collection[str]) -> bool:
        name, has_value, value = need.partition("=")
        if has_value:
            return str(getattr(self, name)) == value
        met = getattr(self, name)
        return bool(met) or (met is not None and name in given)

    def as_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        return {name: getattr(self, name) for name in self._fields}

    def changes(self) -> dict[str, Any]:
        """Return the values that are not the default of this class, by name."""
        return {name: value for name, value in self.as_dict().items() if value is not self._fields[name].default}

    @classmethod
    def pick(cls, options: "Options") -> "Self":
        """Return options of this class out of a larger one."""
        return cls(**{name: value for name, value in options.as_dict().items() if name in cls._fields})

    @classmethod
    def document(cls, first: Collection[str] = ()) -> list[str]:
        """Return the lines of a numpydoc parameter section, those of the options `first` at its beginning."""
        lines = []
        for name in dict.fromkeys([*first, *cls._fields]):
            field = cls._fields[name]
            declared = get_declaration(field)
            lines.append(f"{name} : {describe_hint(read_type(field))}{', optional' * (field.default is None)}")
            text = f"{declared.help[0].upper()}{declared.help[1:]}."
            conditions = []
            for words, names in (("Needs", declared.needs), ("Not beside", declared.apart)):
                here = [f"`{one}`" for one in names if one.partition("=")[0] in cls._fields]
                conditions += [f"{words} {' or '.join(here)}."] * bool(here)
            lines += textwrap.wrap(" ".join([text, *conditions]), 110, initial_indent="    ", subsequent_indent="    ")
        return lines


def get_declaration(field: "dataclasses.Field[Any]") -> Declaration:
    """Return what was said of an option."""
    declaration: Declaration = field.metadata["option"]
    return declaration


def read_type(field: "dataclasses.Field[Any]") -> Any:
    """Return the type hint of an option."""
    return read_hint(field.type, vars(sys.modules[get_declaration(field).module]))


def list_choices(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Return the values of an option that has a few, else none."""
    hint = read_type(field)
    parts = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    return get_args(parts[0]) if parts else ()


def takes_options(kind: type[Options], *places: str) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """Let a function be called with options by name, or stored in ``options=``.

    The function itself has a keyword-only parameter `options` of that class; all checks are done when it is called.
    In the docstring, the entry ``**options`` stands for the options. Those named in `places` may come by position,
    after the function's own parameters.
    """

    def decorate(function: Callable[..., _R]) -> Callable[..., _R]:
        plain = inspect.signature(function)
        own = plain.parameters
        hints = getattr(function, "__globals__", {})
        signature = _make_signature(own, kind, places)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> _R:
            check_names(function.__name__, kwargs, [*own, *kind._fields])
            given = bind_call(function.__name__, signature, args, kwargs)
            options = given.pop("options", None)
            known = options is None or (
                isinstance(options, Options) and (issubclass(kind, type(options)) or isinstance(options, kind))
            )
            if not known:
                raise ArgumentError(f"options must be {kind.__name__} or one of its parts, got {options!r:.80}")
            mine = {name: given.pop(name) for name in list(given) if name in own}
            for name, value in mine.items():
                if value is not own[name].default:
                    check_argument(function.__name__, name, value, read_hint(own[name].annotation, hints))
            chosen = kind.collect(given, options, function.__name__)
            bound = inspect.BoundArguments(plain, {**mine, "options": chosen})
            return function(*bound.args, **bound.kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.checks_itself = True  # type: ignore[attr-defined]
        call.__doc__ = _document(function.__doc__, kind, places)
        return call

    return decorate


def _make_parameter(
    name: str, field: "dataclasses.Field[Any]", kind: Any = inspect.Parameter.KEYWORD_ONLY
) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return inspect.Parameter(name, kind, default=default, annotation=field.type)


def _make_signature(
    own: Mapping[str, inspect.Parameter], kind: type[Options], places: Sequence[str]
) -> inspect.Signature:
    """Own parameters, options that may come by position, `options`, all other options."""
    declared = {
        name: _make_parameter(
            name,
            kind._fields[name],
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name in places else inspect.Parameter.KEYWORD_ONLY,
        )
        for name in dict.fromkeys([*places, *kind._fields])
    }
    stored = own["options"].replace(default=None, annotation=Options | None)
    every = [one for name, one in own.items() if name != "options"] + [*declared.values(), stored]
    return inspect.Signature(sorted(every, key=lambda one: one.kind))


def _document(text: str | None, kind: type[Options], places: Sequence[str]) -> str | None:
    """Put the options into a docstring, where it says ``**options``."""
    before, found, after = inspect.cleandoc(text or "").partition("\n**options\n")
    if not found:
        return text
    rest = after.split("\n")
    while rest and rest[0].startswith("    "):
        rest.pop(0)
    stored = [
        "options : " + kind.__name__,
        "    Stored options, of this class or a part of it; those given by name go before.",
    ]
    return "\n".join([before, *stored, *kind.document(places), *rest])
