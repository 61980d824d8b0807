"""The form of an annotator's options: one field each, with its default, from the plugin's own attrs fields."""

from __future__ import annotations

import tomllib
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLineEdit, QWidget

from asem_core.catalog import Catalog
from asem_core.interfaces import Annotator
from asem_core.recipe import build
from asem_napari.session import options_of


class OptionsForm(QWidget):
    """Fields for the options of one annotator. An empty field is the default, which it shows in grey."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        super().__init__()
        self._name, self._cls = name, catalog.get("annotator", name)
        self._fields: dict[str, QWidget] = {}
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        hints = get_type_hints(self._cls)
        for option, default in options_of(self._cls).items():
            field = _field(hints.get(option), default)
            field.setObjectName(option)
            form.addRow(option, field)
            self._fields[option] = field

    def annotator(self) -> Annotator:
        """Build the annotator that the form describes.

        Raises
        ------
        AsemError
            A value has the wrong type, or the annotator refuses it.
        """
        given = {name: _value(field) for name, field in self._fields.items()}
        told = {name: value for name, value in given.items() if value is not None}
        made: Annotator = build(self._cls, told, f"options of {self._name}")
        return made


def _field(kind: Any, default: Any) -> QWidget:
    if isinstance(default, bool):
        box = QCheckBox()
        box.setChecked(default)
        return box
    choices = _choices(kind)
    if choices:
        menu = QComboBox()
        if default not in choices:
            menu.addItem(_shown(default), None)
        for choice in choices:
            menu.addItem(choice, choice)
        menu.setCurrentText(_shown(default))
        return menu
    line = QLineEdit()
    line.setPlaceholderText(_shown(default))
    return line


def _shown(default: Any) -> str:
    return "needed" if default is attrs.NOTHING else "automatic" if default is None else str(default)


def _choices(kind: Any) -> list[str]:
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return [str(c) for c in get_args(part)]
    return []


def _value(field: QWidget) -> Any:
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, QComboBox):
        return field.currentData()
    assert isinstance(field, QLineEdit)
    text = field.text().strip()
    if not text:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
