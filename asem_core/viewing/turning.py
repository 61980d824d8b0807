"""Surfaces that turn in a report: a part of an HTML page that draws them with WebGL, without any library or network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.viewing.colours import rgb
from asem_core.viewing.mesh import Surface


@attrs.frozen(eq=False)
class Solid:
    """One object of the scene."""

    name: str
    colour: str  # #rrggbb
    surface: Surface


def turning_html(solids: Sequence[Solid], number: int = 0) -> str:
    """Write the part of a page that shows surfaces: drag to turn, wheel to zoom, double-click to start again.

    `number` tells several of one page apart.
    """
    vertices = np.concatenate([s.surface.vertices for s in solids])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    span = float((high - low).max()) or 1.0
    centred = (vertices - (low + high) / 2) / span  # within -0.5 to 0.5
    begins = np.cumsum([0] + [len(s.surface.vertices) for s in solids[:-1]])
    faces = np.concatenate([s.surface.faces.astype(np.int64) + b for s, b in zip(solids, begins, strict=True)])
    colours = np.concatenate([np.tile(rgb(s.colour), (len(s.surface.vertices), 1)) for s in solids])
    parts = {
        "POSITIONS": _packed(np.rint(centred * 65534).clip(-32767, 32767).astype("<i2")),
        "COLOURS": _packed(colours.astype(np.uint8)),
        "FACES": _packed(faces.astype("<u4")),
        "NUMBER": str(number),
    }
    page = _PAGE
    for name, value in parts.items():
        page = page.replace(f"@{name}@", value)
    return page


def _packed(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


_PAGE = """\
<canvas id="turning-@NUMBER@" width="1200" height="750"></canvas>
<script>
(() => {
  const canvas = document.getElementById("turning-@NUMBER@");
  const gl = canvas.getContext("webgl2", { antialias: true });
  if (!gl) { canvas.replaceWith("This browser has no WebGL: the surfaces cannot be shown."); return; }
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const compile = (kind, source) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    return shader;
  };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, `#version 300 es
    in vec3 position; in vec3 colour; uniform mat3 turn; uniform float zoom; uniform float aspect;
    out vec3 place; out vec3 paint;
    void main() {
      place = turn * position * vec3(1.0, -1.0, -1.0);
      paint = colour;
      float depth = 2.2 - place.z;
      gl_Position = vec4(place.x * 1.9 * zoom / aspect, place.y * 1.9 * zoom, (2.2 - depth) * -0.5, depth);
    }`));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `#version 300 es
    precision highp float; in vec3 place; in vec3 paint; out vec4 shown;
    void main() {
      vec3 normal = normalize(cross(dFdx(place), dFdy(place)));
      float light = 0.25 + 0.75 * abs(dot(normal, normalize(vec3(0.35, 0.5, 0.8))));
      shown = vec4(paint * light, 1.0);
    }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  const fill = (name, text, type) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, bytes(text), gl.STATIC_DRAW);
    const at = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, type, true, 0, 0);
  };
  fill("position", "@POSITIONS@", gl.SHORT);
  fill("colour", "@COLOURS@", gl.UNSIGNED_BYTE);
  const faces = new Uint32Array(bytes("@FACES@"));
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  let yaw, pitch, zoom, turning;
  const start = () => { yaw = 0.5; pitch = 0.35; zoom = 1; turning = true; };
  const at = (name) => gl.getUniformLocation(program, name);
  const draw = () => {
    const [a, b, c, d] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    gl.uniformMatrix3fv(at("turn"), true, [a, 0, b, d * b, c, -d * a, -c * b, d, c * a]);
    gl.uniform1f(at("zoom"), zoom);
    gl.uniform1f(at("aspect"), canvas.width / canvas.height);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.07, 0.07, 0.07, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_INT, 0);
  };
  let seen = false, last = 0;  // it turns only while it is on the screen, 20 times a second at most
  new IntersectionObserver((entries) => { seen = entries[0].isIntersecting; }).observe(canvas);
  const step = (now) => {
    if (turning && seen && now - last > 50) { yaw += 0.02; last = now; draw(); }
    requestAnimationFrame(step);
  };
  canvas.addEventListener("pointerdown", (e) => { turning = false; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    if (!e.buttons) return;
    yaw += e.movementX * 0.01;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + e.movementY * 0.01));
    draw();
  });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom *= Math.exp(-e.deltaY * 0.001); draw(); });
  canvas.addEventListener("dblclick", start);
  start();
  draw();
  requestAnimationFrame(step);
})();
</script>"""
