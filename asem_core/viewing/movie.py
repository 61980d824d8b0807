"""Frames as a film: MP4 (H.264, which every player shows) or animated GIF."""

from __future__ import annotations

import itertools
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asem_core.errors import AsemError, BadInput, MissingExtra, NoSpace
from asem_core.temporary import write_whole


def write_movie(frames: Iterator[np.ndarray], output: Path, fps: float = 20) -> Path:
    """Write frames (y, x, 3; uint8) as MP4 or animated GIF; one frame is in memory at a time.

    Raises
    ------
    BadInput
        The name ends in something else.
    MissingExtra
        MP4 needs imageio-ffmpeg.
    NoSpace
        The disk is full.
    AsemError
        ffmpeg ended early.
    """
    output = Path(output)
    write = {".gif": _write_gif, ".mp4": _write_mp4}.get(output.suffix.lower())
    if write is None:
        raise BadInput(f"A movie must be .mp4 or .gif, not {output.name}.")
    with write_whole(output) as half:  # of this process only: an ffmpeg whose run was killed may live a moment longer
        write(frames, half, fps)
    return output


def _write_gif(frames: Iterator[np.ndarray], path: Path, fps: float) -> None:
    from PIL import Image

    images = (Image.fromarray(frame).quantize(128) for frame in frames)
    next(images).save(path, "GIF", save_all=True, append_images=images, duration=1000 / fps, loop=0)


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: float) -> None:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        program = get_ffmpeg_exe()
    except ModuleNotFoundError:
        raise MissingExtra.of("view", "MP4 needs imageio-ffmpeg", " Or write a .gif.") from None
    except RuntimeError as error:  # it tries to start it
        raise AsemError(f"ffmpeg, which writes MP4, cannot be started: {error} Or write a .gif.") from None
    frames = (frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames)  # H.264 has even edges
    first = next(frames)
    height, width = first.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    film = ["-c:v", "libx264", "-crf", "10", "-pix_fmt", "yuv420p", "-f", "mp4", str(path.absolute())]
    with tempfile.TemporaryFile() as said:
        ffmpeg = subprocess.Popen(
            [program, "-y", "-v", "error", *raw, *film],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # a terminal's Ctrl-C is for us, who then end it
        )
        assert ffmpeg.stdin is not None
        try:
            try:
                with ffmpeg.stdin:
                    for frame in itertools.chain([first], frames):
                        ffmpeg.stdin.write(np.ascontiguousarray(frame).tobytes())
            except BrokenPipeError:  # it has ended
                pass
            status = ffmpeg.wait()
        finally:
            ffmpeg.kill()
            ffmpeg.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if status and "No space left" in words:
        raise NoSpace(f"movie: the disk is full ({path.parent}). Free some space, then run the same command again.")
    if status:
        cause = f"killed by {signal.Signals(-status).name}" if status < 0 else words or f"status {status}"
        raise AsemError(f"{path.parent}: ffmpeg ended before the film was whole ({cause}). Run the same command again.")
