"""The viewer as a notebook widget (`anywidget`); weights travel a head at a time, as they are looked at."""

import base64
import io
from typing import Any, cast, get_args

from ..errors import AttnViewerError, OptionError
from ..figures.thumbnails import plot_birds_eye
from ..maps import AttentionMaps
from ..options import Theme
from .encode import describe_maps, encode_head, score_for_display
from .scripts import join_modules, read_style

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise OptionError("widgets need anywidget: pip install 'attn-viewer[notebook]'") from error

# Sharp enough to be read, and small enough to stand in a notebook: 0.3 MB for 270 heads.
STILL_DPI = 80


class AttentionWidget(anywidget.AnyWidget):
    """A widget of attention maps; make it with `page.show_attention`.

    `meta` is what `web.encode.describe_maps` says of them. `state` is what is shown, as in the hash of a page's URL;
    set it to show something else. `theme` are the colours when the widget is first shown.
    """

    _esm = join_modules("widget.js") + "\nexport default { render };\n"
    _css = read_style()
    meta = traitlets.Dict().tag(sync=True)
    state = traitlets.Unicode("").tag(sync=True)
    theme = traitlets.Enum(get_args(Theme), "auto").tag(sync=True)

    def __init__(self, maps: AttentionMaps, **options: Any) -> None:
        super().__init__(meta=describe_maps(maps, exact=True, scores=score_for_display(maps)), **options)
        self._maps = maps
        self.on_msg(self._answer)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add a picture of all heads, for where no widget runs: nbconvert, a notebook on a web page."""
        data, metadata = cast(tuple[dict[str, Any], dict[str, Any]], super()._repr_mimebundle_(**options))
        file = io.BytesIO()
        plot_birds_eye(self._maps, dark=self.theme == "dark").savefig(file, format="png", dpi=STILL_DPI)
        return {**data, "image/png": base64.b64encode(file.getvalue()).decode()}, metadata

    def _answer(self, _widget: object, content: Any, _buffers: object) -> None:
        """Send the bytes of the head that the front end asks for."""
        number = content.get("id") if isinstance(content, dict) else None
        try:
            layer, head = content["layer"], content["head"]
            chosen = self._maps.select(layers=[layer], heads=[head])
        except (AttnViewerError, KeyError, TypeError) as error:
            self.send({"id": number, "error": f"no such head: {error}"})
            return
        self.send({"id": number}, buffers=[encode_head(chosen.weights[0][0], self.meta)])
